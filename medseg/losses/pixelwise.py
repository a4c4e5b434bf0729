"""Losses that are means over voxels of each voxel's own cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.image.labels import IGNORE
from medseg.losses.targets import Term

# How much less voxels count that are right already (Lin et al. 2017, the best of their table).
GAMMA = 2
# One voxel in so many is among the worst: 10 %, as in nnU-Net's loss of that name.
ONE_IN = 10


def _surprise(logits: Tensor, labels: Tensor) -> Tensor:
    """-log of the probability of each voxel's class, (N, S); 0 without gradient where labels are ``IGNORE``.

    Always voxel by voxel: the library's own mean over an image is not deterministic on CUDA, and 0/0 where nothing is
    annotated.
    """
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")


def _region_surprise(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """-log of the probability of the truth, (N, R, S); 0 without gradient outside the mask."""
    # The library would round wider logits to the type of the targets.
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none") * mask


def _mean(values: Tensor, count: Tensor) -> Tensor:
    """The mean of values that are 0 where they do not count; 0 if none do."""
    return values.sum() / count.clamp_min(1)


def _focal(surprise: Tensor) -> Tensor:
    # p = exp(-surprise).
    return (-torch.expm1(-surprise)) ** GAMMA * surprise


def _worst(surprise: Tensor, count: Tensor) -> Tensor:
    """The mean of the largest tenth (at least one) of ``count`` values; all others of ``surprise`` are 0."""
    values = surprise.flatten()
    # The number that counts is known on the device only, so as many are found as it can be at most.
    largest = values.topk(max(1, len(values) // ONE_IN)).values
    kept = (count // ONE_IN).clamp_min(1)
    return (largest * (torch.arange(len(largest), device=largest.device) < kept)).sum() / kept


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return _mean(_surprise(logits, labels), (labels != IGNORE).sum())


def _region_cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    return _mean(_region_surprise(logits, targets, mask), mask.sum() * logits.shape[1])


def _classes_focal(logits: Tensor, labels: Tensor) -> Tensor:
    return _mean(_focal(_surprise(logits, labels)), (labels != IGNORE).sum())


def _region_focal(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    return _mean(_focal(_region_surprise(logits, targets, mask)), mask.sum() * logits.shape[1])


def _top_k(logits: Tensor, labels: Tensor) -> Tensor:
    return _worst(_surprise(logits, labels), (labels != IGNORE).sum())


def _region_top_k(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    return _worst(_region_surprise(logits, targets, mask).mean(1), mask.sum().long())


# -log p of the right class, or the binary one of each region; mean over annotated voxels (and regions).
CROSS_ENTROPY = Term(lambda _: _cross_entropy, lambda: _region_cross_entropy)
# Lin et al. 2017: -(1 - p)^gamma log p, averaged alike, without their alpha. MONAI's values, but its mean is K
# times larger with an ignored label than without (it divides by voxels there and by voxels times classes here).
FOCAL = Term(lambda _: _classes_focal, lambda: _region_focal)
# Wu et al. 2016: the mean of -log p over the worst 10 % of the annotated voxels of a batch (with regions: of their mean
# binary one).
TOP_K = Term(lambda _: _top_k, lambda: _region_top_k)
