"""Intensity scaling. Each function maps one channel (S) to float32; ``NORMALIZATIONS`` is the table of them.

A channel is scaled at once, or part by part: then what a rule asks of all of it comes with the part (``Whole``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Scaled by percentiles, no two pixels of an image differ by more than this.
LARGEST = 1000.0
PERCENTILES = (1.0, 99.8)

Stats = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Whole:
    """What scaling a part of a channel must know of all of it; each rule sets what it needs.

    Attributes:
        least, most: lowest and highest value.
        mean, std: of all values as 32-bit floats, in double precision; of ``zscore_nonzero``, of those of the object.
        low, high: 1st and 99.8th percentile.
        inside: where in the part the object is (``zscore_nonzero``).
    """

    least: float = 0.0
    most: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    low: float = 0.0
    high: float = 0.0
    inside: NDArray[np.bool_] | None = None


def zscore(channel: NDArray[Any], stats: Stats, whole: Whole | None = None) -> NDArray[np.float32]:
    """Zero mean and unit deviation per image (Isensee et al. 2021, the rule for MR); a constant image gives zeros."""
    values = channel.astype(np.float32)
    mean, std = (whole.mean, whole.std) if whole else _moments(values)
    values -= mean
    values /= max(std, 1e-8)
    return values


def zscore_nonzero(channel: NDArray[Any], stats: Stats, whole: Whole | None = None) -> NDArray[np.float32]:
    """As ``zscore``, over the object alone; everything around it stays 0 (Isensee et al. 2021).

    The object is what is not 0, holes filled: zeros that it encloses belong to it. nnU-Net joins the objects of all
    channels; here each channel has its own, which is the same where one mask was applied to all of them.
    """
    values = channel.astype(np.float32)
    inside = _filled(channel != 0) if whole is None else whole.inside
    kept = values[inside]
    if not kept.size:
        return values
    mean, std = (whole.mean, whole.std) if whole else _moments(kept)
    kept -= mean
    kept /= max(std, 1e-8)
    values[inside] = kept
    return values


def _moments(values: NDArray[np.float32]) -> tuple[float, float]:
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))


def ct(channel: NDArray[Any], stats: Stats, whole: Whole | None = None) -> NDArray[np.float32]:
    """Clip to the data set's 0.5 and 99.5 foreground percentiles, then its mean and deviation (Isensee et al. 2021)."""
    values = channel.astype(np.float32)
    np.clip(values, stats["p00_5"], stats["p99_5"], out=values)
    values -= stats["mean"]
    values /= max(stats["std"], 1e-8)
    return values


def percentile(channel: NDArray[Any], stats: Stats, whole: Whole | None = None) -> NDArray[np.float32]:
    """Per image, 1st percentile to 0 and 99.8th to 1 (as StarDist and BiaPy do for fluorescence)."""
    low, high = (whole.low, whole.high) if whole else np.percentile(channel, PERCENTILES)
    least, most = (whole.least, whole.most) if whole else (float(channel.min()), float(channel.max()))
    if high <= low:
        # A few bright pixels on black: what most of the image has in common is no range to divide by.
        low, high = least, most
    # Nor is a sliver of the full range: the brightest pixels must stay numbers that 16 bits hold.
    span = max(high - low, (most - least) / LARGEST) or 1.0
    values = channel.astype(np.float32)
    values -= np.float32(low)
    values /= np.float32(span)
    return values


def rescale(channel: NDArray[Any], stats: Stats, whole: Whole | None = None) -> NDArray[np.float32]:
    """Per image, lowest value to 0 and highest to 1; a constant image gives zeros."""
    values = channel.astype(np.float32)
    least, most = (whole.least, whole.most) if whole else (values.min(), values.max())
    values -= np.float32(least)
    values /= max(np.float32(most) - np.float32(least), np.float32(1e-8))
    return values


def rgb(channel: NDArray[Any], stats: Stats, whole: Whole | None = None) -> NDArray[np.float32]:
    """Colours to the range from 0 to 1, the same way in every image: their relations are what a stain looks like.

    Integers of 8 bits are divided by 255 (nnU-Net's rule for colours), wider ones by 65535 if they use more than 8
    bits; floating-point numbers are left alone if they are between 0 and 1.
    """
    most = whole.most if whole else float(channel.max())
    values = channel.astype(np.float32)
    if not (np.issubdtype(channel.dtype, np.floating) and most <= 1):
        values /= np.float32(255 if most <= 255 else 65535)
    return values


def none(channel: NDArray[Any], stats: Stats, whole: Whole | None = None) -> NDArray[np.float32]:
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


# Called with a channel and its statistics in the data set; of a part, with what is known of the whole channel.
NORMALIZATIONS: dict[str, Callable[..., NDArray[np.float32]]] = {
    "zscore": zscore,
    "zscore_nonzero": zscore_nonzero,
    "ct": ct,
    "percentile": percentile,
    "rescale": rescale,
    "rgb": rgb,
    "none": none,
}
