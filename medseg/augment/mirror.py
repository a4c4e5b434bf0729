"""Mirrors and quarter turns of single samples of a batch: exact, nothing is interpolated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mirror(images: Tensor, labels: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
    """Reverse the axes of each sample that ``flips`` (N, d) names; in place, exact."""
    for n, drawn in enumerate(flips.tolist()):
        axes = [a for a, flip in enumerate(drawn) if flip]
        if axes:
            images[n] = images[n].flip([a + 1 for a in axes])
            labels[n] = labels[n].flip(axes)
    return images, labels


def turning_plane(shape: Sequence[int], spacing: Sequence[float]) -> tuple[tuple[int, int], bool]:
    """The plane across the coarsest axis (of equal ones, the shortest), and whether quarter turns in it fit."""
    dims = len(shape)
    across = max(range(dims), key=lambda a: (spacing[a], -shape[a])) if dims > 2 else dims
    a, b = (axis for axis in range(dims) if axis != across)
    return (a, b), shape[a] == shape[b] and spacing[a] == spacing[b]


def quarter_turn(images: Tensor, labels: Tensor, turns: Tensor, plane: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Turn each sample by ``turns`` (N,) times 90 degrees in a plane of two spatial axes of equal length; in place."""
    a, b = plane
    for k in (1, 2, 3):
        index = (turns == k).nonzero().flatten().to(images.device)
        if len(index):
            images[index] = torch.rot90(images[index], k, (a + 2, b + 2))
            labels[index] = torch.rot90(labels[index], k, (a + 1, b + 1))
    return images, labels
