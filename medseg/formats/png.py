"""PNG (W3C Recommendation, third edition): grey, RGB and indexed pictures of 1 to 16 bits."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.formats.alpha import without_alpha
from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.exif import check_upright
from medseg.formats.limits import MAX_DEFLATE_RATIO, check_size, held
from medseg.formats.plain import Labels, whole
from medseg.formats.source import Source
from medseg.formats.streams import unpack
from medseg.formats.world import NOTHING, About
from medseg.image.geometry import Geometry

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_WITH_ALPHA = {4, 6}
# A chunk holds less than 2 GiB.
_PIECE = 1 << 30

Chunks = list[tuple[bytes, bytes]]


def _chunks(path: Path, data: bytes) -> Chunks:
    """All chunks as (type, content), each with a right checksum, IHDR first and IEND at the very end."""
    chunks: Chunks = []
    at = 8
    while at + 12 <= len(data) and (not chunks or chunks[-1][0] != b"IEND"):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise FormatError(path, f"damaged: wrong checksum in the PNG chunk at byte {at}")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : end - 4]))
        at = end
    if not chunks or chunks[-1][0] != b"IEND":
        raise FormatError(path, f"truncated: {len(data)} bytes without the end of the PNG stream")
    if at != len(data):
        raise FormatError(path, f"{len(data) - at} bytes follow the end of the PNG stream")
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise FormatError(path, "damaged: no PNG header")
    return chunks


def open_png(path: Path, content: Content) -> Source:
    """Open a PNG; see ``medseg.formats.read.open_image`` for the contract.

    Only the stored numbers count: gamma, colour profiles and the colour marked as transparent are ignored. An
    indexed picture gives its indices and its colour table. A fully opaque alpha channel is dropped, any other refused.
    """
    import imagecodecs

    chunks = _chunks(path, held(path, content.main))
    width, height, depth, colour, *methods = struct.unpack(">IIBBBBB", chunks[0][1])
    known = methods in ([0, 0, 0], [0, 0, 1])
    if depth not in _DEPTHS.get(colour, ()) or min(width, height) < 1 or max(width, height) >= 2**31 or not known:
        cause = f"impossible PNG header: {width} x {height}, colour type {colour}, {depth} bits, methods {methods}"
        raise FormatError(path, cause)
    _check_orientation(path, chunks)
    body = b"".join(body for kind, body in chunks if kind == b"IDAT")
    size = _packed_size(width, height, depth * _CHANNELS[colour], interlaced=methods[2] == 1)
    check_size(path, size, len(body) * MAX_DEFLATE_RATIO)
    # The decoder would be content with less or more than the picture needs; and it unpacks slowly, so it gets the rows
    # stored as they are.
    body = zlib.compress(unpack(path, body, size, "zlib"), 0)
    try:
        picture = np.asarray(imagecodecs.png_decode(_plain(chunks, colour, body)))
    except (imagecodecs.PngError, MemoryError) as error:
        raise FormatError(path, f"damaged PNG data ({error})") from None
    if depth < 8:
        picture = picture // (255 // (2**depth - 1))  # the decoder spreads 1, 2 and 4 bits over 0..255
    voxels = np.ascontiguousarray(np.moveaxis(picture.reshape(height, width, _CHANNELS[colour]), -1, 0))
    remarks: tuple[str, ...] = ()
    if colour in _WITH_ALPHA:
        voxels, remarks = without_alpha(path, voxels)
    return Source(path, voxels, palette=_colours(path, chunks) if colour == 3 else None, remarks=remarks)


def _colours(path: Path, chunks: Chunks) -> NDArray[np.uint8]:
    """The colour table (N, 3) of an indexed picture."""
    tables = [body for kind, body in chunks if kind == b"PLTE"]
    if len(tables) != 1 or len(tables[0]) % 3 or not 3 <= len(tables[0]) <= 768:
        raise FormatError(path, "damaged: an indexed picture without one colour table")
    return np.frombuffer(tables[0], np.uint8).reshape(-1, 3)


def _packed_size(width: int, height: int, bits: int, *, interlaced: bool) -> int:
    """Bytes of the rows, each with its filter type, of ``bits`` per pixel; interlaced: in seven passes (Adam7)."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    size = 0
    for row, column, row_step, column_step in passes:
        rows, columns = -(-(height - row) // row_step), -(-(width - column) // column_step)
        if columns > 0 and rows > 0:
            size += rows * (1 + -(-columns * bits // 8))
    return size


def _plain(chunks: Chunks, colour: int, body: bytes) -> bytes:
    """A PNG of the numbers alone, which the decoder hands out as they are: no colour table, transparency or gamma."""
    ihdr = chunks[0][1][:9] + (b"\x00" if colour == 3 else chunks[0][1][9:10]) + chunks[0][1][10:]
    pieces = [(b"IDAT", body[at : at + _PIECE]) for at in range(0, len(body), _PIECE)]
    kept = [(b"IHDR", ihdr), *pieces, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in kept
    )


def _check_orientation(path: Path, chunks: Chunks) -> None:
    """Refuse pictures that are to be shown turned, and those that move."""
    for kind, body in chunks:
        if kind == b"acTL":
            raise FormatError(path, "an animated PNG, expected one picture", "store one picture per file")
        if kind == b"eXIf":
            check_upright(path, body)


def png_bytes(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> bytes:
    """A grey PNG of 8 or 16 bits; the format has no place for a geometry."""
    import imagecodecs

    if geometry.dims != 2:
        raise FormatError(path, f"a grid of {geometry.dims} axes in a PNG, expected 2", "write .nii.gz or .tif")
    values = whole(labels)
    if values.dtype not in (np.uint8, np.uint16):
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high > 65535:
            raise FormatError(path, f"labels {low} to {high}, PNG holds 0 to 65535", "write .tif")
        values = values.astype(np.uint16)
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(values), level=6))
