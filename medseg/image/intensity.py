"""Intensity scaling. Each function maps one channel (S) to float32; ``NORMALIZATIONS`` is the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stats = Mapping[str, float]


def zscore(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Zero mean and unit deviation per image (Isensee et al. 2021, the rule for MR); a constant image gives zeros."""
    values = channel.astype(np.float32)
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return (values - mean) / max(std, 1e-8)


def ct(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Clip to the data set's 0.5 and 99.5 foreground percentiles, then its mean and deviation (Isensee et al. 2021)."""
    values = np.clip(channel.astype(np.float32), stats["p00_5"], stats["p99_5"])
    return (values - stats["mean"]) / max(stats["std"], 1e-8)


def percentile(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Per image, 1st percentile to 0 and 99.8th to 1 (as StarDist and BiaPy do for fluorescence)."""
    low, high = np.percentile(channel, (1.0, 99.8))
    if high <= low:
        # A few bright pixels on black: what most of the image has in common is no range to divide by.
        low, high = float(channel.min()), float(channel.max())
    span = high - low if high > low else 1.0
    return (channel.astype(np.float32) - np.float32(low)) / np.float32(span)


def none(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Values as stored."""
    return channel.astype(np.float32)


NORMALIZATIONS: dict[str, Callable[[NDArray[Any], Stats], NDArray[np.float32]]] = {
    "zscore": zscore,
    "ct": ct,
    "percentile": percentile,
    "none": none,
}
