"""The values of a label map as the bytes of a file, a few at a time: it may lie on disk and be larger than memory."""

from __future__ import annotations

import gzip
import math
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

# Values that are taken at once, if one plane is not more.
AT_ONCE = 1 << 24
# Bytes up to which compressed values are held in memory while their number is not known.
HELD = 1 << 26

# Writes the bytes of a file.
Fill = Callable[[BinaryIO], None]
# The files of a label map, the named one first.
Files = Mapping[str, Fill]


class Labels(Protocol):
    """A label map (*S) that is indexed with one slice of step 1 per axis: an array, or what reads a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(*S)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what indexing gives."""

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """The values of a box."""


def whole(labels: Labels) -> NDArray[Any]:
    """All values of a label map."""
    return labels[(slice(None),) * len(labels.shape)]


def first_axis_fastest(labels: Labels) -> Iterator[bytes]:
    """Values in little-endian bytes, the first axis running fastest."""
    little, size = labels.dtype.newbyteorder("<"), labels.shape[-1]
    step = max(1, AT_ONCE // max(1, math.prod(labels.shape[:-1])))
    lead = (slice(None),) * (len(labels.shape) - 1)
    for start in range(0, size, step):
        yield labels[(*lead, slice(start, start + step))].astype(little).tobytes(order="F")


def filled(pieces: Iterable[bytes]) -> Fill:
    """Writes pieces of bytes one after the other."""

    def fill(file: BinaryIO) -> None:
        for piece in pieces:
            file.write(piece)

    return fill


def gzipped(pieces: Iterable[bytes]) -> Fill:
    """Writes a gzip stream without name and time: equal pieces give equal bytes."""

    def fill(file: BinaryIO) -> None:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0) as stream:
            for piece in pieces:
                stream.write(piece)

    return fill


def deflated(pieces: Iterable[bytes], header: Callable[[int], bytes]) -> Fill:
    """Writes a header, which is given the number of bytes that follow it, and a zlib stream."""

    def fill(file: BinaryIO) -> None:
        stream, size = zlib.compressobj(6), 0
        with tempfile.SpooledTemporaryFile(HELD) as packed:
            for piece in pieces:
                size += packed.write(stream.compress(piece))
            size += packed.write(stream.flush())
            packed.seek(0)
            file.write(header(size))
            shutil.copyfileobj(packed, file)

    return fill
