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
from medseg.objects.decoding import ONE, Decoding
from medseg.objects.linking import link_slices
from medseg.objects.tiles import decode_tiled

if TYPE_CHECKING:
    from torch import Tensor

# Voxels per axis of a tile, by the number of axes.
TILE = {2: 2048, 3: 192}


def quantised(maps: Tensor) -> NDArray[np.int16]:
    """Probabilities or components of flows (M, S) in whole steps: jitter between machines decides no tie."""
    steps: NDArray[np.int16] = (maps.float() * ONE).round().short().cpu().numpy()
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


def find_objects_tiled(
    head: str,
    maps: NDArray[np.int16],
    spacing: Sequence[float],
    decoding: Decoding,
    slice_axis: None = None,
    tile: int | None = None,
) -> ObjectMap:
    """``find_objects`` of maps that need not fit into memory, tile by tile: the same objects.

    Args:
        head, maps, spacing, decoding: as there; maps may lie in a file (``numpy.memmap``).
        slice_axis: none: of slices, each is looked at by itself anyway.
        tile: voxels per axis; None: 2,048 in 2-D, 192 in 3-D.
    """
    own, shape = len(HEADS[head].maps(maps.ndim - 1)), maps.shape[1:]
    numbers = np.zeros(shape, dtype=np.uint32)
    kinds = len(maps) - own
    sums = np.zeros((1, kinds), dtype=np.int64)

    def write(box: tuple[slice, ...], found: NDArray[np.uint32]) -> None:
        nonlocal sums
        numbers[box] = found
        count = max(len(sums), int(found.max(initial=0)) + 1)
        added = np.zeros((count, kinds), dtype=np.int64)
        added[: len(sums)] = sums
        for kind in range(kinds):
            weights = maps[own + kind][box].ravel()
            added[:, kind] += np.bincount(found.ravel(), weights, minlength=count).astype(np.int64)
        sums = added

    size = tile or TILE[len(shape)]
    count = decode_tiled(
        head, lambda box: np.asarray(maps[(slice(0, own), *box)]), shape, spacing, decoding, write, (size,) * len(shape)
    )
    classes = np.ones(count + 1, dtype=np.uint8)
    if kinds:
        classes = (sums[: count + 1].argmax(axis=1) + 1).astype(np.uint8)
    classes[0] = 0
    return ObjectMap(numbers, classes)


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
