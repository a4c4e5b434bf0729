"""Resampling along the axes of a grid, one after the other, as products with sparse matrices of known weights.

A cubic spline through samples is a weighted sum of them; the weights are values of the cardinal cubic spline (Unser,
"Splines: a perfect fit for signal and image processing", 1999), which falls off by a factor of 0.27 per voxel. So no
filter has to run over the whole image first, single precision suffices, and a block of new voxels needs a short
stretch of old ones: a small dense matrix product, which is what processors do best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal[0, 1, 3]

POLE = math.sqrt(3) - 2
# Beyond this many voxels the cardinal cubic spline is below 1e-9.
REACH = 16
_POWERS = -6 * POLE / (1 - POLE**2) * POLE ** np.arange(REACH + 3)
# New voxels along an axis that are computed in one matrix product.
BLOCK = 64


@dataclass(frozen=True, slots=True)
class AxisChange:
    """Old and new number of voxels along an axis, over one extent, and the order of the spline between them."""

    old: int
    new: int
    order: Order


def new_centres(new: int, old: int) -> NDArray[np.float64]:
    """Centres of ``new`` voxels over the extent of ``old`` ones, in old voxels."""
    centres: NDArray[np.float64] = (np.arange(new, dtype=np.float64) + 0.5) * (old / new) - 0.5
    return centres


def nearest_index(new: int, old: int) -> NDArray[np.int64]:
    """The old voxel that contains the centre of each new one: floor((i + 1/2) old / new).

    In integers, so that no rounding of floats decides a label; a centre on the border goes to the later voxel.
    """
    index: NDArray[np.int64] = ((2 * np.arange(new) + 1) * old) // (2 * new)
    return index


def cardinal_cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic spline that is 1 at 0 and 0 at all other integers, up to ``REACH`` from 0.

    It is the cubic B-spline, filtered by the inverse of its samples (1/6, 4/6, 1/6): B-splines at all integers, falling
    off by ``POLE`` from one to the next.
    """
    base = np.floor(distance).astype(np.int64)
    total = np.zeros_like(distance)
    for shift in (-1, 0, 1, 2):
        away = np.abs(distance - (base + shift))
        near = 2 / 3 - away**2 * (1 - away / 2)
        far = np.maximum(2 - away, 0)
        total += _POWERS[np.abs(base + shift)] * np.where(away < 1, near, far * far * far / 6)
    return total


def weight_blocks(change: AxisChange) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Pieces of the matrix that maps old to new voxels: (new voxels, old voxels, weights (new, old)).

    Samples beyond the border equal the outermost one (``mode="nearest"``). Every row adds up to 1.
    """
    reach = REACH if change.order == 3 else 1
    steps = np.arange(1 - reach, reach + 1)
    centres = new_centres(change.new, change.old)
    for begin in range(0, change.new, BLOCK):
        here = centres[begin : begin + BLOCK, None]
        place = np.floor(here) + steps
        weights = cardinal_cubic(here - place) if change.order == 3 else 1 - np.abs(here - place)
        column = np.clip(place, 0, change.old - 1).astype(np.int64)
        first, last = int(column.min()), int(column.max()) + 1
        matrix = np.zeros((len(here), last - first))
        np.add.at(matrix, (np.arange(len(here))[:, None], column - first), weights)
        matrix /= matrix.sum(axis=1, keepdims=True)
        yield slice(begin, begin + len(here)), slice(first, last), matrix.astype(np.float32)


def resample_axes(array: NDArray[Any], changes: Sequence[AxisChange]) -> NDArray[np.float32]:
    """Apply one change per axis of ``array`` (S); the axes that shrink most come first, since that saves work."""
    out = np.ascontiguousarray(array, dtype=np.float32)
    for axis in sorted(range(len(changes)), key=lambda a: changes[a].new / changes[a].old):
        change = changes[axis]
        if change.new != change.old:
            if change.order == 0:
                out = out.take(nearest_index(change.new, change.old), axis=axis)
            else:
                out = _multiply(out, axis, change)
    return out


def first_old(change: AxisChange, new: int) -> int:
    """The first old voxel along an axis that ``resample_rows`` needs for the new ones from ``new`` on."""
    if change.new == change.old:
        return new
    _, old, _ = next(_stretches(change, new))
    return int(old.start)


def resample_rows(
    blocks: Iterable[NDArray[np.float32]], axis: int, change: AxisChange, begin: int = 0
) -> Iterator[NDArray[np.float32]]:
    """Apply a change along one axis of an array that comes block by block along it; few blocks are held at once.

    Args:
        blocks: of the old array, the first of which begins at voxel ``first_old(change, begin)`` along the axis.
        axis: of the array.
        change: of the whole axis.
        begin: new voxel from which on the result is wanted.

    Yields:
        Blocks of the new array.
    """
    source = iter(blocks)
    if change.new == change.old:
        yield from source
        return
    held: NDArray[np.float32] | None = None
    first = first_old(change, begin)
    lead = (slice(None),) * axis
    for new, old, weights in _stretches(change, begin):
        if held is not None:
            held, first = held[(*lead, slice(old.start - first, None))], old.start
        while held is None or first + held.shape[axis] < old.stop:
            block = next(source)
            held = block if held is None or not held.shape[axis] else np.concatenate([held, block], axis=axis)
        part = held[(*lead, slice(0, old.stop - old.start))]
        if weights is None:
            out = part.take(nearest_index(change.new, change.old)[new] - old.start, axis=axis)
        else:
            before, after = math.prod(part.shape[:axis]), math.prod(part.shape[axis + 1 :])
            out = np.empty((*part.shape[:axis], len(weights), *part.shape[axis + 1 :]), dtype=np.float32)
            _product(np.ascontiguousarray(part).reshape(before, -1, after), weights, out.reshape(before, -1, after))
        yield out[(*lead, slice(max(0, begin - new.start), None))]


def _stretches(change: AxisChange, begin: int) -> Iterator[tuple[slice, slice, NDArray[np.float32] | None]]:
    """New voxels from the block of ``begin`` on, the old ones that each block needs, and the weights of a spline."""
    if change.order:
        yield from (found for found in weight_blocks(change) if found[0].stop > begin)
        return
    index = nearest_index(change.new, change.old)
    for start in range(begin // BLOCK * BLOCK, change.new, BLOCK):
        new = slice(start, min(start + BLOCK, change.new))
        yield new, slice(int(index[new.start]), int(index[new.stop - 1]) + 1), None


def _multiply(array: NDArray[np.float32], axis: int, change: AxisChange) -> NDArray[np.float32]:
    """The product of an axis of a contiguous array with the matrix of its weights."""
    shape = array.shape
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    out = np.empty((*shape[:axis], change.new, *shape[axis + 1 :]), dtype=np.float32)
    source: NDArray[np.float32] = array.reshape(before, change.old, after)
    target: NDArray[np.float32] = out.reshape(before, change.new, after)
    for new, old, weights in weight_blocks(change):
        _product(source[:, old], weights, target[:, new])
    return out


def _product(source: NDArray[np.float32], weights: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """The middle axis of an array (before, old, after) times weights (new, old), into ``out``."""
    if source.shape[2] == 1:
        # The last axis: one large product instead of many with a vector.
        np.matmul(source[..., 0], weights.T, out=out[..., 0])
    else:
        np.matmul(weights, source, out=out)
