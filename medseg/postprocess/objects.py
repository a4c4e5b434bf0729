"""Operations on the objects of a map of object numbers: each object by itself, by what can be measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import ConfigError
from medseg.formats.source import Source
from medseg.image.labels import LabelTable
from medseg.image.objects import of_numbers, smallest_type
from medseg.ingest.object_classes import classes_of_map
from medseg.objects.measure import measure
from medseg.objects.scene import Scene

# Lowest and highest value of a property that is kept, None: any; or the one value of a property that is true or false.
Rule = Sequence[float | None] | bool


def keep(numbers: NDArray[Any], image: Source, rules: Mapping[str, Rule], table: LabelTable) -> NDArray[Any]:
    """Keep the objects whose measurements are within all rules, and number them anew.

    Args:
        numbers: (S) object numbers.
        image: the image, whose intensities may be asked for.
        rules: column of ``medseg.objects.measure`` -> what is kept.
        table: label table.

    Raises:
        ConfigError: for a rule of something that is not measured; it lists what is.
    """
    grid = image.geometry
    scene = Scene(numbers, grid.spacing, grid.unit, table.class_names[:1])
    needs_image = any(name.startswith("intensity") for name in rules)
    measured = measure(scene, image.image() if needs_image else None)
    unknown = sorted(set(rules) - set(measured.columns) - {"id", "class"})
    if unknown:
        there = [name for name in measured.columns if name not in ("id", "class")]
        raise ConfigError(f"postprocess.objects: nothing measured is called {unknown}; there are {', '.join(there)}")
    kept = np.ones(len(measured), dtype=bool)
    for name, rule in rules.items():
        values = measured[name].to_numpy()
        if isinstance(rule, bool):
            kept &= values.astype(bool) == rule
        else:
            low, high = rule
            kept &= (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    wanted = np.isin(numbers, measured["id"].to_numpy()[kept])
    return renumbered(np.where(wanted, numbers, 0))


def check_keep(rules: Mapping[str, Rule], table: LabelTable, key: str) -> None:
    """Raise ``ConfigError`` if predictions have no objects."""
    require_objects(table, key)


def fill_each(numbers: NDArray[Any]) -> NDArray[Any]:
    """Give background that one object encloses completely to that object, the first in raster order."""
    out, ranks = numbers.copy(), of_numbers(numbers).numbers
    for rank, box in enumerate(ndimage.find_objects(ranks.astype(np.int64)), start=1):
        mine, inside = ranks[box] == rank, out[box]
        inside[ndimage.binary_fill_holes(mine) & (inside == 0)] = inside[mine][0]
    return out


def drop_small(numbers: NDArray[Any], min_size: int) -> NDArray[Any]:
    """Remove objects of fewer than ``min_size`` voxels, and number the others anew."""
    _, ranks, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return renumbered(np.where((counts >= min_size)[ranks.reshape(numbers.shape)], numbers, 0))


def class_values(numbers: NDArray[Any], before: NDArray[Any], table: LabelTable) -> NDArray[Any]:
    """The class map (S) of objects that were kept, from the one they had: the class that most voxels of each had there.

    Args:
        numbers: (S) object numbers, however they are counted now.
        before: (S) class values.
        table: label table, of several classes.
    """
    plain = replace(table, ignore=None)
    classes, _ = classes_of_map(numbers, before, plain)
    return plain.to_values(plain.to_channels(numbers, classes))


def renumbered(numbers: NDArray[Any]) -> NDArray[Any]:
    """Object numbers 1..N in raster order, in the smallest type for files."""
    found = of_numbers(numbers)
    return found.numbers.astype(smallest_type(found.count))


def require_objects(table: LabelTable, key: str) -> None:
    """Raise ``ConfigError`` unless label maps hold object numbers."""
    if not table.instances:
        raise ConfigError(f"{key}: predictions have classes and no objects; set `instances: true`, or leave it out")


def refuse_objects(option: Any, table: LabelTable, key: str) -> None:
    """Raise ``ConfigError`` if label maps hold object numbers, of which an operation on classes makes nonsense."""
    if table.instances:
        raise ConfigError(f"{key}: works on classes, and predictions have objects; use postprocess.objects instead")
