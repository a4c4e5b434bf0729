"""Boundary voxels of two masks and the distances between them: the definition ``erosion-face-v1``.

The boundary of a mask is the mask without its erosion by the voxels that share a face: every voxel of the mask with a
face neighbour that is not of the mask. Outside the array is background, so a mask that the field of view cuts has a
boundary there. Distances are between centres of voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

# Voxels that are handled at once.
_VOXELS = 1 << 20
Mask = NDArray[np.bool_]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances from each boundary voxel of one mask to the nearest boundary voxel of the other.

    Attributes:
        reference: (N,) from the N boundary voxels of the reference, in the unit of the spacing.
        prediction: (M,) from those of the prediction.
    """

    reference: Values
    prediction: Values


def box_of(*masks: Mask) -> tuple[slice, ...]:
    """The smallest box that holds all voxels of the masks (S); empty if there are none."""
    dims = masks[0].ndim
    slices = []
    for axis in range(dims):
        others = tuple(k for k in range(dims) if k != axis)
        hit = np.flatnonzero(np.logical_or.reduce([m.any(axis=others) for m in masks]))
        slices.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
    return tuple(slices)


def edge_voxels(mask: Mask) -> Mask:
    """Boundary voxels (S) of a mask (S): those with a face neighbour outside the mask; background lies around it."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        line = (slice(None),) * axis
        first, last = (*line, slice(0, 1)), (*line, slice(-1, None))
        low, high = (*line, slice(None, -1)), (*line, slice(1, None))
        inside[first] = inside[last] = False
        inside[low] &= mask[high]
        inside[high] &= mask[low]
    edges: Mask = mask & ~inside
    return edges


def edge_distances(reference: Mask, prediction: Mask, spacing: Sequence[float]) -> Distances:
    """Distances between the boundaries of two masks (S) that are not empty; ``spacing`` (d,) per axis."""
    places = [_edge_places(mask) for mask in (reference, prediction)]
    points = [points_of(place, reference.shape, spacing) for place in places]
    return Distances(
        _nearest(points[0], points[1], np.isin(places[0], places[1], assume_unique=True)),
        _nearest(points[1], points[0], np.isin(places[1], places[0], assume_unique=True)),
    )


def _edge_places(mask: Mask) -> NDArray[np.int64]:
    """Boundary voxels of a mask, as places in its flat array; a few slices at once, which bounds the memory."""
    length = math.prod(mask.shape[1:])
    step = max(1, _VOXELS // max(length, 1))
    found = [np.zeros(0, dtype=np.int64)]
    for start in range(0, len(mask), step):
        # With the slices before and after, whose own boundary is not asked for.
        first = max(start - 1, 0)
        slab = mask[first : start + step + 1]
        if slab.any():
            places = np.flatnonzero(edge_voxels(slab)[start - first :][:step])
            found.append(places + start * length)
    return np.concatenate(found)


def points_of(places: NDArray[np.int64], shape: tuple[int, ...], spacing: Sequence[float]) -> Values:
    """Centres (N, d) of voxels, in the unit of the spacing."""
    index = np.stack(np.unravel_index(places, shape), axis=1).astype(np.float64)
    points: Values = index * np.asarray(spacing, dtype=np.float64)
    return points


def _nearest(points: Values, others: Values, shared: NDArray[Any]) -> Values:
    """Distance (N,) of each point (N, d) to the nearest of ``others``; ``shared`` (N,) points are among those."""
    out: Values = np.zeros(len(points))
    if not shared.all():
        # An unbalanced tree is built in a third of the time; boundary voxels in C order make no bad one.
        tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
        out[~shared] = tree.query(points[~shared])[0]
    return out
