"""Compressed streams, unpacked to a size that is known beforehand and read to their end, where their checksums are."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from pathlib import Path
from typing import Literal

# Deflate by Intel's library: about three times as fast as zlib, with the same checks.
from isal import isal_zlib

from medseg.formats.content import Data, Part
from medseg.formats.errors import FormatError

Packing = Literal["gzip", "zlib", "bzip2"]

# Compressed bytes taken at a time: memory grows with what is really there, never with what a header claims.
STEP = 1 << 16
# Window argument of zlib per packing; writers of MetaImage put either a zlib or a gzip stream.
_WINDOW = {"gzip": 31, "zlib": 47}


def unpack(path: Path, data: bytes | Part, size: int, packing: Packing) -> bytearray:
    """Exactly ``size`` bytes from one compressed stream.

    Args:
        path: the file, for messages.
        data: the stream, nothing before or behind it.
        size: bytes expected.
        packing: kind of stream; ``zlib`` takes gzip streams too.

    Raises:
        FormatError: if the stream is damaged, breaks off, holds less or more, or is followed by something.
    """
    stream = bz2.BZ2Decompressor() if packing == "bzip2" else isal_zlib.decompressobj(wbits=_WINDOW[packing])
    view = memoryview(data) if isinstance(data, bytes) else data
    out = bytearray()
    at = 0
    try:
        while at < len(view) and not stream.eof and len(out) <= size:
            # One byte more than needed: only then the end of the stream is reached and its checksum compared.
            out += stream.decompress(view[at : at + STEP], size + 1 - len(out))
            at += STEP
    except (isal_zlib.error, OSError) as error:  # type: ignore[misc]  # the stub has an instance
        raise FormatError(path, f"damaged {packing} stream ({error})") from None
    if len(out) > size:
        raise FormatError(path, f"the {packing} stream holds more than the {size} bytes that the header needs")
    if not stream.eof:
        raise FormatError(path, f"truncated: the {packing} stream breaks off after {len(out)} bytes of content")
    behind = len(stream.unused_data) + max(0, len(view) - at)
    if behind:
        raise FormatError(path, f"{behind} bytes follow the end of the {packing} stream")
    if len(out) != size:
        raise FormatError(path, f"{len(out)} bytes of content in the {packing} stream, the header needs exactly {size}")
    return out


def peek_gzip(path: Path, data: Data, size: int) -> bytes:
    """The first ``size`` unpacked bytes of a gzip stream, or fewer."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data[:STEP], size)
    except zlib.error as error:
        raise FormatError(path, f"damaged gzip stream ({error})") from None


def pack_gzip(data: bytes) -> bytes:
    """A gzip stream without name and time: equal input gives equal bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, compresslevel=6, mtime=0) as stream:
        stream.write(data)
    return packed.getvalue()
