"""The one way an image becomes network input, for training cases and for new images alike, and the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "native": self.native.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InverseRecord:
        """The inverse of ``to_json``."""
        rest = {k: tuple(v) for k, v in value.items() if k != "native"}
        return cls(native=Geometry.from_json(value["native"]), **rest)


def own_spacing(target: Sequence[float], spacing: Sequence[float]) -> tuple[float, ...]:
    """The target spacing with 0.0 ("keep each image's own") replaced by the image's."""
    return tuple(t or s for t, s in zip(target, spacing, strict=True))


def prepare_image(image: NDArray[Any], geometry: Geometry, grid: Grid) -> tuple[NDArray[np.float32], InverseRecord]:
    """Orient, crop to the non-zero box, normalise, resample (in this order, as nnU-Net does).

    Channels go one after the other, so that memory is needed for one of them at a time.

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
    turned = reorient(labels, record.axes, record.flips)
    return resample_labels(crop(turned, record.start, record.shape), record.prepared_shape)


def restore_labels(labels: NDArray[Any], record: InverseRecord) -> NDArray[Any]:
    """Put an integer map of the kept box (shape ``record.shape``) back on the native grid; 0 outside the box."""
    turned_shape: Sequence[int] = [record.native.shape[a] for a in record.axes]
    full = np.zeros(turned_shape, dtype=labels.dtype)
    crop(full, record.start, record.shape)[...] = labels
    return np.ascontiguousarray(reorient_back(full, record.axes, record.flips))
