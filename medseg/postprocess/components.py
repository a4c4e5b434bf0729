"""Operations on connected components of label maps. Neighbours share a face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def largest_component(labels: NDArray[Any], value: int) -> NDArray[Any]:
    """Keep only the largest component of ``value`` in an integer map (S); ties go to the first in array order."""
    components, count = ndimage.label(labels == value)
    if count < 2:
        return labels
    sizes = np.bincount(components.ravel())
    keep = int(sizes[1:].argmax()) + 1
    return np.where((labels == value) & (components != keep), labels.dtype.type(0), labels)


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
