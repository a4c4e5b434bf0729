"""What is known of a channel as a whole, learned part by part: extremes, moments and percentiles.

Zeros are counted apart: how many of them belong to a channel is known only when its box of non-zero voxels, or what its
object encloses, is.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.image.intensity import PERCENTILES, Whole

# Bits of a number that one pass over a channel sorts by.
DIGIT = 16


class Learner(Protocol):
    """Learns of one channel in as many passes over it as it asks for."""

    @property
    def nonzero(self) -> int:
        """Number of values that are not 0; after the first pass."""

    def add(self, values: NDArray[Any]) -> None:
        """Take a part of the channel: real, finite numbers."""

    def wants_another(self, zeros: int) -> bool:
        """Whether another pass is needed, at the end of one; ``zeros`` belong to the channel."""

    def whole(self, zeros: int) -> Whole:
        """What was learned of a channel that ``zeros`` belong to."""


def learner_of(rule: str, dtype: np.dtype[Any]) -> Learner:
    """The learner of what a row of ``NORMALIZATIONS`` asks of a channel of numbers of a type."""
    if dtype == np.bool_ or (dtype.kind in "iu" and dtype.itemsize <= 2):
        return Counted(np.dtype(np.uint8) if dtype == np.bool_ else dtype)
    return Sorted(dtype) if rule == "percentile" else Moments(moments=rule.startswith("zscore"))


class Counted:
    """Learns how often each integer of up to 16 bits occurs, and with that everything, exactly."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._least = int(np.iinfo(dtype).min)
        self._counts = np.zeros(int(np.iinfo(dtype).max) - self._least + 1, dtype=np.int64)
        self.nonzero = 0

    def add(self, values: NDArray[Any]) -> None:
        """See ``Learner``."""
        flat = values.ravel(order="K")
        shifted = flat if not self._least else flat.astype(np.int32) - self._least
        self._counts += np.bincount(shifted, minlength=len(self._counts))
        self.nonzero = int(self._counts.sum() - self._counts[-self._least])

    def wants_another(self, zeros: int) -> bool:
        """See ``Learner``."""
        return False

    def whole(self, zeros: int) -> Whole:
        """See ``Learner``."""
        counts = self._counts.copy()
        counts[-self._least] = zeros
        present = np.flatnonzero(counts)
        if not present.size:
            return Whole()
        values, counts = present + self._least, counts[present]
        total = int(counts.sum())
        mean = int((values * counts).sum()) / total
        std = math.sqrt(float(((values - mean) ** 2 * counts).sum()) / total)
        ends = np.cumsum(counts)

        def at(rank: int) -> float:
            return float(values[np.searchsorted(ends, rank, side="right")])

        low, high = (between(at(ranks[0]), at(ranks[1]), share) for ranks, share in places(total))
        return Whole(float(values[0]), float(values[-1]), mean, std, low, high)


class Moments:
    """Learns extremes, and if ``moments`` mean and deviation of the values as 32-bit floats.

    Parts are joined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

    def __init__(self, *, moments: bool) -> None:
        self._moments = moments
        self.nonzero = 0
        self._mean = self._squares = 0.0
        self._least, self._most = math.inf, -math.inf

    def add(self, values: NDArray[Any]) -> None:
        """See ``Learner``."""
        kept = values[values != 0]
        if not kept.size:
            return
        self._least, self._most = min(self._least, float(kept.min())), max(self._most, float(kept.max()))
        if self._moments:
            wide = kept.astype(np.float32).astype(np.float64)
            mean = float(wide.mean())
            wide -= mean
            self._mean, self._squares = self._joined(kept.size, mean, float(np.square(wide, out=wide).sum()))
        self.nonzero += int(kept.size)

    def _joined(self, count: int, mean: float, squares: float) -> tuple[float, float]:
        """Mean and sum of squared deviations, with ``count`` more values of such a mean and sum."""
        total = self.nonzero + count
        if not total:
            return 0.0, 0.0
        step = mean - self._mean
        return self._mean + step * count / total, self._squares + squares + step**2 * self.nonzero * count / total

    def wants_another(self, zeros: int) -> bool:
        """See ``Learner``."""
        return False

    def whole(self, zeros: int) -> Whole:
        """See ``Learner``."""
        ends = [self._least, self._most] if self.nonzero else []
        ends += [0.0] if zeros else []
        if not ends:
            return Whole()
        mean, squares = self._joined(zeros, 0.0, 0.0)
        return Whole(min(ends), max(ends), mean, math.sqrt(squares / (self.nonzero + zeros)))


class Sorted:
    """Learns percentiles of numbers of 32 and 64 bits exactly, by their digits: 16 bits more in each pass."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype, self._bits = dtype, 8 * dtype.itemsize
        self._moments = Moments(moments=False)
        # Rank within all numbers that begin as ``prefix`` does, for each number that is looked for.
        self._wanted: dict[int, tuple[int, int]] = {}
        self._depth = 0
        self._counts: dict[int, NDArray[np.int64]] = {0: np.zeros(1 << DIGIT, dtype=np.int64)}

    @property
    def nonzero(self) -> int:
        """See ``Learner``."""
        return self._moments.nonzero

    def add(self, values: NDArray[Any]) -> None:
        """See ``Learner``."""
        if self._depth == 0:
            self._moments.add(values)
        keys = sort_keys(values[values != 0], self._dtype)
        below = self._bits - DIGIT * (self._depth + 1)
        for prefix, counts in self._counts.items():
            # A number has no more bits than are shifted away at first.
            here = keys[(keys >> (below + DIGIT)) == prefix] if self._depth else keys
            counts += np.bincount(((here >> below) & ((1 << DIGIT) - 1)).astype(np.int64), minlength=len(counts))

    def wants_another(self, zeros: int) -> bool:
        """See ``Learner``."""
        if not self._depth:
            total = self.nonzero + zeros
            ranks = {rank for pair, _ in places(total) for rank in pair}
            self._wanted = {rank: (0, rank) for rank in ranks}
        below = self._bits - DIGIT * (self._depth + 1)
        zero = int(sort_keys(np.zeros(1, dtype=self._dtype), self._dtype)[0])
        for prefix, counts in self._counts.items():
            if self._depth == 0 or zero >> (below + DIGIT) == prefix:
                counts[(zero >> below) & ((1 << DIGIT) - 1)] += zeros
        for rank, (prefix, place) in self._wanted.items():
            ends = np.cumsum(self._counts[prefix])
            digit = int(np.searchsorted(ends, place, side="right"))
            self._wanted[rank] = ((prefix << DIGIT) | digit, place - (int(ends[digit - 1]) if digit else 0))
        self._depth += 1
        self._counts = {prefix: np.zeros(1 << DIGIT, dtype=np.int64) for prefix, _ in self._wanted.values()}
        return DIGIT * self._depth < self._bits

    def whole(self, zeros: int) -> Whole:
        """See ``Learner``."""
        found = self._moments.whole(zeros)
        values = {rank: float(from_key(key, self._dtype)) for rank, (key, _) in self._wanted.items()}
        low, high = (
            between(values[ranks[0]], values[ranks[1]], share) for ranks, share in places(self.nonzero + zeros)
        )
        return Whole(found.least, found.most, low=low, high=high)


def places(total: int) -> list[tuple[tuple[int, int], float]]:
    """For each percentile the ranks that it lies between, and how far behind the first (as ``numpy.percentile``)."""
    at = [(total - 1) * (percent / 100) for percent in PERCENTILES]
    return [((int(p), min(int(p) + 1, total - 1)), p - int(p)) for p in at]


def between(low: float, high: float, share: float) -> float:
    """Linear interpolation, computed from the nearer end."""
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def sort_keys(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Unsigned integers of the same width in the order of the values."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    top = unsigned.type(1 << (8 * dtype.itemsize - 1))
    bits: NDArray[Any] = values.astype(dtype, copy=False).view(unsigned)
    if dtype.kind == "u":
        return bits
    if dtype.kind == "i":
        signed: NDArray[Any] = bits ^ top
        return signed
    keys: NDArray[Any] = np.where(bits & top, ~bits, bits | top)
    return keys


def from_key(key: int, dtype: np.dtype[Any]) -> Any:
    """The value of a key."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    top, bits = 1 << (8 * dtype.itemsize - 1), key
    if dtype.kind == "i":
        bits = key ^ top
    elif dtype.kind == "f":
        bits = key & ~top if key & top else key ^ (2 * top - 1)
    return np.array([bits], dtype=unsigned).view(dtype)[0]
