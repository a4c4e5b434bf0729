"""What is checked of the pages of a TIFF before the first pixel is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.formats.content import Data
from medseg.formats.errors import FormatError
from medseg.formats.jpeg import claimed_size
from medseg.formats.limits import check_claim, check_memory

# Compressions that are read -> most bytes that one byte can become; None: no bound is known.
RATIOS: dict[int, int | None] = {
    1: 1,  # none
    5: 4096,  # LZW: a code of 9 to 12 bits stands for at most 4096 bytes
    **dict.fromkeys((8, 32946), 1032),  # deflate
    32773: 64,  # PackBits
    **dict.fromkeys((7, 50000), None),  # JPEG, Zstandard
    **dict.fromkeys((2, 3, 4), None),  # CCITT (T.4, T.6)
}
JPEG = 7
CCITT = (2, 3, 4)
# No fax is wider; a row of one colour takes one bit, however wide it is.
MAX_CCITT_WIDTH = 1 << 16


def check_pages(path: Path, pages: Sequence[Any]) -> None:
    """Raise ``FormatError`` unless all pages are of one kind and their numbers are unambiguous."""
    first = pages[0]
    for page in pages:
        if (page.shape, page.dtype, page.axes) != (first.shape, first.dtype, first.axes):
            cause = f"pages of different kinds: {first.axes} {first.shape} and {page.axes} {page.shape}"
            raise FormatError(path, cause, "store one picture or volume per file, without thumbnails")
        orientation = page.tags.valueof(274, 1)
        if orientation != 1:
            raise FormatError(path, f"orientation tag {orientation}, expected 1", "rotate the pixels themselves")
        if (page.photometric, page.extrasamples) != (first.photometric, first.extrasamples):
            raise FormatError(path, "pages of different colour spaces", "store one picture or volume per file")
    if first.axes not in ("YX", "YXS", "SYX") or min(first.shape) < 1:
        raise FormatError(path, f"axes {first.axes} {first.shape}, expected rows and columns", "store plain pages")
    if first.dtype is None or first.dtype.kind not in "buif" or first.dtype.itemsize > 8:
        raise FormatError(path, f"pixel type {first.dtype}, expected integers or real numbers", "convert the file")
    colour = int(first.photometric)
    if colour == 0 and not (is_bilevel(first) or str(first.description).startswith('{"shape"')):
        # tifffile marks its bilevel pictures so, and means the numbers; others mean their brightness.
        cause = "white is zero (photometric interpretation 0): programs disagree on the numbers"
        raise FormatError(path, cause, "store it with black as zero")
    if colour not in (0, 1, 2, 3) and not (colour == 6 and int(first.compression) == JPEG):
        raise FormatError(path, f"colour space {colour}, expected grey, RGB or a colour table", "convert the file")


def check_pieces(path: Path, page: Any, data: Data) -> None:
    """Raise ``FormatError`` unless every strip or tile is there, whole, with the bytes that the page's shape needs."""
    code = int(page.compression)
    if code not in RATIOS:
        raise FormatError(path, f"TIFF compression {code}", "store it plain, or with deflate, LZW or Zstandard")
    counts, size = page.databytecounts, len(data)
    ends = [o + n for o, n in zip(page.dataoffsets, counts, strict=True)]
    if not ends or max(ends) > size or min(counts) < 1:
        raise FormatError(path, f"truncated: pixels end at byte {max(ends, default=0)} of {size}")
    if math.prod(page.chunked) != len(ends):
        # The decoder would fill what is missing with zeros, and take long where much is claimed.
        raise FormatError(path, f"damaged: {len(ends)} of {math.prod(page.chunked)} pieces are there")
    ratio = RATIOS[code]
    if ratio is not None:
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        check_claim(path, int(page.nbytes) * bits // (8 * page.dtype.itemsize), sum(counts) * ratio)
    _check_lengths(path, page, data, code)


def _check_lengths(path: Path, page: Any, data: Data, code: int) -> None:
    """Raise ``FormatError`` unless the first and the last piece unpack to what the page's shape needs.

    A decoder would cut or pad them silently. Of plain pixels, all pieces are checked.
    """
    import imagecodecs
    import tifffile

    pieces = len(page.dataoffsets)
    for index in range(pieces) if code == 1 else sorted({0, pieces - 1}):
        found, expected = page.databytecounts[index], _piece_bytes(page, index)
        if code != 1:
            check_memory(path, expected)
            piece = data[page.dataoffsets[index] : page.dataoffsets[index] + found]
            if code == JPEG:
                _check_jpeg(path, page, piece, index)
                continue
            if code in CCITT:
                _check_ccitt(path, page, piece, index)
                continue
            if int(page.fillorder) == 2:
                piece = bytes(imagecodecs.bitorder_decode(piece))
            found = len(tifffile.TIFF.DECOMPRESSORS[code](piece, out=expected + 1))
        if found != expected:
            raise FormatError(path, f"damaged: {found} bytes of pixels in piece {index}, expected {expected}")


def is_bilevel(page: Any) -> bool:
    """Whether a page has one bit per pixel."""
    return bool(page.bitspersample == 1 and page.samplesperpixel == 1)


def white_is_zero(page: Any) -> bool:
    """Whether bits of a page mean the opposite of their brightness; those that tifffile writes are numbers."""
    return int(page.photometric) == 0 and is_bilevel(page) and not str(page.description).startswith('{"shape"')


def _check_ccitt(path: Path, page: Any, piece: bytes, index: int) -> None:
    """Raise ``FormatError`` unless a strip or tile of CCITT codes can hold its rows; damaged codes are not found."""
    rows, columns = piece_shape(page, index)
    if not is_bilevel(page) or columns > MAX_CCITT_WIDTH:
        cause = (
            f"CCITT codes of {page.bitspersample} bits, {columns} columns; expected 1 bit, {MAX_CCITT_WIDTH} columns"
        )
        raise FormatError(path, cause, "store it plain, or with deflate, LZW or Zstandard")
    check_claim(path, rows, 8 * len(piece))
    check_memory(path, rows * columns)


def _check_jpeg(path: Path, page: Any, piece: bytes, index: int) -> None:
    """Raise ``FormatError`` unless a JPEG stream has the size of its strip or tile; the last strip may be whole."""
    claimed = claimed_size(piece)
    if claimed is None:
        raise FormatError(path, f"damaged JPEG in piece {index}")
    rows, columns = piece_shape(page, index)
    if claimed not in {(rows, columns), (_rows(page), columns)}:
        raise FormatError(path, f"damaged: a JPEG of {claimed[0]} x {claimed[1]} as piece {index}")


def _rows(page: Any) -> int:
    return int(page.tilelength if page.is_tiled else page.rowsperstrip)


def piece_shape(page: Any, index: int) -> tuple[int, int]:
    """Rows and columns of a strip or tile; tiles are always whole."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    row = index % math.ceil(page.imagelength / page.rowsperstrip) * page.rowsperstrip
    return int(min(page.rowsperstrip, page.imagelength - row)), int(page.imagewidth)


def _piece_bytes(page: Any, index: int) -> int:
    """Bytes of one unpacked strip or tile."""
    rows, columns = piece_shape(page, index)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    return math.ceil(columns * samples * bits / 8) * rows
