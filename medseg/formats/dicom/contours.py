"""Contours of a DICOM structure set (RTSTRUCT, PS3.3 A.19.3, C.8.8.5 and C.8.8.6), drawn on the grid of their image.

The file says no grid: its points are in patient coordinates. A voxel belongs to a structure if its centre lies inside
an odd number of the structure's contours in its slice (so holes are contours within contours, or one that runs in and
out through a keyhole), or on one of them. Slices are found by position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.formats.dicom.header import DicomFile, foreign_errors
from medseg.formats.dicom.stack import LARGEST_MM, LPS_TO_RAS, TOLERANCE
from medseg.formats.drawn import Drawing
from medseg.formats.errors import FormatError
from medseg.formats.source import Source
from medseg.image.geometry import Geometry

STRUCTURE_SET_STORAGE = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OPEN = ("OPEN_PLANAR", "OPEN_NONPLANAR")
# Digits of a voxel's side that count: a contour through the centres of voxels comes back through them.
DIGITS = 4
FIX_SERIES = "give the contours that were drawn on this very image"


@dataclass(frozen=True, slots=True)
class Structure:
    """A structure (region of interest): its name, its closed contours (N, 3) in RAS+ mm, and how many others it has."""

    name: str
    contours: tuple[NDArray[np.float64], ...]
    open: int = 0


@dataclass(frozen=True, slots=True)
class Contours:
    """The structures of a file by number: voxels that come to be when they are drawn (``medseg.formats.drawn``)."""

    path: Path
    structures: dict[int, Structure] = field(repr=False)

    shape = (1, 1, 1, 1)
    dtype = np.dtype(np.uint8)

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Raise ``FormatError``: there are no voxels before there is a grid."""
        cause = "contours (RTSTRUCT), not voxels: they are drawn on the grid of an image"
        raise FormatError(
            self.path, cause, "give the file as the label of a case, and the folder of its series as image"
        )

    def draw(self, grid: Geometry, numbers: Sequence[int]) -> Drawing:
        """The structures ``numbers`` as a label map of these numbers; where two overlap, the earlier one stays.

        Raises:
            FormatError: if the grid is no volume in units of length, or contours do not lie in its slices.
        """
        try:
            affine = grid.in_unit("mm").affine if grid.dims == 3 else None
        except GeometryError:
            affine = None
        if affine is None:
            cause = f"contours in mm, on an image of {grid.dims} axes in {grid.unit}"
            raise FormatError(self.path, cause, "give the series that they were drawn on as the image")
        to_voxel = np.linalg.inv(affine).astype(np.float64)
        inside = {n: self._in_voxels(self.structures[n], to_voxel) for n in numbers}
        axis = _slice_axis([points for contours in inside.values() for points in contours])
        labels = np.zeros(grid.shape, np.min_scalar_type(max([1, *numbers])))
        slices, twice, skipped = np.moveaxis(labels, axis, 0), 0, False
        for number in numbers:
            by_slice = self._by_slice(self.structures[number].name, inside[number], axis, grid.shape[axis])
            skipped |= self._skips(self.structures[number].name, sorted(by_slice))
            for place, polygons in by_slice.items():
                mask = filled(slices.shape[1:], polygons)
                twice += int((mask & (slices[place] != 0)).sum())
                slices[place][mask & (slices[place] == 0)] = number
        return Drawing(
            labels,
            twice,
            ("a structure has no contour in slices between others: nothing is filled in",) if skipped else (),
        )

    def _in_voxels(self, structure: Structure, to_voxel: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The contours of a structure in voxels."""
        if structure.open:
            cause = f"structure {structure.name!r} has {structure.open} open contours, expected closed ones"
            raise FormatError(self.path, cause, "close them in the program that drew them")
        moved = [points @ to_voxel[:3, :3].T + to_voxel[:3, 3] for points in structure.contours]
        return [np.round(points, DIGITS) for points in moved]

    def _by_slice(
        self, name: str, contours: Sequence[NDArray[np.float64]], axis: int, slices: int
    ) -> dict[int, list[NDArray[np.float64]]]:
        """The contours of a structure by slice, without that axis."""
        found: dict[int, list[NDArray[np.float64]]] = defaultdict(list)
        for points in contours:
            place = round(float(points[:, axis].mean()))
            off = float(np.abs(points[:, axis] - place).max())
            if off > TOLERANCE or not 0 <= place < slices:
                where = f"{off:.2g} slices from slice {place}" if off > TOLERANCE else f"in slice {place}"
                cause = f"a contour of structure {name!r} lies {where} of an image with slices 0 to {slices - 1}"
                raise FormatError(self.path, cause, FIX_SERIES, "affine-mismatch")
            found[place].append(np.delete(points, axis, axis=1))
        return found

    def _skips(self, name: str, places: Sequence[int]) -> bool:
        """Whether a structure leaves out slices; one that has contours in every second or third alone is refused."""
        gaps = np.diff(places)
        if len(gaps) > 1 and gaps.min() > 1:
            cause = f"structure {name!r} has contours in every {gaps.min()}. slice at most"
            raise FormatError(self.path, cause, "interpolate them in the program that drew them", "slice-gap")
        return bool((gaps > 1).any())


def _slice_axis(contours: Sequence[NDArray[np.float64]]) -> int:
    """The voxel axis along which contours extend least; the last one without any."""
    spread = np.max([np.ptp(points, axis=0) for points in contours], axis=0) if contours else np.array([1, 1, 0])
    return int(np.argmin(spread))


def filled(shape: tuple[int, ...], polygons: Collection[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Which pixels (R, C) lie inside an odd number of polygons (N, 2), or on one; pixel centres are whole numbers."""
    from skimage.measure import grid_points_in_poly

    inside, edge = np.zeros(shape, bool), np.zeros(shape, bool)
    for points in polygons:
        low = np.maximum(np.floor(points.min(axis=0)), 0).astype(int)
        high = np.minimum(np.ceil(points.max(axis=0)) + 1, shape).astype(int)
        if len(points) < 3 or (low >= high).any():
            continue
        found = grid_points_in_poly(tuple(int(n) for n in high - low), points - low, binarize=False)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        inside[box] ^= found == 1
        # On a corner or on a side.
        edge[box] |= found > 1
    return inside | edge


def read_contours(path: Path, header: DicomFile) -> Source:
    """A structure set as a label file whose voxels are drawn later; segments are its structures by ROINumber.

    Structures without a closed contour (points of reference) are left out. If a number cannot be a label value,
    structures are numbered from 1 in the order of the file, which is a remark.
    """
    with foreign_errors(path, header.name):
        named = header.fields.get("StructureSetROISequence") or []
        names = {int(item.ROINumber): str(item.get("ROIName", "")).strip() for item in named}
        found: dict[int, Structure] = {}
        for item in header.fields.get("ROIContourSequence") or []:
            contours = item.get("ContourSequence") or []
            kinds = [str(one.get("ContourGeometricType", "")) for one in contours]
            closed = [_points(path, one) for one, kind in zip(contours, kinds, strict=True) if kind in CLOSED]
            number, others = int(item.ReferencedROINumber), sum(kind in OPEN for kind in kinds)
            if closed or others:
                before = found.get(number, Structure("", ()))
                found[number] = Structure(names.get(number, ""), (*before.contours, *closed), before.open + others)
    if not found:
        cause = "contours (RTSTRUCT) without any closed contour"
        raise FormatError(path, cause, "export them again from the program that drew them")
    renumbered = min(found) < 1 or max(found) > 65535
    structures = dict(enumerate(found.values(), start=1)) if renumbered else dict(sorted(found.items()))
    remark = (f"structures numbered from 1 to {len(found)}",) if renumbered else ()
    segments = {number: one.name for number, one in structures.items() if one.name}
    return Source(path, Contours(path, structures), segments=segments, remarks=remark)


def _points(path: Path, contour: Any) -> NDArray[np.float64]:
    """The points (N, 3) of a contour, RAS+ mm; read as text at once, since there may be millions."""
    raw = contour.get_item("ContourData").value
    parts = raw.decode("ascii").split("\\") if isinstance(raw, bytes) else list(raw or ())
    numbers = np.array(parts, dtype=np.float64)
    if numbers.size == 0 or numbers.size % 3 or not (np.abs(numbers) < LARGEST_MM).all():
        raise FormatError(path, "a contour of impossible points", "export the contours again")
    points: NDArray[np.float64] = numbers.reshape(-1, 3) * np.diag(LPS_TO_RAS)[:3]
    return points
