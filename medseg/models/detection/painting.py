"""Detections painted as maps of foreground and boundary, of which ``medseg.objects`` makes objects again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.objects.targets import BAND, boundary_codes

# Logits are those of probabilities not closer to 0 and 1 than this.
LEAST = 1e-3
# Probability of what is, and is not, a boundary.
BOUNDARY = 0.98
# Spacing of the grid that boundaries are painted on: a network knows voxels only.
VOXELS = (1.0, 1.0)
# Detections whose masks are enlarged to the size of the image at once.
CHUNK = 64
# A detection that keeps less than this share of its mask from better ones is the same object once more.
OWN = 0.5


def enlarged(masks: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (D, m, m) in their boxes (D, 4), bilinearly, in images of this size (D, S); 0 outside of a box.

    The value of a bin is at its middle. A box that is thinner than a voxel is taken to be one voxel wide.
    """
    bins, ways = masks.shape[-1], []
    for axis, length in enumerate(size):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        side = (high - low).clamp_min(1.0)
        low = (low + high - side) / 2
        middle = torch.arange(length, device=boxes.device) + 0.5
        share = (middle - low) / side
        place = (share * bins - 0.5).clamp(0, bins - 1)
        near = 1 - (place[..., None] - torch.arange(bins, device=boxes.device)).abs()
        ways.append(near.clamp_min(0) * ((share >= 0) & (share < 1))[..., None])
    return ways[0] @ masks @ ways[1].transpose(1, 2)


def owners(masks: Tensor, scores: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
    """Which detection owns a voxel of an image (S) int64, 0 none, d + 1 detection d.

    The one with the highest score times mask among those whose mask is 1/2 or more. Detections that own too little of
    their mask (``OWN``) are dropped, and their voxels given to the others.

    Args:
        masks, scores, boxes: (D, m, m) probabilities, (D) and (D, 4), of one image.
        size: of the image.
    """
    owner, sizes = _contest(masks, scores, boxes, size)
    left = torch.bincount(owner.flatten(), minlength=len(scores) + 1)[1:]
    kept = left >= OWN * sizes.clamp_min(1)
    if bool(kept.all()):
        return owner
    again, _ = _contest(masks[kept], scores[kept], boxes[kept], size)
    names = torch.cat([kept.new_zeros(1).long(), kept.nonzero().flatten() + 1])
    return names[again]


def _contest(masks: Tensor, scores: Tensor, boxes: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The owner of each voxel (S), and how many voxels each mask has (D)."""
    best = masks.new_zeros(tuple(size))
    owner = torch.zeros(tuple(size), dtype=torch.int64, device=masks.device)
    sizes = []
    for start in range(0, len(masks), CHUNK):
        part = slice(start, start + CHUNK)
        inside = enlarged(masks[part], boxes[part], size)
        inside = torch.where(inside >= 0.5, inside, 0)
        sizes.append((inside > 0).flatten(1).sum(dim=1))
        value, which = (inside * scores[part, None, None]).max(dim=0)
        owner = torch.where(value > best, which + start + 1, owner)
        best = torch.maximum(best, value)
    return owner, torch.cat(sizes) if sizes else owner.new_zeros(0)


def foreground(masks: Tensor, weights: Tensor, boxes: Tensor, size: Sequence[int]) -> Tensor:
    """The largest mask times its weight (S) of masks (D, m, m), weights (D) and boxes (D, 4); 0 where there is none."""
    best = masks.new_zeros(tuple(size))
    for start in range(0, len(masks), CHUNK):
        part = slice(start, start + CHUNK)
        found = enlarged(masks[part], boxes[part], size) * weights[part, None, None]
        best = torch.maximum(best, found.amax(dim=0))
    return best


def logits_of(foreground: Tensor, owner: Tensor, classes: Tensor | None = None) -> Tensor:
    """Maps (2 or 2 + K, S) of an image's foreground probability (S) and owners (S).

    Args:
        foreground, owner: of one image.
        classes: (D, K) probabilities of the classes of each detection, where there are several classes.
    """
    edge = torch.where(boundary_codes(owner[None], VOXELS)[0] >= BAND, BOUNDARY, 1 - BOUNDARY)
    maps = [foreground.clamp(LEAST, 1 - LEAST).logit(), edge.logit()]
    if classes is not None:
        known = torch.cat([classes.new_ones(1, classes.shape[1]), classes]).clamp_min(LEAST).log()
        maps += list(known[owner].permute(2, 0, 1))
    return torch.stack(maps)
