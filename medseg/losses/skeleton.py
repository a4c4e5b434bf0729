"""Centre-line Dice (Shit et al. 2021): tubes should stay in one piece.

The centre line S(v) of a soft mask v is what opening removes from it, gathered while it is eroded k times. With P the
prediction and T the truth,

    Tprec = (sum S(P) T + 1) / (sum S(P) + 1),    Tsens = (sum S(T) P + 1) / (sum S(T) + 1),
    loss = 1 - 2 Tprec Tsens / (Tprec + Tsens),

mean over foreground classes or regions, with sums over all annotated voxels of a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medseg.losses.targets import foreground_term, spatial

# Erosions: centre lines are found of tubes of up to 2 (k + 1) voxels. The authors' code has 3.
EROSIONS = 3


def _along(pick: Callable[[Tensor, Tensor], Tensor], values: Tensor, axis: int) -> Tensor:
    """The least or greatest of each voxel and its two neighbours along an axis; nothing lies beyond the border."""
    size = values.shape[axis]
    if size == 1:
        return values
    pairs = pick(values.narrow(axis, 0, size - 1), values.narrow(axis, 1, size - 1))
    triples = pick(pairs.narrow(axis, 0, size - 2), pairs.narrow(axis, 1, size - 2))
    return torch.cat([pairs.narrow(axis, 0, 1), triples, pairs.narrow(axis, size - 2, 1)], axis)


def _erode(values: Tensor) -> Tensor:
    """The least of each voxel of (N, R, S) and its neighbours across faces."""
    out = _along(torch.minimum, values, 2)
    for axis in range(3, values.ndim):
        out = torch.minimum(out, _along(torch.minimum, values, axis))
    return out


def _dilate(values: Tensor) -> Tensor:
    """The greatest in the box of 3 voxels a side around each voxel of (N, R, S)."""
    for axis in range(2, values.ndim):
        values = _along(torch.maximum, values, axis)
    return values


def soft_skeleton(values: Tensor, erosions: int = EROSIONS) -> Tensor:
    """The soft centre lines of (N, R, S), algorithm 1 of the paper.

    MONAI's numbers, from half as many erosions and without pooling, whose 3-D gradient is not deterministic on CUDA.
    """
    eroded = _erode(values)
    skeleton = (values - _dilate(eroded)).relu()
    for _ in range(erosions):
        values, eroded = eroded, _erode(eroded)
        rest = (values - _dilate(eroded)).relu()
        skeleton = skeleton + (rest - skeleton * rest).relu()
    return skeleton


def _cl_dice(probabilities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    probabilities = probabilities * mask
    axes = spatial(probabilities)
    line, true_line = soft_skeleton(probabilities), soft_skeleton(targets)
    precision = ((line * targets).sum(axes) + 1) / (line.sum(axes) + 1)
    sensitivity = ((true_line * probabilities).sum(axes) + 1) / (true_line.sum(axes) + 1)
    return (1 - 2 * precision * sensitivity / (precision + sensitivity)).mean()


CL_DICE = foreground_term(_cl_dice)
