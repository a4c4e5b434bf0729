"""The holes of an object in an image that is seen slab by slab: background that touches no edge of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


class Holes:
    """Regions of background (face connectivity), joined over the borders of slabs.

    Slabs are taken in their order, and looked at again one by one, in any order, when all were taken.
    """

    def __init__(self, axis: int) -> None:
        """Args: axis: spatial axis along which slabs follow one another."""
        self._axis = axis
        self._starts = [0]
        self._sizes: list[NDArray[np.int64]] = []
        self._open: list[NDArray[np.int64]] = []
        self._pairs: list[NDArray[np.int64]] = []
        self._last: NDArray[np.int64] | None = None
        self._closed: NDArray[np.bool_] = np.zeros(0, dtype=bool)

    def add(self, background: NDArray[np.bool_]) -> None:
        """Take the next slab (S)."""
        labels, count = _labelled(background)
        start = self._starts[-1]
        plane: NDArray[Any] = labels.take(0, axis=self._axis)
        first = _numbered(plane, start)
        for axis in range(labels.ndim):
            if axis != self._axis:
                self._touch(np.concatenate([_some(labels.take(edge, axis=axis), start) for edge in (0, -1)]))
        if self._last is None:
            self._touch(_some(plane, start))
        else:
            both = (first > 0) & (self._last > 0)
            self._pairs.append(np.unique(np.stack([self._last[both], first[both]]) - 1, axis=1))
        self._last = _numbered(labels.take(-1, axis=self._axis), start)
        self._sizes.append(np.bincount(labels.ravel(), minlength=count + 1)[1:])
        self._starts.append(start + count)

    def _touch(self, regions: NDArray[np.int64]) -> None:
        self._open.append(regions)

    def finish(self) -> int:
        """End the first look; the number of voxels in holes."""
        total = self._starts[-1]
        if self._last is None or not total:
            return 0
        self._touch(np.unique(self._last[self._last > 0]) - 1)
        pairs = np.concatenate(self._pairs, axis=1) if self._pairs else np.zeros((2, 0), dtype=np.int64)
        graph = coo_array((np.ones(pairs.shape[1], dtype=bool), (pairs[0], pairs[1])), shape=(total, total))
        _, whole = connected_components(graph, directed=False)
        opened = np.zeros(int(whole.max()) + 1, dtype=bool)
        opened[whole[np.concatenate(self._open)]] = True
        self._closed = ~opened[whole]
        found = int(np.concatenate(self._sizes)[self._closed].sum())
        self._pairs, self._open, self._sizes, self._last = [], [], [], None
        return found

    def of(self, number: int, background: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Where holes are in a slab (S): the ``number``-th that was taken."""
        labels, _ = _labelled(background)
        start, end = self._starts[number : number + 2]
        holes: NDArray[np.bool_] = np.concatenate([[False], self._closed[start:end]])[labels]
        return holes


def _labelled(background: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    labels: NDArray[Any] = np.empty(background.shape, dtype=np.int32)
    return labels, int(ndimage.label(background, output=labels))


def _numbered(labels: NDArray[Any], start: int) -> NDArray[np.int64]:
    """Labels 1..n of a slab's plane as numbers within all slabs, 0 where there is none."""
    wide: NDArray[np.int64] = labels.astype(np.int64)
    wide[wide > 0] += start
    return wide


def _some(labels: NDArray[Any], start: int) -> NDArray[np.int64]:
    """Indices within all slabs of the regions that a plane of a slab shows."""
    found = np.unique(labels).astype(np.int64)
    return found[found > 0] - 1 + start
