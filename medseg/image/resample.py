"""Change of grid: reorient, crop, resample. Images by splines, labels by nearest neighbour in integers.

Voxels are areas, not points: when a box is resampled, its outer edges stay where they are (``grid_mode`` of
``scipy.ndimage.zoom``), which is what ``Geometry.resampled`` assumes too. Voxel i of n new ones over m old ones has its
centre at (i + 1/2) m / n - 1/2 in old voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.image.geometry import Geometry, Placement
from medseg.image.spline import AxisChange, Order, nearest_index, resample_axes

# A grid whose coarsest axis is more than this many times coarser than its finest is anisotropic (Isensee et al. 2021).
ANISOTROPY = 3.0
# Spacings come from matrices in single precision: so close together they count as equal.
ROUNDING = 1e-4


def reorient(array: NDArray[Any], axes: Sequence[int], flips: Sequence[bool]) -> NDArray[Any]:
    """Transpose and then flip the last ``len(axes)`` axes of ``array``; leading axes (channels) stay."""
    lead = array.ndim - len(axes)
    turned = array.transpose(*range(lead), *[lead + a for a in axes])
    out: NDArray[Any] = np.flip(turned, axis=tuple(lead + i for i, flip in enumerate(flips) if flip))
    return out


def reorient_back(array: NDArray[Any], axes: Sequence[int], flips: Sequence[bool]) -> NDArray[Any]:
    """The inverse of ``reorient`` with the same arguments."""
    lead = array.ndim - len(axes)
    flipped = np.flip(array, axis=tuple(lead + i for i, flip in enumerate(flips) if flip))
    out: NDArray[Any] = flipped.transpose(*range(lead), *[lead + int(a) for a in np.argsort(axes)])
    return out


def nonzero_box(image: NDArray[Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Bounding box (start, shape) of the voxels where any channel of (C, S) is non-zero; all of it if none is."""
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    start, shape = [], []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        first, last = (int(hit[0]), int(hit[-1])) if hit.size else (0, mask.shape[axis] - 1)
        start.append(first)
        shape.append(last - first + 1)
    return tuple(start), tuple(shape)


def crop(array: NDArray[Any], start: Sequence[int], shape: Sequence[int]) -> NDArray[Any]:
    """The box of the last ``len(start)`` axes that begins at ``start``; a view."""
    lead = [slice(None)] * (array.ndim - len(start))
    return array[(*lead, *[slice(s, s + n) for s, n in zip(start, shape, strict=True)])]


def placed(part: NDArray[Any], placement: Placement, shape: Sequence[int]) -> NDArray[Any]:
    """An integer map of a part of a grid on the whole grid of ``shape``; 0 outside of the part."""
    turned = reorient(part, placement.axes, placement.flips)
    full = np.zeros(tuple(shape), dtype=part.dtype)
    crop(full, placement.start, turned.shape)[...] = turned
    return full


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis that cover the same extent at ``target`` spacing; at least one."""
    return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))


def coarse_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The axis along which a volume is resampled apart, by nearest neighbour; None: all axes alike (nnU-Net's rule).

    It is the one coarsest axis of the old grid if that is anisotropic, else of the new one. Between slices that lie far
    apart a spline would invent structures that neither slice has.
    """
    if len(spacing) != 3:
        return None
    for grid in (spacing, target):
        if max(grid) > ANISOTROPY * min(grid) * (1 + ROUNDING):
            coarsest = [a for a, s in enumerate(grid) if s >= max(grid) * (1 - ROUNDING)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample_channel(
    channel: NDArray[Any], shape: Sequence[int], order: Order = 3, coarse: int | None = None
) -> NDArray[np.float32]:
    """Resample one channel (S) to ``shape`` over the same extent, by splines of ``order``.

    Equals ``scipy.ndimage.zoom(order=order, mode="nearest", grid_mode=True)`` up to single precision.

    Args:
        channel: real numbers.
        shape: voxels per axis of the result.
        order: 0 nearest neighbour, 1 linear, 3 cubic spline through the samples.
        coarse: axis that is resampled by nearest neighbour whatever ``order`` is, with the indices that
            ``resample_labels`` takes, so that image and labels come from one slice (see ``coarse_axis``).

    Returns:
        (*shape) float32; the input itself where nothing changes and it is float32 already.
    """
    changes = [
        AxisChange(old, new, 0 if axis == coarse else order)
        for axis, (old, new) in enumerate(zip(channel.shape, shape, strict=True))
    ]
    return resample_axes(channel, changes)


def resample_labels(labels: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Nearest-neighbour resampling of an integer map (S) to ``shape``; never leaves integers.

    The voxel of the old grid that contains the centre of the new voxel gives its value.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels of type {labels.dtype}; expected integers")
    out = labels
    for axis, (new, old) in enumerate(zip(shape, labels.shape, strict=True)):
        if new != old:
            out = out.take(nearest_index(new, old), axis=axis)
    return out


def resample_to(image: NDArray[Any], source: Geometry, target: Geometry, order: Order = 1) -> NDArray[np.float32]:
    """Bring channels (C, S) on the grid ``source`` to the grid ``target``, through the world.

    Values are interpolated up to the outer edges of the source's voxels. Beyond them nothing was measured: there stands
    0, or the channel's lowest value if that is negative (air in CT).

    Args:
        image: real numbers on ``source``.
        source, target: grids in one world (equal dims and unit); any orientation, spacing and extent.
        order: as for ``resample_channel``.

    Returns:
        (C, *target.shape) float32.

    Raises:
        GeometryError: if the grids have different dims or units.
    """
    if (source.dims, source.unit) != (target.dims, target.unit):
        raise GeometryError(
            f"grids of {source.dims} axes in {source.unit} and {target.dims} axes in {target.unit} share no world"
        )
    matrix = np.linalg.inv(source.affine) @ target.affine
    linear, offset = matrix[:-1, :-1], matrix[:-1, -1]
    outside = _outside(linear, offset, source.shape, target.shape)
    out = np.empty((image.shape[0], *target.shape), dtype=np.float32)
    for channel, values in zip(image, out, strict=True):
        ndimage.affine_transform(
            channel.astype(np.float32), linear, offset, target.shape, output=values, order=order, mode="nearest"
        )
        values[outside] = min(0.0, float(channel.min()))
    return out


def _outside(
    linear: NDArray[np.float64], offset: NDArray[np.float64], source: Sequence[int], target: Sequence[int]
) -> NDArray[np.bool_]:
    """Which voxels of the target grid have their centre outside the outer edges of the source grid."""
    out = np.zeros(target, dtype=bool)
    steps = np.ogrid[tuple(slice(n) for n in target)]
    for row, shift, count in zip(linear, offset, source, strict=True):
        place = shift + sum(factor * step for factor, step in zip(row, steps, strict=True))
        # What lies on the edge is inside, however the matrices were rounded.
        out |= (place < -0.5 - 1e-6) | (place > count - 0.5 + 1e-6)
    return out
