"""How the pages of a TIFF make an image: slices, channels, or one picture; and how large a pixel is.

TIFF itself does not define that. The configuration does (`axes`), or OME-XML, ImageJ's description, or the shape that
tifffile writes. Without one of these, TIFF's own resolution tags are ignored: mostly they mean printing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medseg.formats.errors import FormatError
from medseg.formats.tiff.facts import FIX_AXES, Description, PageFacts
from medseg.formats.tiff.imagej import imagej, is_imagej
from medseg.formats.tiff.ome import MAX_PLANES, is_ome, ome
from medseg.formats.tiff.shaped import is_shaped, shaped

_PLAIN_STACK = "no metadata says what the {count} pages are; taken as slices (Z)"
Axes = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class PageLayout:
    """How pages make an image.

    Attributes:
        channels: planes per slice, without the samples of a pixel.
        slices: planes along Z, without the samples of a pixel; None: no pages are slices.
        pages: page of channel c and slice z at ``[c * (slices or 1) + z]``.
        sample_axis: what the samples of a pixel are: ``C``; or ``Z``: slices of a stack of 3 or 4.
        alpha: whether an extra sample that is marked as alpha is one: no, where the axes say what samples are.
        sizes: micrometres per axis (Z, Y, X) or (Y, X); None if unknown.
        names: of the channels, samples included.
        notes: doubts, as in ``medseg.formats.source.Source``.
        remarks: decisions, likewise.
    """

    channels: int
    slices: int | None
    pages: tuple[int, ...]
    sample_axis: str = "C"
    alpha: bool = True
    sizes: tuple[float, ...] | None = None
    names: tuple[str, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


def page_layout(facts: PageFacts, description: str, declared: str = "") -> PageLayout:
    """The layout by ``declared``, else by the first page's description; without both, a guess and a note about it.

    Args:
        facts: what the pages are.
        description: of the first page.
        declared: axes of the configuration, as in ``medseg.reading.Reading``; empty: none.

    Raises:
        FormatError: for time points, several series, or axes that are not those of the pages.
    """
    found = described(facts, description.strip().strip("\0"))
    if declared:
        found = replace(found, axes=_lengths(facts, declared, dict(found.axes or ())), pages=None)
    if found.axes is not None:
        return _arranged(facts, found, found.axes)
    layout = PageLayout(1, None, (0,), names=found.names)
    if facts.count > 1:
        doubt = ("tiff-pages", _PLAIN_STACK.format(count=facts.count))
        layout = PageLayout(1, facts.count, tuple(range(facts.count)), notes=(doubt,))
    return replace(layout, remarks=found.remarks)


def described(facts: PageFacts, text: str) -> Description:
    """What the first page's description says."""
    if is_ome(text):
        return ome(facts, text)
    if is_imagej(text):
        return imagej(facts, text)
    return shaped(facts, text) if is_shaped(text) else Description()


def _lengths(facts: PageFacts, declared: str, known: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The axes that the configuration declares, with their lengths.

    Where one length is left open, it is what remains of pages and samples; of several, the file's own come first.

    Args:
        facts: what the pages are.
        declared: the axes.
        known: lengths by the file's own description.

    Raises:
        FormatError: if these axes are not those of the pages.
    """
    given = {letter: int(length or 0) for letter, length in re.findall("([TZCS])([0-9]*)", declared)}
    if facts.samples > 1 and not given:
        cause = f"`axes: {declared}`, and a pixel has {facts.samples} samples"
        raise FormatError(facts.path, cause, "say what they are: `axes: YXC` if they are channels")
    if facts.samples > 1 or declared[-1] in "CS":
        last = list(given)[-1]
        given[last] = given[last] or facts.samples
    planes = facts.count * facts.samples
    left_open = [letter for letter, length in given.items() if not length]
    # A description leaves out axes of length 1.
    otherwise = 1 if planes == 1 or (known and known.keys() <= given.keys()) else 0
    for letter in left_open if planes == 1 else left_open[:-1]:
        given[letter] = known.get(letter, otherwise)
    if 0 in [length for letter, length in given.items() if letter != (left_open or [""])[-1]]:
        example = re.sub(f"{left_open[-1]}(?=[A-Z])", f"{left_open[-1]}2", declared)
        cause = f"`axes: {declared}` leaves open how {facts.count} pages are divided into {', '.join(left_open)}"
        raise FormatError(facts.path, cause, f"write the length of one behind its letter, as in `axes: {example}`")
    rest = math.prod(length for length in given.values() if length)
    given = {letter: length or planes // rest for letter, length in given.items()}
    if math.prod(given.values()) != planes:
        shown = " x ".join(f"{letter} {length}" for letter, length in given.items()) or "one plane"
        samples = "" if facts.samples == 1 else f" of {facts.samples} samples"
        pages = f"1 page{samples} is" if facts.count == 1 else f"{facts.count} pages{samples} are"
        cause = f"{pages} not {shown}, which `axes: {declared}` declares"
        raise FormatError(facts.path, cause, "correct `axes`, or leave the case out: `exclude: [ID]`")
    return tuple(given.items())


def _arranged(facts: PageFacts, found: Description, axes: Axes) -> PageLayout:
    """The layout of pages whose axes are known.

    Raises:
        FormatError: for time points, or other numbers of pages and samples than the axes have.
    """
    paged, sampled = _without_samples(facts, axes)
    lengths = {"C": 1, "Z": 1, "T": 1, **dict(paged)}
    if math.prod(lengths.values()) > MAX_PLANES or lengths["T"] != 1:
        cause = f"{lengths['T']} time points, {lengths['Z']} slices, {lengths['C']} channels"
        raise FormatError(facts.path, cause, FIX_AXES)
    volume = "Z" in dict(axes)
    sizes, remarks = _sizes(found.sizes, volume)
    channels = lengths["C"] * (1 if sampled == "Z" else facts.samples)
    return PageLayout(
        lengths["C"],
        lengths["Z"] if volume and sampled != "Z" else None,
        _order(facts, paged, lengths, found.pages),
        "Z" if sampled == "Z" else "C",
        sampled in ("", "S"),
        sizes,
        found.names if len(found.names) == channels else (),
        remarks=(*found.remarks, *remarks),
    )


def _without_samples(facts: PageFacts, axes: Axes) -> tuple[Axes, str]:
    """The axes that pages run along, and the letter of the one that is in the samples of a pixel; empty: none is."""
    *rest, last = axes or [("", 1)]
    if facts.samples == 1:
        return [(letter, length) for letter, length in axes if letter != "S"], ""
    letter, length = last
    if length != facts.samples or letter == "T":
        shown = ", ".join(f"{letter} {length}" for letter, length in axes) or "rows and columns alone"
        cause = f"the description has {shown}; a pixel has {facts.samples} samples"
        raise FormatError(facts.path, cause, "say what pages and samples are by `axes`, as in `axes: ZYXC`")
    return rest, letter


def _order(facts: PageFacts, axes: Axes, lengths: Mapping[str, int], pages: Sequence[int] | None) -> tuple[int, ...]:
    """Pages by (channel, slice) from axes listed with the slowest first; ``pages``: page of each plane."""
    planes = math.prod(lengths.values())
    found = range(facts.count) if pages is None else pages
    if len(found) != planes:
        raise FormatError(facts.path, f"{len(found)} pages, but the description has {planes} planes")
    steps, step = {}, 1
    for name, length in reversed(axes):
        steps[name], step = step, step * length
    zs, cs = range(lengths["Z"]), range(lengths["C"])
    return tuple(found[c * steps.get("C", 0) + z * steps.get("Z", 0)] for c in cs for z in zs)


def _sizes(given: Mapping[str, float], volume: bool) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """Micrometres per axis where all are known, and a remark where only some are."""
    axes = "ZYX" if volume else "YX"
    known = [given[axis] for axis in axes if axis in given]
    if len(known) == len(axes):
        return tuple(known), ()
    return None, (("pixel size known for some axes only: not used",) if known else ())
