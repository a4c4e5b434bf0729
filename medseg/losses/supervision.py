"""Deep supervision (Lee et al. 2015): the loss at every resolution that a network gives logits at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medseg.losses.targets import Loss

# What a network gives: logits (N, K, S), or while it trains several at their own resolutions, finest first.
Outputs = Tensor | Sequence[Tensor]
# From what a network gives, and integer labels (N, S) at the finest resolution, to a scalar.
OutputLoss = Callable[[Outputs, Tensor], Tensor]


def deeply_supervised(loss: Loss) -> OutputLoss:
    """``loss`` for networks that give logits at one resolution or at several.

    Of several, weights halve from one resolution to the next and sum to one (Isensee et al. 2021); coarse ones are
    compared with the labels at the centres of their voxels.
    """

    def weighted(outputs: Outputs, labels: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return loss(outputs, labels)
        weights = [0.5**i for i in range(len(outputs))]
        total = sum(weights)
        terms = [w / total * loss(o, at_centres(labels, o.shape[2:])) for w, o in zip(weights, outputs, strict=True)]
        return sum(terms[1:], terms[0])

    return weighted


def at_centres(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (N, S), or targets (N, K, S), on a grid of ``size``: each voxel takes what is at its centre."""
    first = labels.ndim - len(size)
    for axis, (fine, coarse) in enumerate(zip(labels.shape[first:], size, strict=True), start=first):
        if fine != coarse:
            centres = (torch.arange(coarse, device=labels.device) * 2 + 1) * fine // (2 * coarse)
            labels = labels.index_select(axis, centres)
    return labels
