"""Operations on the components of one class or region of a label map, or of all foreground. Neighbours share a face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import ConfigError
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.postprocess.objects import refuse_objects

# Volumes come from voxel sizes in floating point: a component of just the smallest volume stays.
ROUNDING = 1e-6


def beneath(name: str, table: LabelTable) -> dict[int, int]:
    """Values that a class or region has in a painted map -> the values that come to light where it is taken away.

    Beneath a class is background; beneath a region, the value of the last region painted before it that holds the
    value's class, too.
    """
    unions = list(table.regions)
    place = next((k for k, (region, _) in enumerate(unions) if region == name), None)
    if place is None:
        return {dict(table.names)[name]: 0}
    before = list(zip(unions[:place], table.order[:place], strict=True))
    return {
        value: next((painted for (_, values), painted in reversed(before) if value in values), 0)
        for value in unions[place][1]
    }


def names_of(table: LabelTable) -> list[str]:
    """Classes that predictions have, and regions."""
    written = [n for n, v in table.names if not table.order or v in table.order]
    return list(dict.fromkeys([*(name for name, _ in table.regions), *written]))


def keep_largest(labels: NDArray[Any], name: str, table: LabelTable) -> NDArray[Any]:
    """Keep only the largest component of a class or region in an integer map (S); ties go to the first in array order.

    Args:
        labels: file values.
        name: of the class or region.
        table: label table.
    """
    values = beneath(name, table)
    components, sizes = _components(np.isin(labels, list(values)))
    if len(sizes) < 3:
        return labels
    keep = int(sizes[1:].argmax()) + 1
    return _without(labels, (components > 0) & (components != keep), values)


def drop_small(labels: NDArray[Any], name: str, smallest: float, table: LabelTable) -> NDArray[Any]:
    """Take away components of a class or region that have fewer than ``smallest`` voxels (a real number)."""
    values = beneath(name, table)
    components, sizes = _components(np.isin(labels, list(values)))
    small = sizes < smallest * (1 - ROUNDING)
    small[0] = False
    return _without(labels, small[components], values) if small.any() else labels


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Component numbers (S), and the voxels of each; the first are those of none."""
    components, count = ndimage.label(mask)
    return components, np.bincount(components.ravel(), minlength=count + 1)


def _without(labels: NDArray[Any], gone: NDArray[np.bool_], values: Mapping[int, int]) -> NDArray[Any]:
    out = labels.copy()
    for value, under in values.items():
        out[gone & (labels == value)] = under
    return out


# The same as rows of the table of operations.


def apply_largest_foreground(labels: NDArray[Any], wanted: bool, table: LabelTable) -> NDArray[Any]:
    """Keep only the largest component of all classes together."""
    if not wanted:
        return labels
    components, sizes = _components(table.foreground(labels))
    if len(sizes) < 3:
        return labels
    return np.where(components == int(sizes[1:].argmax()) + 1, labels, labels.dtype.type(0))


def apply_largest_component(labels: NDArray[Any], names: Sequence[str], table: LabelTable) -> NDArray[Any]:
    """``keep_largest`` of each of the named classes or regions."""
    for name in names:
        labels = keep_largest(labels, name, table)
    return labels


def apply_min_volume(
    labels: NDArray[Any], grid: Geometry, volumes: Mapping[str, float], table: LabelTable
) -> NDArray[Any]:
    """``drop_small`` of each of the named classes or regions, by volumes in the cube (square) of the grid's unit."""
    for name, volume in volumes.items():
        labels = drop_small(labels, name, volume / grid.voxel_volume, table)
    return labels


def check_names(names: Sequence[str] | Mapping[str, float], table: LabelTable, key: str) -> None:
    """Raise ``ConfigError``, which names the option's key, for a name of no class or region of predictions."""
    refuse_objects(names, table, key)
    there = names_of(table)
    unknown = sorted(set(names) - set(there))
    if unknown:
        why = "; a class that no region paints is never predicted" if table.regions else ""
        raise ConfigError(f"{key}: no class {unknown}; there are {there}{why}")
