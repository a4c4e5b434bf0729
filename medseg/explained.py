"""Errors of the operating system in one line: which file, what happened, what to free or change.

Only what a user can fix is explained: a full disk, a limit, missing permission, a file in the place of a folder. A
file that is not there can be a mistake of ours, and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from medseg.causes import AGAIN, CAUSES, existing, is_here_gone, shown
from medseg.errors import DataError, MedsegError
from medseg.text import escaped

# What is written to find out why a library could not write, which often does not say so.
PROBE, PROBES = b"\0" * (1 << 20), 16
# Libraries that are not Python's own have the number in their text: safetensors, pyarrow.
_NUMBER = re.compile(r"(?:os error|errno) (\d+)", re.IGNORECASE)
# SQLite has words only.
_WORDS = {
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "attempt to write a readonly database": errno.EROFS,
    "can't allocate memory": errno.ENOMEM,
}


def explain(error: BaseException) -> str | None:
    """What happened and what to do, in one line, if a user can fix it; None if not.

    Errors that a library raised for one of the operating system (``raise … from``) count, too.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, MedsegError):
        if _is_of_memory(seen):
            return _no_memory(seen)
        name = getattr(seen, "filename", None)
        path = Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else None
        if (text := _told(seen, path)) is not None:
            return escaped(f"{shown(path)}: {text}")
        seen = seen.__cause__
    return None


def _told(error: BaseException, path: Path | None) -> str | None:
    """What is said of a path; of one whose disk does not even answer questions, what the error itself says."""
    number = _number(error)
    cause = CAUSES.get(number)
    try:
        return cause(path) if cause is not None else None
    except OSError:
        return f"{os.strerror(number or 0)}; look at that disk or its connection, {AGAIN}"


def _is_of_memory(error: BaseException) -> bool:
    # Torch's own class is known by its name, since importing torch takes a second.
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or _number(error) == errno.ENOMEM


def _no_memory(error: BaseException) -> str:
    """Which memory ran out, how much was asked for if the error says so, and what to do."""
    if type(error).__name__ == "OutOfMemoryError":
        fix = "end other programs on it, or set budget.memory_gb, the patch or the batch lower"
        return f"the memory of the GPU ran out ({_first_line(error)}); {fix}, {AGAIN}"
    fix = "end other programs, use fewer workers or cores, or set budget.host_gb or the patch lower"
    said = f" ({_first_line(error)})" if str(error) else ""
    return f"memory ran out{said}; {fix}, {AGAIN}"


def _first_line(error: BaseException) -> str:
    return escaped(str(error).partition("\n")[0])


def _number(error: BaseException) -> int | None:
    """The number of the operating system's error; None for errors that are none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if found := _NUMBER.search(text):
        return int(found[1])
    return next((number for words, number in _WORDS.items() if words in text), None)


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the operating system within the block that have no file's name get this one.

    A call that opens a file says which; one that writes into an open file does not.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextlib.contextmanager
def writing_to(path: Path, temporary: Path) -> Iterator[None]:
    """Within the block a file is written under a temporary name; errors name the file that it was to become.

    A library that fails without saying why (blosc2 raises ``RuntimeError`` on a full disk) is asked no further: some
    more is written to the same file, which fails for the same reason, and that error is raised.
    """
    try:
        yield
    except MedsegError:
        raise
    except OSError as error:
        if error.errno is None:
            _write_more(path, temporary, error)
        if error.filename is None or os.fsdecode(error.filename) == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    except Exception as error:
        if _number(error) is None:
            _write_more(path, temporary, error)
        raise


def make_folder(folder: Path) -> None:
    """Make a folder of results, and those above it, unless it is there.

    Raises:
        DataError: if it is in a place that has no folders of users, as ``/proc`` (its error is "no such file").
        OSError: if that is not possible otherwise.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        if is_here_gone(folder):
            raise
        raise DataError(f"{folder}: no folder can be made in {existing(folder)}; choose another place") from error


def check_writing(folder: Path) -> None:
    """Write a little into a folder, which is made if it is not there, and remove it again.

    Raises:
        OSError: if that is not possible.
    """
    make_folder(folder)
    probe = folder / f".probe.{os.getpid()}-000000.medseg.tmp"
    try:
        with writing_to(probe, probe), open(probe, "wb") as file:
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(folder)
        raise
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _write_more(path: Path, temporary: Path, cause: Exception) -> None:
    """Raise ``OSError`` if no more can be written to a file."""
    try:
        with open(temporary, "ab") as file:
            for _ in range(PROBES):
                file.write(PROBE)
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(path)
        raise error from cause
