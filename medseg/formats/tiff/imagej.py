"""ImageJ's description of a TIFF, as ImageJ itself reads it (``ij.io.FileOpener``): lines ``key=value``.

What it leaves out has a value: a step along Z of exactly 1 is not written. The unit of the resolution is `unit`; the
tag ResolutionUnit, which other programs write beside it, means nothing then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from medseg.formats.errors import FormatError
from medseg.formats.tiff.facts import Description, PageFacts, SizeReader
from medseg.image.units import is_no_unit, micrometres


def is_imagej(description: str) -> bool:
    """Whether a description is ImageJ's."""
    return description.startswith("ImageJ=")


def imagej(facts: PageFacts, text: str) -> Description:
    """ImageJ's description; planes run XYCZT."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        values.setdefault(key.strip(), value.strip())
    counts = {key: _count(facts, key, values.get(key, "1")) for key in ("images", "channels", "slices", "frames")}
    undeclared = counts["images"] > 1 and not {"channels", "slices", "frames"} & values.keys()
    sizes = SizeReader()
    _read_sizes(sizes, facts, values)
    runs = (("T", "frames"), ("Z", "slices"), ("C", "channels"))
    axes = [(axis, counts[key]) for axis, key in runs if counts[key] > 1]
    if facts.samples > 1:
        axes.append(("S", facts.samples))
    return Description(
        None if undeclared else tuple(axes),
        sizes={} if undeclared else sizes.sizes,
        remarks=tuple(sizes.remarks),
    )


def _count(facts: PageFacts, key: str, word: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", word):
        raise FormatError(facts.path, f"ImageJ's description has {key}={word[:20]}", "save it in ImageJ again")
    return int(word)


def _read_sizes(sizes: SizeReader, facts: PageFacts, values: Mapping[str, str]) -> None:
    """Sizes by resolution tags, `spacing` and `unit`; rows and slices may have a unit of their own."""
    unit = values.get("unit", "")
    names = {"X": unit, "Y": values.get("yunit", unit), "Z": values.get("zunit", unit)}
    factors = {axis: micrometres(name) for axis, name in names.items()}
    for name in dict.fromkeys(names.values()):
        if micrometres(name) is None and not is_no_unit(name):
            sizes.remarks.append(f"unit {name[:20]!r} is no length: no pixel size")
    for axis, resolution in zip("XY", facts.resolution or (None, None), strict=True):
        sizes.add(axis, None if resolution is None else 1 / resolution, factors[axis])
    step = values.get("spacing", "1")
    sizes.add("Z", step.removeprefix("-") if step.strip("-0.") else "1", factors["Z"])
