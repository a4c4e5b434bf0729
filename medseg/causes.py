"""What is said of a path for each error of the operating system that a user can fix.

A disk that failed may answer no question about itself: then less is said.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

AGAIN = "then run the same command again: it resumes"


def shown(path: Path | None) -> str:
    """A path relative to the working folder, if it lies in there."""
    if path is None:
        return "a file or folder (`--debug` shows which)"
    here = _here()
    inside = here is not None and path.is_absolute() and path.is_relative_to(here)
    text = str(path.relative_to(here)) if here is not None and inside else str(path)
    return "this folder" if text == "." else text


def _here() -> Path | None:
    """The working folder; None if it was deleted, or is on a disk that does not answer."""
    try:
        return Path.cwd()
    except OSError:
        return None


def is_here_gone(path: Path | None) -> bool:
    """Whether a path cannot be found since it is relative to a working folder that was deleted."""
    return _here() is None and (path is None or not path.is_absolute())


def existing(path: Path | None) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = Path(os.path.realpath(path or "."))
    return next((one for one in (path, *path.parents) if os.path.lexists(one)), path)


def _mount(path: Path | None) -> str:
    """The file system of a path, by where it is mounted."""
    if path is None:
        return "its file system"
    found = existing(path)
    listed = Path("/proc/self/mounts")
    # A folder that is mounted at another place of the same disk is known by this list alone.
    lines = listed.read_text().splitlines() if listed.is_file() else []
    points = {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split()[1]) for line in lines}
    # Unlike those of pathlib, functions of os.path take a file system that does not answer for one that has no file.
    while not (str(found) in points or os.path.ismount(found)):
        found = found.parent
    return f"the file system at {found}"


def _full(path: Path | None) -> str:
    if path is None:
        return f"no space left on its file system (`df -h` shows which are full); free some, {AGAIN}"
    where, place = existing(path), _mount(path)
    try:
        if where.is_char_device():
            return "no space left on this device; send the output elsewhere"
        facts, free = os.statvfs(where), shutil.disk_usage(where).free
    except OSError:
        return f"no space left on {place}; free some, {AGAIN}"
    if facts.f_files and not facts.f_favail:
        return f"{place} has no room for more files (all {facts.f_files} inodes are taken); delete some, {AGAIN}"
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
    shows = f"`ls -ld {shown(existing(path))}` shows whose it is and what they allow"
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


def _gone(path: Path | None) -> str | None:
    """What is not there can be a mistake of ours, but where the working folder itself was deleted."""
    if not is_here_gone(path):
        return None
    return "the folder in which this command works was deleted; change into one that is there (`cd`)"


def _folder_expected(path: Path | None) -> str | None:
    """A part of the path is a file; None if it is not: then the mistake is ours."""
    path = Path(os.path.abspath(path)) if path else None
    parts = [path, *path.parents] if path else []
    file = next((part for part in parts if os.path.lexists(part) and not os.path.isdir(part)), None)
    if file is None:
        return None
    what = "is a file" if file == path else f"{shown(file)} is a file"
    return f"{what}, and a folder is needed there; move it or give another path, {AGAIN}"


def _file_expected(path: Path | None) -> str | None:
    if path is None or not os.path.isdir(path):
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
CAUSES: dict[int | None, Callable[[Path | None], str | None]] = {
    errno.ENOENT: _gone,
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
