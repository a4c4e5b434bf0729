"""The metadata of OME-Zarr (ngff.openmicroscopy.org, versions 0.1 to 0.5): which array is the image, and its axes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.formats.errors import FormatError
from medseg.image.units import micrometres

FIX_METADATA = "write it with ome-zarr-py, Fiji or bioformats2raw, whose metadata say what the axes are"
FIX_ONE = "name the folder of one image inside it: {example}"
# Version of Zarr -> files with the attributes of a group, and with the metadata of an array.
ATTRIBUTES = {2: ".zattrs", 3: "zarr.json"}
ARRAYS = {2: ".zarray", 3: "zarr.json"}
# Longest metadata file.
MAX_METADATA = 1 << 20
# Axes of the first versions, which name none.
_FIRST_AXES = "tczyx"


@dataclass(frozen=True, slots=True)
class Multiscale:
    """An image of several resolutions, of which the first one is read.

    Attributes:
        path: folder of its array, relative to that of the image.
        axes: one letter per axis of the array: t, c, z, y, x.
        units: micrometres per unit along each axis; None where there is no unit of length.
        scale, translation: of the array, in these units.
        channels: names of the channels; empty: there are none.
    """

    path: str
    axes: str
    units: tuple[float | None, ...]
    scale: tuple[float, ...]
    translation: tuple[float, ...]
    channels: tuple[str, ...] = ()


def parsed(path: Path, name: str, data: bytes) -> Mapping[str, Any]:
    """A JSON object, or ``FormatError``."""
    if len(data) >= MAX_METADATA:
        raise FormatError(path, f"{name} has more than {MAX_METADATA} bytes")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(path, f"{name} is no JSON ({str(error)[:80]})") from None
    if not isinstance(record, dict):
        raise FormatError(path, f"{name} is no JSON object")
    return record


def attributes_of(version: int, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The attributes of a group that belong to OME-Zarr."""
    if version == 2:
        return record
    found = record.get("attributes")
    found = found if isinstance(found, dict) else {}
    inner = found.get("ome", found)
    return inner if isinstance(inner, dict) else {}


def series_of(path: Path, attributes: Mapping[str, Any]) -> str:
    """Where the image is: an empty text for here, or the folder inside that holds the first series of bioformats2raw.

    Raises:
        FormatError: for plates, groups of labels, and folders that hold no image.
    """
    if "multiscales" in attributes:
        return ""
    if "bioformats2raw.layout" in attributes:
        return "0"
    if "plate" in attributes or "well" in attributes:
        example = path / ("A/1/0" if "plate" in attributes else "0")
        raise FormatError(path, "an OME-Zarr plate or well, expected an image", FIX_ONE.format(example=example))
    if "labels" in attributes:
        names = attributes["labels"] if isinstance(attributes["labels"], list) else []
        example = path / str(names[0] if names else "NAME")[:80]
        raise FormatError(path, "a group of OME-Zarr labels, expected one", FIX_ONE.format(example=example))
    raise FormatError(path, "a Zarr folder without the metadata of OME-Zarr (multiscales)", FIX_METADATA)


def multiscale_of(path: Path, attributes: Mapping[str, Any]) -> Multiscale:
    """The first resolution of the image that attributes describe.

    Raises:
        FormatError: for several images, axes in another order than the specification's, and impossible scales.
    """
    try:
        return _multiscale(path, attributes)
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        cause = f"damaged metadata of OME-Zarr ({type(error).__name__}: {str(error)[:80]})"
        raise FormatError(path, cause, FIX_METADATA) from None


def _multiscale(path: Path, attributes: Mapping[str, Any]) -> Multiscale:
    images = attributes["multiscales"]
    if len(images) != 1:
        raise FormatError(path, f"{len(images)} images (multiscales) in one OME-Zarr", "keep one image per folder")
    first = images[0]["datasets"][0]
    inside = str(first["path"])
    if not inside or inside.startswith("/") or set(inside.split("/")) & {"", ".", ".."} or "\\" in inside:
        raise FormatError(path, f"its array is at {inside[:80]!r}, outside the folder", FIX_METADATA, "unsafe-path")
    described = images[0].get("axes", list(_FIRST_AXES))
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in described]
    letters = "".join(str(axis["name"]).lower() if len(str(axis["name"])) == 1 else "?" for axis in axes)
    space = "".join(letter for letter in letters if letter in "zyx")
    if not set(letters) <= set(_FIRST_AXES) or len(set(letters)) != len(letters) or space not in ("yx", "zyx"):
        names = ", ".join(str(axis["name"])[:20] for axis in axes[:8])
        raise FormatError(path, f"axes {names}; expected y and x, and perhaps t, c, z before them", FIX_METADATA)
    scale, translation = [1.0] * len(axes), [0.0] * len(axes)
    for step in (*first.get("coordinateTransformations", []), *images[0].get("coordinateTransformations", [])):
        factors = _numbers(path, step, "scale", len(axes), 1.0)
        shifts = _numbers(path, step, "translation", len(axes), 0.0)
        scale = [s * f for s, f in zip(scale, factors, strict=True)]
        translation = [t * f + s for t, f, s in zip(translation, factors, shifts, strict=True)]
    if not all(math.isfinite(s) and s > 0 for s in scale) or not all(math.isfinite(t) for t in translation):
        raise FormatError(path, f"impossible scale {scale} or translation {translation}", FIX_METADATA)
    units = tuple(micrometres(str(axis.get("unit", ""))[:40]) for axis in axes)
    return Multiscale(inside, letters, units, tuple(scale), tuple(translation), _channel_names(attributes))


def _numbers(path: Path, step: Mapping[str, Any], kind: str, count: int, none: float) -> Sequence[float]:
    """The numbers of a transformation of one kind, or those that change nothing."""
    if step["type"] not in ("scale", "translation", "identity"):
        raise FormatError(path, f"a transformation of kind {str(step['type'])[:40]!r}, expected a scale", FIX_METADATA)
    if step["type"] != kind:
        return [none] * count
    if kind not in step:
        raise FormatError(path, f"a {kind} in a file of its own", FIX_METADATA)
    values = [float(value) for value in step[kind]]
    if len(values) != count:
        raise FormatError(path, f"a {kind} of {len(values)} numbers for {count} axes", FIX_METADATA)
    return values


def _channel_names(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """What the rendering settings call the channels; none, if they do not make sense, since they are for viewers."""
    settings = attributes.get("omero")
    listed = settings.get("channels") if isinstance(settings, dict) else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        return ()
    names = tuple(one.get("label") for one in listed)
    return tuple(str(name) for name in names) if all(isinstance(name, str) and name for name in names) else ()
