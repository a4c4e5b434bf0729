"""What a network is asked for: annotated voxels of classes that exclude one another, or of overlapping regions."""

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
