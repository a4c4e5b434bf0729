"""Gaussian filtering of values at points in few dimensions, by a permutohedral lattice (Adams, Baek & Davis 2010).

Points lie in simplices of the lattice A*_d. Values are splatted to the d + 1 corners of their simplex, blurred along
the d + 1 directions of the lattice and sliced back. Kraehenbuehl & Koltun (2011) filter so; their arithmetic is kept.

A corner has d + 1 coordinates that sum to zero and leave one remainder k when divided by d + 1. Their quotients (all
but the last, which follows) and k are packed into one integer, in which a step to a neighbour is a sum: corners are
found by binary search among the sorted integers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Points that are placed at a time.
CHUNK = 2**19
# Points whose places are kept (8 (d + 1) bytes each). What lies beyond is placed again in every pass: bounded memory.
KEPT = 2**23
# Packed corners must fit into 64 bits, signs and neighbours included.
LARGEST_KEY = 2**62

Features = Callable[[int, int], Tensor]


class Places(NamedTuple):
    """Where the points from ``first`` to ``last`` lie.

    Attributes:
        first, last: which points, n of them.
        corner: (d + 1, n) numbers of the corners of their simplices.
        weight: (d + 1, n) barycentric coordinates, which sum to one.
    """

    first: int
    last: int
    corner: Tensor
    weight: Tensor


class Lattice:
    """The corners that N points touch.

    Args:
        features: ``features(first, last)`` gives (d, last - first), the coordinates of these points in standard
            deviations of the kernel exp(-|a - b|^2 / 2).
        points: N.

    Raises:
        ValueError: if the points span too many corners for 64 bits (many dimensions, tiny standard deviations).
    """

    def __init__(self, features: Features, points: int) -> None:
        self._features = features
        self._cuts = [(a, min(a + CHUNK, points)) for a in range(0, points, CHUNK)]
        low, high = self._bounds()
        self.dims = len(low)
        self._low = [math.floor(a) - 3 for a in low]
        radix = [math.ceil(b) + 4 - a for a, b in zip(self._low, high, strict=True)]
        self._stride = [(self.dims + 1) * s for s in itertools.accumulate(radix, int.__mul__, initial=1)]
        if self._stride[-1] >= LARGEST_KEY:
            raise ValueError(f"{self.dims} dimensions of about {max(radix)} corners each are too many to number")
        self._stride[-1] = 0  # the last coordinate follows from the others
        self._keys = torch.empty(0)
        simplices = (self._simplex(*cut) for cut in self._cuts)
        self._keys = torch.unique(torch.cat([torch.unique(keys) for keys, _ in simplices]))
        self._neighbours = [self._along(axis) for axis in range(self.dims + 1)]
        self._kept = list(self._placed(self._cuts[: KEPT // CHUNK]))

    @property
    def corners(self) -> int:
        """How many corners the points touch."""
        return len(self._keys)

    def places(self) -> Iterator[Places]:
        """All points, chunk after chunk."""
        yield from self._kept
        yield from self._placed(self._cuts[len(self._kept) :])

    def empty(self, channels: int) -> Tensor:
        """Zeros (K, corners) to splat into."""
        return torch.zeros(channels, self.corners, device=self._keys.device)

    def splat(self, values: Tensor, place: Places, sums: Tensor) -> None:
        """Add values (K, n) of the points at ``place`` to ``sums`` (K, corners)."""
        for corner, weight in zip(place.corner, place.weight, strict=True):
            for row, column in zip(sums, values, strict=True):
                # One row at a time: for rows, the sum runs in the order of the points.
                row.index_add_(0, corner, weight * column)

    def blur(self, sums: Tensor) -> Tensor:
        """Weights 1/2, 1, 1/2 along every direction; corners that no point touches count as zero."""
        for up, down in self._neighbours:
            # One corner more, which is zero, stands for those that are not there.
            wide = torch.nn.functional.pad(sums, (0, 1))
            sums = sums + 0.5 * (wide[:, up] + wide[:, down])
        return sums

    def slice(self, sums: Tensor, place: Places) -> Tensor:
        """Read (K, corners) at the points of ``place``: (K, n)."""
        out = sums.index_select(1, place.corner[0]) * place.weight[0]
        for corner, weight in zip(place.corner[1:], place.weight[1:], strict=True):
            out.addcmul_(sums.index_select(1, corner), weight)
        return out

    def _bounds(self) -> tuple[list[float], list[float]]:
        """Bounds of the elevated coordinates but the last, divided by d + 1, from the bounds of the features."""
        ends = [torch.stack(torch.aminmax(self._features(*cut), dim=1)) for cut in self._cuts]
        least = torch.stack(ends)[:, 0].amin(dim=0).double().cpu()
        most = torch.stack(ends)[:, 1].amax(dim=0).double().cpu()
        # Elevating is linear: the columns of its matrix are the images of the unit vectors.
        matrix = elevate(torch.eye(len(least), dtype=torch.float64))[:-1] / (len(least) + 1)
        one, two = matrix * least, matrix * most
        return torch.minimum(one, two).sum(1).tolist(), torch.maximum(one, two).sum(1).tolist()

    def _placed(self, cuts: Sequence[tuple[int, int]]) -> Iterator[Places]:
        for first, last in cuts:
            keys, weight = self._simplex(first, last)
            yield Places(first, last, torch.searchsorted(self._keys, keys, out_int32=True), weight)

    def _simplex(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Packed corners (d + 1, n) and barycentric coordinates (d + 1, n) of the points from ``first`` to ``last``."""
        d = self.dims
        place = elevate(self._features(first, last)) / (d + 1)
        quotient = place.round()
        rank = _ranks(place - quotient) + quotient.sum(dim=0).long()
        # The nearest point of remainder 0 in every coordinate; where they do not sum to zero, some move by one.
        quotient += (rank < 0).float() - (rank > d).float()
        rank += (d + 1) * ((rank < 0).long() - (rank > d).long())
        ordered = torch.zeros_like(place).scatter_(0, rank, place - quotient)
        weight = torch.cat([1 + ordered[d:] - ordered[:1], ordered[:d].flip(0) - ordered[1:].flip(0)])
        stride = torch.tensor(self._stride, device=place.device)[:, None]
        low = torch.tensor([*self._low, 0], device=place.device)[:, None]
        key = ((quotient.long() - low) * stride).sum(dim=0)
        by_rank = torch.zeros_like(rank).scatter_(0, rank, stride.expand_as(rank).contiguous())
        # From corner k to corner k + 1 the coordinate of rank d - k loses d and the others gain 1.
        steps = 1 - by_rank[1:].flip(0)
        return torch.cat([key[None], key + steps.cumsum(dim=0)]), weight

    def _along(self, axis: int) -> tuple[Tensor, Tensor]:
        """Numbers of the next and of the last corner along a direction; ``corners`` where there is none."""
        d, count = self.dims, len(self._keys)
        carry = torch.where(self._keys % (d + 1) == d, sum(self._stride) - d, 1 - self._stride[axis])
        carry -= torch.where(self._keys % (d + 1) == d, self._stride[axis], 0)
        wanted = self._keys + carry
        up = torch.searchsorted(self._keys, wanted).clamp_max_(count - 1)
        there = self._keys[up] == wanted
        down = torch.full_like(up, count)
        down[up[there]] = torch.nonzero(there).squeeze(1)
        return torch.where(there, up, count), down


def elevate(features: Tensor) -> Tensor:
    """Map (d, n) to (d + 1, n) on the plane of zero sum, scaled so that blurring the lattice has variance one."""
    d = len(features)
    out = torch.empty(d + 1, features.shape[1], dtype=features.dtype, device=features.device)
    total = torch.zeros_like(features[0])
    for row in range(d, 0, -1):
        scaled = features[row - 1] * ((d + 1) * math.sqrt(2 / 3) / math.sqrt(row * (row + 1)))
        out[row] = total - row * scaled
        total = total + scaled
    out[0] = total
    return out


def _ranks(values: Tensor) -> Tensor:
    """For each entry of a column, how many others are larger (of equal ones, those before it)."""
    rank = torch.zeros(values.shape, dtype=torch.long, device=values.device)
    for one, two in itertools.combinations(range(len(values)), 2):
        less = values[one] < values[two]
        rank[one] += less
        rank[two] += ~less
    return rank
