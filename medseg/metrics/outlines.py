"""How well the outlines of objects agree: boundary F1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.metrics.edges import points_of
from medseg.metrics.pair import Pair
from medseg.metrics.tolerance import widened

# Tolerance in voxels, of the smallest side; part of the definition's id.
WITHIN = 2


def boundary_f1(pair: Pair) -> float:
    """F1 of the boundary voxels within 2 voxels of the other map's boundary (Csurka 2013, Perazzi 2016).

    A boundary voxel is one of an object with a face neighbour that is not: background, or another object. So a line
    between touching objects counts, which boundaries of masks do not have.
    """
    within = widened(WITHIN * min(pair.spacing))
    true, said = (points_of(np.flatnonzero(_outlines(n)), n.shape, pair.spacing) for n in pair.numbers)
    precision, recall = _share(said, true, within), _share(true, said, within)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(points: NDArray[np.float64], others: NDArray[np.float64], within: float) -> float:
    """Share of points with another one within a distance."""
    if not len(points) or not len(others):
        return 0.0
    tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(points, distance_upper_bound=np.nextafter(within, np.inf))
    return float(np.count_nonzero(np.isfinite(distance))) / len(points)


def _outlines(numbers: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Voxels (S) of objects with a face neighbour of another number; background lies around the map."""
    edges = np.zeros(numbers.shape, dtype=bool)
    for axis in range(numbers.ndim):
        line = (slice(None),) * axis
        first, last = (*line, slice(0, 1)), (*line, slice(-1, None))
        low, high = (*line, slice(None, -1)), (*line, slice(1, None))
        edges[first] = edges[last] = True
        differ = numbers[low] != numbers[high]
        edges[low] |= differ
        edges[high] |= differ
    found: NDArray[np.bool_] = edges & (numbers != 0)
    return found
