"""One-vs-rest linear support vector machines over regions: which regions are examples of a class, and the fit."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medseg.image.labels import IGNORE

# Share of a region's annotated voxels that a class must have for the region to be an example of it, and below which the
# region is a counterexample; in between it is left out. Not the overlap (intersection over union) with the class's mask
# that the paper takes for boxes: label maps hold classes and not objects, and one nucleus of fifty overlaps with the
# mask of all nuclei by 2 %. And a region paints all its voxels: what counts is what fraction of them is right, so that
# whatever is mostly something else has to be a counterexample.
POSITIVE = 0.75
NEGATIVE = 0.5
# Penalty of violated margins, for features of variance one.
C = 1.0
# Of the solver, at most. Noise, which the planner's stopwatch takes, needed 1,025, and scikit-learn stops at 1,000.
ITERATIONS = 10_000
# Scores of a class without examples, or without counterexamples.
NEVER, ALWAYS = -1.0, 1.0


def class_shares(labels: Tensor, leaves: Tensor, members: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """What the regions of a batch consist of.

    Args:
        labels: (N, S) integers below ``classes``, or ``IGNORE``.
        leaves, members: (N, S) and (N, R, L), of ``proposals.regions``.
        classes: K.

    Returns:
        Shares (N, R, K) of each class among a region's annotated voxels, and whether it has any (N, R). Where the last
        region is repeated, only the first of the repetitions is counted as having any.
    """
    images, _, finest = members.shape
    known = labels != IGNORE
    image = torch.arange(images, device=labels.device).view(-1, *[1] * (labels.ndim - 1))
    place = (image * finest + leaves) * classes + labels
    counts = torch.bincount(place[known], minlength=images * finest * classes).view(images, finest, classes)
    inside = torch.einsum("nrl,nlk->nrk", members.double(), counts.double())
    total = inside.sum(dim=2)
    repeated = F.pad((members[:, 1:] == members[:, :-1]).all(dim=2), (1, 0))
    return inside / total.clamp_min(1)[..., None], (total > 0) & ~repeated


def fit_svms(
    features: NDArray[np.floating], shares: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One machine per class but the background, whose score is the threshold 0 that the others have to pass.

    Background gets no machine, as in the paper: nearly every voxel is in some large region that is mostly background,
    whose score would win everywhere.

    Args:
        features: (M, D) of M regions.
        shares: (M, K), of ``class_shares``; the first class is the background.

    Returns:
        weights (K, D) and biases (K) of the scores; row 0 is zero. Squared hinge loss in the primal form, whose solver
        draws no random numbers.
    """
    from sklearn.svm import LinearSVC

    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > 1e-6 * (np.abs(mean) + 1e-6), spread, np.inf)
    normal = (features - mean) / scale
    weights, biases = np.zeros((shares.shape[1], features.shape[1])), np.zeros(shares.shape[1])
    for k in range(1, shares.shape[1]):
        is_class, is_not = shares[:, k] >= POSITIVE, shares[:, k] < NEGATIVE
        chosen = is_class | is_not
        if not is_class.any() or not is_not.any():
            biases[k] = ALWAYS if is_class.any() else NEVER
            continue
        machine = LinearSVC(C=C, dual=False, max_iter=ITERATIONS).fit(normal[chosen], is_class[chosen])
        weights[k] = machine.coef_[0] / scale
        biases[k] = machine.intercept_[0] - weights[k] @ mean
    return weights, biases
