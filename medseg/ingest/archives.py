"""Unpacking zip and tar archives without trusting them: every member is judged before the first byte is written."""

from __future__ import annotations

import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar

from medseg.errors import DataError
from medseg.ingest.layouts.found import LITTER, same_name

# A million files, or a hundred times the archive's size: no set of images looks like that, but bombs do.
MAX_MEMBERS = 1_000_000
MAX_RATIO = 100
# Below this, the ratio does not matter: an archive of empty masks is small either way.
RATIO_COUNTS_FROM = 1 << 26
CHUNK = 1 << 20
MAX_NAME_BYTES = 255
SHOWN = 5
Info = TypeVar("Info")
# What the libraries are known to raise for damaged archives, besides OSError without a file's name.
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """An entry of an archive.

    Attributes:
        name: as stored.
        size: bytes it claims to have.
        problem: why it must not be unpacked, or an empty text; folders and litter of file managers are no members.
    """

    name: str
    size: int
    problem: str = ""


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar archive (plain, gz, bz2, xz) into an empty folder.

    Args:
        archive: the file; its content, not its name, decides the format.
        folder: must not exist yet.

    Raises:
        DataError: before anything is written, if the archive is none or a member is unsafe: a path that leads out, a
            link, a device, a name twice, too much in all; while writing, if it is damaged or longer than it claims.
    """
    with _readable(archive):
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                infos = _judged(archive, ((_zip_member(info), info) for info in file.infolist() if not info.is_dir()))
                folder.mkdir(parents=True)
                for member, info in infos:
                    with file.open(info) as source:
                        _write(archive, member, source, folder)
        else:
            with tarfile.open(archive, "r:*") as tar:
                members = _judged(archive, ((_tar_member(info), info) for info in tar if not info.isdir()))
                folder.mkdir(parents=True)
                for member, tarinfo in members:
                    content = tar.extractfile(tarinfo)
                    if content is None:
                        raise DataError(f"{archive}: {member.name!r} has no content")
                    with content as source:
                        _write(archive, member, source, folder)


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turn what the libraries raise for damaged archives into ``DataError``."""
    try:
        yield
    except tarfile.ReadError as error:
        raise DataError(f"{archive}: neither a zip nor a tar archive, or damaged ({error})") from None
    except DataError:
        raise
    except (*BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise DataError(f"{archive}: damaged archive ({error})") from None


def _zip_member(info: zipfile.ZipInfo) -> ArchiveMember:
    mode = info.external_attr >> 16
    kind = "a link" if stat.S_ISLNK(mode) else "no plain file" if stat.S_IFMT(mode) not in (0, stat.S_IFREG) else ""
    kind = "encrypted" if info.flag_bits & 1 else kind
    # The stored name: the library shortens it at a NUL and turns backslashes on some systems.
    return ArchiveMember(info.orig_filename, info.file_size, kind)


def _tar_member(info: tarfile.TarInfo) -> ArchiveMember:
    kind = "" if info.isreg() else "a link" if info.issym() or info.islnk() else "no plain file"
    return ArchiveMember(info.name, info.size, kind)


def _judged(archive: Path, members: Iterable[tuple[ArchiveMember, Info]]) -> list[tuple[ArchiveMember, Info]]:
    """All members, litter left out, or one error for everything that is wrong with them."""
    kept: list[tuple[ArchiveMember, Info]] = []
    problems: list[str] = []
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    total, packed = 0, archive.stat().st_size
    for member, info in members:
        total += member.size
        if total > max(MAX_RATIO * packed, RATIO_COUNTS_FROM) or len(kept) >= MAX_MEMBERS:
            what = f"{total} bytes or more out of {packed}" if len(kept) < MAX_MEMBERS else f"over {MAX_MEMBERS} files"
            raise DataError(f"{archive}: would unpack to {what}, which looks like an attack; nothing was unpacked")
        problem = member.problem or _name_problem(member.name) or _clash(member.name, files, folders)
        if problem:
            problems.append(f"{member.name!a} ({problem})")
        elif not any(part in LITTER or part.startswith("._") for part in PurePosixPath(member.name).parts):
            kept.append((member, info))
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        shown = ", ".join(problems[:SHOWN])
        raise DataError(f"{archive}: unsafe members: {shown}{more}; nothing was unpacked, get the archive elsewhere")
    if not kept:
        raise DataError(f"{archive}: holds no files")
    free = shutil.disk_usage(archive.parent).free
    if total > free:
        raise DataError(f"{archive}: needs {total} bytes unpacked, {free} are free; make room")
    return kept


def _name_problem(name: str) -> str:
    """Why a path must not be written, or an empty text."""
    parts = PurePosixPath(name).parts
    if not parts or any(not character.isprintable() for character in name):
        return "a name that cannot be printed"
    if name.startswith("/") or "\\" in name or parts[0].endswith(":"):
        return "an absolute path, or one of another system"
    if ".." in parts:
        return "leads out of the folder"
    return "a name too long" if max(len(part.encode()) for part in parts) > MAX_NAME_BYTES else ""


def _clash(name: str, files: dict[str, str], folders: dict[str, str]) -> str:
    """Whether another member has this name, also as a folder or in other spelling; notes the name."""
    path = PurePosixPath(name)
    key = same_name(str(path))
    above = [same_name(str(parent)) for parent in path.parents]
    other = files.get(key) or folders.get(key) or next((files[a] for a in above if a in files), "")
    files.setdefault(key, name)
    folders.update(dict.fromkeys(above, name))
    return f"a name twice, as {other!a}" if other else ""


def _write(archive: Path, member: ArchiveMember, source: IO[bytes], folder: Path) -> None:
    path = folder / PurePosixPath(member.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with open(path, "xb") as file:
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise DataError(f"{archive}: {member.name!r} is longer than the {member.size} bytes it claims")
            try:
                file.write(chunk)
            except OSError as error:
                raise DataError(f"{path}: cannot be written ({error.strerror}); make room and try again") from None
    if left:
        raise DataError(f"{archive}: {member.name!r} ends {left} bytes before the {member.size} it claims")
