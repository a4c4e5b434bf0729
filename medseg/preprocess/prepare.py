"""Preparation of images for networks, the same for training and prediction, and its inverse for label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.intensity import NORMALIZATIONS
from medseg.image.resample import (
    coarse_axis,
    crop,
    nonzero_box,
    reorient,
    reorient_back,
    resample_channel,
    resample_labels,
    resampled_shape,
)
from medseg.plan.plan import Grid
from medseg.preprocess.inverse import InverseRecord, KeptBox


def own_spacing(target: Sequence[float], spacing: Sequence[float]) -> tuple[float, ...]:
    """The target spacing with 0.0 ("keep each image's own") replaced by the image's."""
    return tuple(t or s for t, s in zip(target, spacing, strict=True))


def prepare_image(image: NDArray[Any], geometry: Geometry, grid: Grid) -> tuple[NDArray[np.float32], InverseRecord]:
    """Orient, crop to the non-zero box, normalise, resample (in this order, as nnU-Net does).

    Channels are processed one after the other, so that temporary memory is needed for one at a time.

    Args:
        image: (C, S) as read.
        geometry: its grid.
        grid: target spacing and normalisation per channel.

    Returns:
        (C, S') float32 and the record for ``restore_labels``.
    """
    axes, flips = canonical_axes(geometry)
    turned = reorient(image, axes, flips)
    start, shape = nonzero_box(turned)
    boxed = crop(turned, start, shape)
    spacing = geometry.reoriented(axes, flips).spacing
    wanted = own_spacing(grid.spacing, spacing)
    target, coarse = resampled_shape(shape, spacing, wanted), coarse_axis(spacing, wanted)
    out = np.empty((len(image), *target), dtype=np.float32)
    for channel, name, stats, values in zip(boxed, grid.normalization, grid.statistics, out, strict=True):
        values[...] = resample_channel(NORMALIZATIONS[name](channel, stats), target, coarse=coarse)
    return out, InverseRecord(geometry, axes, flips, start, shape, target)


def prepare_labels(labels: NDArray[Any], record: InverseRecord) -> NDArray[Any]:
    """Bring an integer map (S) on the native grid to the prepared grid (S')."""
    return resample_labels(take_box(labels, record.box), record.prepared_shape)


def restore_labels(labels: NDArray[Any], record: InverseRecord) -> NDArray[Any]:
    """Put an integer map of the kept box (shape ``record.shape``) back on the native grid; 0 outside the box."""
    return put_back(labels, record.box, record.native.shape)


def take_box(array: NDArray[Any], box: KeptBox) -> NDArray[Any]:
    """The box of an array whose last axes are those of the native grid; leading axes (channels) stay. A view."""
    return crop(reorient(array, box.axes, box.flips), box.start, box.shape)


def put_back(values: NDArray[Any], box: KeptBox, shape: Sequence[int]) -> NDArray[Any]:
    """Put values of the box (``box.shape``) into an array of the native ``shape``, 0 outside; undoes ``take_box``."""
    full = np.zeros([shape[a] for a in box.axes], dtype=values.dtype)
    crop(full, box.start, box.shape)[...] = values
    return np.ascontiguousarray(reorient_back(full, box.axes, box.flips))
