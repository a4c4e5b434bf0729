"""Blur and simulated low resolution of rows: single channels (M, S) of samples, each with its own parameter.

Rows are changed in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    for axis, along in enumerate(sigma.T.tolist(), start=1):
        _blur_along(rows, along, axis)
    return rows


def _blur_along(rows: Tensor, sigma: Sequence[float], axis: int) -> None:
    weights = torch.tensor(_weights(sigma), dtype=rows.dtype, device=rows.device)
    columns = weights.reshape(*weights.shape, *[1] * (rows.ndim - 1))
    length, margin = rows.shape[axis], weights.shape[1] - 1
    padded = _reflected(rows, margin, axis)
    # Shifted sums: several times faster than grouped convolutions on a CPU.
    rows *= columns[:, 0]
    pair = torch.empty_like(rows)
    for offset in range(1, margin + 1):
        before, behind = padded.narrow(axis, margin - offset, length), padded.narrow(axis, margin + offset, length)
        rows.addcmul_(torch.add(before, behind, out=pair), columns[:, offset])


def _weights(sigma: Sequence[float]) -> list[list[float]]:
    """Half of the kernel per row, from its middle on; few numbers, for which a library is slow."""
    radius = [int(TRUNCATE * s + 0.5) for s in sigma]
    halves = []
    for s, r in zip(sigma, radius, strict=True):
        half = [math.exp(-0.5 * (k / s) ** 2) if 0 < k <= r else float(k == 0) for k in range(max(radius) + 1)]
        total = 2 * sum(half) - half[0]
        halves.append([weight / total for weight in half])
    return halves


def _reflected(rows: Tensor, margin: int, axis: int) -> Tensor:
    """Rows with ``margin`` more voxels at both ends of an axis, reflected about the outer ones."""
    length, inner = rows.shape[axis], rows.shape[axis + 1 :].numel()
    # As pictures of which that axis is the width, or else the height.
    width = inner == 1
    padded = rows.reshape(1, len(rows), -1, length) if width else rows.reshape(1, -1, length, inner)
    while margin:
        if length == 1:
            padded = padded.repeat_interleave(1 + 2 * margin, dim=3 if width else 2)
            break
        # Axes shorter than the margin are reflected several times.
        most = min(margin, length - 1)
        padded = F.pad(padded, (most, most, 0, 0) if width else (0, 0, most, most), mode="reflect")
        margin -= most
    return padded.reshape(*rows.shape[:axis], -1, *rows.shape[axis + 1 :])


def low_resolution(rows: Tensor, zoom: Tensor, spared: int | None = None) -> Tensor:
    """Shrink by taking the nearest voxels, and enlarge linearly to the old size.

    Args:
        rows: (M, S).
        zoom: (M,) size of the small grid as a share of the large one.
        spared: axis that keeps its size.
    """
    shape = rows.shape[1:]
    for index, share in enumerate(zoom.tolist()):
        small = [n if a == spared else max(1, round(n * share)) for a, n in enumerate(shape)]
        row = F.interpolate(rows[index, None, None], small, mode="nearest-exact")
        rows[index] = enlarged(row, shape)[0, 0]
    return rows
