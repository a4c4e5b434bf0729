"""Compressed streams, unpacked to a size that is known beforehand and read to their end, where their checksums are."""

from __future__ import annotations

import bz2
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

# Deflate by Intel's library: about three times as fast as zlib, with the same checks.
from isal import isal_zlib

from medseg.formats.content import Data, FileBytes, Part, part_from
from medseg.formats.errors import FormatError
from medseg.formats.limits import is_spooled

Packing = Literal["gzip", "zlib", "bzip2"]

# Compressed bytes taken at a time: memory grows with what is really there, never with what a header claims.
STEP = 1 << 16
# The same for the first piece of a further member.
FIRST_STEP = 1 << 9
# Window argument of zlib per packing; writers of MetaImage put either a zlib or a gzip stream.
_WINDOW = {"gzip": 31, "zlib": 47}
# How a member begins.
_GZIP, _BZIP2 = b"\x1f\x8b", b"BZ"


def unpack(path: Path, data: bytes | Part, size: int, packing: Packing) -> bytearray:
    """Exactly ``size`` bytes from a compressed file: of one stream, or of the members that follow one another in it.

    Args:
        path: the file, for messages.
        data: the file's bytes, nothing before or behind the stream.
        size: bytes expected.
        packing: kind of stream; ``zlib`` takes gzip streams too.

    Raises:
        FormatError: if the stream is damaged, breaks off, holds less or more, or is followed by something.
    """
    out = bytearray()
    # One byte more than needed: only then the end of the stream is reached and its checksum compared.
    for piece in _unpacked(path, data, packing, size + 1):
        out += piece
    _check_length(path, len(out), size, packing)
    return out


def unpack_voxels(path: Path, data: bytes | Part, size: int, packing: Packing) -> Part:
    """As ``unpack``; many bytes lie in a temporary file without a name (``medseg.formats.limits.spooling``)."""
    if not is_spooled(size):
        return memoryview(unpack(path, data, size, packing))
    with tempfile.TemporaryFile(buffering=0) as file:
        for piece in _unpacked(path, data, packing, size + 1):
            file.write(piece)
        out = FileBytes.of_open(path, file.fileno())
    _check_length(path, len(out), size, packing)
    return out


def _check_length(path: Path, found: int, size: int, packing: Packing) -> None:
    """Raise ``FormatError`` unless a stream held what its header needs."""
    if found > size:
        raise FormatError(path, f"the {packing} stream holds more than the {size} bytes that the header needs")
    if found != size:
        raise FormatError(path, f"{found} bytes of content in the {packing} stream, the header needs exactly {size}")


def peek_gzip(path: Path, data: Data, size: int) -> bytes:
    """The first ``size`` unpacked bytes of a gzip file, or fewer."""
    out = b""
    try:
        for piece in _unpacked(path, part_from(data, 0), "gzip", size):
            out += piece
    except _Truncated:
        pass  # a header of its own says what is missing
    return out


class _Truncated(FormatError):
    """A stream that breaks off."""


def _unpacked(path: Path, data: bytes | Part, packing: Packing, most: int) -> Iterator[bytes]:
    """The content of a compressed file in pieces, ``most`` bytes at most, to the end of its last member.

    A gzip file is a series of members (RFC 1952, 2.2), each with a checksum: ``cat`` and bgzip make such files; so is a
    bzip2 file (pbzip2). A zlib stream is alone.
    """
    view = memoryview(data) if isinstance(data, bytes) else data
    several = packing != "zlib" or bytes(view[:2]) == _GZIP
    at, left, step = 0, most, STEP
    while True:
        stream = bz2.BZ2Decompressor() if packing == "bzip2" else isal_zlib.decompressobj(wbits=_WINDOW[packing])
        while not stream.eof and left > 0 and at < len(view):
            piece = view[at : at + step]
            try:
                found = stream.decompress(piece, left)
            except (isal_zlib.error, OSError) as error:  # type: ignore[misc]  # the stub has an instance
                raise FormatError(path, f"damaged {packing} stream ({error})") from None
            at += len(piece)
            left -= len(found)
            step = min(2 * step, STEP)
            yield found
        if left <= 0:
            return
        if not stream.eof:
            cause = f"truncated: the {packing} stream breaks off after {most - left} bytes of content"
            raise _Truncated(path, cause)
        at -= len(stream.unused_data)
        if at == len(view):
            return
        if not (several and bytes(view[at : at + 2]) == (_BZIP2 if packing == "bzip2" else _GZIP)):
            raise FormatError(path, f"{len(view) - at} bytes follow the end of the {packing} stream")
        # What is read beyond the end of a member is read again for the next: of small ones, little is taken at a time.
        step = FIRST_STEP
