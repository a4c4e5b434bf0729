"""Preparation of an image that is never whole in memory: it is read slab by slab, and prepared as rows are asked for.

What scaling asks of all of a channel is learned in passes over the image before (``medseg.image.learned``). What comes
out is what ``prepare_image`` gives, up to the rounding of 32-bit floats.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.formats.pieces import pieces_of
from medseg.formats.source import Source
from medseg.image.enclosed import Holes
from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.intensity import NORMALIZATIONS, Whole
from medseg.image.learned import Learner, learner_of
from medseg.image.resample import coarse_axis, reorient, resampled_shape
from medseg.image.spline import AxisChange, first_old, resample_axes, resample_rows
from medseg.image.values import are_numbers
from medseg.plan.plan import Grid
from medseg.preprocess.inverse import InverseRecord, KeptBox
from medseg.preprocess.prepare import own_spacing

# Voxels that are read at once, all channels together, if the file decodes no more at once anyway …
READ_VOXELS = 2**23
# … and where parts of what the file decodes at once are decoded again rather than held.
MOST_VOXELS = 2**26

Chunk = tuple[slice, tuple[slice, ...]]


def rows_at_once(source: Source, axis: int) -> int:
    """Rows along an axis of the file that are read at once: whole pieces of it, if pieces are not too large."""
    shape = source.shape
    plane = math.prod(shape) // shape[axis + 1]
    piece = min(pieces_of(source.stored).rows[axis], shape[axis + 1])
    if piece * plane > MOST_VOXELS:
        piece = 1
    return piece * max(1, READ_VOXELS // (piece * plane))


def slabs(source: Source) -> Iterator[tuple[int, slice, NDArray[Any]]]:
    """The image slab by slab: the axis of the file, rows along it, and real intensities (C, slab)."""
    axis = pieces_of(source.stored).axis
    size, step = source.shape[axis + 1], rows_at_once(source, axis)
    for start in range(0, size, step):
        rows = slice(start, min(start + step, size))
        yield axis, rows, source.read([rows if a == axis else slice(None) for a in range(len(source.shape) - 1)])


@dataclass(frozen=True, slots=True)
class Surveyed:
    """An image of which is known what its preparation asks of all of it.

    Attributes:
        source: the image.
        grid: to which it is brought.
        record: what preparation does to its grid.
        learners: of each channel, with what the image showed of it.
    """

    source: Source
    grid: Grid
    record: InverseRecord
    learners: Sequence[Learner]

    def along(self, axis: int) -> PreparedRows:
        """The image as it is prepared along a spatial axis of its box; holes of objects are looked for before."""
        rules = self.grid.normalization
        holes = {c: Holes(axis) for c, rule in enumerate(rules) if rule == "zscore_nonzero"}
        if holes:
            for _, box in chunks(self.source, self.record.box, axis):
                part = read_turned(self.source, self.record.box, box)
                for channel, found in holes.items():
                    found.add(part[channel] == 0)
        size = math.prod(self.record.shape)
        zeros = [holes[c].finish() if c in holes else size - one.nonzero for c, one in enumerate(self.learners)]
        wholes = [learner.whole(count) for learner, count in zip(self.learners, zeros, strict=True)]
        return PreparedRows(self.source, self.grid, self.record, axis, wholes, holes)


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """A prepared image (C, S') that is made row by row.

    Attributes:
        source, grid, record: as in ``Surveyed``.
        axis: spatial axis along which rows follow one another.
        wholes: what is known of each channel.
        holes: of the objects of channels that are scaled by them.
    """

    source: Source
    grid: Grid
    record: InverseRecord
    axis: int
    wholes: Sequence[Whole]
    holes: Mapping[int, Holes]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, S')."""
        return (len(self.wholes), *self.record.prepared_shape)

    def blocks(self, begin: int = 0) -> Iterator[NDArray[np.float32]]:
        """Blocks (C, block) along the axis, float32, that follow one another from a row on."""
        change = self._changes()[self.axis]
        yield from resample_rows(self._scaled(first_old(change, begin)), self.axis + 1, change, begin)

    def _scaled(self, first: int) -> Iterator[NDArray[np.float32]]:
        """Scaled blocks on the voxels of the image along the axis, resampled along all others, from a row on."""
        box = self.record.box
        changes = self._changes()
        old = changes[self.axis].old
        changes[self.axis] = AxisChange(old, old, 0)
        for number, (rows, native) in enumerate(chunks(self.source, box, self.axis)):
            if rows.stop <= first:
                continue
            part = read_turned(self.source, box, native)
            shape = [part.shape[a + 1] if a == self.axis else c.new for a, c in enumerate(changes)]
            block = np.empty((len(part), *shape), dtype=np.float32)
            for channel, values in enumerate(part):
                block[channel] = resample_axes(self._scaled_channel(channel, number, values), changes)
            yield block[(slice(None),) * (self.axis + 1) + (slice(max(0, first - rows.start), None),)]

    def _scaled_channel(self, channel: int, number: int, values: NDArray[Any]) -> NDArray[np.float32]:
        """A channel of the ``number``-th chunk, scaled."""
        whole = self.wholes[channel]
        if channel in self.holes:
            background = values == 0
            whole = replace(whole, inside=~background | self.holes[channel].of(number, background))
        return NORMALIZATIONS[self.grid.normalization[channel]](values, self.grid.statistics[channel], whole)

    def _changes(self) -> list[AxisChange]:
        """What resampling does to each axis."""
        spacing = self.record.spacing
        coarse = coarse_axis(spacing, own_spacing(self.grid.spacing, spacing))
        pairs = zip(self.record.shape, self.record.prepared_shape, strict=True)
        return [AxisChange(old, new, 0 if a == coarse else 3) for a, (old, new) in enumerate(pairs)]


def survey(source: Source, grid: Grid, name: str) -> Surveyed:
    """Look at all of an image, slab by slab: at its box of non-zero voxels, and at what scaling asks of its channels.

    Args:
        source: the image.
        grid: to which it will be brought.
        name: what messages call it.

    Raises:
        DataError: if voxels are no numbers that 32-bit floats hold.
    """
    learners = [learner_of(rule, source.dtype) for rule in grid.normalization]
    hit = [np.zeros(n, dtype=bool) for n in source.shape[1:]]
    bad = 0
    for axis, rows, part in slabs(source):
        if not (real := are_numbers(part)).all():
            bad += int((~real).sum())
            continue
        some = part[0] != 0
        for channel in part[1:]:
            some |= channel != 0
        for a, seen in enumerate(hit):
            seen[rows if a == axis else slice(None)] |= some.any(axis=tuple(b for b in range(some.ndim) if b != a))
        for learner, channel in zip(learners, part, strict=True):
            learner.add(channel)
    if bad:
        raise DataError(f"{name}: {bad} voxels are NaN, Inf or beyond 32-bit floats; repair the file")
    record = _record(source.geometry, grid, hit)
    size = math.prod(record.shape)
    while wanting := [k for k, one in enumerate(learners) if one.wants_another(size - one.nonzero)]:
        for _, _, part in slabs(source):
            for k in wanting:
                learners[k].add(part[k])
    return Surveyed(source, grid, record, learners)


def _record(geometry: Geometry, grid: Grid, hit: Sequence[NDArray[np.bool_]]) -> InverseRecord:
    """What preparation does to a grid, along whose axes any voxel is not 0 where ``hit`` says so."""
    axes, flips = canonical_axes(geometry)
    start, shape = [], []
    for axis, flip in zip(axes, flips, strict=True):
        found = np.flatnonzero(hit[axis][::-1] if flip else hit[axis])
        first, last = (int(found[0]), int(found[-1])) if found.size else (0, len(hit[axis]) - 1)
        start.append(first)
        shape.append(last - first + 1)
    spacing = geometry.reoriented(axes, flips).spacing
    target = resampled_shape(shape, spacing, own_spacing(grid.spacing, spacing))
    return InverseRecord(geometry, axes, flips, tuple(start), tuple(shape), target)


def native_box(shape: Sequence[int], box: KeptBox, rows: slice, axis: int) -> tuple[slice, ...]:
    """The voxels of an image of ``shape`` that are rows along an axis of its box."""
    native: list[slice] = [slice(0)] * len(shape)
    for turned, (a, flip) in enumerate(zip(box.axes, box.flips, strict=True)):
        low, high = box.start[turned], box.start[turned] + box.shape[turned]
        if turned == axis:
            low, high = low + rows.start, low + rows.stop
        native[a] = slice(shape[a] - high, shape[a] - low) if flip else slice(low, high)
    return tuple(native)


def chunks(source: Source, box: KeptBox, axis: int) -> Iterator[Chunk]:
    """Rows along an axis of the box, in their order, and the voxels of the file that they are.

    They are cut where the file's own pieces end.
    """
    shape, a = source.shape[1:], box.axes[axis]
    whole = native_box(shape, box, slice(0, box.shape[axis]), axis)
    low, high, step = whole[a].start, whole[a].stop, rows_at_once(source, a)
    cuts = [low, *range((low // step + 1) * step, high, step), high]
    parts = list(itertools.pairwise(cuts))
    for begin, end in reversed(parts) if box.flips[axis] else parts:
        rows = slice(high - end, high - begin) if box.flips[axis] else slice(begin - low, end - low)
        yield rows, tuple(slice(begin, end) if b == a else one for b, one in enumerate(whole))


def read_turned(source: Source, box: KeptBox, native: tuple[slice, ...]) -> NDArray[Any]:
    """The real intensities (C, part) of a part of the image, as its box is turned."""
    return reorient(source.read(native), box.axes, box.flips)
