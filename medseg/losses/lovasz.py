"""The Lovász extension of the Jaccard loss (Berman et al. 2018): intersection over union itself, made continuous.

Let m_i >= 0 be the error of voxel i, sorted so that m_1 >= m_2 >= ..., and J(E) the Jaccard loss 1 - |T \\ E| / |T + E|
of a class with voxels T if exactly the voxels in E were wrong. Then

    loss = sum_i m_i (J({1..i}) - J({1..i-1})),

which is J for errors of 0 and 1, and convex in m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.image.labels import IGNORE
from medseg.losses.targets import Term, one_hot


@torch.no_grad()
def _rises(errors: Tensor, truth: Tensor, kept: Tensor) -> Tensor:
    """How much J rises at each voxel, (R, P) in the order of the voxels, from errors and truth (R, P) and kept (P).

    Written as a quotient of counts and not as a difference of two J, which in a patch of millions of voxels differ by
    less than float32 holds. A voxel of T leaves the intersection I and the union U stays: 1 / U. Any other enlarges the
    union: I / (U - 1) - I / U, or from 0 to 1 if it is the first voxel of all.
    """
    order = errors.argsort(dim=1, descending=True, stable=True)
    inside = truth.gather(1, order)
    counts = kept.expand_as(truth).gather(1, order)
    volume = truth.sum(1, keepdim=True)
    # Integers: their sums are exact, and deterministic on every device.
    union = (volume + (counts & ~inside).cumsum(1, dtype=torch.int32)).float()
    intersection = (volume - inside.cumsum(1, dtype=torch.int32)).float()
    outside = torch.where(union == 1, 1.0, intersection / (union * (union - 1)).clamp_min(1))
    rises = torch.where(inside, 1 / union, outside) * counts
    return torch.zeros_like(rises).scatter(1, order, rises)


def _flat(values: Tensor) -> Tensor:
    """(N, R, S) as (R, P): the voxels of a batch are one set."""
    return values.movedim(1, 0).flatten(1)


def _lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    truth = _flat(one_hot(labels, logits.shape[1]))
    errors = (truth - _flat(logits.softmax(1))).abs()
    values = (errors * _rises(errors.detach(), truth.bool(), (labels != IGNORE).flatten())).sum(1)
    present = truth.amax(1)
    return (values * present).sum() / present.sum().clamp_min(1)


def _lovasz_hinge(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    truth = _flat(targets)
    errors = (1 - _flat(logits) * (2 * truth - 1)).relu()
    return (errors * _rises(errors.detach(), truth.bool(), mask.bool().flatten())).sum(1).mean()


# Classes: errors |t - p|, mean over the classes that are present, background among them (the authors' default).
# Regions: errors max(0, 1 - z (2 t - 1)) of the logits z, mean over regions. Voxels of a batch are one set.
LOVASZ = Term(lambda _: _lovasz_softmax, lambda: _lovasz_hinge)
