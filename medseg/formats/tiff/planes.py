"""Voxels of TIFF pages, decoded strip by strip or tile by tile."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import Data
from medseg.formats.errors import FormatError
from medseg.formats.limits import check_memory, memory_budget
from medseg.formats.pieces import Pieces
from medseg.formats.tiff.axes import PageLayout
from medseg.formats.tiff.checks import JPEG, piece_shape, white_is_zero

# Stored types that come out wider: numpy computes with halves slowly, and bits are numbers 0 and 1.
_WIDER: dict[Any, Any] = {np.dtype(np.float16): np.dtype(np.float32), np.dtype(np.bool_): np.dtype(np.uint8)}


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Raise what a decoder stumbles over as ``FormatError``: such a file is damaged. The cause stays attached."""
    try:
        yield
    except FormatError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise FormatError(path, f"damaged TIFF ({cause})") from error


class PageVoxels:
    """Voxels (C,Z,Y,X) or (C,Y,X) of checked pages; indexing decodes the strips and tiles that a box touches."""

    def __init__(self, path: Path, data: Data, pages: Sequence[Any], layout: PageLayout) -> None:
        self._path, self._data, self._pages, self._layout = path, data, pages, layout
        self._budget = memory_budget()
        for page in pages:
            # The library makes a page's decoder when it is first asked for, and reads the file for JPEG's.
            _ = page.decode
        first = pages[0]
        self._samples = int(first.samplesperpixel)
        self._inverted = white_is_zero(first)
        native: np.dtype[Any] = first.dtype.newbyteorder("=")
        self.dtype: np.dtype[Any] = _WIDER.get(native, native)
        flat = (int(first.imagelength), int(first.imagewidth))
        depth = () if layout.slices is None else (layout.slices,)
        if layout.sample_axis == "Z":
            self.shape: tuple[int, ...] = (layout.channels, self._samples, *flat)
        else:
            self.shape = (layout.channels * self._samples, *depth, *flat)
        high, wide = piece_shape(first, 0)
        # Of the samples of a pixel that are slices, none is read alone.
        flat_axis = len(self.shape) - 3 if layout.sample_axis == "Z" else 0
        self.pieces = Pieces(flat_axis, (*(1,) * (len(self.shape) - 3), high, wide))

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """The voxels of a box, one slice of step 1 per axis."""
        if self._layout.sample_axis == "Z":
            return self._stacks(box)
        _, *space = (range(n)[s] for s, n in zip(box, self.shape, strict=True))
        slices = space[0] if self._layout.slices is not None else range(1)
        rows, columns = space[-2:]
        shape = (self.shape[0], len(slices), len(rows), len(columns))
        check_memory(self._path, math.prod(shape) * self.dtype.itemsize, self._budget)
        out = np.empty(shape, self.dtype)
        with decoding(self._path):
            for channel in range(self._layout.channels):
                first = channel * self._samples
                for k, z in enumerate(slices):
                    page = self._pages[self._layout.pages[channel * (self._layout.slices or 1) + z]]
                    self._decode(page, rows, columns, out[first : first + self._samples, k])
        if self._inverted:
            out ^= 1
        return (out if self._layout.slices is not None else out[:, 0])[box[0]]

    def _stacks(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """A box of slices that are the samples of a pixel: a page is the stack of a channel."""
        channels, _, rows, columns = (range(n)[s] for s, n in zip(box, self.shape, strict=True))
        shape = (len(channels), self._samples, len(rows), len(columns))
        check_memory(self._path, math.prod(shape) * self.dtype.itemsize, self._budget)
        out = np.empty(shape, self.dtype)
        with decoding(self._path):
            for k, channel in enumerate(channels):
                self._decode(self._pages[self._layout.pages[channel]], rows, columns, out[k])
        return out[:, box[1]]

    def _decode(self, page: Any, rows: range, columns: range, out: NDArray[Any]) -> None:
        """Rows and columns of a page into ``out`` (samples, rows, columns)."""
        if _is_plain(page):
            self._copy_rows(page, rows, columns, out)
            return
        tables = {"jpegtables": page.jpegtables, "jpegheader": None} if int(page.compression) == JPEG else {}
        for index in _touched(page, rows, columns):
            start, size = page.dataoffsets[index], page.databytecounts[index]
            piece, (sample, _, top, left, _), _ = page.decode(self._data[start : start + size], index, **tables)
            height, width, count = piece.shape[1:]
            y, x = _common(rows, top, height), _common(columns, left, width)
            part = piece[0, y.start - top : y.stop - top, x.start - left : x.stop - left]
            where = np.s_[y.start - rows.start : y.stop - rows.start, x.start - columns.start : x.stop - columns.start]
            out[sample : sample + count][:, *where] = np.moveaxis(part, -1, 0)

    def _copy_rows(self, page: Any, rows: range, columns: range, out: NDArray[Any]) -> None:
        """As ``_decode``, for strips whose rows are in the file as they are: only those rows are read."""
        together = page.planarconfig == 1
        count = self._samples if together else 1
        width = int(page.imagewidth) * count * page.dtype.itemsize
        order = page.dtype.newbyteorder(page.parent.byteorder)
        height = math.ceil(page.imagelength / page.rowsperstrip)
        for index in _touched(page, rows, columns):
            top = index % height * page.rowsperstrip
            y = _common(rows, top, piece_shape(page, index)[0])
            at = page.dataoffsets[index] + (y.start - top) * width
            lines = np.frombuffer(self._data[at : at + len(y) * width], order).reshape(len(y), -1, count)
            sample = 0 if together else index // height
            part = out[sample : sample + count, y.start - rows.start : y.stop - rows.start]
            part[...] = np.moveaxis(lines[:, columns.start : columns.stop], -1, 0)


def _is_plain(page: Any) -> bool:
    """Whether the rows of a page's strips are plain numbers of whole bytes."""
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    plain = int(page.compression) == 1 and int(page.predictor) == 1 and int(page.fillorder) == 1
    return bool(plain and not page.is_tiled and bits == 8 * page.dtype.itemsize)


def _common(wanted: range, start: int, count: int) -> range:
    """The part of ``wanted`` within ``count`` numbers from ``start`` on."""
    return range(max(wanted.start, start), min(wanted.stop, start + count))


def _touched(page: Any, rows: range, columns: range) -> Iterator[int]:
    """Indices of the strips or tiles that hold some of these rows and columns, all samples of a pixel included."""
    height, width = piece_shape(page, 0)
    if not page.is_tiled:
        height = int(page.rowsperstrip)
    down, across = math.ceil(page.imagelength / height), math.ceil(page.imagewidth / width)
    planes = int(page.samplesperpixel) if page.planarconfig == 2 else 1
    for plane in range(planes):
        for row in range(rows.start // height, (rows.stop - 1) // height + 1):
            for column in range(columns.start // width, (columns.stop - 1) // width + 1):
                yield (plane * down + row) * across + column
