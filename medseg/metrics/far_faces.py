"""Terms of faces that have too few near neighbours: by the faces whose centres are nearest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.metrics.neighbours import corner_values, largest_excess, term_of
from medseg.metrics.voxel_faces import Grid, Surface, centres

Values = NDArray[np.float64]
Index = NDArray[np.int64]
# Faces that are asked for where neighbours do not suffice.
FAR = (24, 96)
# Places of a face at which the lowest term is asked for, as weights of ``corner_values``: near the middle; the corners.
PROBES = (
    np.array([[0.5, 0.5, 0.5, 0.5, 1]]),
    np.array([[1, 0, 1, 0, 1], [1, 0, 0, 1, 1], [0, 1, 1, 0, 1], [0, 1, 0, 1, 1]], dtype=np.float64),
)
# One term is below another one if it is by more than this: rounding.
ROUNDING = 1e-12
# Pairs of faces that are handled at once; it bounds the memory.
CHUNK = 1 << 18


def far_terms(places: Index, others: Surface, k: int) -> Iterator[tuple[Values, Values]]:
    """Terms of faces that have not all they need among their neighbours: from the nearest faces by their centres.

    More and more faces are asked for until no other one can be nearer, at most ``FAR[-1]``.
    """
    voxel = np.stack(np.unravel_index(places, others.bits.shape), axis=1)
    centre = centres(np.full(len(voxel), k), voxel, others.grid)
    direction, target = others.faces
    # From a face's centre to its corner, of the two faces together.
    halves = _half_diagonal(k, others.grid) + max(_half_diagonal(m, others.grid) for m in range(others.grid.real))
    for number in FAR:
        last = number == FAR[-1] or number >= len(target)
        left = np.zeros(len(voxel), dtype=bool)
        step = max(1, CHUNK // number)
        for start in range(0, len(voxel), step):
            part = slice(start, start + step)
            away, nearest = _query(others.tree, centre[part], min(number, len(target)))
            terms = term_of(k, direction[nearest], target[nearest] - voxel[part, None])
            parts = corner_values(terms, k, others.grid.sides)
            highest = largest_excess(parts, np.zeros(5)).min(axis=1)
            done = last | (away[:, -1] - halves >= np.sqrt(highest))
            yield from _pruned(terms[done], parts[done])
            left[part] = ~done
        voxel, centre = voxel[left], centre[left]


def _query(tree: cKDTree, points: Values, number: int) -> tuple[Values, Index]:
    """Distances and indices (N, number) of the nearest points of a tree; two axes also for one point."""
    away, nearest = tree.query(points, k=list(range(1, number + 1)))
    return np.asarray(away), np.asarray(nearest)


def _half_diagonal(k: int, grid: Grid) -> float:
    """Distance from the centre of a face of direction k to its corners."""
    return math.hypot(*(grid.sides[j] / 2 for j in range(grid.real) if j != k))


def _pruned(terms: Values, parts: Values, probes: Sequence[Values] = PROBES) -> Iterator[tuple[Values, Values]]:
    """Terms (N, M, 3) without those that are nowhere below the lowest one at some place, grouped by their number."""
    if not probes or not len(terms):
        if len(terms):
            yield terms, np.ones(len(terms))
        return
    kept = np.ones(terms.shape[:2], dtype=bool)
    rows = np.arange(len(terms))
    for weights in probes[0]:
        lowest = np.where(kept, parts @ weights, np.inf).argmin(axis=1)
        best = np.take_along_axis(parts, lowest[:, None, None], axis=1)
        unbeaten = largest_excess(best, parts) > ROUNDING * (1 + parts[..., 4])
        unbeaten[rows, lowest] = True
        kept &= unbeaten
    sizes = kept.sum(axis=1)
    for size in np.unique(sizes):
        group = sizes == size
        chosen = kept[group]
        fewer = [values[group][chosen].reshape(-1, size, values.shape[2]) for values in (terms, parts)]
        yield from _pruned(fewer[0], fewer[1], probes[1:])
