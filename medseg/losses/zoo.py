"""The table of losses. MONAI's where they exist and are right."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def dice_ce() -> Loss:
    """Soft Dice over the foreground classes, pooled over the batch, plus cross-entropy (Isensee et al. 2021)."""
    soft = dice()
    return lambda logits, labels: soft(logits, labels) + F.cross_entropy(logits, labels)


def dice() -> Loss:
    """Soft Dice (Milletari et al. 2016) over the foreground classes, pooled over the batch.

    Pooling keeps a patch without foreground from dragging the mean to 0 or 1.
    """
    from monai.losses import DiceLoss

    soft = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    return lambda logits, labels: soft(logits, labels[:, None])


def cross_entropy() -> Loss:
    """Mean cross-entropy over all voxels."""
    return F.cross_entropy


LOSSES: dict[str, Callable[[], Loss]] = {"dice_ce": dice_ce, "dice": dice, "ce": cross_entropy}


def build_loss(name: str) -> Loss:
    """The loss of a table row: maps float logits (N, K, S) and integer labels (N, S) to a scalar."""
    return LOSSES[name]()
