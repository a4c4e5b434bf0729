"""Thumbnails: the details of an image of any size, in as many cells as those of any other."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Cells per axis of a thumbnail, and the shortest axis that gets one; a shorter axis of a volume is averaged over.
CELLS = {2: 64, 3: 24}
SHORTEST = {2: 32, 3: 12}

# Standard deviations in cells: blur that makes shifts by parts of a cell harmless, width of a detail, width over which
# contrast is evened out.
SCALES: dict[int, tuple[float, float, float]] = {2: (0.8, 4.0, 6.0), 3: (0.5, 2.0, 3.0)}
# Contrast below this share of the thumbnail's is not raised further; so details end at 1 / FLOOR, and BYTES scales them
# to bytes.
FLOOR = 0.15
BYTES = 127 * FLOOR

Field = NDArray[np.float32]
Thumbnail = NDArray[np.int8]


def area_weights(cells: int, length: int) -> Field:
    """Weights (cells, length) that average ``length`` samples over equal cells; finer cells are interpolated."""
    if length >= cells:
        edges = np.linspace(0, length, cells + 1)
        upper = np.minimum(edges[1:, None], np.arange(1, length + 1))
        weights = np.clip(upper - np.maximum(edges[:-1, None], np.arange(length)), 0, None)
    else:
        places = np.clip((np.arange(cells) + 0.5) * length / cells - 0.5, 0, length - 1)
        weights = np.clip(1 - np.abs(places[:, None] - np.arange(length)), 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _native_weights(cells: int, length: int) -> Field:
    """Weights (cells, length) of cells of 2^k samples around the middle; rows beyond the ends are zero."""
    # Widths change at lengths that are rare (45 * 2^k), so that an image and what is left of it mostly have the same.
    width = 1 << max(0, int(np.floor(np.log2(length / (0.7 * cells)))))
    weights = np.zeros((cells, length), dtype=np.float32)
    first = (length - cells * width) // 2
    for cell in range(cells):
        low, high = first + cell * width, first + (cell + 1) * width
        if low >= 0 and high <= length:
            weights[cell, low:high] = 1 / width
    return weights


def take_thumbnails(image: NDArray[Any]) -> tuple[Thumbnail | None, Thumbnail | None]:
    """Details of the whole image (C,*S), and of its middle in cells of 2^k voxels; None if an axis is too short.

    Each is (64, 64), or (24, 24, 24) for volumes. Outside the image is zero.
    """
    shape = image.shape[1:]
    thin = [a for a, n in enumerate(shape) if len(shape) == 3 and n < SHORTEST[3]]
    dims = len(shape) - len(thin)
    if dims not in CELLS or any(n < SHORTEST[dims] for a, n in enumerate(shape) if a not in thin):
        return None, None
    cells = CELLS[dims]
    weights = [
        np.full((1, n), 1 / n, dtype=np.float32)
        if a in thin
        else np.concatenate([area_weights(cells, n), _native_weights(cells, n)])
        for a, n in enumerate(shape)
    ]
    both = _contract(image, weights).reshape((2 * cells,) * dims)
    seen = [np.flatnonzero(w[cells:].any(axis=1)) for a, w in enumerate(weights) if a not in thin]
    box = tuple(slice(int(rows[0]), int(rows[-1]) + 1) for rows in seen)
    native = np.zeros((cells,) * dims, dtype=np.int8)
    native[box] = details(both[(slice(cells, None),) * dims][box])
    return details(both[(slice(0, cells),) * dims]), native


def details(thumbnail: Field) -> Thumbnail:
    """What is left of a thumbnail without slow changes of brightness, its contrast evened out; times BYTES."""
    fine, wide, even = SCALES[thumbnail.ndim]
    high = _blur(thumbnail, fine) - _blur(thumbnail, wide)
    deviation = float(high.std())
    if not deviation > 1e-6 * float(np.abs(thumbnail).max()):
        return np.zeros(thumbnail.shape, dtype=np.int8)
    high /= deviation
    evened = np.round(BYTES * high / (np.sqrt(_blur(high**2, even)) + FLOOR))
    return np.asarray(np.clip(evened, -127, 127), dtype=np.int8)


def _blur(field: Field, sigma: float) -> Field:
    """A Gaussian blur, normalised at the borders, as one small matrix per axis."""
    for axis, length in enumerate(field.shape):
        field = np.moveaxis(np.tensordot(_gaussian(length, sigma), field, axes=(1, axis)), 0, axis)
    return field


@lru_cache(maxsize=256)
def _gaussian(length: int, sigma: float) -> Field:
    distance = np.arange(length)[:, None] - np.arange(length)
    weights = np.exp(-0.5 * (distance / sigma) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _contract(image: NDArray[Any], weights: list[Field]) -> Field:
    """Weighted sums along every axis of the mean over channels, slab by slab along the axis stored slowest."""
    strides = [abs(s) for s in image.strides[1:]]
    slow = int(np.argmax(strides))
    rest = [w for a, w in enumerate(weights) if a != slow]
    length = image.shape[1 + slow]
    size = max(1, (1 << 20) // max(1, image[0].size // length))
    out = np.zeros((len(weights[slow]), *(len(w) for w in rest)), dtype=np.float32)
    for start in range(0, length, size):
        part = np.moveaxis(image, 1 + slow, 1)[:, start : start + size].mean(axis=0, dtype=np.float32)
        if not np.isfinite(part).all():
            part = np.nan_to_num(part, nan=0.0, posinf=0.0, neginf=0.0)
        for weight in rest:  # takes the first axis that is left, appends its cells
            part = np.tensordot(part, weight, axes=(1, 1))
        out += np.tensordot(weights[slow][:, start : start + size], part, axes=(1, 0))
    return np.moveaxis(out, 0, slow)
