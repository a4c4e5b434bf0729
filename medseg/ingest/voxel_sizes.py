"""The voxel sizes of a cohort, which a trained model carries along: what cannot be right beside them is a doubt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import Geometry, canonical_axes, measured_alike

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
class VoxelSizes:
    """Sizes of voxels per axis, axes as in RAS+ (of pictures and TIFF, as stored).

    Attributes:
        unit: ``mm``, ``um`` or ``px``.
        low, median, high: over the images of a cohort, per axis.
    """

    unit: str
    low: tuple[float, ...]
    median: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, grids: Iterable[Geometry]) -> VoxelSizes:
        """Those of images, at least one, all of which have a size or none has; in the unit of the first."""
        grids = list(grids)
        unit = grids[0].unit
        sizes = np.array([size_of(grid.in_unit(unit)) for grid in grids])
        low, median, high = (tuple(map(float, of(sizes, axis=0))) for of in (np.min, _middle, np.max))
        return cls(unit, low, median, high)

    @property
    def middle(self) -> VoxelSizes:
        """The median alone, as a range."""
        return replace(self, low=self.median, high=self.median)

    def __str__(self) -> str:
        ends = zip(sorted(self.low), sorted(self.high), strict=True)
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
        # Finest first: scanners and programs name axes in different orders.
        sizes = sorted(grid.in_unit(self.unit).spacing)
        if len(sizes) != len(self.low):
            return ""
        limits = [FAR] * len(sizes) if len(sizes) < 3 else [FAR] * (len(sizes) - 1) + [FAR_COARSEST]
        quotients = [_beyond(*row) for row in zip(sizes, sorted(self.low), sorted(self.high), strict=True)]
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
        return {"unit": self.unit, "low": list(self.low), "median": list(self.median), "high": list(self.high)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> VoxelSizes:
        """The inverse of ``to_json``; its values have been checked (``medseg.description``)."""
        return cls(value["unit"], tuple(value["low"]), tuple(value["median"]), tuple(value["high"]))


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


def size_of(grid: Geometry) -> tuple[float, ...]:
    """Sizes of a grid's voxels per axis, in its unit, axes in the order of RAS+."""
    return grid.reoriented(*canonical_axes(grid)).spacing


def _middle(sizes: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The median of sizes along an axis; of two in the middle the geometric mean, which no wild size moves far."""
    ordered = np.sort(sizes, axis=axis)
    below, above = (np.take(ordered, at, axis=axis) for at in ((len(sizes) - 1) // 2, len(sizes) // 2))
    middle: NDArray[np.float64] = np.where(below == above, below, np.sqrt(below * above))
    return middle


def _beyond(size: float, low: float, high: float) -> float:
    """How many times a size is beyond the nearer end of a range; 1: it is inside."""
    return size / high if size > high else size / low if size < low else 1.0
