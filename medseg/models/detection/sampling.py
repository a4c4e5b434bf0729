"""Which proposals the second stage learns from, and what it has to say of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medseg.image.objects import numbers_of
from medseg.models.detection.boxes import overlaps
from medseg.models.detection.objects import Objects, ignored
from medseg.models.detection.roi_align import roi_align

# Overlap with an object from which on a proposal is one (Girshick 2015).
SAME = 0.5
# Share of the sample that objects may take. The paper's quarter is for few objects in a large image.
OBJECTS = 0.5
# Not annotated part from which on a box says nothing of the background.
UNKNOWN = 0.5


class Sample(NamedTuple):
    """Proposals to learn from, R of each image, those of objects first.

    Attributes:
        boxes: (N, R, 4).
        used: (N, R) whether a row is used at all.
        rows: (N, R) row of the object that a proposal is of.
        positive: rows 0 up to here may be objects, the others are background.
        classes: (N, R) 0 background, else the object's class.
    """

    boxes: Tensor
    used: Tensor
    rows: Tensor
    positive: int
    classes: Tensor


@torch.no_grad()
def sampled(boxes: Tensor, valid: Tensor, objects: Objects, codes: Tensor, wanted: int) -> Sample:
    """Draw ``wanted`` of the proposals (N, P, 4) and the objects' own boxes, up to half of them of objects."""
    candidates = torch.cat([boxes, objects.boxes], dim=1)
    there = torch.cat([valid, objects.there], dim=1)
    overlap, rows = overlaps(candidates, objects.boxes).max(dim=2)
    is_object = there & (overlap >= SAME)
    unknown = roi_align(ignored(codes)[:, None].float(), candidates, 1, samples=4).view_as(overlap)
    is_background = there & (overlap < SAME) & (unknown < UNKNOWN)
    # Drawn on the processor, so that every device has the same sample.
    draws = torch.rand(overlap.shape).to(overlap.device)
    wanted = min(wanted, candidates.shape[1])
    positive = max(1, int(OBJECTS * wanted))
    # A row that may not be taken comes after all that may.
    first = torch.where(is_object, draws, draws + 1).sort(dim=1, stable=True)[1][:, :positive]
    second = torch.where(is_background, draws, draws + 1).sort(dim=1, stable=True)[1][:, : wanted - positive]
    taken = torch.cat([first, second], dim=1)
    used = torch.cat([is_object.gather(1, first), is_background.gather(1, second)], dim=1)
    of = rows.gather(1, taken)
    classes = objects.channels.gather(1, of)
    classes = torch.cat([classes[:, :positive], torch.zeros_like(classes[:, positive:])], dim=1)
    return Sample(candidates.gather(1, taken[..., None].expand(-1, -1, 4)), used, of, positive, classes)


@torch.no_grad()
def masks_in_boxes(codes: Tensor, boxes: Tensor, numbers: Tensor, bins: int) -> Tensor:
    """Whether the middle of each bin of a box is in the object of this number: (N, R, bins, bins) bool.

    Args:
        codes: (N, S).
        boxes, numbers: (N, R, 4) and (N, R).
        bins: per axis.
    """
    within = (torch.arange(bins, device=boxes.device, dtype=boxes.dtype) + 0.5) / bins
    index = []
    for axis, length in enumerate(codes.shape[1:]):
        low, high = boxes[..., axis, None], boxes[..., axis + 2, None]
        index.append((low + within * (high - low)).floor().long().clamp(0, length - 1))
    flat = index[0][..., :, None] * codes.shape[2] + index[1][..., None, :]
    here = numbers_of(codes).flatten(1).gather(1, flat.flatten(1)).view(*boxes.shape[:2], bins, bins)
    inside: Tensor = here == numbers[..., None, None]
    return inside
