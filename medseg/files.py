"""Atomic file writing, digests, canonical JSON and writer locks.

Presence means complete: every output is written to a temporary file in the same folder, flushed to disk and renamed
over its final name, so that a kill at any moment leaves the old file, the new file, or none, and never a part.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from medseg.errors import BusyError, DataError
from medseg.explained import explain, make_folder, named, writing_to
from medseg.fence import Run, allowed
from medseg.progress import say

# Case ids and names that become part of a path or a command line.
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Names that files have while they are written; the process' number stands in them. Nobody else gives files such names.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)-[0-9a-f]{6}\.medseg\.tmp")
TEMPORARY_PATH = re.compile(r"\.(?P<pid>\d+)-[0-9a-f]{6}\.medseg\.tmp\.(?P<name>.+)")
# Bytes of a file that are in memory while a part of it is hashed.
HASHED_AT_ONCE = 1 << 20
# Name of the file whose lock a writer of a folder holds.
LOCK = ".writer.lock"
# Told of every file that this process has put in place.
listeners: list[Callable[[Path], None]] = []


def nearest(root: Path, name: str) -> Path:
    """Path of a file that a data set's configuration names: in the data set's folder, or else in the working folder."""
    return root / name if (root / name).is_file() else Path(name)


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that is renamed to ``path``, complete, when the block ends without an error.

    The temporary name is hidden and carries our pid, so leftovers of killed processes are recognisable; the bytes and
    the folder entry are both flushed, since a rename without fsync can surface as an empty file after a power cut.
    """
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{_writer()}"
    try:
        with writing_to(path, temporary):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _put(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _writer() -> str:
    """What the temporary names of one file have that no other has: numbers of processes are those of one machine."""
    return f"{os.getpid()}-{os.urandom(3).hex()}.medseg.tmp"


def _remove(temporary: Path) -> None:
    """Remove an unfinished file if that is possible; the error that left it unfinished is the one to report."""
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path) -> None:
    """Give a complete file its final name, if the results are still this process' to write."""
    with allowed():
        os.replace(temporary, path)
    fsync_folder(path.parent)
    for note in listeners:
        note(path)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's entries (file names) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with named(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_writer(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable, diffable JSON: two-space indent, keys in the order given, no NaN."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; the file appears under ``path``, whole, when the block ends without an error.

    For libraries that insist on a path. The temporary one has the same suffixes.
    """
    make_folder(path.parent)
    temporary = path.parent / f".{_writer()}.{path.name}"
    try:
        with writing_to(path, temporary):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            _put(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let a function write a file, atomically; it gets a temporary path with the same suffixes as ``path``."""
    with atomic_path(path) as temporary:
        write(temporary)


def read_made(path: Path, maker: str) -> bytes:
    """The bytes of a file that a command made.

    Args:
        path: the file.
        maker: the command, for the error message.

    Raises:
        DataError: if there is none, or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `{maker}` first") from None
    except OSError as error:
        if explain(error) is not None:
            raise
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is a ``DataError`` that names it."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the stage that makes it first") from None
    except (ValueError, OSError, RecursionError) as error:
        if isinstance(error, OSError) and explain(error) is not None:
            raise  # No damage that deleting would repair.
        raise DataError(f"{path}: not readable JSON ({error}); delete it and run its stage again") from error


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN: equal values give equal text, for digests and workflow parameters."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON-like value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 (hex) of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_part(path: Path, start: int, size: int) -> str:
    """SHA-256 (hex) of ``size`` bytes of a file from ``start`` on, or of as many as there are."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(start)
        while size > 0 and (data := file.read(min(size, HASHED_AT_ONCE))):
            digest.update(data)
            size -= len(data)
    return digest.hexdigest()


@contextlib.contextmanager
def writer_lock(folder: Path, name: str = LOCK, *, shared: bool = False) -> Iterator[None]:
    """Lock ``folder`` for writing during the block, or with ``name`` a part of it.

    The kernel holds the lock and releases it when the process ends in any way, so no lock is ever stale. A second
    command by hand is refused. A job of the workflow waits, since Snakemake deletes the results of a job that fails.

    Args:
        folder: made if absent.
        name: of the file that is locked.
        shared: others may hold it in the same way, as shards of one stage do, but nobody alone.

    Raises:
        BusyError: if another process holds it; it is named.
    """
    make_folder(folder)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    # Unbuffered: what could not be written would be tried again when the file is closed.
    with open(folder / name, "a+b", buffering=0) as file:
        try:
            with named(folder / name):
                fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = f"process {file.read().decode().strip() or '?'} is already writing here"
            if Run.own() is None:
                again = "wait for it or stop it, then run the same command again"
                raise BusyError(f"{folder}: {holder}; {again}") from None
            say(f"{folder}: {holder}; waiting for it")
            with named(folder / name):
                fcntl.flock(file, kind)
        with named(folder / name):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        if not shared:
            sweep(folder, None if name == LOCK else name.removeprefix(".").removesuffix(".lock"))
        yield


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left in a folder that is ours to write: files that never got their final name.

    Args:
        folder: and the folders in it.
        name: only of the file that would have this name in the folder itself.
    """
    inner = [] if name else [one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()]
    for parent in (folder, *inner):
        for path in parent.iterdir():
            found = TEMPORARY.fullmatch(path.name) or TEMPORARY_PATH.fullmatch(path.name)
            if found and name in (None, found["name"]) and not os.path.exists(f"/proc/{found['pid']}"):
                path.unlink(missing_ok=True)
