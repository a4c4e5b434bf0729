"""Operations on connected components of label maps. Neighbours share a face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.image.labels import LabelTable
from medseg.postprocess.objects import drop_small, fill_each


def remove_small(labels: NDArray[Any], values: Sequence[int], min_size: int) -> NDArray[Any]:
    """Set components of each of ``values`` that have fewer than ``min_size`` voxels to background."""
    out = labels.copy()
    for value in values:
        components, _ = ndimage.label(labels == value)
        small = np.bincount(components.ravel()) < min_size
        small[0] = False
        out[small[components]] = 0
    return out


def fill_holes(labels: NDArray[Any], values: Sequence[int]) -> NDArray[Any]:
    """Give background that one of ``values`` encloses completely to that class, classes in the order given."""
    out = labels.copy()
    for value in values:
        holes = ndimage.binary_fill_holes(out == value) & (out == 0)
        out[holes] = value
    return out


# The same as rows of the table of operations.


def apply_fill_holes(labels: NDArray[Any], wanted: bool, table: LabelTable) -> NDArray[Any]:
    """``fill_holes`` of every class, in the order of their values, or of every object."""
    if not wanted:
        return labels
    return fill_each(labels) if table.instances else fill_holes(labels, table.values)


def apply_min_size(labels: NDArray[Any], min_size: int, table: LabelTable) -> NDArray[Any]:
    """``remove_small`` of every class, or of every object."""
    if table.instances:
        return drop_small(labels, min_size)
    return remove_small(labels, table.values, min_size)
