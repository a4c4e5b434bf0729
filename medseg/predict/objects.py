"""The maps of an image while they are made, slab by slab, and the objects in them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medseg.decoders import decoder_of
from medseg.image.objects import ObjectMap
from medseg.objects.decoding import Decoding
from medseg.objects.find import connected_objects, find_objects, quantised
from medseg.plan.plan import Plan
from medseg.predict.sinks import Frame


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
        self._maps: NDArray[Any] = np.zeros(
            (frame.network.out_channels, *frame.record.shape) if frame.network.head else frame.record.shape,
            dtype=np.int16 if frame.network.head else np.uint8,
        )

    def take(self, rows: slice, logits: Tensor) -> None:
        """Keep the maps (K, slab) of some rows along the frame's axis."""
        where = (*(slice(None),) * self._frame.axis, rows)
        if self._frame.network.head:
            maps = self._decoder.probabilities(logits, self._frame.table)
            self._maps[(slice(None), *where)] = quantised(maps)
        else:
            self._maps[where] = self._decoder.labels(logits, self._frame.table).cpu().numpy()

    def decoded(self) -> ObjectMap:
        """The objects of the image, on the box of it that was kept."""
        record, head = self._frame.record, self._frame.network.head
        if not head:
            return connected_objects(self._maps)
        tuned = self._decoding or Decoding.of_sizes([], self._frame.network.dims)
        axes = [a for a in range(len(record.shape)) if a != self._slice_axis]
        finer = math.prod(record.shape[a] for a in axes) / math.prod(record.prepared_shape[a] for a in axes)
        decoding = replace(tuned, min_size=tuned.min_size * finer, max_hole=tuned.max_hole * finer)
        return find_objects(head, self._maps, record.spacing, decoding, self._slice_axis)
