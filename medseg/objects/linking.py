"""Objects of a volume from those of its slices, for networks that see slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.image.objects import of_numbers

# As Cellpose links slices (``stitch3D``, Stringer et al. 2021).
LEAST_IOU = 0.25


def link_slices(numbers: NDArray[np.integer], axis: int = 0, least_iou: float = LEAST_IOU) -> NDArray[np.uint32]:
    """Objects linked across slices by their overlap.

    An object continues one of the slice before if their IoU is at least ``least_iou``. Pairs are taken from the largest
    IoU down (of equal ones, the lower numbers first), each object once.

    Args:
        numbers: (Z, Y, X) object numbers of each slice by itself, 0 background: equal numbers of different slices have
            nothing to do with one another.
        axis: across which slices lie.
        least_iou: above 0, at most 1.

    Returns:
        (Z, Y, X) uint32, numbers in raster order of the objects' first voxels.
    """
    slices = np.moveaxis(numbers, axis, 0)
    linked = np.zeros(slices.shape, dtype=np.int64)
    total = 0
    for z, current in enumerate(slices):
        found, ranks = np.unique(current, return_inverse=True)
        names = np.zeros(len(found), dtype=np.int64)
        for before, new in _matches(linked[z - 1], current, ranks, least_iou) if z else []:
            names[new] = before
        fresh = (names == 0) & (found > 0)
        names[fresh] = np.arange(total + 1, total + 1 + int(fresh.sum()))
        total += int(fresh.sum())
        linked[z] = names[ranks.reshape(current.shape)]
    return of_numbers(np.moveaxis(linked, 0, axis)).numbers


def _matches(
    before: NDArray[np.int64], current: NDArray[np.integer], ranks: NDArray[np.int64], least_iou: float
) -> Sequence[tuple[int, int]]:
    """Pairs (number before, rank after) that belong together, best first."""
    after = ranks.ravel()
    both = ((before > 0) & (current > 0)).ravel()
    pairs, shared = np.unique(np.stack([before.ravel()[both], after[both]]), axis=1, return_counts=True)
    old, old_size = np.unique(before, return_counts=True)
    new_size = np.bincount(after)
    union = old_size[np.searchsorted(old, pairs[0])] + new_size[pairs[1]] - shared
    iou = shared / union
    taken: set[tuple[str, int]] = set()
    out = []
    for i in np.lexsort((pairs[1], pairs[0], -iou)):
        a, b = int(pairs[0, i]), int(pairs[1, i])
        if iou[i] >= least_iou and not {("before", a), ("after", b)} & taken:
            taken |= {("before", a), ("after", b)}
            out.append((a, b))
    return out
