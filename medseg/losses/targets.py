"""Targets of a loss: annotated voxels of classes that exclude one another, or of overlapping regions.

Also the two forms that a term of a loss has, and how a measure of probabilities becomes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.image.labels import IGNORE

# From logits (N, K, S), float32 or wider, and labels (N, S).
Loss = Callable[[Tensor, Tensor], Tensor]
# From logits (N, R, S), float32 or wider, multi-hot targets (N, R, S) and the mask of annotated voxels (N, 1, S).
RegionLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Term:
    """A summand of a loss, for both kinds of labels.

    Attributes:
        classes: makes the loss of a softmax over classes that exclude one another; from whether labels may be
            ``IGNORE`` (where they never are, a mask may be left out).
        regions: makes the loss of a sigmoid per region.
    """

    classes: Callable[[bool], Loss]
    regions: Callable[[], RegionLoss]


def annotated(labels: Tensor) -> Tensor:
    """1 where labels (N, S) are annotated, 0 where they are ``IGNORE``; (N, 1, S) float32."""
    return (labels != IGNORE)[:, None].float()


def multi_hot(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Labels (N, S) as one channel per region: 1 where the label is among its classes; (N, R, S) float32.

    Voxels that are ``IGNORE`` are in no region.
    """
    table = torch.zeros(IGNORE + 1, len(regions), device=labels.device)
    for region, classes in enumerate(regions):
        table[list(classes), region] = 1.0
    return table[labels].movedim(-1, 1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels (N, S) as one channel per class, background included; (N, K, S) float32. ``IGNORE`` is in none."""
    return multi_hot(labels, [[k] for k in range(classes)])


def spatial(values: Tensor) -> list[int]:
    """The axes of (N, R, S) that a batch is pooled over: all but the channels."""
    return [0, *range(2, values.ndim)]


def foreground_term(measure: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Term:
    """A term that treats foreground classes as it treats regions.

    Args:
        measure: of probabilities and targets (N, R, S), and the mask of annotated voxels (N, 1, S), to a scalar.
            Targets are 0 where the mask is; probabilities are not.
    """

    def classes(ignore: bool) -> Loss:
        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            targets = one_hot(labels, logits.shape[1])
            return measure(logits.softmax(1)[:, 1:], targets[:, 1:], annotated(labels))

        return loss

    return Term(classes, lambda: lambda logits, targets, mask: measure(logits.sigmoid(), targets, mask))
