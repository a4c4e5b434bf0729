"""Detections painted as maps of foreground and boundary, of which ``medseg.objects`` makes objects again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Logits are those of probabilities not closer to 0 and 1 than this.
LEAST = 1e-3
# Probability of what is, and is not, a boundary.
BOUNDARY = 0.98
# Width of the boundary inside an object in voxels, and the objects' areas below which it is the smaller one: of
# ``medseg.objects.targets``.
BANDS = ((300, 1.0), (2000, 2.0), (float("inf"), 3.0))
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


def boundary(owner: Tensor) -> Tensor:
    """Where objects meet background or one another: (H, W) bool of object numbers (H, W), 0 background.

    The band of ``medseg.objects.targets``: voxels of an object not further than its width from the next voxel that is
    not of it, beyond the image included; never all of an object; and background voxels with a face to an object.
    """
    widest = int(BANDS[-1][1])
    padded = F.pad(owner, (widest + 1,) * 4)
    height, width = owner.shape
    distance = torch.full(owner.shape, float("inf"), device=owner.device)
    ring = torch.zeros_like(owner, dtype=torch.bool)
    steps = range(-widest - 1, widest + 2)
    for squared, down, right in sorted((a * a + b * b, a, b) for a in steps for b in steps):
        if not 0 < squared <= (widest + 1) ** 2:
            continue
        top, left = widest + 1 + down, widest + 1 + right
        other = padded[top : top + height, left : left + width]
        distance = torch.where((other != owner) & distance.isinf(), squared**0.5, distance)
        if squared == 1:
            ring |= (owner == 0) & (other > 0)
    sizes = torch.bincount(owner.flatten())
    widths = torch.full(sizes.shape, BANDS[-1][1], device=owner.device)
    for most, wide in reversed(BANDS[:-1]):
        widths[sizes < most] = wide
    deepest = torch.zeros_like(widths).scatter_reduce_(0, owner.flatten(), distance.flatten(), "amax")
    band = (distance <= widths[owner]) & ((distance < deepest[owner]) | (deepest[owner] > widths[owner]))
    return (band & (owner > 0)) | ring


def logits_of(foreground: Tensor, owner: Tensor, classes: Tensor | None = None) -> Tensor:
    """Maps (2 or 2 + K, S) of an image's foreground probability (S) and owners (S).

    Args:
        foreground, owner: of one image.
        classes: (D, K) probabilities of the classes of each detection, where there are several classes.
    """
    edge = torch.where(boundary(owner), BOUNDARY, 1 - BOUNDARY)
    maps = [foreground.clamp(LEAST, 1 - LEAST).logit(), edge.logit()]
    if classes is not None:
        known = torch.cat([classes.new_ones(1, classes.shape[1]), classes]).clamp_min(LEAST).log()
        maps += list(known[owner].permute(2, 0, 1))
    return torch.stack(maps)
