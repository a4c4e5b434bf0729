"""The faces of a mask's voxels, on a grid of voxels with three sides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.metrics.neighbours import reach_of

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]
Index = NDArray[np.int64]


class Grid:
    """Voxels with three sides, of which the first ``real`` are real; the others stand for missing axes."""

    def __init__(self, spacing: Sequence[float]) -> None:
        self.real = len(spacing)
        one, two, three = [*spacing, *(1.0,) * (3 - self.real)]
        self.sides = (float(one), float(two), float(three))
        self.reach = reach_of(self.sides, self.real)

    def face_area(self, k: int) -> float:
        """Area of a face of direction k."""
        return float(np.prod([self.sides[j] for j in range(self.real) if j != k]))


class Surface:
    """The faces of a mask: bit k of a voxel says that there is one between it and its predecessor along axis k."""

    def __init__(self, mask: Mask, grid: Grid) -> None:
        self.grid = grid
        widths = [(n + 1, n + 2) if n else (0, 0) for n in grid.reach]
        padded = np.pad(mask.reshape(mask.shape + (1,) * (3 - mask.ndim)), widths)
        self.bits = np.zeros(padded.shape, dtype=np.uint8)
        for k in range(grid.real):
            line = (slice(None),) * k
            high, low = (*line, slice(1, None)), (*line, slice(None, -1))
            self.bits[high] |= (padded[high] ^ padded[low]).view(np.uint8) << k
        self.flat = self.bits.reshape(-1)
        self.places = np.flatnonzero(self.flat)
        self.codes = self.flat[self.places]

    @cached_property
    def faces(self) -> tuple[Index, Index]:
        """Direction (F,) and voxel (F, 3) of all faces."""
        found = [self.places[(self.codes & (1 << k)) > 0] for k in range(self.grid.real)]
        voxel = np.stack(np.unravel_index(np.concatenate(found), self.bits.shape), axis=1)
        return np.repeat(np.arange(len(found)), [len(f) for f in found]), voxel

    @cached_property
    def tree(self) -> cKDTree:
        """The centres of all faces."""
        return cKDTree(centres(*self.faces, self.grid), balanced_tree=False, compact_nodes=False)


def centres(direction: Index, voxel: Index, grid: Grid) -> Values:
    """Centres (N, 3) of faces."""
    sides = np.array(grid.sides)
    out: Values = (voxel + 0.5) * sides
    rows = np.arange(len(voxel))
    out[rows, direction] -= sides[direction] / 2
    return out
