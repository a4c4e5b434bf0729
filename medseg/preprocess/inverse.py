"""The record of what preparation did to an image's grid, by which predictions are put back on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medseg.image.geometry import Geometry


@dataclass(frozen=True, slots=True)
class KeptBox:
    """The box of an image that preparation keeps.

    Attributes:
        axes, flips: how the image is reoriented first (see ``Geometry.reoriented``).
        start, shape: the box of the reoriented image.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InverseRecord:
    """What was done to a case's grid, enough to undo it.

    Attributes:
        native: grid of the file.
        axes, flips: reorientation (see ``Geometry.reoriented``).
        start, shape: box kept after reorientation.
        prepared_shape: voxels after resampling that box.
    """

    native: Geometry
    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    prepared_shape: tuple[int, ...]

    @property
    def box(self) -> KeptBox:
        """The part of the image that was kept."""
        return KeptBox(self.axes, self.flips, self.start, self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size of the kept box, before resampling, in the unit of the grid."""
        return self.native.reoriented(self.axes, self.flips).spacing

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "native": self.native.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InverseRecord:
        """The inverse of ``to_json``."""
        rest = {k: tuple(v) for k, v in value.items() if k != "native"}
        return cls(native=Geometry.from_json(value["native"]), **rest)
