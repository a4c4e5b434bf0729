"""Label maps in several planes: three equal ones are one, and colours are numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FIX_MASK, FormatError
from medseg.image.recode import colours_of

# Colours listed in a message, and from how many on a picture is no mask.
COLOURS_SHOWN, COLOURS_OF_MASKS = 6, 64


def label_plane(path: Path, planes: NDArray[Any], *, colours: bool) -> NDArray[Any]:
    """The one map (*S) that planes (C,*S) are.

    Args:
        path: the file.
        planes: as stored.
        colours: whether the values asked for are colours, one number each (``colours_of``).

    Raises:
        FormatError: for planes that differ; where colours are asked for, for other than 8 bits or RGB.
    """
    # Pictures in grey are often stored as RGB; two equal channels of a volume are no such thing.
    equal = len(planes) == 1 or (len(planes) == 3 and all(np.array_equal(planes[0], plane) for plane in planes[1:]))
    if not colours:
        if not equal:
            raise FormatError(path, _several(planes), _fix(planes))
        first: NDArray[Any] = planes[0]
        return first
    if planes.dtype == np.bool_ or planes.dtype.kind not in "iu" or len(planes) not in (1, 3):
        cause = f"{len(planes)} planes of {planes.dtype}, expected a mask in colour (RGB, 8 bits) as `labels` says"
        raise FormatError(path, cause, "write values in place of colours into `labels`")
    if planes.size and (planes.min() < 0 or planes.max() > 255):
        cause = f"values from {planes.min()} to {planes.max()}, expected colours of 8 bits as `labels` says"
        raise FormatError(path, cause, "write values in place of colours into `labels`")
    return colours_of(planes)


def _several(planes: NDArray[Any]) -> str:
    """What is in a file of several planes that differ."""
    found = _colours(planes)
    if not found:
        return f"label file with {len(planes)} channels, expected one"
    shown = ", ".join(f"#{number:06x} ({count} pixels)" for number, count in found[:COLOURS_SHOWN])
    more = f" and {len(found) - COLOURS_SHOWN} more" if len(found) > COLOURS_SHOWN else ""
    return f"a label file in colour: {shown}{more}"


def _fix(planes: NDArray[Any]) -> str:
    found = _colours(planes)
    if not found or len(found) > COLOURS_OF_MASKS:
        return FIX_MASK
    other = next((f"#{number:06x}" for number, _ in found if number), "#ff0000")
    return f'name the colours: `labels: {{NAME: "{other}"}}`, with `background: ["#000000"]` or what it is'


def _colours(planes: NDArray[Any]) -> list[tuple[int, int]]:
    """Colours of a picture with their pixels, the most frequent first; none of what is no RGB picture of 8 bits."""
    if len(planes) != 3 or planes.dtype != np.uint8:
        return []
    numbers, counts = np.unique(colours_of(planes), return_counts=True)
    return sorted(zip(numbers.tolist(), counts.tolist(), strict=True), key=lambda one: -one[1])
