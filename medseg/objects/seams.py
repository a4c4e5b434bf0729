"""Face-connected components of a mask that is seen tile by tile, joined across the seams."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.objects.components import face_connected

Box = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """C components of the whole; component 0 stands for what is in none.

    Attributes:
        starts: for each tile, what to add to a label of the tile (from 1) to find its place in ``components``.
        components: (parts + 1,) the component 1..C of each part that one tile has of it.
        sizes: (C + 1,) voxels.
        first: (C + 1,) flat index in the whole of the first voxel.
        low, high: (C + 1, d) the box that holds the component: first and one behind the last index.
        owner: (C + 1,) the first tile that has a part of it.
    """

    starts: list[int]
    components: NDArray[np.int64]
    sizes: NDArray[np.int64]
    first: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    owner: NDArray[np.int64]

    def of_tile(self, tile: int, labels: NDArray[np.int32]) -> NDArray[np.int64]:
        """The components (box) of the labels of a tile."""
        return self.components[np.where(labels > 0, labels + self.starts[tile], 0)]


def grid_of(shape: Sequence[int], tile: Sequence[int]) -> list[Box]:
    """Boxes of at most ``tile`` voxels per axis that cover ``shape``, in raster order."""
    cuts = [[slice(i, min(i + t, n)) for i in range(0, n, t)] for n, t in zip(shape, tile, strict=True)]
    return list(itertools.product(*cuts))


def join(boxes: Sequence[Box], shape: Sequence[int], mask: Callable[[int], NDArray[np.bool_]]) -> Joined:
    """The components of a mask.

    Args:
        boxes: those of ``grid_of``.
        shape: of the whole.
        mask: index of a box -> the mask in it.
    """
    starts, tables, pairs = [], [_nothing(len(shape))], [np.zeros((0, 2), dtype=np.int64)]
    # The last faces of tiles whose next neighbour has not been seen, by axis and the neighbour's corner.
    faces: dict[tuple[int, tuple[int, ...]], NDArray[np.int64]] = {}
    total = 0
    for index, box in enumerate(boxes):
        labels, count = face_connected(mask(index))
        starts.append(total)
        tables.append(_parts(labels, count, box, shape, index))
        corner = tuple(s.start for s in box)
        for axis, side in enumerate(box):
            before = faces.pop((axis, corner), None)
            if before is not None:
                pairs.append(_pairs(before, _face(labels, axis, 0, total)))
            if side.stop < shape[axis]:
                following = (*corner[:axis], side.stop, *corner[axis + 1 :])
                faces[axis, following] = _face(labels, axis, -1, total)
        total += count
    return _joined(starts, np.concatenate(tables), np.concatenate(pairs), len(shape))


def _face(labels: NDArray[np.int32], axis: int, index: int, start: int) -> NDArray[np.int64]:
    face = np.take(labels, index, axis=axis).ravel().astype(np.int64)
    return np.where(face > 0, face + start, 0)


def _pairs(before: NDArray[np.int64], after: NDArray[np.int64]) -> NDArray[np.int64]:
    both = (before > 0) & (after > 0)
    return np.unique(np.stack([before[both], after[both]], axis=1), axis=0)


def _nothing(dims: int) -> NDArray[np.int64]:
    """The row of component 0."""
    return np.zeros((1, 3 + 2 * dims), dtype=np.int64)


def _parts(labels: NDArray[np.int32], count: int, box: Box, shape: Sequence[int], tile: int) -> NDArray[np.int64]:
    """A row for each part in a tile: voxels, first voxel, tile, low, high."""
    flat = labels.ravel()
    first = np.zeros(count + 1, dtype=np.int64)
    first[flat[::-1]] = np.arange(flat.size)[::-1]  # the last that is written is the first voxel
    origin = [s.start for s in box]
    places = [p + o for p, o in zip(np.unravel_index(first[1:], labels.shape), origin, strict=True)]
    rows = np.empty((count, 3 + 2 * len(origin)), dtype=np.int64)
    rows[:, 0] = np.bincount(flat, minlength=count + 1)[1:]
    rows[:, 1] = np.ravel_multi_index(places, tuple(shape))
    rows[:, 2] = tile
    for row, found in zip(rows, ndimage.find_objects(labels), strict=True):
        row[3:] = [s.start + o for s, o in zip(found, origin, strict=True)] + [
            s.stop + o for s, o in zip(found, origin, strict=True)
        ]
    return rows


def _joined(starts: list[int], table: NDArray[np.int64], pairs: NDArray[np.int64], dims: int) -> Joined:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(len(table),) * 2)
    count, found = connected_components(links, directed=False)
    # Part 0 is in no pair and comes first, so its component is 0.
    components = found.astype(np.int64)

    def gathered(column: int, ufunc: Any, initial: int) -> NDArray[np.int64]:
        out = np.full(count, initial, dtype=np.int64)
        ufunc.at(out, components, table[:, column])
        return out

    far = np.iinfo(np.int64).max
    return Joined(
        starts=starts,
        components=components,
        sizes=gathered(0, np.add, 0),
        first=gathered(1, np.minimum, far),
        owner=gathered(2, np.minimum, far),
        low=np.stack([gathered(3 + a, np.minimum, far) for a in range(dims)], axis=1),
        high=np.stack([gathered(3 + dims + a, np.maximum, 0) for a in range(dims)], axis=1),
    )
