"""The orientation that EXIF blocks of pictures claim (CIPA DC-008): a TIFF directory inside PNG and JPEG files."""

from __future__ import annotations

import struct
from pathlib import Path

from medseg.formats.errors import FormatError


def check_upright(path: Path, exif: bytes) -> None:
    """Raise ``FormatError`` if an EXIF block says that the picture is to be shown turned or mirrored.

    Whether a mask was drawn on the picture as stored or as shown is nowhere said.
    """
    orientation = exif_orientation(exif)
    if orientation not in (None, 1):
        raise FormatError(path, f"EXIF orientation {orientation}, expected 1", "rotate the pixels themselves")


def exif_orientation(exif: bytes) -> int | None:
    """The orientation tag of an EXIF block, or None."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 14:
        return None
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(order + "H", exif, start)
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
        if tag == 274:
            return int(value)
    return None
