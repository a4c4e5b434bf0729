"""What the pages of a TIFF file are: slices, channels, or one picture; and how large a pixel is.

TIFF itself does not define that. OME-XML (docs.openmicroscopy.org, OME model 2016-06), ImageJ's description and the
shape that tifffile writes do. Without one of these, TIFF's own resolution tags are ignored: mostly they mean printing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from medseg.formats.errors import FormatError

# Units of length in micrometres.
_MICROMETRES = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometers", "\\u00B5m"), 1.0),
    "pm": 1e-6,
    "nm": 1e-3,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
    **dict.fromkeys(("inch", "in"), 25400.0),
}
_NO_UNITS = {"", "pixel", "pixels", "reference frame"}
# No file has more planes; bounds what a description may claim.
MAX_PLANES = 1 << 20
_PLAIN_STACK = "no metadata says what the {count} pages are; taken as slices (Z)"
FIX_AXES = "keep one time point and one series per file"


@dataclass(frozen=True, slots=True)
class PageFacts:
    """Number, size and resolution of the pages of a file.

    Attributes:
        path: the file, for messages.
        count: pages.
        shape: rows, columns.
        samples: numbers per pixel.
        resolution: pixels per unit along columns and rows, as stored; None if absent.
    """

    path: Path
    count: int
    shape: tuple[int, int]
    samples: int
    resolution: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class PageLayout:
    """How pages make an image.

    Attributes:
        channels: planes per slice (each of which may have several samples).
        slices: planes along Z; None for a picture.
        pages: page of channel c and slice z at ``[c * (slices or 1) + z]``.
        sizes: micrometres per axis (Z, Y, X) or (Y, X); None if unknown.
        notes: doubts, as in ``Stored``.
        remarks: decisions, as in ``Stored``.
    """

    channels: int
    slices: int | None
    pages: tuple[int, ...]
    sizes: tuple[float, ...] | None = None
    notes: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


def page_layout(facts: PageFacts, description: str) -> PageLayout:
    """The layout by the first page's description; without one, pages are slices, with a note that this is a guess.

    Raises:
        FormatError: for time points, several series, or a description that contradicts the pages.
    """
    text = description.strip().strip("\0")
    if is_ome(text):
        return _ome(facts, text)
    if text.startswith("ImageJ="):
        return _imagej(facts, text)
    if text.startswith("{") and '"shape"' in text:
        return _shaped(facts, text)
    return _undeclared(facts)


def is_ome(description: str) -> bool:
    """Whether a description is OME-XML."""
    return bool(re.match(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(\w+:)?OME\b", description, re.DOTALL))


def _undeclared(facts: PageFacts) -> PageLayout:
    if facts.count == 1:
        return PageLayout(1, None, (0,))
    doubt = ("tiff-pages", _PLAIN_STACK.format(count=facts.count))
    return PageLayout(1, facts.count, tuple(range(facts.count)), notes=(doubt,))


def _order(facts: PageFacts, axes: Sequence[tuple[str, int]], pages: Sequence[int] | None = None) -> tuple[int, ...]:
    """Pages by (channel, slice) from axes listed with the slowest first; ``pages``: page of each plane."""
    lengths = {"C": 1, "Z": 1, "T": 1, **dict(axes)}
    planes = math.prod(lengths.values())
    if planes > MAX_PLANES or lengths["T"] != 1:
        cause = f"{lengths['T']} time points, {lengths['Z']} slices, {lengths['C']} channels"
        raise FormatError(facts.path, cause, FIX_AXES)
    found = range(facts.count) if pages is None else pages
    if len(found) != planes:
        raise FormatError(facts.path, f"{len(found)} pages, but the description has {planes} planes")
    steps, step = {}, 1
    for name, length in reversed(axes):
        steps[name], step = step, step * length
    zs, cs = range(lengths["Z"]), range(lengths["C"])
    return tuple(found[c * steps.get("C", 0) + z * steps.get("Z", 0)] for c in cs for z in zs)


def _sizes(
    facts: PageFacts, given: Mapping[str, float | None], volume: bool
) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """Micrometres per axis where all are known, and a remark where only some are."""
    wanted = [given.get(axis) for axis in ("ZYX" if volume else "YX")]
    known = [size for size in wanted if size is not None]
    if any(not (math.isfinite(size) and size > 0) for size in known):
        raise FormatError(facts.path, f"impossible pixel size {known}", "correct the metadata")
    if len(known) == len(wanted):
        return tuple(known), ()
    return None, (("pixel size known for some axes only: not used",) if known else ())


def _shaped(facts: PageFacts, text: str) -> PageLayout:
    """The JSON that tifffile writes: shape and, if its user gave them, axes."""
    try:
        record = json.loads(text)
        shape = [int(n) for n in record["shape"]]
        axes = str(record.get("axes", "")).upper()
        given = {axis: record.get(f"PhysicalSize{axis}") for axis in "XYZ"}
        sizes = {axis: None if size is None else float(size) for axis, size in given.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise FormatError(facts.path, f"description {text[:60]!r} is no shape of tifffile's") from None
    if not axes or len(axes) != len(shape):
        return _undeclared(facts)
    if facts.samples > 1 and axes.endswith("YXC"):
        axes = axes[:-1] + "S"
    stack = [(axis, length) for axis, length in zip(axes, shape, strict=True) if axis not in "YXS"]
    if facts.samples > 1 and axes.endswith("CYX") and "S" not in axes and shape[-3] == facts.samples:
        stack = stack[:-1]
    flat = [dict(zip(axes, shape, strict=True)).get(axis) for axis in "YX"]
    if flat != list(facts.shape) or not set(axes) <= set("TZCYXS") or len(set(axes)) != len(axes):
        cause = f"axes {axes} {tuple(shape)} of pages of {facts.shape}"
        raise FormatError(facts.path, cause, "declare axes T, Z, C, Y, X (and S for the samples of a pixel)")
    volume = "Z" in axes
    lengths = dict(stack)
    found, remarks = _sizes(facts, sizes, volume)
    pages = _order(facts, stack)
    return PageLayout(lengths.get("C", 1), lengths["Z"] if volume else None, pages, found, remarks=remarks)


def _imagej(facts: PageFacts, text: str) -> PageLayout:
    """ImageJ's description: ``key=value`` lines; planes run XYCZT."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition("=")
        values.setdefault(key.strip(), value.strip())
    counts = {}
    for key in ("images", "channels", "slices", "frames"):
        word = values.get(key, "1")
        if not re.fullmatch(r"[1-9][0-9]{0,8}", word):
            raise FormatError(facts.path, f"ImageJ's description has {key}={word[:20]}", "save it in ImageJ again")
        counts[key] = int(word)
    if counts["images"] > 1 and not {"channels", "slices", "frames"} & values.keys():
        return _undeclared(facts)
    axes = [("T", counts["frames"]), ("Z", counts["slices"]), ("C", counts["channels"])]
    volume = counts["slices"] > 1
    unit = values.get("unit", "").replace("\\u00b5", "µ")
    factor = _factor(facts, unit)
    sizes: dict[str, float | None] = {}
    if factor is not None:
        x, y = facts.resolution or (None, None)
        sizes = {"X": factor / x if x else None, "Y": factor / y if y else None}
        depth = values.get("spacing")
        sizes["Z"] = abs(_real(facts, "spacing", depth)) * factor if depth else None
    found, remarks = _sizes(facts, sizes, volume)
    pages = _order(facts, axes)
    return PageLayout(counts["channels"], counts["slices"] if volume else None, pages, found, remarks=remarks)


def _factor(facts: PageFacts, unit: str) -> float | None:
    """Micrometres per unit; None for units that are no lengths."""
    if unit.lower() in _NO_UNITS:
        return None
    if unit not in _MICROMETRES:
        raise FormatError(facts.path, f"unit {unit[:20]!r}, expected a length", "correct the metadata")
    return _MICROMETRES[unit]


def _real(facts: PageFacts, name: str, word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise FormatError(facts.path, f"{name} is {word[:20]!r}, expected a number", "correct the metadata") from None


def _ome(facts: PageFacts, text: str) -> PageLayout:
    """OME-XML: one image of one time point."""
    pixels = _pixels(facts, text)
    size = {axis: _integer(facts, pixels.attrib, f"Size{axis}") for axis in "XYZCT"}
    if (size["Y"], size["X"]) != facts.shape or size["C"] % facts.samples:
        cause = f"OME-XML has {size['Y']} x {size['X']} pixels, {size['C']} channels"
        raise FormatError(facts.path, f"{cause}; the pages have {facts.shape} and {facts.samples}")
    order = pixels.get("DimensionOrder", "")
    if not re.fullmatch("XY[ZCT]{3}", order) or len(set(order)) != 5:
        raise FormatError(facts.path, f"DimensionOrder {order[:10]!r}", "correct the OME-XML")
    lengths = {**size, "C": size["C"] // facts.samples}
    axes = [(name, lengths[name]) for name in reversed(order[2:])]
    volume = size["Z"] > 1
    sizes: dict[str, float | None] = {}
    for axis in "XYZ":
        word = pixels.get(f"PhysicalSize{axis}")
        factor = _factor(facts, pixels.get(f"PhysicalSize{axis}Unit", "µm")) if word else None
        sizes[axis] = _real(facts, f"PhysicalSize{axis}", word) * factor if word and factor else None
    found, remarks = _sizes(facts, sizes, volume)
    if math.prod(length for _, length in axes) > MAX_PLANES:
        raise FormatError(facts.path, "OME-XML has more planes than any file has", "correct the OME-XML")
    pages = _order(facts, axes, _planes(facts, pixels, order, lengths))
    return PageLayout(lengths["C"], size["Z"] if volume else None, pages, found, remarks=remarks)


def _pixels(facts: PageFacts, text: str) -> ElementTree.Element:
    """The ``Pixels`` of the only image, without name spaces."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FormatError(facts.path, "OME-XML with entities of its own", "write it without")
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, ValueError, RecursionError, LookupError) as error:
        raise FormatError(facts.path, f"damaged OME-XML ({error})", "correct the OME-XML") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    found = [pixels for image in root.findall("Image") for pixels in image.findall("Pixels")]
    if len(found) != 1:
        raise FormatError(facts.path, f"OME-XML has {len(found)} images in this file, expected one", FIX_AXES)
    return found[0]


def _integer(facts: PageFacts, attributes: Mapping[str, str], name: str, default: str = "") -> int:
    word = attributes.get(name, default)
    if not re.fullmatch("[0-9]{1,9}", word) or (name.startswith("Size") and int(word) < 1):
        raise FormatError(facts.path, f"OME-XML has {name} {word[:20]!r}", "correct the OME-XML")
    return int(word)


def _planes(facts: PageFacts, pixels: ElementTree.Element, order: str, lengths: Mapping[str, int]) -> list[int]:
    """The page of every plane, in the order of ``DimensionOrder``, by the ``TiffData`` blocks."""
    total = math.prod(lengths[axis] for axis in order[2:])
    blocks = pixels.findall("TiffData")
    names = {uuid.get("FileName", "") for block in blocks for uuid in block.findall("UUID")}
    if len(names) > 1:
        raise FormatError(facts.path, f"an image spread over {len(names)} files", "store it in one file")
    pages: dict[int, int] = {}
    for block in blocks or [ElementTree.Element("TiffData")]:
        page = _integer(facts, block.attrib, "IFD", "0")
        plane, step = 0, 1
        for axis in order[2:]:
            plane += step * _integer(facts, block.attrib, f"First{axis}", "0")
            step *= lengths[axis]
        count = _integer(facts, block.attrib, "PlaneCount", "1" if "IFD" in block.attrib else str(total))
        for k in range(min(count, total)):
            pages[plane + k] = page + k
        if len(pages) > total:
            break
    wrong = len(pages) != total or max(pages) >= total or max(pages.values()) >= facts.count
    if wrong or facts.count != total:
        raise FormatError(facts.path, f"{facts.count} pages do not match the {total} planes of the OME-XML")
    return [pages[plane] for plane in range(total)]
