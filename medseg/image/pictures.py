"""Plain 2-D pictures: PNG (W3C Recommendation, third edition) and TIFF (Adobe, revision 6.0)."""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.content import Content
from medseg.image.geometry import Geometry
from medseg.image.stored import MAX_DEFLATE_RATIO, FormatError, Stored, check_size, memory_budget

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def _png_chunks(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    """All chunks as (type, content), each with a right checksum, IHDR first and IEND at the very end."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise FormatError(path, "the content is no PNG", "rename the file to what it is, or convert it")
    chunks: list[tuple[bytes, bytes]] = []
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


def read_png(path: Path, content: Content) -> Stored:
    """Read a PNG; see ``medseg.image.formats.read_stored`` for the contract."""
    import imagecodecs

    data = content.main
    chunks = _png_chunks(path, data)
    width, height, depth, colour = struct.unpack(">IIBB", chunks[0][1][:10])
    if colour not in _PNG_CHANNELS or min(width, height) < 1:
        raise FormatError(path, f"impossible PNG header: {width} x {height}, colour type {colour}")
    packed = sum(len(body) for kind, body in chunks if kind == b"IDAT")
    check_size(path, height * (width * depth * _PNG_CHANNELS[colour] // 8), packed * MAX_DEFLATE_RATIO)
    # Only the stored numbers count: without colour table, transparency and gamma the decoder hands them out
    # as they are; an indexed picture becomes a grey one whose values are the indices.
    ihdr = chunks[0][1][:9] + (b"\x00" if colour == 3 else chunks[0][1][9:10]) + chunks[0][1][10:]
    kept = [(b"IHDR", ihdr), *[c for c in chunks if c[0] == b"IDAT"], (b"IEND", b"")]
    plain = data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in kept
    )
    try:
        picture = np.asarray(imagecodecs.png_decode(plain))
    except imagecodecs.PngError as error:
        raise FormatError(path, f"damaged PNG data ({error})") from None
    if depth < 8:
        picture = picture // (255 // (2**depth - 1))  # the decoder spreads 1, 2 and 4 bits over 0..255
    voxels = np.moveaxis(picture.reshape(height, width, _PNG_CHANNELS[colour]), -1, 0)
    return Stored(path, np.ascontiguousarray(voxels), palette=colour == 3)


def png_bytes(path: Path, labels: NDArray[Any], geometry: Geometry) -> bytes:
    """A grey PNG of 8 or 16 bits."""
    import imagecodecs

    _require_flat(path, geometry)
    if labels.dtype not in (np.uint8, np.uint16):
        low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
        if low < 0 or high > 65535:
            raise FormatError(path, f"labels {low} to {high}, PNG holds 0 to 65535", "write .tif")
        labels = labels.astype(np.uint16)
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(labels), level=6))


# TIFF compressions that change numbers: JPEG old and new, lossy JPEG in DNG, JPEG XR, WebP.
_LOSSY = {6, 7, 34892, 22610, 34934, 34927, 50001}


def read_tiff(path: Path, content: Content) -> Stored:
    """Read a TIFF of one page; see ``medseg.image.formats.read_stored`` for the contract."""
    import tifffile

    data = content.main
    if data[:4] not in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        raise FormatError(path, "the content is no TIFF", "rename the file to what it is, or convert it")
    # What the library would log is either told by our error or of no interest to the user.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = _only_page(path, file)
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            if not ends or max(ends) > len(data) or min(page.databytecounts) < 1:
                raise FormatError(path, f"truncated: pixels end at byte {max(ends, default=0)} of {len(data)}")
            if math.prod(page.chunked) != len(ends):
                # The decoder would fill what is missing with zeros, and take long where much is claimed.
                raise FormatError(path, f"damaged: {len(ends)} of {math.prod(page.chunked)} pieces are there")
            check_size(path, int(page.nbytes), len(data) if page.compression == 1 else memory_budget())
            axes, palette, picture = page.axes, page.photometric == 3, np.asarray(page.asarray())
            lossy = page.compression in _LOSSY
    except FormatError:
        raise
    except Exception as error:
        raise FormatError(path, f"damaged TIFF ({' '.join(str(error).split())})") from error
    voxels = np.moveaxis(picture, -1, 0) if axes == "YXS" else picture.reshape(-1, *picture.shape[-2:])
    if voxels.dtype == np.float16 or voxels.dtype == np.bool_:
        voxels = voxels.astype(np.float32 if voxels.dtype == np.float16 else np.uint8)
    native = np.ascontiguousarray(voxels, dtype=voxels.dtype.newbyteorder("="))
    return Stored(path, native, palette=palette, lossy=lossy)


def _only_page(path: Path, file: Any) -> Any:
    """The single picture of a TIFF file, of a kind whose axes are beyond doubt."""
    if len(file.pages) != 1:
        raise FormatError(path, f"{len(file.pages)} pages, expected one picture", "store one picture per file")
    page = file.pages[0]
    if page.axes not in ("YX", "YXS", "SYX") or min(page.shape) < 1:
        raise FormatError(path, f"axes {page.axes} {page.shape}, expected rows and columns", "store a plain picture")
    if page.dtype is None or page.dtype.kind not in "buif" or page.dtype.itemsize > 8:
        raise FormatError(path, f"pixel type {page.dtype}, expected integers or real numbers", "convert the file")
    orientation = page.tags.valueof(274, 1)
    if int(orientation) != 1:
        raise FormatError(path, f"orientation tag {int(orientation)}, expected 1", "rotate the pixels themselves")
    return page


def tiff_bytes(path: Path, labels: NDArray[Any], geometry: Geometry) -> bytes:
    """A deflated grey TIFF in the labels' own type."""
    import tifffile

    _require_flat(path, geometry)
    out = io.BytesIO()
    tifffile.imwrite(out, labels, photometric="minisblack", compression="zlib", metadata=None, software=False)
    return out.getvalue()


def _require_flat(path: Path, geometry: Geometry) -> None:
    if geometry.dims != 2:
        raise FormatError(path, f"a grid of {geometry.dims} axes in a picture, expected 2", "write .nii.gz")
