"""BMP (Windows bitmaps, headers of 12 to 124 bytes): grey, RGB and indexed pictures, not compressed."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.formats.alpha import without_alpha
from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.limits import check_size, held
from medseg.formats.palette import Table, distinct_greys
from medseg.formats.source import Source

# Sizes of the headers that follow the first 14 bytes; the oldest one has 16-bit sizes and tables of 3 bytes.
_OLDEST, _HEADERS = 12, (12, 40, 52, 56, 64, 108, 124)
_FILE_HEADER = 14
_PLAIN, _MASKS = 0, 3
_COMPRESSIONS = {1: "run lengths (RLE8)", 2: "run lengths (RLE4)", 4: "JPEG", 5: "PNG", 6: "masks with alpha"}
# Where blue, green and red lie in 32 bits, the order in which they are stored without masks, too; and alpha.
_BGR, _ALPHA = (0xFF, 0xFF00, 0xFF0000), 0xFF000000
FIX = "save it without compression, with 8, 24 or 32 bits per pixel, or as PNG"


@dataclass(frozen=True, slots=True)
class _Header:
    """What a BMP says of its pixels.

    Attributes:
        rows, columns: of the picture.
        upright: whether rows are stored from the highest to the lowest.
        bits: per pixel.
        start: where the pixels begin.
        alpha: whether the fourth byte of a pixel is its opacity; else it means nothing.
        table: colours, where pixels are indices.
    """

    rows: int
    columns: int
    upright: bool
    bits: int
    start: int
    alpha: bool
    table: Table | None

    @property
    def row_bytes(self) -> int:
        """Bytes of a row: filled up to a multiple of four."""
        return -(-self.columns * self.bits // 32) * 4


def open_bmp(path: Path, content: Content) -> Source:
    """Open a BMP; see ``medseg.formats.read.open_image`` for the contract.

    An indexed picture gives its greys where its colours are greys; else its indices and the colour table.
    """
    data = held(path, content.main)
    header = _header(path, data)
    size = header.rows * header.row_bytes
    end = header.start + size
    if end > len(data):
        raise FormatError(path, f"truncated: pixels end at byte {end} of {len(data)}")
    (declared,) = struct.unpack_from("<I", data, 2)
    if len(data) not in (end, declared):
        raise FormatError(path, f"{len(data)} bytes, expected {end}, the end of the pixels, or {declared}, as declared")
    check_size(path, header.rows * header.columns * max(1, header.bits // 8), size * 8)
    rows = np.frombuffer(data, np.uint8, size, header.start).reshape(header.rows, header.row_bytes)
    rows = rows if header.upright else rows[::-1]
    voxels = _voxels(rows, header)
    if header.table is not None:
        greys = distinct_greys(path, voxels, header.table)
        return Source(path, voxels, palette=header.table) if greys is None else Source(path, greys)
    if header.alpha:
        voxels, remarks = without_alpha(path, voxels)
        return Source(path, voxels, remarks=remarks)
    return Source(path, voxels[:3])


def _voxels(rows: NDArray[np.uint8], header: _Header) -> NDArray[np.uint8]:
    """(C, rows, columns): indices of a byte, or red, green, blue and whatever follows."""
    if header.bits > 8:
        pixels = rows[:, : header.columns * header.bits // 8].reshape(header.rows, header.columns, -1)
        return np.ascontiguousarray(np.moveaxis(pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]], -1, 0))
    per_byte = 8 // header.bits
    shifts = np.arange(8 - header.bits, -1, -header.bits, dtype=np.uint8)
    packed = rows[:, : -(-header.columns // per_byte), np.newaxis]
    numbers = (packed >> shifts) & np.uint8(2**header.bits - 1)
    return np.ascontiguousarray(numbers.reshape(header.rows, -1)[np.newaxis, :, : header.columns])


def _header(path: Path, data: bytes) -> _Header:
    if len(data) < _FILE_HEADER + 4:
        raise FormatError(path, f"truncated: {len(data)} bytes, too few for a BMP header")
    start, length = struct.unpack_from("<II", data, 10)
    if length not in _HEADERS or _FILE_HEADER + length > len(data):
        raise FormatError(path, f"truncated or damaged BMP: a header of {length} bytes")
    compression = colours = 0
    if length == _OLDEST:
        columns, rows, planes, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        columns, rows, planes, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)
    if compression in _COMPRESSIONS and rows:
        raise FormatError(path, f"BMP compressed as {_COMPRESSIONS[compression]}, expected none", FIX)
    if columns < 1 or rows == 0 or planes != 1 or compression not in (_PLAIN, _MASKS):
        raise FormatError(path, f"impossible BMP header: {columns} x {rows}, {planes} planes, method {compression}")
    if bits not in (1, 2, 4, 8, 24, 32) or (compression == _MASKS and bits != 32):
        raise FormatError(path, f"BMP of {bits} bits per pixel{' with masks' * (compression == _MASKS)}", FIX)
    after = _FILE_HEADER + length
    alpha = compression == _MASKS and _alpha(path, data, length)
    table = _table(path, data[after:start], length, bits, colours) if bits <= 8 else None
    if start < after:
        raise FormatError(path, f"damaged BMP: pixels begin at byte {start}, in the header")
    return _Header(abs(rows), columns, rows < 0, bits, start, alpha, table)


def _alpha(path: Path, data: bytes, length: int) -> bool:
    """Whether a picture with masks has an opacity; ``FormatError`` for other than one byte per colour, in order."""
    masks = struct.unpack("<4I", data[54:70].ljust(16, b"\0"))
    opacity = masks[3] if length >= 56 else 0
    if (masks[2], masks[1], masks[0]) != _BGR or opacity not in (0, _ALPHA):
        shown = ", ".join(f"{mask:#x}" for mask in (*masks[:3], opacity))
        raise FormatError(path, f"BMP with masks {shown}, expected bytes in the order blue, green, red, alpha", FIX)
    return opacity != 0


def _table(path: Path, stored: bytes, length: int, bits: int, colours: int) -> Table:
    """The colour table (N, 3), which lies between header and pixels."""
    width = 3 if length == _OLDEST else 4
    count = min(colours or 2**bits, 2**bits, len(stored) // width)
    if count < 1:
        raise FormatError(path, "damaged BMP: indexed colours without a table")
    entries = np.frombuffer(stored, np.uint8, count * width).reshape(count, width)
    return np.ascontiguousarray(entries[:, 2::-1])
