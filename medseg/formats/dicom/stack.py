"""From slices with positions to one grid (DICOM PS3.3 C.7.6.2): the order of slices, the affine, and what forbids it.

Slices are sorted by their place along the normal of the image plane, never by number, time or file name. DICOM's
patient coordinates (left, posterior, superior) become RAS+ by turning the first two axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS

# A slice may be this far from its place in an even grid, in voxels; the same for all comparisons of slices.
TOLERANCE = AFFINE_TOLERANCE_VOXELS
# Directions of rows and columns: largest error of length, and cosine between them.
DIRECTION_ERROR = 0.01
# Two slices closer than this have one position, in millimetres.
SAME_PLACE_MM = 1e-3
LARGEST_MM = 1e6

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
FIX_WHOLE = "export the whole series again"
FIX_SPLIT = "keep only the slices of one stack in the folder"


@dataclass(frozen=True, slots=True)
class Plane:
    """Position, orientation and pixel spacing of one slice.

    Attributes:
        name: how messages call the slice: its file's name, or a frame of it.
        position: centre of the first pixel in patient coordinates (LPS), mm.
        orientation: direction along a row, then along a column, as stored (LPS).
        spacing: distance between rows, then between columns, mm.
        thickness: distance to the next slice by the header, used for a stack of one; 0 if the header has none.
    """

    name: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float = 0.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices as a grid.

    Attributes:
        order: indices of the given planes, along the slice axis.
        affine: voxel (column, row, slice) -> RAS+ mm.
        tilt: in-plane shift of the last slice against an upright stack, in voxels (gantry tilt).
    """

    order: tuple[int, ...]
    affine: NDArray[np.float64]
    tilt: float


def normal_of(path: Path, plane: Plane) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Unit directions along a row, along a column, and the normal of a plane (LPS).

    Raises:
        FormatError: if they are not (nearly) of length 1 and at right angles, or the pixel spacing is impossible.
    """
    across, down = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    lengths = np.array([np.linalg.norm(across), np.linalg.norm(down)])
    if not (abs(lengths - 1) <= DIRECTION_ERROR).all():
        raise FormatError(path, f"{plane.name}: ImageOrientationPatient is no pair of directions", FIX_WHOLE)
    across, down = across / lengths[0], down / lengths[1]
    if abs(across @ down) > DIRECTION_ERROR:
        cause = f"{plane.name}: rows and columns are not at right angles (cosine {across @ down:.3g})"
        raise FormatError(path, cause, FIX_WHOLE)
    if not _possible(plane) or min(plane.spacing) <= 0 or plane.thickness < 0:
        raise FormatError(path, f"{plane.name}: impossible pixel spacing, position or thickness", FIX_WHOLE)
    normal = np.cross(across, down)
    return across, down, normal / np.linalg.norm(normal)


def _possible(plane: Plane) -> bool:
    """Whether no number is NaN, infinite, or beyond anything that fits into a scanner."""
    return bool((np.abs([*plane.spacing, *plane.position, plane.thickness]) < LARGEST_MM).all())


def stack_planes(path: Path, planes: Sequence[Plane], rows: int, columns: int) -> Stack:
    """Arrange slices of one size into a grid.

    Raises:
        FormatError: codes ``slice-mixed`` (orientation or spacing differ), ``slice-twice`` (two at one place) and
            ``slice-gap`` (one is missing, or distances are uneven by more than ``TOLERANCE``).
    """
    first = planes[0]
    across, down, normal = normal_of(path, first)
    _require_alike(path, planes, max(rows, columns))
    places = np.array([np.array(p.position) @ normal for p in planes])
    order = tuple(int(i) for i in np.argsort(places, kind="stable"))
    along = places[list(order)]
    _require_even(path, [planes[i] for i in order], along)
    start, end = np.array(planes[order[0]].position), np.array(planes[order[-1]].position)
    if len(planes) == 1:
        if first.thickness <= 0:
            raise FormatError(path, f"{first.name}: one slice of unknown thickness", "add SliceThickness", "slice-gap")
        step = normal * first.thickness
    else:
        step = (end - start) / (len(planes) - 1)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([across * first.spacing[1], down * first.spacing[0], step], axis=1)
    matrix[:3, 3] = start
    pixel = min(first.spacing)
    shear = step - normal * (step @ normal)
    _require_straight(path, [planes[i] for i in order], normal, shear, pixel)
    tilt = float(np.linalg.norm(shear)) * (len(planes) - 1) / pixel
    return Stack(order, LPS_TO_RAS @ matrix, tilt)


def _require_alike(path: Path, planes: Sequence[Plane], extent: int) -> None:
    """One orientation and pixel spacing: no pixel may move by more than the tolerance."""
    first = planes[0]
    for plane in planes[1:]:
        turned = max(abs(a - b) for a, b in zip(plane.orientation, first.orientation, strict=True))
        if not turned * extent <= TOLERANCE:
            cause = f"{plane.name}: orientation differs from that of {first.name} by {turned:.3g}"
            raise FormatError(path, cause, FIX_SPLIT, "slice-mixed")
        grown = max(abs(a / b - 1) for a, b in zip(plane.spacing, first.spacing, strict=True))
        if not grown * extent <= TOLERANCE:
            cause = f"{plane.name}: pixel spacing {plane.spacing}, {first.name} has {first.spacing}"
            raise FormatError(path, cause, FIX_SPLIT, "slice-mixed")
        if not _possible(plane):
            raise FormatError(path, f"{plane.name}: impossible position", FIX_WHOLE, "slice-position")


def _require_even(path: Path, planes: Sequence[Plane], along: NDArray[np.float64]) -> None:
    """No two slices at one place, none missing; ``planes`` in their order, ``along`` their places on the normal."""
    if len(planes) < 2:
        return
    gaps = np.diff(along)
    near = int(np.argmin(gaps))
    if gaps[near] < SAME_PLACE_MM:
        cause = f"{planes[near].name} and {planes[near + 1].name} have one position, {along[near]:.2f} mm"
        raise FormatError(path, cause, "keep one of them (or name one `series`)", "slice-twice")
    even = np.linspace(along[0], along[-1], len(along))
    off = float(np.abs(along - even).max()) / (even[1] - even[0])
    if off <= TOLERANCE:
        return
    usual = float(np.median(gaps))
    # The gap furthest from the usual one, which may be the narrowest: a slice that is too many or moved; of equals the
    # widest, where one is missing.
    unlike = np.abs(gaps - usual)
    odd = int(np.argmax(np.where(unlike > unlike.max() - SAME_PLACE_MM, gaps, -np.inf)))
    where = f"between {planes[odd].name} at {along[odd]:.2f} mm and {planes[odd + 1].name} at {along[odd + 1]:.2f} mm"
    missing = round(gaps[odd] / float(gaps.min())) - 1
    hint = f", {missing} missing" if missing and usual < 0.75 * gaps[odd] else ""
    cause = f"gap of {gaps[odd]:.2f} mm {where}; usual distance {usual:.2f} mm{hint}"
    raise FormatError(path, cause, FIX_WHOLE, "slice-gap")


def _require_straight(
    path: Path, planes: Sequence[Plane], normal: NDArray[np.float64], shear: NDArray[np.float64], pixel: float
) -> None:
    """Raise ``FormatError`` unless all slices are on one line.

    Args:
        path: for messages.
        planes: in their order.
        normal: of the image plane.
        shear: in-plane part of the step between two slices.
        pixel: size of a pixel, mm.
    """
    start = np.array(planes[0].position)
    for number, plane in enumerate(planes):
        way = np.array(plane.position) - start
        off = float(np.linalg.norm(way - normal * (way @ normal) - number * shear))
        if off > TOLERANCE * pixel:
            cause = f"{plane.name}: shifted by {off:.2f} mm in its plane against the line through the other slices"
            raise FormatError(path, cause, FIX_SPLIT, "slice-mixed")
