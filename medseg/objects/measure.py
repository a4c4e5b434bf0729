"""Measurements: a table with a row per object, and a summary of an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg.errors import DataError, GeometryError
from medseg.objects.scene import Part, Scene
from medseg.objects.shape import axis_lengths, boundary, equivalent_diameter, moments, solidity

# Unit of an object's size, and how many of it a cubed (squared) unit of the grid is; as in score tables.
SIZE_UNITS = {("mm", 3): ("ml", 1e-3)}
# What objects are counted in, and how many of it a cubed (squared) unit of the grid is.
DENSITY_UNITS = {
    ("mm", 3): ("ml", 1e-3),
    ("mm", 2): ("mm2", 1.0),
    ("um", 3): ("mm3", 1e-9),
    ("um", 2): ("mm2", 1e-6),
    ("px", 3): ("megavoxel", 1e-6),
    ("px", 2): ("megapixel", 1e-6),
}
STATISTICS: Mapping[str, Callable[..., NDArray[np.float64]]] = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
    "median": np.median,
    "sum": np.sum,
}


def measure(scene: Scene, image: NDArray[Any] | None = None, channels: Sequence[str] = ()) -> pd.DataFrame:
    """Measure all objects of an image.

    Args:
        scene: the objects.
        image: intensities (C,S), or None: shapes only.
        channels: names of the channels; none: numbers, or no name for a single channel.

    Returns:
        One row per object, in the order of their numbers. Columns, whose names carry the unit (docs/objects.md):
        ``id``, ``class``, size (``area_um2``, ``volume_ml`` …) and ``pixels`` (``voxels``), the centroid along each
        axis in voxels (``centroid_y_px``; centres of voxels are whole numbers) and, where voxels have a size,
        in units from the centre of the first voxel, lengths of axes, ``eccentricity`` (2-D), ``equivalent_diameter``,
        ``solidity``, ``perimeter`` or ``surface``, ``touches_border``, and of each channel the mean, standard
        deviation (of the population), minimum, maximum, median and sum of intensities.

    Raises:
        GeometryError: for an image of another shape.
        DataError: for another number of names than channels, names that occur twice, or an unknown class.
    """
    names = _channel_names(scene, image, channels)
    rows = [_row(scene, part, image, names) for part in scene.parts()]
    if rows:
        return pd.DataFrame(rows)
    # A table without objects has the same columns, so that tables of several images are one.
    numbers = np.zeros(scene.numbers.shape, dtype=np.uint8)
    numbers[(0,) * scene.dims] = 1
    one = Scene(numbers, scene.spacing, scene.unit, scene.class_names[:1], axes=scene.axes)
    return pd.DataFrame([_row(one, part, image, names) for part in one.parts()]).iloc[:0]


def size_column(unit: str, dims: int) -> str:
    """Name of the column of sizes, e.g. ``area_um2``."""
    return f"{'area' if dims == 2 else 'volume'}_{_size_unit(unit, dims)[0]}"


def _size_unit(unit: str, dims: int) -> tuple[str, float]:
    return SIZE_UNITS.get((unit, dims), (f"{unit}{dims}", 1.0))


def _channel_names(scene: Scene, image: NDArray[Any] | None, channels: Sequence[str]) -> list[str]:
    """Beginning of the names of each channel's columns."""
    if image is None:
        return []
    if image.shape[1:] != scene.numbers.shape:
        raise GeometryError(f"object numbers of shape {scene.numbers.shape} on an image of {image.shape[1:]}")
    count = len(image)
    if channels and (len(channels) != count or len(set(channels)) != count):
        raise DataError(f"names of channels {list(channels)} for {count} channels; expected one each, all different")
    if channels:
        return [f"intensity_{name}" for name in channels]
    return ["intensity"] if count == 1 else [f"intensity_{place}" for place in range(1, count + 1)]


def _row(scene: Scene, part: Part, image: NDArray[Any] | None, channels: Sequence[str]) -> dict[str, Any]:
    """The measurements of one object."""
    row = {"id": part.number, "class": scene.class_name(part.number)} | _shape(scene, part)
    row["touches_border"] = scene.touches_border(part.box)
    if image is not None:
        voxels = image[(slice(None), *part.box)][:, part.mask].astype(np.float64)
        values = {name: statistic(voxels, axis=1) for name, statistic in STATISTICS.items()}
        row |= {f"{c}_{name}": float(found[k]) for k, c in enumerate(channels) for name, found in values.items()}
    return row


def _shape(scene: Scene, part: Part) -> dict[str, float]:
    unit, dims, spacing = scene.unit, scene.dims, scene.spacing
    count, centroid, covariance = moments(part.mask, spacing)
    size, factor = count * math.prod(spacing), _size_unit(unit, dims)[1]
    axes = axis_lengths(covariance)
    values = {size_column(unit, dims): size * factor, "pixels" if dims == 2 else "voxels": count}
    places = {axis: c + s.start for axis, c, s in zip(scene.axes, centroid, part.box, strict=True)}
    lengths = dict(zip(scene.axes, spacing, strict=True))
    values |= {f"centroid_{axis}_px": float(place) for axis, place in places.items()}
    if unit != "px":
        values |= {f"centroid_{axis}_{unit}": float(place * lengths[axis]) for axis, place in places.items()}
    names = ("major", "minor") if dims == 2 else ("major", "middle", "minor")
    values |= {f"{name}_axis_{unit}": float(length) for name, length in zip(names, axes, strict=True)}
    if dims == 2:
        values["eccentricity"] = math.sqrt(max(0.0, 1 - (axes[1] / axes[0]) ** 2))
    values[f"equivalent_diameter_{unit}"] = equivalent_diameter(size, dims)
    values["solidity"] = solidity(part.mask)
    values[f"perimeter_{unit}" if dims == 2 else f"surface_{unit}2"] = boundary(part.mask, spacing)
    return values


def summary(table: pd.DataFrame, scene: Scene, foreground: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """What a table of objects says of its image.

    Args:
        table: as ``measure`` gives it, of all objects or of some.
        scene: the objects' grid and classes.
        foreground: (S) where there is any object, counted or not; None: where the scene has a number.

    Returns:
        ``count``, with several classes ``count_NAME`` of each, ``touching_border`` (how many do); the size of the image
        and the objects' ``density`` in it, both with their unit; ``confluence``, the share of the image that is
        foreground; mean and median size of objects, NaN if there are none.
    """
    unit, dims = scene.unit, scene.dims
    column = size_column(unit, dims)
    named, factor = DENSITY_UNITS.get((unit, dims), (f"{unit}{dims}", 1.0))
    extent = scene.numbers.size * math.prod(scene.spacing) * factor
    covered = np.count_nonzero(scene.numbers if foreground is None else foreground)
    found: dict[str, Any] = {"count": len(table)}
    if len(scene.class_names) > 1:
        found |= {f"count_{name}": int((table["class"] == name).sum()) for name in scene.class_names}
    found["touching_border"] = int(table["touches_border"].sum())
    found[f"image_{named}"] = extent
    found[f"density_per_{named}"] = len(table) / extent if extent else float("nan")
    found["confluence"] = covered / scene.numbers.size if scene.numbers.size else float("nan")
    found[f"mean_{column}"] = float(table[column].mean())
    found[f"median_{column}"] = float(table[column].median())
    return found


def joined(
    table: pd.DataFrame, matches: Iterable[Any], side: Literal["prediction", "reference"] = "prediction"
) -> pd.DataFrame:
    """A table of objects with what an evaluation says of each, on the right.

    Args:
        table: as ``measure`` gives it, of the predicted objects or of those of the reference.
        matches: the rows of ``medseg.metrics.object_errors.object_rows``, which compares both.
        side: whose objects the table has.

    Returns:
        The rows of ``table``, in their order; added columns are ``status``, ``iou``, ``match`` (number of the object on
        the other side, 0 without a match), ``merged`` and ``split``.

    Raises:
        DataError: if an object of the table is in no row, or in several.
    """
    other = "reference" if side == "prediction" else "prediction"
    rows = [row for row in matches if getattr(row, side)]
    found = pd.DataFrame(
        {
            "id": np.array([getattr(row, side) for row in rows], dtype=np.int64),
            "status": pd.Series([row.status for row in rows], dtype="str"),
            "iou": np.array([row.iou for row in rows], dtype=np.float64),
            "match": np.array([getattr(row, other) for row in rows], dtype=np.int64),
            "merged": np.array([row.merged for row in rows], dtype=np.bool_),
            "split": np.array([row.split for row in rows], dtype=np.bool_),
        }
    )
    twice = found["id"][found["id"].duplicated()].tolist()
    missing = sorted(set(table["id"]) - set(found["id"]))
    if twice or missing:
        wrong = f"have objects {twice[:5]} twice" if twice else f"lack objects {missing[:5]}"
        raise DataError(f"the rows of the evaluation {wrong}; expected those of this very map, as its {side}")
    return table.merge(found, on="id", how="left", validate="one_to_one")
