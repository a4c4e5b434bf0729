"""The table of losses: MONAI's where they exist and are right. ``docs/losses.md`` says when to use which.

Each row is a loss for classes that exclude one another (softmax) and one for overlapping regions (sigmoid). Voxels
labelled ``IGNORE`` add nothing to a loss and get no gradient; a batch without an annotated voxel has loss 0. A sure and
right answer has loss 0, any other more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.losses.distance import BOUNDARY, HAUSDORFF
from medseg.losses.lovasz import LOVASZ
from medseg.losses.overlap import DICE, GENERALISED_DICE, TVERSKY
from medseg.losses.pixelwise import CROSS_ENTROPY, FOCAL, TOP_K
from medseg.losses.skeleton import CL_DICE
from medseg.losses.targets import Loss, Term, annotated, multi_hot

# Name -> its terms; the loss is their plain sum. Dice and cross-entropy together: nnU-Net's (Isensee et al. 2021).
LOSSES: dict[str, tuple[Term, ...]] = {
    "dice_ce": (DICE, CROSS_ENTROPY),
    "dice": (DICE,),
    "ce": (CROSS_ENTROPY,),
    "dice_focal": (DICE, FOCAL),
    "dice_topk": (DICE, TOP_K),
    "tversky": (TVERSKY,),
    "generalised_dice": (GENERALISED_DICE,),
    "lovasz": (LOVASZ,),
    "dice_boundary": (DICE, BOUNDARY),
    "dice_hausdorff": (DICE, HAUSDORFF),
    "cldice": (DICE, CL_DICE),
}


def build_loss(name: str, regions: Sequence[Sequence[int]] = (), *, ignore: bool = False) -> Loss:
    """The loss of a table row: maps logits and integer labels (N, S) to a scalar.

    Args:
        name: row of ``LOSSES``.
        regions: classes that each output channel unites; empty: channel k is class k.
        ignore: whether labels may be ``IGNORE``.

    Returns:
        A function of logits (N, K, S), or (N, R, S) with regions, and labels 0..K-1 or ``IGNORE``. It widens
        logits of 16 bits to float32 first.
    """
    if not regions:
        terms = [term.classes(ignore) for term in LOSSES[name]]

        def exclusive(logits: Tensor, labels: Tensor) -> Tensor:
            logits = _widened(logits)
            return sum((term(logits, labels) for term in terms[1:]), terms[0](logits, labels))

        return exclusive
    overlapping = [term.regions() for term in LOSSES[name]]

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logits, targets, mask = _widened(logits), multi_hot(labels, regions), annotated(labels)
        return sum((term(logits, targets, mask) for term in overlapping[1:]), overlapping[0](logits, targets, mask))

    return loss


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
