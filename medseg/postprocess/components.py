"""Operations on connected components of label maps. Neighbours share a face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import ConfigError
from medseg.image.labels import LabelTable
from medseg.postprocess.objects import drop_small, fill_each, refuse_objects


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


# The same as rows of the table of operations.


def apply_fill_holes(labels: NDArray[Any], wanted: bool, table: LabelTable) -> NDArray[Any]:
    """``fill_holes`` of every class, in the order of their values, or of every object."""
    if not wanted:
        return labels
    return fill_each(labels) if table.instances else fill_holes(labels, table.values)


def apply_largest_component(labels: NDArray[Any], names: Sequence[str], table: LabelTable) -> NDArray[Any]:
    """``largest_component`` of each of the named classes."""
    for name in names:
        labels = largest_component(labels, dict(table.names)[name])
    return labels


def check_largest_component(names: Sequence[str], table: LabelTable, key: str) -> None:
    """Raise ``ConfigError``, which names the option's key, if predictions have no class of one of the names."""
    refuse_objects(names, table, key)
    written = [n for n, v in table.names if not table.order or v in table.order]
    unknown = sorted(set(names) - set(written))
    if unknown:
        why = "; regions are no classes, and a class that no region paints is never predicted" if table.regions else ""
        raise ConfigError(f"{key}: no class {unknown}; there are {written}{why}")


def apply_min_size(labels: NDArray[Any], min_size: int, table: LabelTable) -> NDArray[Any]:
    """``remove_small`` of every class, or of every object."""
    if table.instances:
        return drop_small(labels, min_size)
    return remove_small(labels, table.values, min_size)
