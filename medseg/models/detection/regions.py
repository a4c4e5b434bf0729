"""Free-form regions and objects: overlaps, the mask of a region in its box, and regions made of leaves anew.

Regions are those of ``medseg.models.proposals``: unions of leaves, which partition the image. R regions and L leaves of
each of N images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.image.objects import MAX_NUMBER, numbers_of
from medseg.models.detection.objects import Objects, ignored

# Overlap with an object from which on its mask is learnt from a region, and below which a region is a counterexample.
NEAR, OTHER = 0.2, 0.4
# Share of a counterexample that may be not annotated.
UNKNOWN = 0.5
# Beyond any image.
FAR = 1e6


class Leaves(NamedTuple):
    """Of the leaves of a batch.

    Attributes:
        sizes: (N, L) voxels.
        boxes: (N, L, 2, 2) first voxel, and one past the last.
        centres: (N, L, 2) mean place of their voxels; the image's first voxel reaches from 0 to 1.
        shares: (N, L, G) voxels of each of the objects; empty (G = 0) without objects.
        unknown: (N, L) voxels that nobody annotated; without objects zeros.
    """

    sizes: Tensor
    boxes: Tensor
    centres: Tensor
    shares: Tensor
    unknown: Tensor


@torch.no_grad()
def leaves_of(leaves: Tensor, count: int, objects: Objects | None = None, codes: Tensor | None = None) -> Leaves:
    """What is known of ``count`` leaves, from which leaf a voxel is in (N, S), and the objects of codes (N, S)."""
    batch, height, width = leaves.shape
    flat = leaves.flatten(1)
    ones = torch.ones(flat.shape, device=leaves.device)
    sizes = _sums(flat, ones, count)
    rows = torch.arange(height, device=leaves.device).repeat_interleave(width).float().expand(batch, -1)
    columns = torch.arange(width, device=leaves.device).repeat(height).float().expand(batch, -1)
    centres = torch.stack([_sums(flat, rows, count), _sums(flat, columns, count)], dim=-1)
    far = ones.new_full((batch, count), FAR)
    low = torch.stack([far.scatter_reduce(1, flat, line, "amin") for line in (rows, columns)], dim=-1)
    high = torch.stack([(-far).scatter_reduce(1, flat, line + 1, "amax") for line in (rows, columns)], dim=-1)
    boxes = torch.stack([low, high], dim=2)
    centres = centres / sizes.clamp_min(1)[..., None] + 0.5
    if objects is None or codes is None:
        return Leaves(sizes, boxes, centres, sizes.new_zeros(batch, count, 0), torch.zeros_like(sizes))
    most = objects.numbers.shape[1]
    places = torch.arange(1, most + 1, device=leaves.device).expand(batch, -1)
    table = torch.zeros(batch, MAX_NUMBER + 1, dtype=torch.int64, device=leaves.device)
    table.scatter_(1, objects.numbers, places * objects.there)
    row = table.gather(1, numbers_of(codes).flatten(1))
    # Number 0, and numbers of no row, stay in the first place.
    row = torch.where(numbers_of(codes).flatten(1) > 0, row, 0)
    shares = _sums(flat * (most + 1) + row, ones, count * (most + 1)).view(batch, count, most + 1)[..., 1:]
    return Leaves(sizes, boxes, centres, shares, _sums(flat, ignored(codes).flatten(1).float(), count))


def _sums(places: Tensor, values: Tensor, count: int) -> Tensor:
    """Sums (N, count) of values (N, V) by their places (N, V)."""
    return values.new_zeros(len(places), count).scatter_add_(1, places, values)


@torch.no_grad()
def region_overlaps(members: Tensor, leaves: Leaves) -> Tensor:
    """Intersection over union (N, R, G) of regions (N, R, L) with the objects."""
    inside = members.float()
    shared = inside @ leaves.shares
    union = (inside @ leaves.sizes[..., None]) + leaves.shares.sum(dim=1)[:, None] - shared
    return shared / union.clamp_min(1)


@torch.no_grad()
def true_regions(leaves: Leaves) -> Tensor:
    """The regions (N, G, L) of leaves of which an object has more than half; empty where there is none."""
    return 2 * leaves.shares.transpose(1, 2) > leaves.sizes[:, None]


@torch.no_grad()
def examples_of(members: Tensor, overlap: Tensor, leaves: Leaves) -> tuple[Tensor, Tensor]:
    """Which regions (N, R, L) show an object, if only in part, and which are counterexamples (N, R).

    Args:
        members: the regions. Where one is repeated at once, only the first counts.
        overlap: (N, R) with the object that they overlap most.
        leaves: sizes, and what is not annotated.
    """
    inside = members.float()
    unknown, sizes = ((inside @ part[..., None])[..., 0] for part in (leaves.unknown, leaves.sizes))
    fresh = F.pad((members[:, 1:] != members[:, :-1]).any(dim=2), (1, 0), value=True) & (sizes > 0)
    return fresh & (overlap >= NEAR), fresh & (overlap < OTHER) & (unknown <= UNKNOWN * sizes)


@torch.no_grad()
def overlaps_of_regions(members: Tensor, sizes: Tensor) -> Tensor:
    """Intersection over union (D, D) of regions (D, L) of one image with leaves of sizes (L)."""
    inside = members.float()
    shared = (inside * sizes) @ inside.T
    own = shared.diagonal()
    return shared / (own[:, None] + own - shared).clamp_min(1)


def region_boxes(members: Tensor, leaves: Leaves) -> Tensor:
    """Bounding boxes (N, R, 2, 2) of regions (N, R, L), none of which may be empty."""
    inside = members[..., None]
    low = torch.where(inside, leaves.boxes[:, None, :, 0], FAR).amin(dim=2)
    high = torch.where(inside, leaves.boxes[:, None, :, 1], -FAR).amax(dim=2)
    return torch.stack([low, high], dim=2)


def widened(boxes: Tensor, share: float) -> Tensor:
    """Boxes (..., 2, 2) with a margin of this share of their side, and of two voxels or more; float."""
    low, high = boxes.float().unbind(-2)
    margin = ((high - low) * share).clamp_min(2.0)
    return torch.stack([low - margin, high + margin], dim=-2)


def at_leaves(masks: Tensor, boxes: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """What masks say of leaves.

    Args:
        masks: (N, R, m, m), in their boxes; beyond the middle of the outermost bins they are those.
        boxes: (N, R, 2, 2).
        centres: (N, L, 2) of the leaves.

    Returns:
        the masks, bilinearly, at the centres (N, R, L), and whether a centre is in the box (N, R, L).
    """
    low, high = boxes[:, :, None, 0], boxes[:, :, None, 1]
    place = 2 * (centres[:, None] - low) / (high - low) - 1
    inside = (place.abs() < 1).all(dim=-1)
    grid = place.flip(-1).flatten(0, 1)[:, None]
    found = F.grid_sample(masks.flatten(0, 1)[:, None], grid, padding_mode="border", align_corners=False)
    return found.view(inside.shape), inside
