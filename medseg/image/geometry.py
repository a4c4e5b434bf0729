"""Where voxels are: the grid of an image and its place in the world.

Axes are in array order. ``voxel_to_world`` maps voxel indices (centres of voxels) to world coordinates: for NIfTI,
millimetres in RAS+; for plain pictures, pixels or micrometres with the identity orientation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError

# Two grids agree if no corner of one is further than this from its place in the other, in voxels. Exact equality is
# a known false alarm: tools round affines differently when they write them.
AFFINE_TOLERANCE_VOXELS = 0.1
# Micrometres in the units of length of a world.
MICROMETRES = {"um": 1.0, "mm": 1000.0}


@dataclass(frozen=True, slots=True)
class Geometry:
    """A voxel grid.

    Attributes:
        shape: voxels per spatial axis, d of them (2 or 3).
        voxel_to_world: (d+1) x (d+1) homogeneous matrix as nested tuples (hashable, comparable).
        unit: unit of the world axes: ``mm``, ``um`` or ``px``.
    """

    shape: tuple[int, ...]
    voxel_to_world: tuple[tuple[float, ...], ...]
    unit: str = "mm"

    @classmethod
    def create(cls, shape: Sequence[int], affine: NDArray[Any], unit: str = "mm") -> Geometry:
        """Build from an affine matrix.

        Raises:
            GeometryError: for a matrix of the wrong size, with non-finite numbers, or singular.
        """
        matrix = np.asarray(affine, dtype=np.float64)
        rank = len(shape)
        if matrix.shape != (rank + 1, rank + 1):
            raise GeometryError(f"affine of shape {matrix.shape} for {rank} axes; expected {rank + 1} x {rank + 1}")
        if not np.isfinite(matrix).all() or _is_flat(matrix[:-1, :-1]):
            raise GeometryError(f"affine is singular or not finite: {matrix.tolist()}")
        return cls(tuple(int(n) for n in shape), tuple(tuple(float(v) for v in row) for row in matrix), unit)

    @classmethod
    def from_spacing(cls, shape: Sequence[int], spacing: Sequence[float], unit: str = "px") -> Geometry:
        """A grid with its first voxel centre at the origin and axes along the world's."""
        return cls.create(shape, np.diag([*spacing, 1.0]), unit)

    @property
    def affine(self) -> NDArray[np.float64]:
        """``voxel_to_world`` as a matrix."""
        return np.array(self.voxel_to_world)

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxel centres along each axis, in ``unit``."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:-1, :-1], axis=0))

    @property
    def voxel_volume(self) -> float:
        """Volume (area) of a voxel in ``unit`` cubed (squared)."""
        return float(abs(np.linalg.det(self.affine[:-1, :-1])))

    def in_unit(self, unit: str) -> Geometry:
        """The same grid, its world measured in another unit of length.

        Raises:
            GeometryError: if one of both is pixels, which have no length.
        """
        if unit == self.unit:
            return self
        if unit not in MICROMETRES or self.unit not in MICROMETRES:
            raise GeometryError(f"a grid in {self.unit} has no size in {unit}")
        affine = self.affine
        affine[:-1] *= MICROMETRES[self.unit] / MICROMETRES[unit]
        return Geometry.create(self.shape, affine, unit)

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Geometry:
        """The grid of the box that begins at voxel ``start`` and has ``shape`` voxels."""
        affine = self.affine
        affine[:-1, -1] += affine[:-1, :-1] @ np.asarray(start, dtype=np.float64)
        return Geometry.create(shape, affine, self.unit)

    def resampled(self, shape: Sequence[int]) -> Geometry:
        """The grid with ``shape`` voxels over the same extent (outer voxel edges stay where they are)."""
        factor = np.asarray(self.shape, dtype=np.float64) / np.asarray(shape, dtype=np.float64)
        affine = self.affine
        # Voxel centre 0 moves from half an old voxel to half a new voxel behind the common outer edge.
        affine[:-1, -1] += affine[:-1, :-1] @ ((factor - 1.0) / 2.0)
        affine[:-1, :-1] = affine[:-1, :-1] * factor
        return Geometry.create(shape, affine, self.unit)

    def reoriented(self, axes: Sequence[int], flips: Sequence[bool]) -> Geometry:
        """The grid after ``array.transpose(axes)`` and then reversing the axes marked in ``flips``."""
        shape = [self.shape[a] for a in axes]
        affine = self.affine
        linear = affine[:-1, :-1][:, list(axes)]
        origin = affine[:-1, -1].copy()
        for axis, flip in enumerate(flips):
            if flip:
                origin += linear[:, axis] * (shape[axis] - 1)
                linear[:, axis] *= -1.0
        affine[:-1, :-1] = linear
        affine[:-1, -1] = origin
        return Geometry.create(shape, affine, self.unit)

    def corner_distance_voxels(self, other: Geometry) -> float:
        """Largest distance between corresponding corner voxels of two grids of one shape, in voxels of ``self``.

        Lengths in another unit are converted; a grid in pixels is compared by its numbers.
        """
        if measured_alike(self, other):
            other = other.in_unit(self.unit)
        corners = np.array([[*c, 1.0] for c in itertools.product(*[(0, n - 1) for n in self.shape])])
        moved = corners @ np.array(other.voxel_to_world).T @ np.linalg.inv(self.affine).T
        return float(np.linalg.norm((moved - corners)[:, :-1], axis=1).max())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "shape": list(self.shape),
            "voxel_to_world": [list(r) for r in self.voxel_to_world],
            "unit": self.unit,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Geometry:
        """The inverse of ``to_json``."""
        return cls.create(value["shape"], np.array(value["voxel_to_world"]), value["unit"])


def _is_flat(linear: NDArray[np.float64]) -> bool:
    """Whether axes are of length 0, infinite, or in one plane; relative to their lengths, since voxels may be tiny."""
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(linear, axis=0)
    if not np.isfinite(lengths).all():
        return True
    return bool((lengths == 0).any() or abs(np.linalg.det(linear / lengths)) < 1e-6)


def measured_alike(one: Geometry, other: Geometry) -> bool:
    """Whether the sizes of two grids can be compared: both are lengths, or both are counted in pixels."""
    return one.unit == other.unit or (one.unit in MICROMETRES and other.unit in MICROMETRES)


def require_same_grid(found: Geometry, expected: Geometry, what: str) -> None:
    """Raise ``GeometryError`` unless two grids have one shape and agree within a tenth of a voxel at every corner."""
    if found.shape != expected.shape:
        raise GeometryError(f"{what}: shape {found.shape}, expected {expected.shape}")
    distance = expected.corner_distance_voxels(found)
    if distance > AFFINE_TOLERANCE_VOXELS:
        raise GeometryError(
            f"{what}: grids differ by {distance:.2f} voxels at a corner, allowed {AFFINE_TOLERANCE_VOXELS}"
        )


class Placement(NamedTuple):
    """How a grid lies within a larger one.

    Attributes:
        axes, flips: how the part is reoriented first (see ``Geometry.reoriented``).
        start: voxel of the whole at which the reoriented part begins.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]

    @property
    def turned(self) -> bool:
        """Whether axes of the part are in another order, or run the other way."""
        return self.axes != tuple(range(len(self.axes))) or any(self.flips)


def placement_in(part: Geometry, whole: Geometry) -> Placement | None:
    """Where the voxels of ``part`` lie among those of ``whole``; None if any is beside them, or beyond the edge.

    A voxel may be ``AFFINE_TOLERANCE_VOXELS`` from its place, as in ``require_same_grid``.
    """
    if (part.dims, part.unit) != (whole.dims, whole.unit):
        return None
    into = np.linalg.inv(whole.affine)
    steps = (into @ part.affine)[:-1, :-1]
    axes = tuple(int(a) for a in np.abs(steps).argmax(axis=1))
    if sorted(axes) != list(range(part.dims)):
        return None
    flips = tuple(bool(steps[axis, of] < 0) for axis, of in enumerate(axes))
    turned = part.reoriented(axes, flips)
    start = tuple(int(n) for n in np.rint((into @ turned.affine[:, -1])[:-1]))
    inside = all(s >= 0 and s + n <= most for s, n, most in zip(start, turned.shape, whole.shape, strict=True))
    if not inside or whole.cropped(start, turned.shape).corner_distance_voxels(turned) > AFFINE_TOLERANCE_VOXELS:
        return None
    return Placement(axes, flips, start)


def canonical_axes(geometry: Geometry) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Axis order and flips that bring a 3-D grid closest to RAS+; the identity for 2-D pictures.

    Returns:
        ``(axes, flips)`` for ``Geometry.reoriented`` and for ``array.transpose(axes)`` followed by flips.
    """
    if geometry.dims != 3:
        return tuple(range(geometry.dims)), (False,) * geometry.dims
    import nibabel

    orientation = nibabel.io_orientation(geometry.affine)
    axes = tuple(int(a) for a in np.argsort(orientation[:, 0]))
    return axes, tuple(bool(orientation[a, 1] < 0) for a in axes)
