"""The JSON that tifffile writes: the shape of the array and, if its user gave them, its axes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from medseg.formats.errors import FormatError
from medseg.formats.tiff.facts import Description, PageFacts, SizeReader
from medseg.image.units import is_no_unit, micrometres


def is_shaped(description: str) -> bool:
    """Whether a description is tifffile's."""
    return description.startswith("{") and '"shape"' in description


def shaped(facts: PageFacts, text: str) -> Description:
    """What tifffile's JSON says.

    A stack of 3 or 4 planes is stored by it as one page of 3 or 4 samples, unless its user asks for something else: the
    axes say what they are.

    Raises:
        FormatError: if it is no such JSON, or the axes are not those of the pages.
    """
    try:
        record = json.loads(text)
        shape = [int(n) for n in record["shape"]]
        axes = str(record.get("axes", "")).upper()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise FormatError(facts.path, f"description {text[:60]!r} is no shape of tifffile's") from None
    if not axes or len(axes) != len(shape):
        return Description()
    lengths = dict(zip(axes, shape, strict=True))
    flat = [lengths.get(axis) for axis in "YX"]
    if flat != list(facts.shape) or not set(axes) <= set("TZCYXS") or len(lengths) != len(axes):
        cause = f"axes {axes} {tuple(shape)} of pages of {facts.shape}"
        raise FormatError(facts.path, cause, "declare axes T, Z, C, Y, X (and S for the samples of a pixel)")
    if axes.endswith("YXC") and facts.samples > 1:
        axes = axes[:-1] + "S"
    sizes = _sizes(record)
    stack = tuple((axis, length) for axis, length in zip(axes, shape, strict=True) if axis not in "YX")
    return Description(stack, sizes=sizes.sizes, remarks=tuple(sizes.remarks))


def _sizes(record: Mapping[str, Any]) -> SizeReader:
    """Sizes by the keys of the OME model, which tifffile writes here as well; without a unit, micrometres."""
    sizes = SizeReader()
    for axis in "XYZ":
        unit = str(record.get(f"PhysicalSize{axis}Unit") or "µm")
        factor = micrometres(unit, strict_case=True)
        if record.get(f"PhysicalSize{axis}") is not None and factor is None and not is_no_unit(unit):
            sizes.remarks.append(f"unit {unit[:20]!r} is no length: no pixel size along {axis}")
        sizes.add(axis, record.get(f"PhysicalSize{axis}"), factor)
    return sizes
