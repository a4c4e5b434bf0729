"""Turns, scalings, mirrors and bends of a batch: how they are drawn and how far beyond the patch they look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from medseg.augment.draws import Draws, Flags, Numbers
from medseg.augment.parts import Drawn
from medseg.augment.tables import Change, Table, coarse_axis

# Cells of the control grid of bends along the longest axis of the patch.
CELLS = 4


@dataclass(frozen=True, slots=True)
class Moves:
    """Where the samples of a batch are looked up.

    Output offsets from the patch centre, in the data's unit, go to input offsets ``matrix @ (offset + bend(offset))``.

    Attributes:
        active: (N,) booleans; the other samples are mirrored at most: their matrix is diagonal, of 1 and -1.
        matrix: (N, d, d), output to input.
        bends: (N, d, K, ...) control points of cubic B-splines: displacements in the data's unit; None: no bends.
        coarse: an axis along which samples are at most mirrored; None: none.
    """

    active: Flags
    matrix: Numbers
    bends: Numbers | None = None
    coarse: int | None = None

    def chosen(self, index: Drawn) -> Moves:
        """Those of some samples."""
        bends = None if self.bends is None else self.bends[index]
        if bends is not None and not bends.any():
            # Whether others bend must not matter to how these are looked up.
            bends = None
        return Moves(self.active[index], self.matrix[index], bends, self.coarse)

    def within_slices(self) -> Moves:
        """The same without the coarse axis."""
        if self.coarse is None:
            return self
        rest = [a for a in range(self.matrix.shape[-1]) if a != self.coarse]
        bends = None if self.bends is None else self.bends[:, rest].squeeze(self.coarse + 2)
        return Moves(self.active, self.matrix[:, rest][:, :, rest], bends)


def cells(patch: Sequence[int], spacing: Sequence[float]) -> tuple[list[int], float]:
    """Cells of the control grid per axis (0 along a coarse axis: nothing bends along it) and their size."""
    extents = [n * s for n, s in zip(patch, spacing, strict=True)]
    coarse = coarse_axis(patch, spacing)
    size = max(e for a, e in enumerate(extents) if a != coarse) / CELLS
    return [0 if a == coarse else math.ceil(e / size - 1e-6) for a, e in enumerate(extents)], size


def draw_moves(table: Table, draws: Draws, patch: Sequence[int], spacing: Sequence[float]) -> Moves:
    """Draw rotations, scalings, mirrors and bends of a batch.

    ``rotation`` is in degrees, about each axis (about the coarse axis only, if there is one). ``scaling`` is how much
    more of the image is seen, one factor for all axes but the coarse one. ``mirror`` reverses each axis with its
    probability. ``elastic`` is the largest displacement, as a share of a cell of the control grid: below 0.4 nothing
    folds (Choi & Lee 2000).
    """
    dims, coarse = len(patch), coarse_axis(patch, spacing)
    planes = [tuple(b for b in range(dims) if b != a) for a in (range(3) if dims == 3 else (2,))]
    if coarse is not None:
        planes = [planes[coarse]]
    none = Change(0.0)
    turn, scale, bend, mirror = (table.get(k, none) for k in ("rotation", "scaling", "elastic", "mirror"))
    turned, scaled, bent = (draws.chance(row.probability) for row in (turn, scale, bend))
    angles = np.deg2rad(ranged(turn, draws.uniform(len(planes)))) * turned[:, None]
    factor = np.where(scaled, ranged(scale, draws.uniform()), np.float32(1))
    stretch = np.stack([np.ones_like(factor) if a == coarse else factor for a in range(dims)], axis=1)
    signs = np.where(draws.uniform(dims) < mirror.probability, np.float32(-1), np.float32(1))
    matrix = rotations(angles, planes, dims) * (stretch * signs)[:, None, :]
    counts, size = cells(patch, spacing)
    shape = [c + 3 if c else 1 for c in counts]
    share, points = draws.uniform(), draws.uniform(dims, *shape)
    if not bent.any():
        return Moves(turned | scaled, matrix, None, coarse)
    largest = ranged(bend, share) * size * bent
    bends = (points * 2 - 1) * largest.reshape(-1, *[1] * (dims + 1))
    if coarse is not None:
        bends[:, coarse] = 0
    return Moves(turned | scaled | bent, matrix, bends, coarse)


def ranged(row: Change, uniform: Numbers) -> Numbers:
    """Numbers from 0 to 1 brought into the row's range."""
    return row.low + (row.high - row.low) * uniform


def rotations(angles: Numbers, planes: Sequence[Sequence[int]], dims: int) -> Numbers:
    """Products (N, d, d) of turns by ``angles`` (N, len(planes)), in radians, in these planes of axes."""
    cos, sin = np.cos(angles), np.sin(angles)
    turns = np.zeros((len(planes), len(angles), dims, dims), dtype=np.float32)
    for turn, (a, b), c, s in zip(turns, planes, cos.T, sin.T, strict=True):
        turn[:] = np.eye(dims)
        turn[:, a, a], turn[:, b, b], turn[:, a, b], turn[:, b, a] = c, c, -s, s
    return reduce(np.matmul, turns)


def reach(moves: Moves, patch: Sequence[int], spacing: Sequence[float]) -> NDArray[np.int64]:
    """Voxels (N, d) that each sample looks beyond the patch, on either side of each axis."""
    half = (np.asarray(patch, dtype=np.float32) - 1) / 2
    needed = np.abs(in_voxels(moves.matrix, spacing)) @ half - half
    if moves.bends is not None:
        bends = bends_in_voxels(moves, spacing)
        needed += np.abs(bends.reshape(*bends.shape[:2], -1)).max(axis=2)
    # Rounding of what does not move must not read a voxel more.
    return np.maximum(np.ceil(needed - 1e-3), 0).astype(np.int64)


def in_voxels(matrix: Numbers, spacing: Sequence[float]) -> Numbers:
    """Maps (N, d, d) of physical offsets as maps of voxel offsets."""
    space = np.asarray(spacing, dtype=np.float32)
    return matrix * space / space[:, None]


def bends_in_voxels(moves: Moves, spacing: Sequence[float]) -> Numbers:
    """Control points of the displacements in the input, in its voxels."""
    assert moves.bends is not None
    space = np.asarray(spacing, dtype=np.float32).reshape(-1, *[1] * (moves.bends.ndim - 2))
    bends: Numbers = np.einsum("nab,nb...->na...", moves.matrix, moves.bends)
    return bends / space
