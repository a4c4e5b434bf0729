"""Which numbers of an image can be computed with, and which stand for something else."""

from __future__ import annotations

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


def constant_but_for(values: NDArray[Any]) -> tuple[float, float, int] | None:
    """The value that all voxels have but some, the other value, and how many have that one; None: values vary.

    The other value is one that programs use for missing data, or is rare: an image of two values may be right.
    """
    flat = values.reshape(-1)
    low, high = flat.min(), flat.max()
    step = max(1, flat.size // SOME)
    if low == high or not _only(flat[::step], low, high) or not _only(flat, low, high):
        return None
    count = {float(low): int((flat == low).sum()), float(high): int((flat == high).sum())}
    rarer = min(count, key=lambda value: count[value])
    marks = [value for value in count if value in SENTINELS] or ([rarer] if count[rarer] < RARE * flat.size else [])
    if len(marks) != 1:
        return None
    (usual,) = count.keys() - {marks[0]}
    return usual, marks[0], count[marks[0]]


def _only(values: NDArray[Any], low: Any, high: Any) -> bool:
    return bool(((values == low) | (values == high)).all())
