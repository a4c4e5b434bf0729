"""The picture of a package: a made-up window, and what the network makes of it."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from medseg.image.labels import COLOURS

SIDE = 256


def cover_png(window: NDArray[np.float32], logits: NDArray[np.float32]) -> bytes:
    """A PNG, twice as wide as high: the middle of a window (C, S) in grey, and the largest map (K, S) in colours."""
    grey, largest = _middle(window[0]), _middle(logits.argmax(axis=0))
    low, high = float(grey.min()), float(grey.max())
    shade = ((grey - low) / max(high - low, 1e-8) * 255).astype(np.uint8)
    palette = np.array([[0, 0, 0], *([int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in COLOURS)], dtype=np.uint8)
    coloured = palette[np.where(largest == 0, 0, (largest - 1) % len(COLOURS) + 1)]
    picture = np.concatenate([_square(np.repeat(shade[..., None], 3, axis=-1)), _square(coloured)], axis=1)
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(picture)))


def _middle(volume: NDArray[Any]) -> NDArray[Any]:
    return volume[volume.shape[0] // 2] if volume.ndim == 3 else volume


def _square(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture (Y, X, 3), each axis stretched to ``SIDE`` pixels."""
    rows, columns = (np.arange(SIDE) * n // SIDE for n in picture.shape[:2])
    stretched: NDArray[np.uint8] = picture[rows][:, columns]
    return stretched
