"""The table of losses. MONAI's where they exist and are right.

Each row is a loss for classes that exclude one another (softmax) and one for overlapping regions (sigmoid). Voxels
labelled ``IGNORE`` add nothing to a loss and get no gradient; a batch without an annotated voxel has loss 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from medseg.image.labels import IGNORE
from medseg.losses.targets import annotated, multi_hot

Loss = Callable[[Tensor, Tensor], Tensor]
# From logits (N, R, S), multi-hot targets (N, R, S) and the mask of annotated voxels (N, 1, S).
RegionLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def dice(ignore: bool) -> Loss:
    """Soft Dice (Milletari et al. 2016) over the foreground classes, pooled over the batch.

    Pooling keeps a patch without foreground from dragging the mean to 0 or 1.
    """
    from monai.losses import DiceLoss

    index = IGNORE if ignore else None
    soft = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True, ignore_index=index)
    return lambda logits, labels: soft(logits, labels[:, None])


def cross_entropy(ignore: bool) -> Loss:
    """Mean cross-entropy over all annotated voxels."""
    if not ignore:
        return F.cross_entropy

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        # The library's own mean is 0/0 where nothing is annotated.
        total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
        return total / (labels != IGNORE).sum().clamp_min(1)

    return loss


def region_dice() -> RegionLoss:
    """Soft Dice over the regions, pooled over the batch."""
    from monai.losses import DiceLoss

    # Its own ``ignore_index`` takes voxels outside every region for ignored ones, so the mask is applied here.
    soft = DiceLoss(include_background=True, batch=True)
    return lambda logits, targets, mask: soft(logits.sigmoid() * mask, targets * mask)


def region_cross_entropy() -> RegionLoss:
    """Mean binary cross-entropy over the regions and all annotated voxels."""

    def loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        total = (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * mask).sum()
        return total / (mask.sum() * logits.shape[1]).clamp_min(1)

    return loss


# Name -> its terms for classes and for regions; the loss is their plain sum. Dice and cross-entropy together: nnU-Net's
# (Isensee et al. 2021).
LOSSES: dict[str, tuple[tuple[Callable[[bool], Loss], Callable[[], RegionLoss]], ...]] = {
    "dice_ce": ((dice, region_dice), (cross_entropy, region_cross_entropy)),
    "dice": ((dice, region_dice),),
    "ce": ((cross_entropy, region_cross_entropy),),
}


def build_loss(name: str, regions: Sequence[Sequence[int]] = (), *, ignore: bool = False) -> Loss:
    """The loss of a table row: maps float logits and integer labels (N, S) to a scalar.

    Args:
        name: row of ``LOSSES``.
        regions: classes that each output channel unites; empty: channel k is class k.
        ignore: whether labels may be ``IGNORE``; where they never are, the masking is not paid for.

    Returns:
        A function of logits (N, K, S), or (N, R, S) with regions, and labels 0..K-1 or ``IGNORE``.
    """
    if not regions:
        terms = [exclusive(ignore) for exclusive, _ in LOSSES[name]]
        return lambda logits, labels: sum((term(logits, labels) for term in terms[1:]), terms[0](logits, labels))
    overlapping = [region() for _, region in LOSSES[name]]

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        targets, mask = multi_hot(labels, regions), annotated(labels)
        return sum((term(logits, targets, mask) for term in overlapping[1:]), overlapping[0](logits, targets, mask))

    return loss
