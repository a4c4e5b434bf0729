"""OME-XML in a TIFF (docs.openmicroscopy.org, OME model 2016-06): one image of one time point."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from xml.etree import ElementTree

from medseg.formats.errors import FormatError
from medseg.formats.tiff.facts import FIX_AXES, Description, PageFacts, SizeReader
from medseg.image.units import is_no_unit, micrometres

# No file has more planes; bounds what a description may claim.
MAX_PLANES = 1 << 20


def is_ome(description: str) -> bool:
    """Whether a description is OME-XML."""
    return bool(re.match(r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(\w+:)?OME\b", description, re.DOTALL))


def ome(facts: PageFacts, text: str) -> Description:
    """What OME-XML says.

    Raises:
        FormatError: for several series, or where it contradicts the pages.
    """
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
    if math.prod(length for _, length in axes) > MAX_PLANES:
        raise FormatError(facts.path, "OME-XML has more planes than any file has", "correct the OME-XML")
    pages = _planes(facts, pixels, order, lengths)
    if facts.samples > 1:
        axes.append(("S", facts.samples))
    sizes = _sizes(pixels)
    stack = tuple((name, length) for name, length in axes if length > 1)
    return Description(stack, tuple(pages), sizes.sizes, _names(pixels, size["C"]), tuple(sizes.remarks))


def _sizes(pixels: ElementTree.Element) -> SizeReader:
    """Sizes of pixels; a size without a unit is in micrometres."""
    sizes = SizeReader()
    for axis in "XYZ":
        word = pixels.get(f"PhysicalSize{axis}")
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        factor = micrometres(unit, strict_case=True)
        if word and factor is None and not is_no_unit(unit):
            sizes.remarks.append(f"unit {unit[:20]!r} is no length: no pixel size along {axis}")
        sizes.add(axis, word or None, factor)
    return sizes


def _names(pixels: ElementTree.Element, channels: int) -> tuple[str, ...]:
    """Names of the channels, if each has one of its own."""
    names = tuple(channel.get("Name", "").strip() for channel in pixels.findall("Channel"))
    return names if len(names) == channels and all(names) and len(set(names)) == len(names) else ()


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
