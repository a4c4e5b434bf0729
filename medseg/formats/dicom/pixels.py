"""Pixels of DICOM files (PS3.5 section 8 and annex A): native and compressed frames as arrays."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError
from medseg.formats.jpeg import JPEG_END, JPEG_START, claimed_size
from medseg.formats.limits import check_size

# A compressed frame may claim this many bytes per byte that is there; an empty slice compresses a thousandfold.
MAX_COMPRESSION = 10_000


@dataclass(frozen=True, slots=True)
class Syntax:
    """A transfer syntax.

    Attributes:
        name: as in PS3.6.
        decode: function of imagecodecs that decodes a frame, ``rle``, or empty for native pixels.
        lossy: whether numbers may have been invented.
        implicit, little: how elements are encoded.
    """

    name: str
    decode: str = ""
    lossy: bool = False
    implicit: bool = False
    little: bool = True


SYNTAXES: dict[str, Syntax] = {
    "1.2.840.10008.1.2": Syntax("Implicit VR Little Endian", implicit=True),
    "1.2.840.10008.1.2.1": Syntax("Explicit VR Little Endian"),
    "1.2.840.10008.1.2.2": Syntax("Explicit VR Big Endian", little=False),
    "1.2.840.10008.1.2.5": Syntax("RLE Lossless", "rle"),
    "1.2.840.10008.1.2.4.50": Syntax("JPEG Baseline", "jpeg8_decode", lossy=True),
    "1.2.840.10008.1.2.4.51": Syntax("JPEG Extended", "jpeg8_decode", lossy=True),
    "1.2.840.10008.1.2.4.57": Syntax("JPEG Lossless", "ljpeg_decode"),
    "1.2.840.10008.1.2.4.70": Syntax("JPEG Lossless SV1", "ljpeg_decode"),
    "1.2.840.10008.1.2.4.80": Syntax("JPEG-LS Lossless", "jpegls_decode"),
    "1.2.840.10008.1.2.4.81": Syntax("JPEG-LS Near-lossless", "jpegls_decode", lossy=True),
    "1.2.840.10008.1.2.4.90": Syntax("JPEG 2000 Lossless", "jpeg2k_decode"),
    "1.2.840.10008.1.2.4.91": Syntax("JPEG 2000", "jpeg2k_decode", lossy=True),
    "1.2.840.10008.1.2.4.201": Syntax("High-Throughput JPEG 2000 Lossless", "jpeg2k_decode"),
    "1.2.840.10008.1.2.4.202": Syntax("High-Throughput JPEG 2000 RPCL Lossless", "jpeg2k_decode"),
    "1.2.840.10008.1.2.4.203": Syntax("High-Throughput JPEG 2000", "jpeg2k_decode", lossy=True),
}


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """Size and encoding of the pixels of a file: frames, rows, columns, bits per pixel, sign, lossy or not."""

    rows: int
    columns: int
    frames: int
    allocated: int
    stored: int
    signed: bool
    lossy: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the decoded pixels, native byte order."""
        bits = max(8, self.allocated)
        return np.dtype(f"{'i' if self.signed else 'u'}{bits // 8}")

    @property
    def size(self) -> int:
        """Bytes of all native frames."""
        return (self.frames * self.rows * self.columns * self.allocated + 7) // 8


def check_pixels(path: Path, at: str, layout: PixelFormat, syntax: Syntax, length: int | None, there: int) -> None:
    """Bound the claimed size before anything is allocated.

    Args:
        path: for messages.
        at: the file's name in the folder, for messages.
        layout, syntax: what is claimed.
        length: bytes of the pixel data by its header; None if it is encapsulated.
        there: bytes of the file from the pixel data on.

    Raises:
        FormatError: if pixels are missing or too many, or the claim is beyond all bounds.
    """
    decoded = layout.frames * layout.rows * layout.columns * layout.dtype.itemsize
    if syntax.decode:
        if length is not None or layout.allocated == 1:
            raise FormatError(path, f"{at}{syntax.name} pixels that are not encapsulated")
        check_size(path, decoded, there * MAX_COMPRESSION)
        return
    if length is None:
        raise FormatError(path, f"{at}encapsulated pixels, but the transfer syntax is {syntax.name}")
    if not syntax.little and layout.allocated < 16:
        raise FormatError(path, f"{at}{layout.allocated}-bit pixels in big endian words", "convert it to little endian")
    if length > there:
        raise FormatError(path, f"{at}truncated: {there} of {length} bytes of pixels are there")
    if length not in (layout.size, layout.size + layout.size % 2):
        what = f"{layout.frames} frames of {layout.rows} x {layout.columns}"
        raise FormatError(path, f"{at}{length} bytes of pixels, {what} need {layout.size}")
    check_size(path, decoded, 8 * there)


def native_frames(data: bytes, start: int, layout: PixelFormat, syntax: Syntax) -> NDArray[Any]:
    """All frames (frames, rows, columns) of native pixels."""
    shape = (layout.frames, layout.rows, layout.columns)
    if layout.allocated == 1:
        bits = np.unpackbits(np.frombuffer(data, np.uint8, layout.size, start), bitorder="little")
        return bits[: layout.frames * layout.rows * layout.columns].reshape(shape)
    raw = np.dtype(f"{'<' if syntax.little else '>'}u{layout.allocated // 8}")
    words = np.frombuffer(data, raw, layout.frames * layout.rows * layout.columns, start)
    return _values(words.astype(raw.newbyteorder("="), copy=False), layout).reshape(shape)


def compressed_frames(path: Path, at: str, stream: bytes, layout: PixelFormat, syntax: Syntax) -> NDArray[Any]:
    """All frames (frames, rows, columns) of an encapsulated stream.

    Raises:
        FormatError: if a frame is missing, damaged, of another size than the header says, or has no decoder here.
    """
    from pydicom.encaps import generate_frames

    try:
        codes: Sequence[bytes] = list(generate_frames(stream, number_of_frames=layout.frames))
    except Exception as error:  # noqa: BLE001 (whatever pydicom raises is damage; its text could repeat the file's)
        raise FormatError(path, f"{at}damaged pixel fragments ({type(error).__name__})") from None
    if len(codes) != layout.frames:
        raise FormatError(path, f"{at}{len(codes)} compressed frames, the header says {layout.frames}")
    out = np.empty((layout.frames, layout.rows, layout.columns), layout.dtype)
    for frame, code in zip(out, codes, strict=True):
        frame[...] = _decoded(path, at, code, layout, syntax)
    return out


def _decoded(path: Path, at: str, code: bytes, layout: PixelFormat, syntax: Syntax) -> NDArray[Any]:
    """One compressed frame (rows, columns)."""
    import imagecodecs

    shape = (layout.rows, layout.columns)
    if syntax.decode == "rle":
        return _values(_unpacked(path, at, code, layout), layout).reshape(shape)
    claimed = claimed_size(code)
    if claimed != shape:
        found = "no picture" if claimed is None else f"a picture of {claimed[0]} x {claimed[1]}"
        raise FormatError(path, f"{at}{syntax.name} stream holds {found}, the header says {shape[0]} x {shape[1]}")
    if code[:2] == JPEG_START and not code.rstrip(b"\0").endswith(JPEG_END):
        # Besides, the JPEG-LS decoder can look for the end for ever.
        raise FormatError(path, f"{at}truncated: the {syntax.name} stream has no end")
    try:
        words = np.asarray(getattr(imagecodecs, syntax.decode)(code))
    except ImportError:
        fix = "install imagecodecs with this codec, or decompress the series"
        raise FormatError(path, f"{at}no decoder here for {syntax.name}", fix, "decoder") from None
    except Exception as error:  # noqa: BLE001 (whatever a decoder raises is damage; its type is recorded)
        raise FormatError(path, f"{at}damaged {syntax.name} stream ({type(error).__name__})") from None
    if words.size != shape[0] * shape[1] or words.dtype.kind not in "iu" or 8 * words.itemsize > layout.allocated:
        cause = f"{at}{syntax.name} stream decodes to {words.dtype} {words.shape}, expected {shape}"
        raise FormatError(path, cause)
    wide = words.astype(f"{words.dtype.kind}{layout.allocated // 8}", copy=False)
    return _values(wide.view(f"u{layout.allocated // 8}"), layout).reshape(shape)


def _unpacked(path: Path, at: str, code: bytes, layout: PixelFormat) -> NDArray[Any]:
    """Words of an RLE frame (PS3.5 annex G): a segment per byte of a word, highest first, each of packed runs."""
    import imagecodecs

    depth, size = layout.allocated // 8, layout.rows * layout.columns
    head = struct.unpack_from("<16I", code) if len(code) >= 64 else (0,) * 16
    bounds = [*head[1 : depth + 1], len(code)]
    # The decoder takes the number of segments and their places from the stream.
    if head[0] != depth or bounds[0] < 64 or any(a > b for a, b in itertools.pairwise(bounds)):
        raise FormatError(path, f"{at}damaged RLE Lossless stream (impossible segments)")
    try:
        plain = imagecodecs.dicomrle_decode(code, f"<u{depth}", out=size * depth)
    except (imagecodecs.DicomrleError, ValueError) as error:
        raise FormatError(path, f"{at}damaged RLE Lossless stream ({error})") from None
    if len(plain) != size * depth:
        raise FormatError(path, f"{at}damaged RLE Lossless stream ({len(plain)} of {size * depth} bytes)")
    return np.frombuffer(plain, f"<u{depth}").astype(f"u{depth}", copy=False)


def _values(words: NDArray[Any], layout: PixelFormat) -> NDArray[Any]:
    """Pixel values from words: only the stored bits count (overlays can be above them), the highest is the sign."""
    spare = layout.allocated - layout.stored
    if layout.signed:
        signed = words.view(layout.dtype)
        return (signed << spare) >> spare if spare else signed
    return words & words.dtype.type(2**layout.stored - 1) if spare else words
