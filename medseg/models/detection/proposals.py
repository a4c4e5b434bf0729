"""Boxes that may be objects, from every voxel of the feature maps, without anchors (Tian et al. 2019, FCOS).

Each voxel says whether the centre of an object is here, and how far its four edges are. Of which level an object is
depends on its larger side. Compared with the anchors of Ren et al. 2015 there are no sizes and shapes to choose, and
no overlaps of thousands of anchors with hundreds of cells to compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import conv
from medseg.models.detection.boxes import best_of_overlapping, clipped, generalised_loss
from medseg.models.detection.objects import Objects
from medseg.models.detection.pyramid import Level
from medseg.models.head import PRIOR
from medseg.models.logits import draw_small
from medseg.networks import Norm

# A level has the objects whose larger side is up to so many of its strides (of FCOS), the coarsest all larger ones.
SIDES = 8
# Distance to an edge that is predicted before anything is learnt, in strides; and the most, as its logarithm.
START, MOST = 2.0, 6.0
# Of the focal loss (Lin et al. 2017, arXiv 1708.02002).
FOCUS, BALANCE = 2.0, 0.25
# Boxes that suppression of non-maxima begins with: in proposals that are wanted, and at least; an object has nine.
CANDIDATES, LEAST_CANDIDATES = 3, 1024
# Overlap from which on the worse of two proposals is dropped (Ren et al. 2015).
SAME = 0.7
# Scores are compared in steps of this, so that rounding decides about fewer of them.
STEP = 1 / 1024


class ProposalHead(nn.Module):
    """Scores and edges of all voxels of all levels, by the same convolutions."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.shared = conv(2, channels, channels, 3, norm=norm)
        self.score = nn.Conv2d(channels, 1, 1)
        self.edges = nn.Conv2d(channels, 4, 1)
        for layer in (self.score, self.edges):
            draw_small(layer)
        nn.init.constant_(self.score.get_parameter("bias"), math.log(PRIOR / (1 - PRIOR)))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (N, C, S) to logits (N, L) and distances of edges (N, L, 4), raw, of all their voxels."""
        found = [self.shared(level) for level in maps]
        scores = torch.cat([self.score(f).flatten(1) for f in found], dim=1)
        return scores, torch.cat([self.edges(f).flatten(2).transpose(1, 2) for f in found], dim=1)


def all_boxes(edges: Tensor, levels: Sequence[Level], size: Sequence[int]) -> Tensor:
    """Boxes (N, L, 4) of raw distances (N, L, 4) for an image of this size, possibly beyond it."""
    points = torch.cat([level.points(size, edges.device) for level in levels])
    strides = torch.cat([points.new_full((math.prod(v.size(size)), 1), v.stride) for v in levels])
    distances = edges.float().clamp_max(MOST).exp() * START * strides
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


@torch.no_grad()
def proposed(scores: Tensor, boxes: Tensor, most: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The best of all boxes (N, L, 4) by their logits (N, L).

    Returns:
        boxes (N, P, 4) within the image, the best first, and whether they are there (N, P); P is ``most`` or less.
    """
    ranks = (scores.float().sigmoid() / STEP).round()
    # Of equal scores the first one wins, on every device.
    order = ranks.sort(dim=1, descending=True, stable=True)[1]
    order = order[:, : max(CANDIDATES * most, LEAST_CANDIDATES)]
    best = clipped(boxes.gather(1, order[..., None].expand(-1, -1, 4)), size)
    valid = ((best[..., 2:] - best[..., :2]) > 0).all(dim=-1)
    kept = best_of_overlapping(best, valid, SAME)
    first = kept.byte().sort(dim=1, descending=True, stable=True)[1][:, :most]
    return best.gather(1, first[..., None].expand(-1, -1, 4)), kept.gather(1, first)


@torch.no_grad()
def assigned(objects: Objects, levels: Sequence[Level], size: Sequence[int]) -> Tensor:
    """Which object a voxel of the maps has to propose: (N, L) rows of the objects, -1 for none.

    The voxel next to an object's centre, and those around it that are in its box. Where two objects meet, the smaller
    one has it, unless it is the other's central voxel.
    """
    boxes, count = objects.boxes, objects.boxes.shape[1]
    sides = (boxes[..., 2:] - boxes[..., :2]).amax(dim=-1)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    order = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).sort(dim=1, stable=True)[1]
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(count, device=order.device).expand_as(order))
    reach = torch.tensor([0, -1, 1], device=boxes.device)
    around = torch.stack(torch.meshgrid(reach, reach, indexing="ij"), dim=-1).flatten(0, 1)
    found, lower = [], 0.0
    for number, level in enumerate(levels):
        upper = math.inf if number == len(levels) - 1 else SIDES * level.stride
        mine = objects.there & (sides > lower) & (sides <= upper)
        lower = upper
        shape = torch.tensor(level.size(size), device=boxes.device)
        middle = ((centres - 0.5 - level.centre) / level.stride).round().clamp_min(0).minimum(shape - 1)
        place = middle[:, :, None] + around
        point = place * level.stride + level.centre + 0.5
        inside = ((point > boxes[:, :, None, :2]) & (point < boxes[:, :, None, 2:])).all(dim=-1)
        central = (around == 0).all(dim=-1)
        chosen = mine[..., None] & ((place >= 0) & (place < shape)).all(dim=-1) & (inside | central)
        voxels = int(math.prod(level.size(size)))
        flat = torch.where(chosen, place[..., 0] * shape[1] + place[..., 1], voxels).long()
        keys = ranks[..., None] + count * ~central
        least = keys.new_full((len(boxes), voxels + 1), 2 * count)
        least.scatter_reduce_(1, flat.flatten(1), keys.flatten(1), "amin")
        found.append(least[:, :voxels])
    least = torch.cat(found, dim=1)
    return torch.where(least < 2 * count, order.gather(1, least % count), -1)


def proposal_loss(scores: Tensor, boxes: Tensor, objects: Objects, wanted: Tensor, known: Tensor) -> Tensor:
    """Focal loss of the scores, and 1 - GIoU of the boxes that propose an object.

    Args:
        scores, boxes: (N, L) logits and (N, L, 4).
        objects, wanted: the objects, and which of them a voxel proposes (``assigned``).
        known: (N, L) whether a voxel is annotated.
    """
    is_object = wanted >= 0
    known = known | is_object
    count = is_object.sum().clamp_min(1)
    target, logits = is_object.float(), scores.float()
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    right = torch.where(is_object, logits, -logits).sigmoid()
    weight = torch.where(is_object, BALANCE, 1 - BALANCE) * (1 - right) ** FOCUS * known
    goal = objects.boxes.gather(1, wanted.clamp_min(0)[..., None].expand(-1, -1, 4))
    misses = generalised_loss(boxes, goal) * is_object
    return ((plain * weight).sum() + misses.sum()) / count
