"""JPEG files (ITU-T T.81; JFIF, EXIF): grey and RGB pictures of 8 bits, never labels, since its numbers are rounded.

The markers are walked first, so that the size is bounded and the end of the picture is known to be there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.exif import check_upright
from medseg.formats.jpeg import JPEG_START
from medseg.formats.limits import check_claim, check_memory, held
from medseg.formats.source import Source

# Frames that are read: sequential and progressive, of Huffman codes.
_FRAMES = {0xC0: "baseline", 0xC1: "sequential", 0xC2: "progressive"}
_OTHER_FRAMES = {
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "arithmetically coded"),
    0xF7: "JPEG-LS",
}
_END, _SCAN, _EXIF = 0xD9, 0xDA, 0xE1
# Markers without a length: 01, and the restarts, which stand among the codes.
_BARE = {0x01, *range(0xD0, 0xD9)}
# A block of 8 x 8 pixels takes at least one bit.
MAX_RATIO = 512
# A progressive picture has about ten; each costs time for the whole picture.
MAX_SCANS = 200
FIX = "export it as PNG or TIFF"


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the header of a JPEG picture says.

    Attributes:
        kind: of ``_FRAMES``.
        rows, columns: pixels.
        samples: numbers per pixel.
        end: where the picture ends in the file.
    """

    kind: str
    rows: int
    columns: int
    samples: int
    end: int


def open_jpeg(path: Path, content: Content) -> Source:
    """Open a JPEG; see ``medseg.formats.read.open_image`` for the contract.

    Colour profiles are ignored. Bytes behind the end of the picture are left aside: cameras put previews there.
    """
    import imagecodecs

    data = held(path, content.main)
    frame = _frame(path, data)
    pixels = frame.rows * frame.columns
    check_claim(path, pixels, frame.end * MAX_RATIO)
    # All coefficients of a progressive picture are kept until its last scan, in 16 bits.
    check_memory(path, pixels * frame.samples * (4 if frame.kind == "progressive" else 2))
    try:
        picture = np.asarray(imagecodecs.jpeg8_decode(data[: frame.end] if frame.end < len(data) else data))
    except (imagecodecs.Jpeg8Error, ValueError, MemoryError) as error:
        raise FormatError(path, f"damaged JPEG data ({' '.join(str(error).split())[:200]})") from None
    if picture.shape[:2] != (frame.rows, frame.columns) or picture.size != pixels * frame.samples:
        raise FormatError(path, f"damaged JPEG: {picture.shape} of {frame.rows} x {frame.columns} pixels")
    voxels: NDArray[Any] = np.moveaxis(picture.reshape(frame.rows, frame.columns, frame.samples), -1, 0)
    behind = len(data) - frame.end
    remarks = (f"{behind} bytes behind the end of the picture left aside",) if behind else ()
    return Source(path, np.ascontiguousarray(voxels), lossy=True, remarks=remarks)


def _frame(path: Path, data: bytes) -> _Frame:
    """The only frame of a picture, all markers walked to its end."""
    frames: list[tuple[int, bytes]] = []
    scans, at = 0, len(JPEG_START)
    while True:
        marker, at = _marker(path, data, at)
        if marker == _END:
            break
        if marker in _BARE:
            continue
        (length,) = struct.unpack(">H", data[at : at + 2].rjust(2, b"\0"))
        body = data[at + 2 : at + length]
        if length < 2 or len(body) != length - 2:
            raise _truncated(path, data)
        at += length
        if marker in _FRAMES or marker in _OTHER_FRAMES:
            frames.append((marker, body))
        elif marker == _EXIF and body[:6] == b"Exif\0\0":
            check_upright(path, body[6:])
        elif marker == _SCAN:
            scans += 1
            at = _behind_codes(path, data, at)
    if len(frames) != 1 or not 1 <= scans <= MAX_SCANS:
        raise FormatError(path, f"damaged JPEG: {len(frames)} frames in {scans} scans")
    return _checked(path, *frames[0], at)


def _checked(path: Path, marker: int, body: bytes, end: int) -> _Frame:
    """The frame in a segment, if it is of a kind that is read."""
    if marker not in _FRAMES:
        raise FormatError(path, f"{_OTHER_FRAMES[marker]} JPEG, expected baseline or progressive", FIX)
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise FormatError(path, "damaged JPEG: impossible header")
    bits, rows, columns, samples = struct.unpack(">BHHB", body[:6])
    if samples not in (1, 3):
        cause = f"{samples} numbers per pixel" + (" (CMYK, for printing)" if samples == 4 else "")
        raise FormatError(path, f"{cause}, expected grey or RGB", FIX)
    if bits != 8:
        raise FormatError(path, f"JPEG of {bits} bits, expected 8", FIX)
    if not rows or not columns:
        raise FormatError(path, f"damaged JPEG: {rows} x {columns} pixels")
    return _Frame(_FRAMES[marker], rows, columns, samples, end)


def _marker(path: Path, data: bytes, at: int) -> tuple[int, int]:
    """The marker at a place, and where its segment begins; FF may stand before it as filling."""
    if data[at : at + 1] not in (b"\xff", b""):
        raise FormatError(path, f"damaged JPEG: no marker at byte {at}")
    while data[at : at + 1] == b"\xff":
        at += 1
    if at >= len(data):
        raise _truncated(path, data)
    return data[at], at + 1


def _behind_codes(path: Path, data: bytes, at: int) -> int:
    """Where the codes of a scan end: at the first marker but restarts; FF 00 is a code."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        following = data[at + 1]
        if following not in (0x00, 0xFF) and following not in _BARE:
            return at
        at += 1 if following == 0xFF else 2
    raise _truncated(path, data)


def _truncated(path: Path, data: bytes) -> FormatError:
    return FormatError(path, f"truncated: {len(data)} bytes without the end of the JPEG picture")
