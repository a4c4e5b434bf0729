"""Pictures in NIfTI files: grids of two axes in headers that describe three."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def add_third_axis(header: Any) -> None:
    """Give a header a third axis at right angles to the others, in place: what it says of one counts for nothing."""
    if not 0 < float(header["pixdim"][3]) < math.inf:
        header["pixdim"][3] = 1.0
    rows = ("srow_x", "srow_y", "srow_z")
    columns = np.array([header[row][:2] for row in rows], dtype=np.float64)
    with np.errstate(all="ignore"):  # what is not finite is found with the form
        first, second = (columns / np.linalg.norm(columns, axis=0)).T
        for row, value in zip(rows, np.cross(first, second), strict=True):
            header[row][2] = value


def in_plane(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 3 x 3 affine of the first two axes, in the two axes of the world that are closest to their plane.

    Where the plane is tilted against these, in two axes of its own, the first along the first column.
    """
    axes, origin = affine[:3, :2], affine[:3, 3]
    first, second = (axes / np.linalg.norm(axes, axis=0)).T
    away = int(np.argmax(np.abs(np.cross(first, second))))
    world = np.delete(np.eye(3), away, axis=0)
    if max(abs(first[away]), abs(second[away])) > 1e-3:
        second = second - first * (first @ second)
        world = np.stack([first, second / np.linalg.norm(second)])
    out = np.eye(3)
    out[:2, :2], out[:2, 2] = world @ axes, world @ origin
    return out + 0.0  # no negative zeros
