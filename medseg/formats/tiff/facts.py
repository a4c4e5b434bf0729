"""What is known of the pages of a TIFF: what they are by their tags, and what a description says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
class Description:
    """What a file says of its pages.

    Attributes:
        axes: (letter, length) of each axis beside rows and columns, the slowest first; None: it says nothing of them.
        pages: page of each plane in that order; None: one after the other.
        sizes: micrometres per pixel of X, Y and Z, as far as they are known.
        names: of the channels.
        remarks: decisions, as in ``medseg.formats.source.Source``.
    """

    axes: tuple[tuple[str, int], ...] | None = None
    pages: tuple[int, ...] | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(slots=True)
class SizeReader:
    """Sizes of pixels from the words of a description: what is no size is left out, with a remark.

    The pixels can be read whatever stands there.

    Attributes:
        sizes: micrometres by axis.
        remarks: what was left out.
    """

    sizes: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def add(self, axis: str, size: object, factor: float | None) -> None:
        """Take the size of a pixel along an axis, a number or a word, in units of ``factor`` micrometres."""
        if factor is None or size is None:
            return
        try:
            value = float(str(size)) * factor
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > 0:
            self.sizes[axis] = value
        else:
            self.remarks.append(f"pixel size {str(size)[:20]!r} along {axis}: not used")
