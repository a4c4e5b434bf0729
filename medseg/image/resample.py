"""Change of grid: reorient, crop, resample. Images by splines, labels by nearest neighbour in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


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
    mask = (image != 0).any(axis=0)
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


def resample_image(
    image: NDArray[Any], shape: Sequence[int], order: Literal[0, 1, 2, 3, 4, 5] = 3
) -> NDArray[np.float32]:
    """Resample each channel of (C, S) to ``shape`` over the same extent, by splines of ``order``.

    Voxels are areas, not points: the outer edges of the grid stay where they are (``grid_mode``), which is what
    ``Geometry.resampled`` and ``resample_labels`` assume too.
    """
    out = np.empty((image.shape[0], *shape), dtype=np.float32)
    for channel, target in zip(image, out, strict=True):
        if channel.shape == tuple(shape):
            target[...] = channel
        else:
            zoom = [n / m for n, m in zip(shape, channel.shape, strict=True)]
            values: NDArray[np.float32] = channel.astype(np.float32)
            target[...] = ndimage.zoom(values, zoom, order=order, mode="nearest", grid_mode=True)
    return out


def resample_labels(labels: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Nearest-neighbour resampling of an integer map (S) to ``shape``; never leaves integers.

    The voxel of the old grid that contains the centre of the new voxel gives its value.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels of type {labels.dtype}; expected integers")
    out = labels
    for axis, (new, old) in enumerate(zip(shape, labels.shape, strict=True)):
        if new != old:
            # floor((i + 1/2) * old / new) in integers, so that no rounding of floats decides a label.
            index = ((2 * np.arange(new) + 1) * old) // (2 * new)
            out = out.take(index, axis=axis)
    return out


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Voxels per axis that cover the same extent at ``target`` spacing; at least one."""
    return tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing, target, strict=True))
