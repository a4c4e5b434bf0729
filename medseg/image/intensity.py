"""Intensity scaling. Each function maps one channel (S) to float32; ``NORMALIZATIONS`` is the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Scaled by percentiles, no two pixels of an image differ by more than this.
LARGEST = 1000.0

Stats = Mapping[str, float]


def zscore(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Zero mean and unit deviation per image (Isensee et al. 2021, the rule for MR); a constant image gives zeros."""
    values = channel.astype(np.float32)
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return (values - mean) / max(std, 1e-8)


def zscore_nonzero(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """As ``zscore``, over the object alone; everything around it stays 0 (Isensee et al. 2021).

    The object is what is not 0, holes filled: zeros that it encloses belong to it. nnU-Net joins the objects of all
    channels; here each channel has its own, which is the same where one mask was applied to all of them.
    """
    values = channel.astype(np.float32)
    inside = _filled(channel != 0)
    kept = values[inside]
    if not kept.size:
        return values
    mean, std = float(kept.mean(dtype=np.float64)), float(kept.std(dtype=np.float64))
    values[inside] = (kept - mean) / max(std, 1e-8)
    return values


def ct(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Clip to the data set's 0.5 and 99.5 foreground percentiles, then its mean and deviation (Isensee et al. 2021)."""
    values = np.clip(channel.astype(np.float32), stats["p00_5"], stats["p99_5"])
    return (values - stats["mean"]) / max(stats["std"], 1e-8)


def percentile(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Per image, 1st percentile to 0 and 99.8th to 1 (as StarDist and BiaPy do for fluorescence)."""
    low, high = np.percentile(channel, (1.0, 99.8))
    least, most = float(channel.min()), float(channel.max())
    if high <= low:
        # A few bright pixels on black: what most of the image has in common is no range to divide by.
        low, high = least, most
    # Nor is a sliver of the full range: the brightest pixels must stay numbers that 16 bits hold.
    span = max(high - low, (most - least) / LARGEST) or 1.0
    return (channel.astype(np.float32) - np.float32(low)) / np.float32(span)


def rescale(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Per image, lowest value to 0 and highest to 1; a constant image gives zeros."""
    values = channel.astype(np.float32)
    values -= values.min()
    values /= max(values.max(), np.float32(1e-8))
    return values


def rgb(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Colours to the range from 0 to 1, the same way in every image: their relations are what a stain looks like.

    Integers of 8 bits are divided by 255 (nnU-Net's rule for colours), wider ones by 65535 if they use more than 8
    bits; floating-point numbers are left alone if they are between 0 and 1.
    """
    most = float(channel.max())
    if np.issubdtype(channel.dtype, np.floating) and most <= 1:
        return channel.astype(np.float32)
    return channel.astype(np.float32) / np.float32(255 if most <= 255 else 65535)


def none(channel: NDArray[Any], stats: Stats) -> NDArray[np.float32]:
    """Values as stored."""
    return channel.astype(np.float32)


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask and every region that it encloses: background that touches no edge of the image."""
    regions, _ = ndimage.label(~mask)
    open_regions = np.zeros(regions.max() + 1, dtype=bool)
    for axis in range(mask.ndim):
        for edge in (0, -1):
            open_regions[regions.take(edge, axis=axis)] = True
    open_regions[0] = False
    filled: NDArray[np.bool_] = ~open_regions[regions]
    return filled


NORMALIZATIONS: dict[str, Callable[[NDArray[Any], Stats], NDArray[np.float32]]] = {
    "zscore": zscore,
    "zscore_nonzero": zscore_nonzero,
    "ct": ct,
    "percentile": percentile,
    "rescale": rescale,
    "rgb": rgb,
    "none": none,
}
