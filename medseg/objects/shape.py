"""Size and shape of one object, on grids whose voxels may be of different lengths along the axes.

Voxels are boxes, not points: every quantity is that of the region which the object's voxels fill together.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError, SphericalVoronoi

# A centre this close to the hull, in voxels, is in it: facets are found in floating point.
ROUNDING = 1e-6
# Facets along a line, by the component of their unit normal.
FLAT = 1e-12
# Half the thickness, in voxels, that a flat hull is given.
THIN = 1e-3
# Lines times facets that are looked at together.
BLOCK = 1 << 20
# Directions of lines through a grid of cubes, one of each pair of opposite ones.
_DIRECTIONS = {
    dims: [step for step in itertools.product((-1, 0, 1), repeat=dims) if step > (0,) * dims] for dims in (2, 3)
}


def moments(mask: NDArray[np.bool_], spacing: Sequence[float]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Voxels, centroid and covariance of an object.

    Args:
        mask: (box) at least one voxel.
        spacing: length of a voxel along each axis.

    Returns:
        Number of voxels; the centroid (d) in voxels, centres of voxels at whole numbers; the covariance matrix (d, d)
        of the points of the region, in units of ``spacing`` squared: that of the voxels' centres, and a twelfth of
        the squared length of a voxel along each axis, which is that of the points within a voxel.
    """
    places = np.stack(np.nonzero(mask)).astype(np.float64)
    count = places.shape[1]
    centroid = places.mean(axis=1)
    lengths = np.asarray(spacing, dtype=np.float64)
    centred = (places - centroid[:, None]) * lengths[:, None]
    return count, centroid, centred @ centred.T / count + np.diag(lengths**2 / 12)


def axis_lengths(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Full lengths of the axes of the ellipse (ellipsoid) with this covariance of its points, longest first (d)."""
    variances = np.linalg.eigvalsh(covariance)[::-1]
    lengths: NDArray[np.float64] = 2 * np.sqrt((len(covariance) + 2) * np.maximum(variances, 0))
    return lengths


def equivalent_diameter(size: float, dims: int) -> float:
    """Diameter of the disc (ball) of this area (volume)."""
    return 2 * math.sqrt(size / math.pi) if dims == 2 else float(np.cbrt(6 * size / math.pi))


def solidity(mask: NDArray[np.bool_]) -> float:
    """Share of the voxels of its convex hull that an object (box) has; 1 if and only if it is digitally convex.

    The hull is that of the centres of its voxels; a voxel is in it if its centre is. So discs, balls and boxes have 1
    in any resolution, and the size of voxels does not matter.
    """
    filled = mask.reshape([n for n in mask.shape if n > 1])
    count = int(filled.sum())
    if filled.ndim < 2:
        return count / filled.size
    occupied = filled.any(axis=-1)
    rows, lines = filled[occupied], np.stack(np.nonzero(occupied), axis=1)
    # Only the ends of a line of voxels can be corners of the hull.
    ends = [np.column_stack([lines, end]) for end in (rows.argmax(axis=1), rows.shape[1] - 1 - rows[:, ::-1].argmax(1))]
    return min(1.0, count / _voxels_within(_facets(np.concatenate(ends).astype(np.float64)), filled.shape))


def _facets(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half-spaces (F, d+1) whose intersection is the hull of points (n, d): normal, offset; inside is <= 0."""
    if len(points) > points.shape[1]:
        with contextlib.suppress(QhullError):
            return np.asarray(ConvexHull(points).equations)
    # All in one plane or line, so the hull has no inside: it gets one, thinner than anything that is counted.
    thick = THIN * np.eye(points.shape[1])
    return np.asarray(ConvexHull(np.concatenate([points + s * step for step in thick for s in (1, -1)])).equations)


def _voxels_within(facets: NDArray[np.float64], shape: tuple[int, ...]) -> int:
    """Voxels of a box whose centres lie within half-spaces, counted line by line along the last axis."""
    lines = np.stack(np.unravel_index(np.arange(math.prod(shape[:-1])), shape[:-1]), axis=1).astype(np.float64)
    slope, total = facets[:, -2], 0
    up, down, flat = slope > FLAT, slope < -FLAT, np.abs(slope) <= FLAT
    block = max(1, BLOCK // len(facets))
    for begin in range(0, len(lines), block):
        rest = lines[begin : begin + block] @ facets[:, :-2].T + facets[:, -1]
        high = np.min(-rest[:, up] / slope[up], axis=1, initial=shape[-1] - 1)
        low = np.max(-rest[:, down] / slope[down], axis=1, initial=0)
        counts = np.floor(high + ROUNDING) - np.ceil(low - ROUNDING) + 1
        total += int(np.maximum(counts, 0)[(rest[:, flat] <= ROUNDING).all(axis=1)].sum())
    return total


def boundary(mask: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """Perimeter (2-D) or surface area (3-D) of an object by Crofton's formula, holes included.

    A curve is as long, and a surface as large, as the number of times that lines cross it, averaged over all lines
    (Legland, Kieu & Devaux 2007, doi:10.5566/ias.v26.p83-92). Lines run through the centres of voxels in 4 (2-D) or 13
    (3-D) directions; each counts for the angles that are nearest to it.

    Args:
        mask: (box).
        spacing: length of a voxel along each axis.

    Returns:
        Length, or area, in the unit of ``spacing`` (squared).
    """
    lines = _lines(tuple(spacing))
    padded = np.pad(mask, [(n, n) for n in np.abs([step for step, _ in lines]).max(axis=0)])
    voxel, total = math.prod(spacing), 0.0
    for step, share in lines:
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, padded.shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, padded.shape, strict=True))
        crossings = np.count_nonzero(padded[here] != padded[there])
        # Lines in this direction are this far apart (2-D), or this area lies between them (3-D).
        apart = voxel / math.hypot(*(s * length for s, length in zip(step, spacing, strict=True)))
        total += share * apart * crossings
    return total * (math.pi / 2 if mask.ndim == 2 else 2)


@functools.lru_cache(maxsize=64)
def _lines(spacing: tuple[float, ...]) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Steps from voxel to voxel along lines, and the share of all directions that each is nearest to (sum 1).

    Between axes, a step is as many short voxels long as a long voxel has, so that directions are spread evenly.
    """
    steps = []
    for direction in _DIRECTIONS[len(spacing)]:
        longest = max(abs(d) * s for d, s in zip(direction, spacing, strict=True))
        step = [d * max(1, round(longest / s)) for d, s in zip(direction, spacing, strict=True)]
        steps.append(tuple(s // math.gcd(*step) for s in step))
    places = np.array(steps, dtype=np.float64) * spacing
    directions = places / np.linalg.norm(places, axis=1, keepdims=True)
    if len(spacing) == 3:
        areas = SphericalVoronoi(np.concatenate([directions, -directions])).calculate_areas()
        return tuple(zip(steps, (areas[: len(steps)] * 2 / areas.sum()).tolist(), strict=True))
    angles = np.arctan2(directions[:, 0], directions[:, 1]) % math.pi
    order = np.argsort(angles)
    gaps = np.diff(angles[order], append=angles[order[0]] + math.pi)
    shares = np.empty(len(angles))
    shares[order] = (gaps + np.roll(gaps, 1)) / 2 / math.pi
    return tuple(zip(steps, shares.tolist(), strict=True))
