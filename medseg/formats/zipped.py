"""The members of a zip archive, in memory; nothing is written to disk and no claimed size is believed."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from pathlib import Path

from medseg.formats.errors import FormatError
from medseg.formats.limits import MAX_DEFLATE_RATIO, check_size

FIX_ZIP = "pack the files again"


def members(path: Path, data: bytes, most: int) -> dict[str, bytes]:
    """Name -> bytes of the files in an archive, sorted by name.

    Args:
        path: for messages.
        data: the archive.
        most: number of members that are allowed.

    Raises:
        FormatError: if it is damaged, encrypted, too large or has too many members; if a name points outside the
            archive, is there twice, or is a link or device; if it claims to expand further than deflate can.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = archive.infolist()
            if len(found) > most:
                raise FormatError(path, f"{len(found)} members, allowed {most}", FIX_ZIP)
            for info in found:
                _check_member(path, info)
            infos = [info for info in found if not info.is_dir()]
            names = [info.filename.casefold() for info in infos]
            if len(set(names)) != len(names):
                raise FormatError(path, "two members have one name", FIX_ZIP)
            if not infos:
                raise FormatError(path, "an archive without files", FIX_ZIP)
            # All of them together: members can overlap in a bomb, and each look harmless.
            check_size(path, sum(info.file_size for info in infos), len(data) * MAX_DEFLATE_RATIO)
            return {info.filename: _bytes_of(path, archive, info) for info in sorted(infos, key=lambda i: i.filename)}
    except FormatError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError, OSError) as error:
        raise FormatError(path, f"damaged zip archive ({type(error).__name__})") from None


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuse names that lead elsewhere, links, devices, encryption and rare compressions."""
    name = info.filename
    parts = name.replace("\\", "/").split("/")
    if "\\" in name or ".." in parts or name.startswith("/") or ":" in parts[0] or "\0" in name or not name.strip():
        raise FormatError(path, f"member {name!r} leads out of the archive", FIX_ZIP, "unsafe-path")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise FormatError(path, f"member {name!r} is a link or device", FIX_ZIP, "unsafe-path")
    if info.flag_bits & 0x1:
        raise FormatError(path, f"member {name!r} is encrypted", "pack the files without password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(path, f"member {name!r} has compression {info.compress_type}, expected deflate", FIX_ZIP)


def _bytes_of(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member's bytes; one more than claimed is requested, so that its checksum is compared."""
    with archive.open(info) as stream:
        data = stream.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise FormatError(path, f"member {info.filename!r} has {len(data)} bytes, {info.file_size} claimed", FIX_ZIP)
    return data
