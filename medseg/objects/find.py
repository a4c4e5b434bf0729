"""From the quantised maps of a whole image to its objects, whatever the head and the dimensions of the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.heads import HEADS
from medseg.image.labels import IGNORE
from medseg.image.objects import ObjectMap, of_numbers
from medseg.objects.decode import classify, decode
from medseg.objects.decoding import Decoding
from medseg.objects.linking import link_slices

if TYPE_CHECKING:
    from torch import Tensor

# Maps are kept in whole steps of this size, so that differences of arithmetic between machines decide no tie.
STEPS = 1024


def quantised(maps: Tensor) -> NDArray[np.int16]:
    """Probabilities or components of flows (M, S) in whole steps."""
    steps: NDArray[np.int16] = (maps.float() * STEPS).round().short().cpu().numpy()
    return steps


def find_objects(
    head: str,
    maps: NDArray[np.int16],
    spacing: Sequence[float],
    decoding: Decoding,
    slice_axis: int | None = None,
) -> ObjectMap:
    """Find the objects of an image.

    Args:
        head: row of ``HEADS``.
        maps: (M, S) in steps of 1/1024: those of the head, and where objects have several classes one for each class.
        spacing: voxel size per axis of S.
        decoding: thresholds and sizes, in voxels of S.
        slice_axis: axis of S along which a 2-D network took its slices: objects of neighbouring ones are linked; None:
            the network has the dimensions of S.
    """
    dims = maps.ndim - 1 - (slice_axis is not None)
    own = len(HEADS[head].maps(dims))
    if slice_axis is None:
        numbers = decode(head, maps[:own], spacing, decoding)
    else:
        inner = [s for axis, s in enumerate(spacing) if axis != slice_axis]
        slices = [decode(head, one, inner, decoding) for one in np.moveaxis(maps[:own], slice_axis + 1, 0)]
        numbers = link_slices(np.stack(slices, axis=slice_axis), axis=slice_axis)
    if len(maps) == own:
        return of_numbers(numbers)
    return ObjectMap(numbers, classify(numbers, maps[own:]))


def connected_objects(channels: NDArray[Any]) -> ObjectMap:
    """The connected components (face connectivity) of each class in label channels (S), as objects."""
    from scipy import ndimage

    numbers, count = np.zeros(channels.shape, dtype=np.int64), 0
    for channel in np.unique(channels):
        if channel not in (0, IGNORE):
            labelled, found = ndimage.label(channels == channel)
            numbers[labelled > 0] = labelled[labelled > 0] + count
            count += found
    return of_numbers(numbers, channels)
