"""Losses of overlap: counts of right and wrong voxels, with probabilities in place of decisions.

With p the probabilities of a class, t its voxels (0 or 1), and sums over all annotated voxels of a batch:

    TP = sum p t,    FP = sum p (1 - t),    FN = sum (1 - p) t.

Sums run over the whole batch, so that a patch without foreground does not drag the mean to 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medseg.image.labels import IGNORE
from medseg.losses.targets import Loss, Term, annotated, one_hot, spatial

# Weight of false positives and of false negatives (Salehi et al. 2017, the best of their table).
TVERSKY_ALPHA, TVERSKY_BETA = 0.3, 0.7
# Keeps 0/0 at a loss of 0; MONAI's.
SMOOTH = 1e-5


def _term(measure: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """A term that is the mean of a measure over foreground classes or regions.

    Args:
        measure: of probabilities and targets (N, R, S), both 0 where nothing is annotated, to losses (R).
    """

    def classes(ignore: bool) -> Loss:
        def loss(logits: Tensor, labels: Tensor) -> Tensor:
            known = torch.where(labels == IGNORE, 0, labels) if ignore else labels
            targets = torch.zeros(logits.shape, device=logits.device).scatter_(1, known[:, None], 1)[:, 1:]
            probabilities = logits.softmax(1)[:, 1:]
            if ignore:
                mask = annotated(labels)
                probabilities, targets = probabilities * mask, targets * mask
            return measure(probabilities, targets).mean()

        return loss

    return Term(classes, lambda: lambda logits, targets, mask: measure(logits.sigmoid() * mask, targets).mean())


def _dice(probabilities: Tensor, targets: Tensor) -> Tensor:
    axes = spatial(probabilities)
    right = (probabilities * targets).sum(axes)
    invented, missed = probabilities.sum(axes) - right, targets.sum(axes) - right
    invented, missed = invented * 0.5, missed * 0.5
    return 1 - (2 * right + SMOOTH) / (2 * (right + invented + missed) + SMOOTH)


def _tversky(probabilities: Tensor, targets: Tensor) -> Tensor:
    axes = spatial(probabilities)
    right = (probabilities * targets).sum(axes)
    invented = (probabilities * (1 - targets)).sum(axes) * TVERSKY_ALPHA
    missed = ((1 - probabilities) * targets).sum(axes) * TVERSKY_BETA
    return 1 - (right + SMOOTH) / (right + invented + missed + SMOOTH)


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


# Milletari et al. 2016: 1 - 2 TP / (2 TP + FP + FN), mean over foreground classes or regions; MONAI's, bit for bit.
DICE = _term(_dice)
# Salehi et al. 2017: 1 - TP / (TP + alpha FP + beta FN), mean over foreground classes or regions; likewise.
TVERSKY = _term(_tversky)
# Sudre et al. 2017: 1 - 2 sum_l w_l TP_l / sum_l w_l (2 TP_l + FP_l + FN_l) over all labels l, background among them,
# w_l = 1 / (voxels of l)²; for regions the mean over them, each with its complement as the second label.
GENERALISED_DICE = Term(lambda _: _generalised_dice, lambda: _region_generalised_dice)
