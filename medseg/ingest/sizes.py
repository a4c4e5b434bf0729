"""Sizes of voxels, each with its unit: what a data set's are, and which one cannot be right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.image.geometry import MICROMETRES, Geometry, measured_alike

# A voxel size that is so many times off is an error of units or of a tag, not another microscope or scanner …
FAR = 5.0
# … along the coarsest axis of a volume, since thin and thick slices of one organ differ by nearly as much.
FAR_COARSEST = 10.0
# Resolutions of printers and screens, in dots per inch, that programs write where nobody measured anything.
PRINTING = (72, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200, 2400)
# Quotient of two sizes -> which units were mixed up.
MIX_UPS = {
    10.0: "centimetres taken for millimetres",
    1e3: "millimetres taken for micrometres, or micrometres for nanometres",
    1e4: "centimetres taken for micrometres",
    1e6: "metres taken for micrometres",
    25.4: "inches taken for millimetres",
    25_400.0: "inches taken for micrometres",
}
# How close a size must be to one of these to be explained by it.
NEAR = 0.02


@dataclass(frozen=True, slots=True)
class SizeRange:
    """The voxel sizes of some images.

    Attributes:
        unit: ``mm``, ``um`` or ``px``.
        low, high: least and greatest size of the finest axis, of the next, and so on.
    """

    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, grids: Sequence[Geometry]) -> SizeRange:
        """The range of these grids, which have one number of axes and comparable units."""
        unit = grids[0].unit
        rows = [_by_size(grid, unit) for grid in grids]
        return cls(unit, tuple(min(axis) for axis in zip(*rows, strict=True)), tuple(map(max, zip(*rows, strict=True))))

    @classmethod
    def median(cls, grids: Sequence[Geometry]) -> SizeRange:
        """The median of these grids, of logarithms, so that one wild size does not move it."""
        unit = grids[0].unit
        middle = tuple(float(v) for v in np.exp(np.median(np.log([_by_size(grid, unit) for grid in grids]), axis=0)))
        return cls(unit, middle, middle)

    def __str__(self) -> str:
        ends = zip(self.low, self.high, strict=True)
        return (
            " x ".join(f"{a:.4g}" if f"{a:.4g}" == f"{b:.4g}" else f"{a:.4g}-{b:.4g}" for a, b in ends)
            + f" {self.unit}"
        )

    def doubt(self, grid: Geometry, whose: str) -> str:
        """What is strange about the voxel size of a grid; empty: nothing, or there are no lengths to compare.

        Args:
            grid: of an image.
            whose: whose sizes these are, for the sentence: ``the median of the data set``.
        """
        if "px" in (grid.unit, self.unit) or not measured_alike(grid, Geometry.from_spacing((1,), (1.0,), self.unit)):
            return ""
        sizes = _by_size(grid, self.unit)
        if len(sizes) != len(self.low):
            return ""
        limits = [FAR] * len(sizes) if len(sizes) < 3 else [FAR] * (len(sizes) - 1) + [FAR_COARSEST]
        quotients = [_beyond(*row) for row in zip(sizes, self.low, self.high, strict=True)]
        far = [q for q, limit in zip(quotients, limits, strict=True) if max(q, 1 / q) > limit]
        if not far:
            return ""
        worst = max(far, key=lambda q: abs(math.log(q)))
        times = f"{worst:.3g} times larger" if worst > 1 else f"{1 / worst:.3g} times smaller"
        own = " x ".join(f"{size:.4g}" for size in grid.spacing)
        because = likely_cause(grid, worst)
        return f"a voxel of {own} {grid.unit} is {times} than {whose} ({self})" + (f": {because}" if because else "")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"unit": self.unit, "low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SizeRange:
        """The inverse of ``to_json``.

        Raises:
            ValueError: if it is none: a model folder may come from anywhere.
        """
        unit, low, high = value["unit"], value["low"], value["high"]
        real = isinstance(low, list) and isinstance(high, list) and 2 <= len(low) == len(high) <= 3
        numbers = [*low, *high] if real else [None]
        if unit not in (*MICROMETRES, "px") or not all(
            isinstance(n, int | float) and math.isfinite(n) and n > 0 for n in numbers
        ):
            raise ValueError(f"sizes: found {str(value)[:80]!r}; expected unit, low and high, a size above 0 per axis")
        return cls(unit, tuple(map(float, low)), tuple(map(float, high)))


def likely_cause(grid: Geometry, quotient: float) -> str:
    """The mistake that makes such a voxel size, if it looks like a known one; empty: none does.

    Args:
        grid: with that voxel size, a length.
        quotient: of this size and the one expected.
    """
    finest = min(grid.in_unit("um").spacing)
    dots = next((n for n in PRINTING if abs(finest * n / 25_400.0 - 1) < 1e-3), None)
    if dots is not None:
        return f"{dots} dots per inch, a resolution for printing, not of the image"
    if any(size == 1.0 for size in grid.spacing):
        return "1 is what programs write where nobody entered a size"
    for factor, mistake in MIX_UPS.items():
        if abs(max(quotient, 1 / quotient) / factor - 1) < NEAR:
            return f"{mistake}, or the reverse"
    return ""


def _by_size(grid: Geometry, unit: str) -> list[float]:
    """Sizes of a voxel, the finest first: scanners and programs name axes in different orders."""
    return sorted(grid.in_unit(unit).spacing)


def _beyond(size: float, low: float, high: float) -> float:
    """How many times a size is beyond the nearer end of a range; 1: it is inside."""
    return size / high if size > high else size / low if size < low else 1.0
