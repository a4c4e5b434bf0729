"""From logits on the prepared grid to logits on the image's own voxels, a slab at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medseg.image.spline import nearest_index
from medseg.preprocess.inverse import InverseRecord

# Logits that are held at once on the fine grid, all channels together (at least one row of voxels is).
SLAB_VALUES = 2**24


class Lookup(NamedTuple):
    """Interpolation along one axis: each fine voxel lies between two voxels of the prepared grid, or on one.

    Attributes:
        low, high: indices of the neighbours.
        share: of the higher neighbour; 0 everywhere for nearest-neighbour lookup.
    """

    low: Tensor
    high: Tensor
    share: Tensor

    def rows(self, begin: int, end: int) -> Lookup:
        """The lookup of fine voxels ``begin`` to ``end``."""
        return Lookup(self.low[begin:end], self.high[begin:end], self.share[begin:end])

    def take(self, values: Tensor, axis: int, first: int = 0) -> Tensor:
        """Interpolate along ``axis`` of ``values``, which begin at prepared voxel ``first``."""
        low = values.index_select(axis, self.low - first)
        if not self.share.any():
            return low
        share = self.share.reshape(-1, *[1] * (values.ndim - axis - 1))
        return torch.lerp(low, values.index_select(axis, self.high - first), share)


def lookup(fine: int, prepared: int, nearest: bool) -> Lookup:
    """The lookup of ``fine`` voxels in ``prepared`` ones of the same extent, as in ``medseg.image.resample``."""
    if nearest or fine == prepared:
        index = torch.from_numpy(np.asarray(nearest_index(fine, prepared), dtype=np.int64))
        return Lookup(index, index, torch.zeros(fine))
    centre = ((torch.arange(fine, dtype=torch.float64) + 0.5) * prepared / fine - 0.5).clamp(0, prepared - 1)
    low = centre.floor().long()
    return Lookup(low, (low + 1).clamp_max(prepared - 1), (centre - low).float())


def _lookup_along(record: InverseRecord, axis: int, coarse: int | None) -> Lookup:
    return lookup(record.shape[axis], record.prepared_shape[axis], axis == coarse)


def prepared_row(record: InverseRecord, axis: int, coarse: int | None, row: int) -> int:
    """The row of the prepared grid from which on a row of voxels of the image, and those behind it, are made."""
    return int(_lookup_along(record, axis, coarse).low[row]) if row else 0


def native_slabs(
    slabs: Iterable[Tensor], axis: int, record: InverseRecord, *, coarse: int | None = None, begin: int = 0
) -> Iterator[tuple[slice, Tensor]]:
    """Resample logits linearly to the voxels of the box of the image that was kept, a slab at a time.

    Args:
        slabs: logits (K, slab) of the prepared image, slab after slab along ``axis``.
        axis: spatial axis along which slabs follow one another.
        record: how the image was prepared.
        coarse: spatial axis that was resampled by nearest neighbour and goes back in the same way.
        begin: first row along ``axis`` that is wanted; slabs begin at ``prepared_row`` of it.

    Yields:
        Rows along ``axis`` of the box (shape ``record.shape``), in their order, and their logits (K, slab).
    """
    lookups = [_lookup_along(record, a, coarse) for a in range(len(record.shape))]
    plane = math.prod(record.shape) // record.shape[axis]
    along, row = lookups[axis], begin
    first = prepared_row(record, axis, coarse, begin)
    held: Tensor | None = None
    for slab in slabs:
        held = slab if held is None else torch.cat([held, slab], dim=axis + 1)
        ready = int(torch.searchsorted(along.high, first + held.shape[axis + 1]))
        while row < ready:
            end = min(ready, row + max(1, SLAB_VALUES // (len(held) * plane)))
            values = along.rows(row, end).take(held, axis + 1, first)
            for other, places in enumerate(lookups):
                if other != axis and record.shape[other] != record.prepared_shape[other]:
                    values = places.take(values, other + 1)
            yield slice(row, end), values
            row = end
        if row < len(along.low):
            passed = min(int(along.low[row]) - first, held.shape[axis + 1])
            held, first = held.narrow(axis + 1, passed, held.shape[axis + 1] - passed), first + passed
