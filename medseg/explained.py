"""Errors of the operating system in one line: which file, what happened, what to free or change.

Only what a user can fix is explained: a full disk, a limit, missing permission, a file in the place of a folder. A
file that is not there can be a mistake of ours, and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from medseg.errors import MedsegError
from medseg.text import escaped

AGAIN = "then run the same command again: it resumes"
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
        cause = _CAUSES.get(_number(seen))
        name = getattr(seen, "filename", None)
        path = Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else None
        if cause is not None and (text := cause(path)) is not None:
            return escaped(f"{_shown(path)}: {text}")
        seen = seen.__cause__
    return None


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


def check_writing(folder: Path) -> None:
    """Write a little into a folder, which is made if it is not there, and remove it again.

    Raises:
        OSError: if that is not possible.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".{os.getpid()}.probe.tmp"
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


def _shown(path: Path | None) -> str:
    """A path relative to the working folder, if it lies in there."""
    if path is None:
        return "a file or folder (`--debug` shows which)"
    here = Path.cwd()
    text = str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)
    return "this folder" if text == "." else text


def _existing(path: Path | None) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = Path(os.path.realpath(path or "."))
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), path)


def _mount(path: Path | None) -> str:
    """The file system of a path, by where it is mounted."""
    if path is None:
        return "its file system"
    found = _existing(path)
    listed = Path("/proc/self/mounts")
    # A folder that is mounted at another place of the same disk is known by this list alone.
    lines = listed.read_text().splitlines() if listed.is_file() else []
    points = {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[1]) for line in lines}
    while not (str(found) in points or found.is_mount()):
        found = found.parent
    return f"the file system at {found}"


def _full(path: Path | None) -> str:
    if path is None:
        return f"no space left on its file system (`df -h` shows which are full); free some, {AGAIN}"
    where, place = _existing(path), _mount(path)
    if where.is_char_device():
        return "no space left on this device; send the output elsewhere"
    facts = os.statvfs(where)
    if facts.f_files and not facts.f_favail:
        return f"{place} has no room for more files (all {facts.f_files} inodes are taken); delete some, {AGAIN}"
    free = shutil.disk_usage(where).free
    return f"no space left: more is needed than the {_bytes(free)} free on {place}; free some, {AGAIN}"


def _quota(path: Path | None) -> str:
    return f"your disk quota on {_mount(path)} is used up; delete files (`quota -s` shows how much), {AGAIN}"


def _too_large(path: Path | None) -> str:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY:
        return f"larger than a file may be here, {_bytes(limit)}; raise that limit (`ulimit -f unlimited`), {AGAIN}"
    return f"larger than {_mount(path)} can store a file (FAT32: 4 GiB); work on another one"


def _read_only(path: Path | None) -> str:
    return f"{_mount(path)} is read-only; mount it for writing or work elsewhere, {AGAIN}"


def _forbidden(path: Path | None) -> str | None:
    if path is None:
        return None
    shows = f"`ls -ld {_shown(_existing(path))}` shows whose it is and what they allow"
    return f"no permission ({shows}); change that or choose another place, {AGAIN}"


def _long_name(path: Path | None) -> str:
    longest = max((len(os.fsencode(part)) for part in (path.parts if path else ())), default=0)
    length = len(os.fsencode(os.path.abspath(path))) if path else 0
    what = f"a name of {longest} bytes" if longest > 143 else f"a path of {length} bytes"
    return f"{what} is too long for {_mount(path)}; shorten names or work in a folder nearer to /, {AGAIN}"


def _broken(path: Path | None) -> str:
    return (
        "the disk or the network share reports an input/output error; look into the system's log (`dmesg`) and at "
        f"disk, cable and connection, {AGAIN}"
    )


def _stale(path: Path | None) -> str | None:
    return None if path is None else f"the connection to {_mount(path)} is lost; mount it again, {AGAIN}"


def _folder_expected(path: Path | None) -> str | None:
    """A part of the path is a file; None if it is not: then the mistake is ours."""
    path = Path(os.path.abspath(path)) if path else None
    parts = [path, *path.parents] if path else []
    file = next((part for part in parts if os.path.lexists(part) and not part.is_dir()), None)
    if file is None:
        return None
    what = "is a file" if file == path else f"{_shown(file)} is a file"
    return f"{what}, and a folder is needed there; move it or give another path, {AGAIN}"


def _file_expected(path: Path | None) -> str | None:
    if path is None or not path.is_dir():
        return None
    return f"is a folder, and a file is needed there; move it or give another path, {AGAIN}"


def _open_files(path: Path | None) -> str:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"cannot be opened: {limit} files are open, all that a process may here; raise that (`ulimit -n`), {AGAIN}"


def _all_open_files(path: Path | None) -> str:
    return f"cannot be opened: this machine has as many files open as it can; end other programs, {AGAIN}"


def _links(path: Path | None) -> str | None:
    return None if path is None else "symbolic links lead round in circles; remove one of them"


def _no_locks(path: Path | None) -> str:
    return f"{_mount(path)} has no file locks; mount it with them or work on a local one, {AGAIN}"


def _bytes(number: int) -> str:
    """``0 bytes``, ``12.3 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"


# Number of an error -> what to say of a path (None: not known); what says nothing leaves the error as it is.
_CAUSES: dict[int | None, Callable[[Path | None], str | None]] = {
    errno.ENOSPC: _full,
    errno.EDQUOT: _quota,
    errno.EFBIG: _too_large,
    errno.EROFS: _read_only,
    errno.EACCES: _forbidden,
    errno.EPERM: _forbidden,
    errno.ENAMETOOLONG: _long_name,
    errno.EIO: _broken,
    errno.ESTALE: _stale,
    errno.ENOTCONN: _stale,
    errno.ENOTDIR: _folder_expected,
    errno.EEXIST: _folder_expected,
    errno.EISDIR: _file_expected,
    errno.EMFILE: _open_files,
    errno.ENFILE: _all_open_files,
    errno.ELOOP: _links,
    errno.ENOLCK: _no_locks,
}
