"""What sliding windows hold of a large image at once: rows of it that windows still need, and sums that they change."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[slice, ...]
# Numbers in one piece of blended maps (at least one row is).
PIECE_VALUES = 2**24


@dataclass(frozen=True, slots=True)
class Blocks:
    """An image (C, S) that is made block by block along an axis, each time anew.

    Attributes:
        shape: (C, *S).
        axis: spatial axis along which blocks follow one another.
        made: first row -> blocks (C, block) from there on, on the network's device.
    """

    shape: tuple[int, ...]
    axis: int
    made: Callable[[int], Iterator[Tensor]]

    @classmethod
    def of(cls, image: Tensor, axis: int) -> Blocks:
        """An image that is there, as one block."""

        def made(first: int) -> Iterator[Tensor]:
            yield image.narrow(axis + 1, first, image.shape[axis + 1] - first)

        return cls(tuple(image.shape), axis, made)

    def padded(self, first: int, before: Sequence[int], after: Sequence[int]) -> Iterator[Tensor]:
        """Blocks from row ``first`` of the image on, with so many zeros at both ends of every axis around all of it.

        Rows of zeros are added to the first and last block if the blocks begin at the image's first row.
        """
        along = self.axis
        others = [(b, a) if axis != along else (0, 0) for axis, (b, a) in enumerate(zip(before, after, strict=True))]
        flat = [n for pair in reversed(others) for n in pair]
        rows = [before[along], after[along]]
        lead = self._zeros(before, after, rows[0]) if rows[0] else []
        tail = self._zeros(before, after, rows[1]) if rows[1] else []
        shift: Tensor | None = None
        for block in self.made(first):
            shift = block
            if lead:
                yield block.new_zeros(lead)
                lead = []
            yield F.pad(block, flat) if any(flat) else block
        if tail and shift is not None:
            yield shift.new_zeros(tail)

    def _zeros(self, before: Sequence[int], after: Sequence[int], rows: int) -> list[int]:
        """Shape of so many rows of the padded image."""
        shape = [n + b + a for n, b, a in zip(self.shape[1:], before, after, strict=True)]
        shape[self.axis] = rows
        return [self.shape[0], *shape]


class Rows:
    """Rows of an image as windows need them: they are taken from blocks, and let go when no window needs them.

    Args:
        blocks: (C, block), one after the other along ``axis``.
        axis: spatial axis.
        first: row at which the first block begins.
    """

    def __init__(self, blocks: Iterable[Tensor], axis: int, first: int) -> None:
        self._blocks, self._axis = iter(blocks), axis + 1
        self._held: deque[Tensor] = deque()
        self._first = self._end = first

    def window(self, box: Box) -> Tensor:
        """The voxels (C, box) of a window; windows never go back along the axis."""
        rows = box[self._axis - 1]
        while self._end < rows.stop:
            self._held.append(next(self._blocks))
            self._end += self._held[-1].shape[self._axis]
        while self._first + self._held[0].shape[self._axis] <= rows.start:
            self._first += self._held.popleft().shape[self._axis]
        parts, at = [], self._first
        for block in self._held:
            count = block.shape[self._axis]
            low, high = max(rows.start, at) - at, min(rows.stop, at + count) - at
            if low < high:
                where = (slice(None), *box[: self._axis - 1], slice(low, high), *box[self._axis :])
                parts.append(block[where])
            at += count
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=self._axis)


class Sums:
    """Weighted sums of the outputs of windows, and of their weights, over as many rows as a window has.

    Rows are held at their number modulo the window's, so that nothing moves and nothing grows.

    Args:
        maps: number K of maps.
        shape: of the padded image (S).
        axis: spatial axis along which windows follow one another.
        rows: of a window along the axis.
        first: row of the first window.
    """

    def __init__(self, maps: int, shape: Sequence[int], axis: int, rows: int, first: int) -> None:
        held = [rows if a == axis else n for a, n in enumerate(shape)]
        self._values, self._weights = torch.zeros(maps, *held), torch.zeros(held)
        self._axis, self._rows, self._done = axis, rows, first
        self._at_once = max(1, PIECE_VALUES // (maps * math.prod(held) // rows))

    def add(self, box: Box, output: Tensor, weights: Tensor) -> None:
        """Add the output (K, window) of a window that begins at the first row that is not final, or behind it."""
        axis, weighted = self._axis, output * weights
        begin = box[axis].start % self._rows
        # The window's rows lie here up to the end of what is held, and go on at its begin.
        split = self._rows - begin
        for held, given in ((slice(begin, None), slice(0, split)), (slice(0, begin), slice(split, None))):
            if held.start == held.stop:
                continue
            where, part = (*box[:axis], held, *box[axis + 1 :]), (slice(None),) * axis + (given,)
            self._values[(slice(None), *where)] += weighted[(slice(None), *part)]
            self._weights[where] += weights[part]

    def final(self, end: int, inside: Box) -> Iterator[Tensor]:
        """The mean of all rows up to ``end``, which no later window changes: pieces (K, piece) of those ``inside``."""
        axis, rows = self._axis, inside[self._axis]
        while self._done < end:
            at = self._done % self._rows
            last = min(end, self._done + min(self._at_once, self._rows - at))
            held = slice(at, at + last - self._done)
            low, high = max(self._done, rows.start) - self._done, min(last, rows.stop) - self._done
            if low < high:
                cut = (*inside[:axis], slice(at + low, at + high), *inside[axis + 1 :])
                yield self._values[(slice(None), *cut)] / self._weights[cut]
            gone = (slice(None),) * axis + (held,)
            self._values[(slice(None), *gone)] = 0
            self._weights[gone] = 0
            self._done = last
