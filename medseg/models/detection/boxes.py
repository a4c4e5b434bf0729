"""Boxes in an image: overlap, coding, and the best of those that overlap.

A box is (low row, low column, high row, high column) in voxels, the first voxel reaching from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Deviations of the four refinements, by which they are divided before they are learnt (Ren et al. 2015).
SCALES = (0.1, 0.1, 0.2, 0.2)
# Refined boxes are not more than this many times larger.
MOST_GROWTH = 8.0


def areas(boxes: Tensor) -> Tensor:
    """(..., 4) to (...); 0 for a box that is inside out."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp_min(0).prod(dim=-1)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union (N, A, B) of boxes (N, A, 4) with others (N, B, 4); 0 where both are empty."""
    shared: Tensor | None = None
    for axis in (0, 1):
        low = torch.maximum(boxes[:, :, None, axis], others[:, None, :, axis])
        side = torch.minimum(boxes[:, :, None, axis + 2], others[:, None, :, axis + 2]).sub_(low).clamp_min_(0)
        shared = side if shared is None else shared.mul_(side)
    assert shared is not None
    union = (areas(boxes)[:, :, None] + areas(others)[:, None]).sub_(shared).clamp_min_(1e-9)
    return shared / union


def generalised_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """1 - GIoU (...) of pairs of boxes (..., 4) (Rezatofighi et al. 2019): 0 for equal ones, towards 2 for far ones."""
    low, high = torch.maximum(boxes, others), torch.minimum(boxes, others)
    shared = areas(torch.cat([low[..., :2], high[..., 2:]], dim=-1))
    around = areas(torch.cat([high[..., :2], low[..., 2:]], dim=-1)).clamp_min(1e-9)
    union = areas(boxes) + areas(others) - shared
    return 1 - shared / union.clamp_min(1e-9) + (around - union) / around


def clipped(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """The parts of boxes (..., 4) within an image of this size."""
    most = torch.tensor([*size, *size], dtype=boxes.dtype, device=boxes.device)
    return boxes.clamp_min(0).minimum(most)


def refinements(boxes: Tensor, wanted: Tensor) -> Tensor:
    """What makes boxes (..., 4) the wanted ones: shift of the centre in sides, logarithm of the growth; scaled."""
    centre, side = _centre_side(boxes)
    wanted_centre, wanted_side = _centre_side(wanted)
    parts = torch.cat([(wanted_centre - centre) / side, (wanted_side / side).log()], dim=-1)
    return parts / parts.new_tensor(SCALES)


def refined(boxes: Tensor, refinement: Tensor) -> Tensor:
    """Boxes (..., 4) after their refinement (..., 4); the reverse of ``refinements``."""
    centre, side = _centre_side(boxes)
    scaled = refinement * refinement.new_tensor(SCALES)
    centre, half = centre + scaled[..., :2] * side, side * scaled[..., 2:].clamp_max(math.log(MOST_GROWTH)).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _centre_side(boxes: Tensor) -> tuple[Tensor, Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    # Not below a hundredth of a voxel, so that an empty box has a logarithm.
    return (low + high) / 2, (high - low).clamp_min(0.01)


@torch.no_grad()
def best_of_overlapping(boxes: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Which boxes (N, K, 4), the best first, are kept (N, K): ``best_of``; ``valid`` (N, K) says which there are."""
    return best_of(overlaps(boxes, boxes), valid, threshold)


@torch.no_grad()
def best_of(overlap: Tensor, valid: Tensor, threshold: float) -> Tensor:
    """Greedy suppression of non-maxima, for a batch at once.

    A candidate is kept unless one before it is kept and overlaps it by more than the threshold. Which are kept is found
    by repeating this rule for all of them together until nothing changes (Zheng et al. 2020, Cluster-NMS, proposition
    1: the result is that of going through them one by one).

    Args:
        overlap: (N, K, K) intersections over union of candidates, the best first.
        valid: (N, K), which there are.
        threshold: of the overlap.

    Returns:
        which are kept (N, K).
    """
    count = overlap.shape[1]
    order = torch.arange(count, device=overlap.device)
    against = (overlap > threshold) & (order[:, None] < order) & valid[:, :, None]
    kept = valid
    for _ in range(count):
        now = valid & ~(against & kept[:, :, None]).any(dim=1)
        if bool((now == kept).all()):
            break
        kept = now
    return kept
