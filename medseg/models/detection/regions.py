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


class Leaves(NamedTuple):
    """Of the leaves of a batch.

    Attributes:
        sizes: (N, L) voxels.
        centres: (N, L, 2) mean place of their voxels; the image's first voxel reaches from 0 to 1.
        shares: (N, L, G) voxels of each of the objects; empty (G = 0) without objects.
        unknown: (N, L) voxels that nobody annotated; without objects zeros.
    """

    sizes: Tensor
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
    centres = centres / sizes.clamp_min(1)[..., None] + 0.5
    if objects is None or codes is None:
        return Leaves(sizes, centres, sizes.new_zeros(batch, count, 0), torch.zeros_like(sizes))
    most = objects.numbers.shape[1]
    places = torch.arange(1, most + 1, device=leaves.device).expand(batch, -1)
    table = torch.zeros(batch, MAX_NUMBER + 1, dtype=torch.int64, device=leaves.device)
    table.scatter_(1, objects.numbers, places * objects.there)
    row = table.gather(1, numbers_of(codes).flatten(1))
    # Number 0, and numbers of no row, stay in the first place.
    row = torch.where(numbers_of(codes).flatten(1) > 0, row, 0)
    shares = _sums(flat * (most + 1) + row, ones, count * (most + 1)).view(batch, count, most + 1)[..., 1:]
    return Leaves(sizes, centres, shares, _sums(flat, ignored(codes).flatten(1).float(), count))


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
def overlaps_of_regions(members: Tensor, sizes: Tensor) -> Tensor:
    """Intersection over union (D, D) of regions (D, L) of one image with leaves of sizes (L)."""
    inside = members.float()
    shared = (inside * sizes) @ inside.T
    own = shared.diagonal()
    return shared / (own[:, None] + own - shared).clamp_min(1)


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
