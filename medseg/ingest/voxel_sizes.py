"""The voxel sizes of a cohort, which a trained model carries along: what it was never shown is a doubt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.image.geometry import Geometry, canonical_axes


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
        low, median, high = (tuple(map(float, of(sizes, axis=0))) for of in (np.min, np.median, np.max))
        return cls(unit, low, median, high)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"unit": self.unit, "low": list(self.low), "median": list(self.median), "high": list(self.high)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> VoxelSizes:
        """The inverse of ``to_json``; its values have been checked (``medseg.description``)."""
        return cls(value["unit"], tuple(value["low"]), tuple(value["median"]), tuple(value["high"]))


def size_of(grid: Geometry) -> tuple[float, ...]:
    """Sizes of a grid's voxels per axis, in its unit, axes in the order of RAS+."""
    return grid.reoriented(*canonical_axes(grid)).spacing
