"""Which numbers of an image can be computed with, and which stand for something else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# All computing is in 32 bits.
LARGEST = float(np.finfo(np.float32).max)
# What programs write where there is no measurement: outside a scanner's circle, in padding, where data are missing.
SENTINELS = (
    *(-1.0, -1000.0, -1024.0, -2000.0, -2048.0, -3000.0, -3024.0, -9999.0, 9999.0, -99999.0, 99999.0),
    *(-32768.0, 32767.0, -2147483648.0, 2147483647.0, LARGEST, -LARGEST),
)
# Of an image with two values, the rarer one marks something if it has less than this share.
RARE = 1e-3
# Voxels that are looked at before all are.
SOME = 1 << 12


def are_numbers(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where values are numbers that 32-bit floats hold: not NaN, not Inf, not beyond 3.4e38."""
    if values.dtype.kind != "f":
        return np.ones(values.shape, dtype=bool)
    with np.errstate(invalid="ignore"):
        held: NDArray[np.bool_] = np.isfinite(values) if values.dtype.itemsize <= 4 else np.abs(values) <= LARGEST
    return held


class Seen:
    """Which values a channel has, seen part by part; what is no number is left out.

    Attributes:
        size, real: voxels, and those that are numbers.
        least, most: lowest and highest number; NaN before there is one.
        counts: how many voxels have each value, while no more than two values were seen; None: there are more.
    """

    def __init__(self) -> None:
        self.size = self.real = 0
        self.least = self.most = math.nan
        self.counts: dict[float, int] | None = {}

    def add(self, values: NDArray[Any]) -> None:
        """Take a part."""
        self.size += values.size
        low, high = values.min(), values.max()
        # NaN and Inf show in these, too.
        if not are_numbers(np.array([low, high])).all():
            values = values[are_numbers(values)]
            if not values.size:
                return
            low, high = values.min(), values.max()
        self.real += values.size
        self.least, self.most = _ends([self.least, self.most, float(low), float(high)])
        if self.counts is not None:
            self._count(values.reshape(-1), low, high)

    def _count(self, flat: NDArray[Any], low: Any, high: Any) -> None:
        counts, step = self.counts or {}, max(1, flat.size // SOME)
        if low != high and not (_only(flat[::step], low, high) and _only(flat, low, high)):
            self.counts = None
            return
        most = int((flat == high).sum()) if low != high else flat.size
        for value, count in {float(high): most, float(low): flat.size - most if low != high else flat.size}.items():
            counts[value] = counts.get(value, 0) + count
        self.counts = counts if len(counts) <= 2 else None

    def but_for(self) -> tuple[float, float, int] | None:
        """As ``constant_but_for``."""
        count = self.counts
        if count is None or len(count) != 2:
            return None
        rarer = min(count, key=lambda value: (count[value], value))
        marks = [value for value in count if value in SENTINELS] or ([rarer] if count[rarer] < RARE * self.real else [])
        if len(marks) != 1:
            return None
        (usual,) = count.keys() - {marks[0]}
        return usual, marks[0], count[marks[0]]


def constant_but_for(values: NDArray[Any]) -> tuple[float, float, int] | None:
    """The value that all voxels have but some, the other value, and how many have that one; None: values vary.

    The other value is one that programs use for missing data, or is rare: an image of two values may be right.
    """
    seen = Seen()
    seen.add(values)
    return seen.but_for()


def _ends(values: list[float]) -> tuple[float, float]:
    there = [value for value in values if not math.isnan(value)]
    return min(there), max(there)


def _only(values: NDArray[Any], low: Any, high: Any) -> bool:
    return bool(((values == low) | (values == high)).all())
