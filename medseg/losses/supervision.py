"""Deep supervision (Lee et al. 2015): the loss at every resolution that a network gives logits at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def supervised(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
    """The loss of one output, or of several at their own resolutions.

    Weights halve from one resolution to the next and sum to one (Isensee et al. 2021).

    Args:
        loss: of float32 logits (N, K, S) and labels (N, S).
        outputs: logits (N, K, S), or a sequence of them, finest first.
        labels: integers (N, S) at the finest resolution; picked at voxel centres for the others.
    """
    if isinstance(outputs, Tensor):
        return loss(outputs.float(), labels)
    weights = [0.5**i for i in range(len(outputs))]
    total = sum(weights)
    terms = [w / total * loss(o.float(), _at(labels, o.shape[2:])) for w, o in zip(weights, outputs, strict=True)]
    return sum(terms[1:], terms[0])


def _at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels (N, S) on a grid of ``size``: each voxel takes the label at its centre."""
    for axis, (fine, coarse) in enumerate(zip(labels.shape[1:], size, strict=True), start=1):
        if fine != coarse:
            centres = (torch.arange(coarse, device=labels.device) * 2 + 1) * fine // (2 * coarse)
            labels = labels.index_select(axis, centres)
    return labels
