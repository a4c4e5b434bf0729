"""Sliding-window prediction: where windows stand and how their outputs are blended."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def window_starts(size: int, window: int, overlap: float = 0.5) -> list[int]:
    """Start positions along one axis: evenly spaced, the last window flush with the end.

    As nnU-Net places them (Isensee et al. 2021): 110 voxels and a window of 64 at overlap 0.5 give 0, 23, 46.
    """
    if window >= size:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((size - window) / step) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def gaussian_window(window: Sequence[int], sigma_scale: float = 0.125) -> Tensor:
    """Blending weights (S): a Gaussian with sigma = window / 8, peak 1, never below 1e-3."""
    weights = torch.ones(())
    for n in window:
        x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (x / (n * sigma_scale)) ** 2)
    return weights.clamp_min(1e-3)


def predict_tiled(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    batch: int = 4,
) -> Tensor:
    """Blend the network's outputs over overlapping windows.

    Args:
        network: maps (N, C, window) to (N, K, window).
        image: (C, S), on the network's device. An axis shorter than the window is padded with zeros on both sides.
        window: window shape.
        overlap: share of a window that its neighbour covers too.
        batch: windows per network call.

    Returns:
        (K, S) float32 on the CPU: the weighted mean of the windows' outputs, weights of every voxel summing to one.
    """
    shape = image.shape[1:]
    pads = [max(0, w - n) for w, n in zip(window, shape, strict=True)]
    before = [p // 2 for p in pads]
    flat = [v for p, b in zip(reversed(pads), reversed(before), strict=True) for v in (b, p - b)]
    padded = F.pad(image, flat) if any(pads) else image
    total = padded.shape[1:]
    weights = gaussian_window(window)
    summed: Tensor | None = None
    norm = torch.zeros(total)
    grid = itertools.product(*[window_starts(n, w, overlap) for n, w in zip(total, window, strict=True)])
    for starts in _chunks(grid, batch):
        boxes = [tuple(slice(s, s + w) for s, w in zip(start, window, strict=True)) for start in starts]
        outputs = network(torch.stack([padded[(slice(None), *box)] for box in boxes])).float().cpu()
        if summed is None:
            summed = torch.zeros(outputs.shape[1], *total)
        for box, output in zip(boxes, outputs, strict=True):
            summed[(slice(None), *box)] += output * weights
            norm[box] += weights
    assert summed is not None
    summed /= norm
    return summed[(slice(None), *[slice(b, b + n) for b, n in zip(before, shape, strict=True)])]


def _chunks(items: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk
