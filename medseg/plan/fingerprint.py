"""The fingerprint: properties of a data set in a few numbers (Isensee et al. 2021, supplementary note 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import PlanError
from medseg.records import as_written, read_record, write_record

# Written for people who read the file; computed from the rows of the cases.
DERIVED = ("cases", "median_shape", "median_spacing", "p10_spacing")
MAKER = "medseg fingerprint"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Properties of the data that planning uses; axes in canonical orientation, after cropping to the non-zero box.

    Attributes:
        dataset, dims, channels, classes (background included), subjects: as in the manifest.
        unit: unit of spacing: mm, um or px.
        oriented: whether axes have a world orientation.
        shapes: voxels per axis of each case, in the manifest's order.
        spacings: spacing per axis of each case.
        median_relative_size: median over cases of the share of a case's voxels inside its non-zero box.
        intensities: per channel: mean, std, median, p00_5, p99_5, min, max of foreground voxels.
        regions: the classes that each region unites, if regions are predicted.
        ignore: whether labels may leave voxels without annotation.
        object_diameter: median over all objects of the diameter, in ``unit``, of the disc or ball as large as one; 0:
            labels are classes, not object numbers, or no case has an object.
        objects: whether labels are object numbers.
    """

    dataset: str
    dims: int
    channels: tuple[str, ...]
    classes: int
    subjects: int
    unit: str
    oriented: bool
    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    median_relative_size: float
    intensities: tuple[Mapping[str, float], ...]
    regions: tuple[tuple[int, ...], ...] = ()
    ignore: bool = False
    object_diameter: float = 0.0
    objects: bool = False

    @property
    def cases(self) -> int:
        """Number of cases."""
        return len(self.shapes)

    @property
    def median_shape(self) -> tuple[float, ...]:
        """Median voxels per axis, each case on its own grid."""
        return _floats(np.median(self.shapes, axis=0))

    @property
    def median_spacing(self) -> tuple[float, ...]:
        """Median spacing per axis."""
        return _floats(np.median(self.spacings, axis=0))

    @property
    def p10_spacing(self) -> tuple[float, ...]:
        """10th percentile of the spacing per axis."""
        return _floats(np.percentile(self.spacings, 10, axis=0))

    def median_shape_at(self, spacing: Sequence[float]) -> tuple[float, ...]:
        """Median voxels per axis of the cases at ``spacing``; where that is 0.0, an axis stays as it is."""
        return _floats(np.median(self.shapes_at(spacing), axis=0))

    def shapes_at(self, spacing: Sequence[float]) -> list[tuple[int, ...]]:
        """Voxels per axis of every case at ``spacing``; where that is 0.0, an axis stays as it is."""
        own = np.asarray(self.spacings)
        target = np.where(np.asarray(spacing) == 0.0, own, spacing)
        shapes = np.maximum(np.round(own / target * self.shapes), 1)
        return [tuple(int(n) for n in shape) for shape in shapes]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: a line per case, and medians for people who read the file."""
        rows = {name: [" x ".join(map(str, row)) for row in getattr(self, name)] for name in ("shapes", "spacings")}
        medians = {name: getattr(self, name) for name in DERIVED}
        return {**asdict(self), **medians, **rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fingerprint:
        """The inverse of ``to_json``.

        Raises:
            PlanError: if a field is missing or unknown (a fingerprint of another version).
        """
        names = {f.name for f in fields(cls)}
        odd = sorted((set(value) - set(DERIVED)) ^ names)
        if odd:
            raise PlanError(
                f"fingerprint has other fields than this version of medseg: {odd}; run `medseg fingerprint` again"
            )
        found: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in names}
        for name, kind in (("shapes", int), ("spacings", float)):
            found[name] = tuple(tuple(kind(n) for n in row.split(" x ")) for row in found[name])
        found["regions"] = tuple(tuple(classes) for classes in found["regions"])
        return cls(**found)


def write_fingerprint(path: Path, fingerprint: Fingerprint) -> None:
    """Write ``fingerprint.json``."""
    write_record(path, fingerprint.to_json())


def read_fingerprint(path: Path) -> Fingerprint:
    """Read ``fingerprint.json``.

    Raises:
        DataError: if it is missing, damaged, or of another version.
        PlanError: if it has other fields than this version's.
    """
    facts = read_record(path, MAKER)
    with as_written(path, MAKER):
        return Fingerprint.from_json(facts)


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(v), 6) for v in values)
