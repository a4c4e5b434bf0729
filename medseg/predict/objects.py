"""The maps of an image while they are made, slab by slab, and the objects in them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medseg.decoders import decoder_of
from medseg.image.objects import ObjectMap
from medseg.objects.decoding import Decoding
from medseg.objects.find import connected_objects, find_objects, find_objects_tiled, quantised
from medseg.plan.plan import Plan
from medseg.predict.sinks import Frame

# Maps that are larger than this lie in a temporary file, and objects are read off them tile by tile. Decoding takes up
# to 60 bytes per voxel for a moment, which is 1 GB for maps of this size (two in 2-D).
IN_MEMORY = 64 * 2**20


class ObjectMaps:
    """Keeps the maps of an image until all are there and its objects can be read off them.

    Args:
        frame: of the prediction.
        plan: of the model.
        decoding: how objects are read off, sizes in voxels of the prepared grid; None: a network without a head.
    """

    def __init__(self, frame: Frame, plan: Plan, decoding: Decoding | None) -> None:
        self._frame, self._slice_axis, self._decoding = frame, plan.grid.slice_axis, decoding
        self._decoder = decoder_of(frame.table, frame.network.head)
        if frame.network.learns_objects:
            self._maps = room((frame.network.out_channels, *frame.record.shape), np.int16)
        else:
            self._maps = room(frame.record.shape, np.uint8)

    def take(self, rows: slice, logits: Tensor) -> None:
        """Keep the maps (K, slab) of some rows along the frame's axis."""
        where = (*(slice(None),) * self._frame.axis, rows)
        if self._frame.network.learns_objects:
            maps = self._decoder.probabilities(logits, self._frame.table)
            self._maps[(slice(None), *where)] = quantised(maps)
        else:
            self._maps[where] = self._decoder.labels(logits, self._frame.table).cpu().numpy()

    def decoded(self) -> ObjectMap:
        """The objects of the image, on the box of it that was kept."""
        record, head = self._frame.record, self._frame.network.head
        if not self._frame.network.learns_objects:
            return connected_objects(self._maps)
        find: Callable[..., ObjectMap] = find_objects
        if self._maps.nbytes > IN_MEMORY and self._slice_axis is None:
            find = find_objects_tiled
        return find(head, self._maps, record.spacing, self._settings(), self._slice_axis)

    def _settings(self) -> Decoding:
        """The settings, sizes in voxels of the image."""
        record = self._frame.record
        tuned = self._decoding or Decoding.of_sizes([], self._frame.network.dims)
        axes = [a for a in range(len(record.shape)) if a != self._slice_axis]
        finer = math.prod(record.shape[a] for a in axes) / math.prod(record.prepared_shape[a] for a in axes)
        return replace(tuned, min_size=tuned.min_size * finer, max_hole=tuned.max_hole * finer)


def room(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of zeros: in memory, or if it is large in a temporary file without a name, which ends with it."""
    if math.prod(shape) * np.dtype(dtype).itemsize <= IN_MEMORY:
        return np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
