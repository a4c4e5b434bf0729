"""Which images are predicted slab by slab, along which axis: known from the header, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.formats.pieces import pieces_of
from medseg.formats.source import Source
from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.resample import resampled_shape
from medseg.patches.tiling import slab_axis
from medseg.plan.plan import Plan
from medseg.preprocess.prepare import own_spacing

# Bytes of an image as it is read and as it is prepared, together, up to which both are held in memory.
LARGE = 2**28
# Bytes that windows along the axis that is read cheapest may hold, where another axis would need less.
ROOMY = 2**30


def prepared_shape(geometry: Geometry, plan: Plan) -> tuple[int, ...]:
    """Voxels per axis of a whole image on the model's grid."""
    turned = geometry.reoriented(*canonical_axes(geometry))
    return resampled_shape(turned.shape, turned.spacing, own_spacing(plan.grid.spacing, turned.spacing))


def is_large(source: Source, channels: int, plan: Plan) -> bool:
    """Whether an image is predicted slab by slab: ``channels`` of all its files, ``source`` being the first."""
    native = channels * math.prod(source.shape[1:]) * source.dtype.itemsize
    return native + 4 * channels * math.prod(prepared_shape(source.geometry, plan)) > LARGE


def streamed_axis(source: Source, shape: Sequence[int], plan: Plan) -> int:
    """The axis of the prepared image along which slabs of a large one follow one another.

    It is the one along which the file is read cheapest, unless windows along another one hold much less.

    Args:
        source: the image.
        shape: of the prepared image (S), or of the whole of it.
        plan: of the model.
    """
    axes, _ = canonical_axes(source.geometry)
    cheap, thin = axes.index(pieces_of(source.stored).axis), slab_axis(shape, plan.window)
    most = max(ROOMY, 2 * held_bytes(shape, plan, thin))
    return cheap if held_bytes(shape, plan, cheap) <= most else thin


def held_bytes(shape: Sequence[int], plan: Plan, axis: int) -> int:
    """Bytes that windows along an axis hold: sums of maps and of weights over as many rows as a window has."""
    padded = [max(n, w) for n, w in zip(shape, plan.window, strict=True)]
    return 4 * (plan.network.out_channels + 1) * plan.window[axis] * (math.prod(padded) // padded[axis])
