"""What a network is asked for and how its answer is read: classes that exclude one another, or overlapping regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.image.labels import IGNORE


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


def read_labels(logits: Tensor, painted: Sequence[int] = ()) -> Tensor:
    """Channel indices (S, uint8) from the logits (K or R, S) of one image.

    Args:
        logits: of classes, or of regions.
        painted: the class that each region paints; empty: the classes exclude one another and the largest logit wins.

    Returns:
        The label map. A region holds a voxel if its probability (sigmoid) is above 1/2; regions are painted in their
        order, later ones over earlier ones, on background (as nnU-Net does).
    """
    if not painted:
        return logits.argmax(dim=0).to(torch.uint8)
    labels = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for logit, channel in zip(logits, painted, strict=True):
        labels[logit > 0] = channel
    return labels
