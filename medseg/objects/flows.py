"""The flows head: foreground F and a unit vector per voxel. Voxels whose paths along the vectors meet are one object.

After Cellpose (Stringer et al. 2021). A voxel follows the field; the places where many end are sinks; a sink and the
well-visited voxels around it collect an object. Paths are followed for a few steps of one voxel each, then doubled: the
path of a voxel goes on where that of the voxel nearest to its end does. 8 steps doubled 5 times reach as far as 256.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.objects.decoding import ONE, Decoding
from medseg.objects.seeds import with_rest

STEPS = 8
DOUBLINGS = 5
# A sink is the most visited voxel of the box of this radius around it, and visited by at least so many.
RADIUS = 2
LEAST_VISITS = {2: 10, 3: 10}
# It grows so many times to face and corner neighbours that are visited by more than two.
GROWTHS = 5
WELL_VISITED = 2


def split(
    maps: NDArray[np.int16], mask: NDArray[np.bool_], spacing: Sequence[float], decoding: Decoding
) -> NDArray[np.int32]:
    """Objects (S) of maps F and d components of the flow; voxels that end at no sink are in none.

    A component of the mask in which no voxel ends at one is an object as a whole.
    """
    places = np.flatnonzero(mask)
    ends = _ends(maps[1 : 1 + mask.ndim], mask, places, spacing)
    visits = np.bincount(ends, minlength=mask.size).reshape(mask.shape)
    sinks = _sinks(visits)
    found = np.zeros(mask.size, dtype=np.int32)
    found[places] = sinks.ravel()[ends]
    return with_rest(found.reshape(mask.shape), mask)


def _ends(
    flow: NDArray[np.int16], mask: NDArray[np.bool_], places: NDArray[np.int64], spacing: Sequence[float]
) -> NDArray[np.int64]:
    """Flat index of the voxel of the mask at which the path of each of ``places`` ends."""
    shape = mask.shape
    # One step is as long as the finest spacing. The field is 0 outside the mask and in a margin of one voxel.
    speeds = [min(spacing) / s / ONE for s in spacing]
    field = np.stack(
        [
            np.pad(np.where(mask, f.clip(-ONE, ONE), 0).astype(np.float32) * np.float32(v), 1).ravel()
            for f, v in zip(flow, speeds, strict=True)
        ],
        axis=1,
    )
    padded = [n + 2 for n in shape]
    strides = np.array([int(np.prod(padded[a + 1 :])) for a in range(len(padded))])
    inner = np.ravel_multi_index([c + 1 for c in np.unravel_index(places, shape)], padded)
    position = np.full(int(np.prod(padded)), -1, dtype=np.int64)
    position[inner] = np.arange(len(inner))
    # Paths are kept as displacements, which do not depend on where the window lies in the whole.
    moved = np.zeros((len(places), len(shape)), dtype=np.float32)
    for _ in range(STEPS):
        moved = _step(field, position, inner, strides, moved)
    end = position[inner + np.rint(moved).astype(np.int64) @ strides]
    for _ in range(DOUBLINGS):
        end = end[end]
    found: NDArray[np.int64] = places[end]
    return found


def _step(
    field: NDArray[np.float32],
    position: NDArray[np.int64],
    start: NDArray[np.int64],
    strides: NDArray[np.int64],
    moved: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Displacements one step on, the field interpolated linearly; a path does not leave the mask."""
    low = np.floor(moved)
    share = moved - low
    base = start + low.astype(np.int64) @ strides
    step = np.zeros_like(moved)
    for corner in itertools.product((0, 1), repeat=len(strides)):
        weight = np.ones(len(start), dtype=np.float32)
        for a, c in enumerate(corner):
            weight *= share[:, a] if c else 1 - share[:, a]
        step += weight[:, None] * field[base + int(np.dot(corner, strides))]
    after = moved + step
    inside = position[start + np.rint(after).astype(np.int64) @ strides] >= 0
    return np.where(inside[:, None], after, moved)


def _sinks(visits: NDArray[np.int64]) -> NDArray[np.int32]:
    """Sinks grown over well-visited voxels (S): 0 is none. Where two grow to one voxel, the more visited has it."""
    peaks = (visits >= LEAST_VISITS[visits.ndim]) & (
        visits == ndimage.maximum_filter(visits, 2 * RADIUS + 1, mode="constant")
    )
    # Neighbouring peaks that are equal are one sink.
    everywhere = np.ones((3,) * visits.ndim)
    labels, count = ndimage.label(peaks, everywhere)
    height = np.zeros(count + 1, dtype=np.int64)
    height[labels[peaks]] = visits[peaks]
    rank = np.zeros(count + 1, dtype=np.int32)
    # The most visited has the highest rank, the first of equal ones.
    rank[np.lexsort((-np.arange(1, count + 1), height[1:])) + 1] = np.arange(1, count + 1)
    grown = rank[labels]
    well = visits > WELL_VISITED
    for _ in range(GROWTHS):
        grown = np.where((grown == 0) & well, ndimage.maximum_filter(grown, 3, mode="constant"), grown)
    return grown
