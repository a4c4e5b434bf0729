"""Blur and simulated low resolution of rows: single channels (M, S) of samples, each with its own parameter."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.augment.lookup import enlarged

TRUNCATE = 3.0


def blur(rows: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur, reflected at the edges, cut at ``TRUNCATE`` deviations (nnU-Net cuts there too).

    Args:
        rows: (M, S).
        sigma: (M, d) standard deviations in voxels, on the CPU; 0: no blur along that axis.
    """
    for axis, along in enumerate(sigma.numpy().T, start=1):
        rows = _blur_along(rows, along, axis)
    return rows


def _blur_along(rows: Tensor, sigma: np.ndarray, axis: int) -> Tensor:
    # Few numbers: quicker in numpy.
    radius = (TRUNCATE * sigma + 0.5).astype(np.int64)[:, None]
    offsets = np.arange(radius.max() + 1)
    weights = np.exp(-0.5 * (offsets / np.maximum(sigma, 1e-6)[:, None]) ** 2) * (offsets <= radius)
    weights /= 2 * weights.sum(axis=1, keepdims=True) - weights[:, :1]
    columns = torch.from_numpy(weights).to(rows).reshape(*weights.shape, *[1] * (rows.ndim - 1))
    length, margin = rows.shape[axis], len(offsets) - 1
    padded = _mirrored(rows, margin, axis)
    # Shifted sums: several times faster than grouped convolutions on a CPU.
    out = rows * columns[:, 0]
    for offset in range(1, len(offsets)):
        pair = padded.narrow(axis, margin - offset, length) + padded.narrow(axis, margin + offset, length)
        out.addcmul_(pair, columns[:, offset])
    return out


def _mirrored(rows: Tensor, margin: int, axis: int) -> Tensor:
    """Rows with ``margin`` more voxels at both ends of an axis."""
    length = rows.shape[axis]
    where = torch.from_numpy(_reflected(length, margin)).to(rows.device)
    padded = rows.new_empty([n + 2 * margin if a == axis else n for a, n in enumerate(rows.shape)])
    padded.narrow(axis, margin, length).copy_(rows)
    for start, index in ((0, where[:margin]), (margin + length, where[margin:])):
        padded.narrow(axis, start, margin).copy_(rows.index_select(axis, index))
    return padded


def _reflected(length: int, margin: int) -> np.ndarray:
    """Indices -margin to -1 and length to length + margin - 1, reflected about the outer voxels as often as needed."""
    beyond = np.arange(margin)
    period = max(1, 2 * (length - 1))
    index: np.ndarray = np.concatenate([beyond - margin, beyond + length]) % period
    return np.asarray(np.minimum(index, np.minimum(period - index, length - 1)))


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
        out[index] = enlarged(row, shape)[0, 0]
    return out
