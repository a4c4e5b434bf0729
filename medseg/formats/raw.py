"""Plain voxels, the first axis of the file running fastest: as a view of memory, or read from a file box by box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import FileBytes, Part
from medseg.formats.limits import check_memory, memory_budget
from medseg.formats.pieces import Pieces
from medseg.formats.source import Voxels

# Largest stretch of a file that is read at once although only some of its voxels are wanted.
SPAN = 16 << 20


def raw_voxels(data: Part, dtype: np.dtype[Any], sizes: Sequence[int], channel: int | None) -> Voxels:
    """Voxels (C,*S) from plain bytes.

    Args:
        data: exactly the voxels' bytes.
        dtype: with the byte order of the file.
        sizes: lengths of the file's axes, the fastest first.
        channel: which of these axes holds channels; None: there is one channel and no axis for it.

    Returns:
        An array of native byte order, a view of ``data`` where that is possible; for data on disk, ``RawVoxels``.
    """
    if isinstance(data, FileBytes):
        return RawVoxels(data, dtype, tuple(sizes), channel)
    array = np.frombuffer(data, dtype).reshape(sizes, order="F")
    return _channels_first(array.astype(dtype.newbyteorder("="), copy=False), channel)


def _channels_first(array: NDArray[Any], channel: int | None) -> NDArray[Any]:
    return array[np.newaxis] if channel is None else np.moveaxis(array, channel, 0)


class RawVoxels:
    """Voxels (C,*S) on disk; indexing with slices of step 1 reads what they need and little more."""

    def __init__(self, data: FileBytes, dtype: np.dtype[Any], sizes: tuple[int, ...], channel: int | None) -> None:
        self._data, self._dtype, self._sizes, self._channel = data, dtype, sizes, channel
        self._budget = memory_budget()
        self.dtype: np.dtype[Any] = dtype.newbyteorder("=")
        others = [n for axis, n in enumerate(sizes) if axis != channel]
        self.shape: tuple[int, ...] = (1 if channel is None else sizes[channel], *others)
        self.pieces = Pieces(len(others) - 1, (1,) * len(others))

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """The voxels of a box (C,*S), one slice per axis, native byte order."""
        bounds = [range(n)[s] for s, n in zip(box, self.shape, strict=True)]
        along, *others = bounds
        if self._channel is not None:
            others.insert(self._channel, along)
        array = _channels_first(self._read(others), self._channel)
        return array[: len(along)]

    def _read(self, bounds: Sequence[range]) -> NDArray[Any]:
        """Voxels within ``bounds`` of the file's axes.

        The leading axes that together fit into ``SPAN`` are read as one stretch, from the first wanted voxel to the
        last; the others are stepped through.
        """
        width = self._dtype.itemsize
        steps = [width * math.prod(self._sizes[:axis]) for axis in range(len(self._sizes))]
        lead = 1
        while lead < len(self._sizes) and steps[lead] * self._sizes[lead] <= SPAN:
            lead += 1
        counts = [len(b) for b in bounds]
        check_memory(self._data.path, math.prod(counts) * width, self._budget)
        out = np.empty(counts, self.dtype, order="F")
        size = width + sum(step * (n - 1) for step, n in zip(steps[:lead], counts[:lead], strict=True))
        start = sum(step * b.start for step, b in zip(steps, bounds, strict=True))
        for outer in np.ndindex(*counts[lead:]):
            at = start + sum(step * k for step, k in zip(steps[lead:], outer, strict=True))
            stretch = self._data[at : at + size]
            out[(..., *outer)] = np.ndarray(counts[:lead], self._dtype, stretch, strides=steps[:lead])
        return out
