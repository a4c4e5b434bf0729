"""TIFF (Adobe, revision 6.0; BigTIFF): pictures and volumes, plain, of ImageJ, of tifffile, and OME-TIFF.

The directories are walked here first, so that whatever they claim lies inside the file; tifffile decodes the pixels.
"""

from __future__ import annotations

import io
import logging
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.alpha import without_alpha
from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.jpeg import claimed_size
from medseg.formats.limits import check_size, held, memory_budget
from medseg.formats.source import Source
from medseg.formats.tiff.axes import Facts, Layout, is_ome, layout_of

# Compressions that are read -> most bytes that one byte can become; None: no bound is known.
_RATIOS: dict[int, int | None] = {
    1: 1,  # none
    5: 4096,  # LZW: a code of 9 to 12 bits stands for at most 4096 bytes
    **dict.fromkeys((8, 32946), 1032),  # deflate
    32773: 64,  # PackBits
    **dict.fromkeys((7, 50000), None),  # JPEG, Zstandard
}
_JPEG = 7
# Bytes per value of each TIFF field type.
_WIDTHS = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
MAX_PAGES = 1 << 16


def _walk(path: Path, data: bytes) -> int:
    """The number of pages; every directory, and whatever its entries point to, lies inside the file."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    offset_form, count_form, width, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    at = 8 if big else 4
    seen: set[int] = set()
    try:
        if big and struct.unpack_from(order + "HH", data, 4) != (8, 0):
            raise FormatError(path, "damaged TIFF: impossible header")
        (at,) = struct.unpack_from(order + offset_form, data, at)
        while at:
            if at in seen or len(seen) >= MAX_PAGES:
                raise FormatError(path, f"damaged TIFF: the chain of pages does not end (byte {at})")
            seen.add(at)
            (count,) = struct.unpack_from(order + count_form, data, at)
            first = at + struct.calcsize(count_form)
            if not 1 <= count <= 4096 or first + count * width > len(data):
                raise FormatError(path, f"truncated or damaged TIFF: {count} entries in the directory at byte {at}")
            for entry in range(first, first + count * width, width):
                kind, number = struct.unpack_from(order + "xxH" + offset_form, data, entry)
                size = _WIDTHS.get(kind, 1) * number
                (place,) = struct.unpack_from(order + offset_form, data, entry + width - inline)
                if size > inline and place + size > len(data):
                    raise FormatError(path, f"truncated or damaged TIFF: an entry reaches to byte {place + size}")
            (at,) = struct.unpack_from(order + offset_form, data, first + count * width)
    except (struct.error, OverflowError):
        raise FormatError(path, f"truncated TIFF: no directory at byte {at} of {len(data)}") from None
    if not seen:
        raise FormatError(path, "damaged TIFF: no pages")
    return len(seen)


def open_tiff(path: Path, content: Content) -> Source:
    """Open a TIFF; see ``medseg.formats.read.open_image`` for the contract and docs/formats.md for the rules."""
    return _open(path, held(path, content.main), must_be_ome=False)


def open_ome_tiff(path: Path, content: Content) -> Source:
    """Open a TIFF that must have OME-XML."""
    return _open(path, held(path, content.main), must_be_ome=True)


def _open(path: Path, data: bytes, *, must_be_ome: bool) -> Source:
    import tifffile

    count = _walk(path, data)
    # What the library would log is either told by our error or of no interest to the user.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
            if must_be_ome and not is_ome(str(file.pages[0].description)):
                raise FormatError(path, "a TIFF without OME-XML", "rename it to .tif")
            return _read(path, file, count, len(data))
    except FormatError:
        raise
    except Exception as error:
        # Whatever a decoder stumbles over is damage; the cause is kept.
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise FormatError(path, f"damaged TIFF ({told})") from error


def _read(path: Path, file: Any, count: int, size: int) -> Source:
    """All pages, checked before the first one is decoded."""
    pages = list(file.pages)
    if len(pages) != count:
        raise FormatError(path, f"damaged TIFF: {len(pages)} of {count} pages can be read")
    first = pages[0]
    channel_last = _check_pages(path, pages)
    samples = int(first.samplesperpixel)
    rows, columns = int(first.imagelength), int(first.imagewidth)
    layout = layout_of(Facts(path, count, (rows, columns), samples, _resolution(first)), str(first.description))
    check_size(path, int(first.nbytes) * count, memory_budget())
    for page in pages:
        _check_pieces(path, page, size)
    planes = np.empty((len(layout.pages), samples, rows, columns), first.dtype.newbyteorder("="))
    for plane, number in zip(planes, layout.pages, strict=True):
        picture = pages[number].asarray(maxworkers=1).reshape((rows, columns, samples) if channel_last else plane.shape)
        plane[...] = np.moveaxis(picture, -1, 0) if channel_last else picture
    return _stored(path, first, planes, layout)


def _stored(path: Path, page: Any, planes: NDArray[Any], layout: Layout) -> Source:
    """Planes (channel and slice, sample, Y, X) as (C,Z,Y,X) or (C,Y,X)."""
    samples, rows, columns = planes.shape[1:]
    shape = (layout.channels, layout.slices or 1, samples, rows, columns)
    voxels = np.moveaxis(planes.reshape(shape), 2, 1).reshape(-1, layout.slices or 1, rows, columns)
    remarks = layout.remarks
    alphas = [kind for kind in page.extrasamples if int(kind) in (1, 2)]
    if alphas and layout.channels == 1:
        if len(page.extrasamples) != 1:
            raise FormatError(
                path, f"{len(page.extrasamples)} extra samples, some of them alpha", "store plain channels"
            )
        voxels, dropped = without_alpha(path, voxels)
        remarks += dropped
    elif alphas:
        raise FormatError(path, "an alpha sample beside several channels", "store plain channels")
    if layout.slices is None:
        voxels = voxels[:, 0]
    if voxels.dtype == np.float16 or voxels.dtype == np.bool_:
        voxels = voxels.astype(np.float32 if voxels.dtype == np.float16 else np.uint8)
    return Source(
        path,
        np.ascontiguousarray(voxels),
        None if layout.sizes is None else np.diag([*layout.sizes, 1.0]),
        "px" if layout.sizes is None else "um",
        palette=int(page.photometric) == 3,
        lossy=int(page.compression) == _JPEG,
        notes=layout.notes,
        remarks=remarks,
    )


def _check_pages(path: Path, pages: Sequence[Any]) -> bool:
    """All pages are of one kind whose numbers are beyond doubt; returns whether samples are the last axis."""
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
    if colour == 0 and not str(first.description).startswith('{"shape"'):
        # tifffile marks its bilevel pictures so, and means the numbers; others mean their brightness.
        cause = "white is zero (photometric interpretation 0): programs disagree on the numbers"
        raise FormatError(path, cause, "store it with black as zero")
    if colour not in (0, 1, 2, 3) and not (colour == 6 and int(first.compression) == _JPEG):
        raise FormatError(path, f"colour space {colour}, expected grey, RGB or a colour table", "convert the file")
    return bool(first.axes != "SYX")


def _check_pieces(path: Path, page: Any, size: int) -> None:
    """Every strip or tile is there, whole, and holds as many bytes as the page's shape needs."""
    code = int(page.compression)
    if code not in _RATIOS:
        raise FormatError(path, f"TIFF compression {code}", "store it plain, or with deflate, LZW or Zstandard")
    counts = page.databytecounts
    ends = [o + n for o, n in zip(page.dataoffsets, counts, strict=True)]
    if not ends or max(ends) > size or min(counts) < 1:
        raise FormatError(path, f"truncated: pixels end at byte {max(ends, default=0)} of {size}")
    if math.prod(page.chunked) != len(ends):
        # The decoder would fill what is missing with zeros, and take long where much is claimed.
        raise FormatError(path, f"damaged: {len(ends)} of {math.prod(page.chunked)} pieces are there")
    ratio = _RATIOS[code]
    if ratio is not None:
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        check_size(path, int(page.nbytes) * bits // (8 * page.dtype.itemsize), sum(counts) * ratio)
    _check_lengths(path, page, code)


def _check_lengths(path: Path, page: Any, code: int) -> None:
    """The first and the last piece unpack to what the page's shape needs: a decoder would cut or pad without a word."""
    import tifffile

    pieces = len(page.dataoffsets)
    for index in range(pieces) if code == 1 else sorted({0, pieces - 1}):
        found, expected = page.databytecounts[index], _piece_bytes(page, index)
        if code != 1:
            page.parent.filehandle.seek(page.dataoffsets[index])
            piece = page.parent.filehandle.read(found)
            if code == _JPEG:
                _check_jpeg(path, page, piece, index)
                continue
            found = len(tifffile.TIFF.DECOMPRESSORS[code](piece, out=expected + 1))
        if found != expected:
            raise FormatError(path, f"damaged: {found} bytes of pixels in piece {index}, expected {expected}")


def _check_jpeg(path: Path, page: Any, piece: bytes, index: int) -> None:
    """Raise ``FormatError`` unless a JPEG stream has the size of its strip or tile; the last strip may be whole."""
    claimed = claimed_size(piece)
    if claimed is None:
        raise FormatError(path, f"damaged JPEG in piece {index}")
    rows, columns = _piece_shape(page, index)
    if claimed not in {(rows, columns), (_rows(page), columns)}:
        raise FormatError(path, f"damaged: a JPEG of {claimed[0]} x {claimed[1]} as piece {index}")


def _rows(page: Any) -> int:
    return int(page.tilelength if page.is_tiled else page.rowsperstrip)


def _piece_shape(page: Any, index: int) -> tuple[int, int]:
    """Rows and columns of a strip or tile; tiles are always whole."""
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    row = index % math.ceil(page.imagelength / page.rowsperstrip) * page.rowsperstrip
    return int(min(page.rowsperstrip, page.imagelength - row)), int(page.imagewidth)


def _piece_bytes(page: Any, index: int) -> int:
    """Bytes of one unpacked strip or tile."""
    rows, columns = _piece_shape(page, index)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    return math.ceil(columns * samples * bits / 8) * rows


def _resolution(page: Any) -> tuple[float, float] | None:
    """Pixels per unit along columns and rows."""
    pairs = [page.tags.valueof(tag) for tag in (282, 283)]
    if not all(isinstance(pair, tuple) and len(pair) == 2 and pair[0] > 0 and pair[1] > 0 for pair in pairs):
        return None
    return pairs[0][0] / pairs[0][1], pairs[1][0] / pairs[1][1]
