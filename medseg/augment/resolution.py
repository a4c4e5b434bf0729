"""Blur and simulated low resolution of rows: single channels (M, S) of samples, each with its own parameter."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TRUNCATE = 3.0
MODES = {2: "bilinear", 3: "trilinear"}


def blur(rows: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, reflected at the edges, cut at ``TRUNCATE`` deviations (nnU-Net cuts there too).

    Args:
        rows: (M, S).
        sigma: (M, d) standard deviations in voxels; 0: no blur along that axis.
    """
    for axis in range(1, rows.ndim):
        rows = _blur_along(rows, sigma[:, axis - 1], axis)
    return rows


def _blur_along(rows: Tensor, sigma: Tensor, axis: int) -> Tensor:
    radius = (TRUNCATE * sigma + 0.5).floor().long()
    offsets = torch.arange(int(radius.max()) + 1)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp_min(1e-6)[:, None]) ** 2) * (offsets <= radius[:, None])
    weights = (weights / (2 * weights.sum(dim=1, keepdim=True) - weights[:, :1])).to(rows.device)
    length, margin = rows.shape[axis], len(offsets) - 1
    padded = _mirrored(rows, margin, axis)
    column = (-1, *[1] * (rows.ndim - 1))
    # Shifted sums: several times faster than grouped convolutions on a CPU.
    out = rows * weights[:, 0].reshape(column)
    for offset in range(1, len(offsets)):
        pair = padded.narrow(axis, margin - offset, length) + padded.narrow(axis, margin + offset, length)
        out.addcmul_(pair, weights[:, offset].reshape(column))
    return out


def _mirrored(rows: Tensor, margin: int, axis: int) -> Tensor:
    """Rows with ``margin`` more voxels at both ends of an axis."""
    length = rows.shape[axis]
    where = _reflected(length, margin, rows.device)
    padded = rows.new_empty([n + 2 * margin if a == axis else n for a, n in enumerate(rows.shape)])
    padded.narrow(axis, margin, length).copy_(rows)
    for start, index in ((0, where[:margin]), (margin + length, where[margin + length :])):
        padded.narrow(axis, start, margin).copy_(rows.index_select(axis, index))
    return padded


def _reflected(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices -margin to length + margin - 1 of an axis, reflected about its outer voxels as often as needed."""
    index = torch.arange(-margin, length + margin, device=device)
    period = max(1, 2 * (length - 1))
    index = index.remainder(period)
    return torch.minimum(index, period - index).clamp_max(length - 1)


def low_resolution(rows: Tensor, zoom: Tensor, spared: int | None = None) -> Tensor:
    """Shrink by taking the nearest voxels, and enlarge linearly to the old size.

    Args:
        rows: (M, S).
        zoom: (M,) size of the small grid as a share of the large one.
        spared: axis that keeps its size.
    """
    shape = rows.shape[1:]
    out = torch.empty_like(rows)
    for index, share in enumerate(zoom.tolist()):
        small = [n if a == spared else max(1, round(n * share)) for a, n in enumerate(shape)]
        row = F.interpolate(rows[index, None, None], small, mode="nearest-exact")
        out[index] = F.interpolate(row, shape, mode=MODES[len(shape)])[0, 0]
    return out
