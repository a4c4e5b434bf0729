"""Losses that weigh an error by how far from a boundary it lies.

Distances are Euclidean, in voxels, and found on the processor by scipy, whichever device the labels are on; no gradient
goes through them. ``IGNORE`` counts as outside every class. A class that fills all or nothing of a patch has no
boundary there and adds nothing, so these are terms to add to Dice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medseg.losses.targets import foreground_term


@torch.library.custom_op("medseg::boundary_distance", mutates_args=(), schema="(Tensor masks) -> Tensor")
def boundary_distance(masks: Tensor) -> Tensor:
    """Distance of each voxel to the nearest voxel on the other side of the boundary.

    Args:
        masks: bool (N, R, S), each of the N x R masks for itself.

    Returns:
        float32 (N, R, S) on the same device: >= 1, or 0 throughout where a mask is empty or full.
    """
    from scipy.ndimage import distance_transform_edt

    found = torch.zeros(masks.shape, dtype=torch.float32)
    for mask, out in zip(masks.cpu().numpy().reshape(-1, *masks.shape[2:]), found.flatten(0, 1).numpy(), strict=True):
        if mask.any() and not mask.all():
            out[...] = np.where(mask, distance_transform_edt(mask), distance_transform_edt(~mask))
    return found.to(masks.device)


@boundary_distance.register_fake
def _(masks: Tensor) -> Tensor:
    return torch.empty(masks.shape, dtype=torch.float32, device=masks.device)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (N, R, S) over the annotated voxels and the regions; 0 if nothing is annotated."""
    return (values * mask).sum() / (mask.sum() * values.shape[1]).clamp_min(1)


def _boundary(probabilities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    inside = targets > 0.5
    distance = boundary_distance(inside)
    # A voxel inside that touches the boundary is at 0, as in the authors' code.
    signed = torch.where(inside, (1 - distance).clamp_max(0), distance)
    return _mean(signed * (probabilities - targets), mask)


def _hausdorff(probabilities: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    predicted, true = probabilities.detach() * mask > 0.5, targets > 0.5
    weight = boundary_distance(predicted) ** 2 + boundary_distance(true) ** 2
    return _mean((probabilities - targets) ** 2 * weight, mask)


# Kervadec et al. 2019: mean of phi (p - t), phi the signed distance to the boundary of the truth, negative inside. The
# paper's loss leaves the constant phi t away; with it, no answer is below 0 and a perfect one is 0. Its weight, which
# grows from epoch to epoch there, is 1.
BOUNDARY = foreground_term(_boundary)
# Karimi & Salcudean 2019: mean of (p - t)² (d_p² + d_t²), d_p and d_t the distances to the boundaries of the prediction
# (p > 1/2) and of the truth; their form by distance transforms with alpha = 2. Its weight beside Dice, which follows
# the ratio of the two from epoch to epoch there, is 1.
HAUSDORFF = foreground_term(_hausdorff)
