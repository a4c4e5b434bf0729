"""Losses of overlap: counts of right and wrong voxels, with probabilities in place of decisions.

With p the probabilities of a class, t its voxels (0 or 1), and sums over all annotated voxels of a batch:

    TP = sum p t,    FP = sum p (1 - t),    FN = sum (1 - p) t.

Sums run over the whole batch, so that a patch without foreground does not drag the mean to 0 or 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.image.labels import IGNORE
from medseg.losses.targets import Loss, RegionLoss, Term, annotated, one_hot, spatial

# Weight of false positives and of false negatives (Salehi et al. 2017, the best of their table).
TVERSKY_ALPHA, TVERSKY_BETA = 0.3, 0.7
# Keeps 0/0 at a loss of 0; MONAI's.
SMOOTH = 1e-5


def _dice(ignore: bool) -> Loss:
    from monai.losses import DiceLoss

    index = IGNORE if ignore else None
    soft = DiceLoss(softmax=True, to_onehot_y=True, include_background=False, batch=True, ignore_index=index)
    return lambda logits, labels: soft(logits, labels[:, None])


def _region_dice() -> RegionLoss:
    from monai.losses import DiceLoss

    # Its own ``ignore_index`` takes voxels outside every region for ignored ones, so the mask is applied here.
    soft = DiceLoss(include_background=True, batch=True)
    return lambda logits, targets, mask: soft(logits.sigmoid() * mask, targets)


def _tversky(ignore: bool) -> Loss:
    from monai.losses import TverskyLoss

    soft = TverskyLoss(
        softmax=True,
        to_onehot_y=True,
        include_background=False,
        batch=True,
        alpha=TVERSKY_ALPHA,
        beta=TVERSKY_BETA,
        ignore_index=IGNORE if ignore else None,
    )
    return lambda logits, labels: soft(logits, labels[:, None])


def _region_tversky() -> RegionLoss:
    from monai.losses import TverskyLoss

    soft = TverskyLoss(include_background=True, batch=True, alpha=TVERSKY_ALPHA, beta=TVERSKY_BETA)
    return lambda logits, targets, mask: soft(logits.sigmoid() * mask, targets)


def _weighted(overlap: Tensor, both: Tensor, volume: Tensor) -> Tensor:
    """1 - 2 sum w TP / sum w (P + T), from sums (L, ...) over L labels with weights w = 1 / T².

    MONAI's adds its 1e-5 to sums that are about 1 / T: in a patch without foreground, background weighs 1 / T² and the
    constant is all that is left; with background left out, such a patch has no gradient whatever is predicted. So
    weights are scaled to 1 for the smallest label here. A label that is absent weighs as much, as in NiftyNet.
    """
    smallest = torch.where(volume > 0, volume, torch.inf).amin(0)
    weight = torch.where(volume > 0, smallest / volume, 1.0) ** 2
    return 1 - (2 * (weight * overlap).sum(0) + SMOOTH) / ((weight * both).sum(0) + SMOOTH)


def _generalised_dice(logits: Tensor, labels: Tensor) -> Tensor:
    probabilities, targets = logits.softmax(1) * annotated(labels), one_hot(labels, logits.shape[1])
    axes = spatial(logits)
    volume = targets.sum(axes)
    return _weighted((probabilities * targets).sum(axes), probabilities.sum(axes) + volume, volume)


def _region_generalised_dice(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    # The labels of a region are it and all the rest.
    sides = ((logits.sigmoid() * mask, targets), ((-logits).sigmoid() * mask, mask - targets))
    axes = spatial(logits)
    overlap = torch.stack([(p * t).sum(axes) for p, t in sides])
    volume = torch.stack([t.sum(axes) for _, t in sides])
    both = torch.stack([p.sum(axes) for p, _ in sides]) + volume
    return _weighted(overlap, both, volume).mean()


# Milletari et al. 2016: 1 - 2 TP / (2 TP + FP + FN), mean over foreground classes or regions. MONAI's.
DICE = Term(_dice, _region_dice)
# Salehi et al. 2017: 1 - TP / (TP + alpha FP + beta FN), mean over foreground classes or regions. MONAI's.
TVERSKY = Term(_tversky, _region_tversky)
# Sudre et al. 2017: 1 - 2 sum_l w_l TP_l / sum_l w_l (2 TP_l + FP_l + FN_l) over all labels l, background among them,
# w_l = 1 / (voxels of l)²; for regions the mean over them, each with its complement as the second label.
GENERALISED_DICE = Term(lambda _: _generalised_dice, lambda: _region_generalised_dice)
