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


def slab_axis(shape: Sequence[int], window: Sequence[int]) -> int:
    """The spatial axis along which windows are shortest for the image: slabs across it are thinnest."""
    return min(range(len(shape)), key=lambda a: window[a] / shape[a])


def predict_tiled(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: float = 0.5,
    batch: int = 4,
    slice_axis: int | None = None,
) -> Tensor:
    """All of ``predict_slabs`` in one: (K, S) float32 on the CPU."""
    slabs = predict_slabs(network, image, window, overlap=overlap, batch=batch, slice_axis=slice_axis)
    return torch.cat(list(slabs), dim=1)


def predict_slabs(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    *,
    axis: int = 0,
    overlap: float = 0.5,
    batch: int = 4,
    slice_axis: int | None = None,
) -> Iterator[Tensor]:
    """Blend the network's outputs over overlapping windows; only what later windows still change is held in memory.

    Args:
        network: maps (N, C, window) to (N, K, window); without the slice axis, if there is one.
        image: (C, S), on the network's device. An axis shorter than the window is padded with zeros on both sides.
        window: window shape.
        axis: spatial axis that slabs are cut along (see ``slab_axis``).
        overlap: share of a window that its neighbour covers too.
        batch: windows per network call.
        slice_axis: spatial axis of which the network sees one voxel at a time (a 2-D network on a volume): windows are
            one voxel thick there, so that slices do not overlap.

    Yields:
        (K, slab) float32 on the CPU, slab after slab along ``axis``: the weighted mean of the windows' outputs, weights
        of every voxel summing to one.
    """
    shape = image.shape[1:]
    pads = [max(0, w - n) for w, n in zip(window, shape, strict=True)]
    before = [p // 2 for p in pads]
    flat = [v for p, b in zip(reversed(pads), reversed(before), strict=True) for v in (b, p - b)]
    padded = F.pad(image, flat) if any(pads) else image
    inside = [slice(b, b + n) for b, n in zip(before, shape, strict=True)]
    begin, end = before[axis], before[axis] + shape[axis]
    weights = gaussian_window(window)
    starts = list(_grid(padded.shape[1:], window, overlap, axis))
    # Sums of the rows from ``done`` on, of outputs and of weights.
    done, summed, norm = 0, torch.empty(0), torch.empty(0)
    for place in range(0, len(starts), batch):
        chunk = starts[place : place + batch]
        boxes = [tuple(slice(s, s + w) for s, w in zip(start, window, strict=True)) for start in chunk]
        outputs = _run(network, torch.stack([padded[(slice(None), *box)] for box in boxes]), slice_axis)
        rows = chunk[-1][axis] + window[axis] - done
        summed = _grow(summed, (outputs.shape[1], *padded.shape[1:]), axis + 1, rows)
        norm = _grow(norm, padded.shape[1:], axis, rows)
        for box, output in zip(boxes, outputs, strict=True):
            held = (*box[:axis], slice(box[axis].start - done, box[axis].stop - done), *box[axis + 1 :])
            summed[(slice(None), *held)] += output * weights
            norm[held] += weights
        final = starts[place + batch][axis] if place + batch < len(starts) else padded.shape[axis + 1]
        low, high = max(done, begin), min(final, end)
        if low < high:
            cut = (*inside[:axis], slice(low - done, high - done), *inside[axis + 1 :])
            yield summed[(slice(None), *cut)] / norm[cut]
        left = [slice(None)] * axis + [slice(final - done, None)]
        summed, norm, done = summed[(slice(None), *left)], norm[tuple(left)], final


def _run(network: Callable[[Tensor], Tensor], windows: Tensor, slice_axis: int | None) -> Tensor:
    if slice_axis is None:
        return network(windows).float().cpu()
    return network(windows.squeeze(slice_axis + 2)).float().cpu().unsqueeze(slice_axis + 2)


def _grid(shape: Sequence[int], window: Sequence[int], overlap: float, axis: int) -> Iterator[tuple[int, ...]]:
    """Corners of all windows, ascending along ``axis``."""
    along = [window_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
    for first, *rest in itertools.product(along[axis], *along[:axis], *along[axis + 1 :]):
        yield (*rest[:axis], first, *rest[axis:])


def _grow(values: Tensor, shape: Sequence[int], axis: int, rows: int) -> Tensor:
    """Append zeros along ``axis`` until there are ``rows``; ``shape`` holds for the other axes."""
    missing = rows - (values.shape[axis] if values.numel() else 0)
    if missing <= 0:
        return values
    zeros = torch.zeros(*shape[:axis], missing, *shape[axis + 1 :])
    return torch.cat([values, zeros], dim=axis) if values.numel() else zeros
