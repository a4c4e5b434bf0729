"""Losses of the heads for objects: from logits (N, M, S) and codes of objects (N, S), ``medseg/image/objects.py``.

The foreground and the boundary are regions that may overlap, and take the same terms as any (``losses/build.py``): with
``dice_ce`` soft Dice over the batch and binary cross-entropy. Voxels that are not annotated add nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.heads import FLOW_SCALE
from medseg.image.labels import IGNORE
from medseg.image.objects import channels_of, numbers_of
from medseg.losses.supervision import OutputLoss, Outputs, at_centres
from medseg.losses.targets import RegionLoss, multi_hot
from medseg.objects import targets as made

# Of the squared error of flows and of the cross-entropy of classes, beside the terms of the foreground (Stringer et al.
# 2021 weigh flows so).
WEIGHT = 0.5
# Values of ``boundary_codes`` that are foreground, and those that are boundary.
BOUNDARY_REGIONS = ((1, 2), (2, 3))

# From logits (N, M, S) of the head's own maps, targets (N, T, S) float and the mask of annotated voxels (N, 1, S).
MapLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
# From object numbers (N, S) and their spacing to targets (N, T, S) float; the first one is the foreground.
Targets = Callable[[Tensor, Sequence[float]], Tensor]


def boundary(terms: RegionLoss) -> tuple[Targets, MapLoss]:
    """Targets and loss of foreground and boundary."""

    def targets(numbers: Tensor, spacing: Sequence[float]) -> Tensor:
        return multi_hot(made.boundary_codes(numbers, spacing).long(), BOUNDARY_REGIONS)

    return targets, terms


def flows(terms: RegionLoss) -> tuple[Targets, MapLoss]:
    """Targets and loss of foreground and flows."""

    def targets(numbers: Tensor, spacing: Sequence[float]) -> Tensor:
        return torch.cat([(numbers > 0)[:, None].float(), made.flow_field(numbers, spacing)], dim=1)

    def loss(logits: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
        error = (logits[:, 1:] - FLOW_SCALE * wanted[:, 1:]).square().mean(dim=1, keepdim=True)
        return terms(logits[:, :1], wanted[:, :1], mask) + WEIGHT * _mean(error, mask)

    return targets, loss


def distance(terms: RegionLoss) -> tuple[Targets, MapLoss]:
    """Targets and loss of foreground and distance, a share in 0..1 and so a probability to cross-entropy."""

    def targets(numbers: Tensor, spacing: Sequence[float]) -> Tensor:
        return torch.stack([(numbers > 0).float(), made.inner_distance(numbers, spacing)], dim=1)

    def loss(logits: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
        error = F.binary_cross_entropy_with_logits(logits[:, 1:], wanted[:, 1:], reduction="none")
        return terms(logits[:, :1], wanted[:, :1], mask) + _mean(error, mask)

    return targets, loss


def blank_targets(maps: int) -> Targets:
    """Targets without content, in place of those that are read off real objects: for tensors that have none either."""
    return lambda numbers, spacing: torch.zeros(len(numbers), maps, *numbers.shape[1:], device=numbers.device)


def of_objects(parts: tuple[Targets, MapLoss], spacing: Sequence[float], classes: int) -> OutputLoss:
    """The loss of a head at every resolution that a network gives maps at (deep supervision).

    Args:
        parts: targets and loss of the head.
        spacing: voxel size along the axes of the patch.
        classes: of the label map, background included; above 2, logits of classes follow the head's own maps.
    """
    make, loss = parts
    kinds = classes - 1 if classes > 2 else 0

    def whole(outputs: Outputs, codes: Tensor) -> Tensor:
        channels = channels_of(codes)
        with torch.no_grad():
            targets = make(numbers_of(codes), spacing)
            mask = (channels != IGNORE)[:, None].float()
        several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        weights = [0.5**level for level in range(len(several))]
        total = torch.zeros((), device=codes.device)
        for weight, logits in zip(weights, several, strict=True):
            size = logits.shape[2:]
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            own = wide[:, : wide.shape[1] - kinds]
            known = at_centres(mask, size)
            value = loss(own, at_centres(targets, size) * known, known)
            if kinds:
                value = value + WEIGHT * _class_loss(wide[:, wide.shape[1] - kinds :], at_centres(channels, size))
            total = total + weight / sum(weights) * value
        return total

    return whole


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (N, 1, S) over annotated voxels; 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def _class_loss(logits: Tensor, channels: Tensor) -> Tensor:
    """Cross-entropy of the classes (N, K, S) of annotated foreground; 0 where there is none."""
    wanted = torch.where(channels == IGNORE, 0, channels) - 1
    known = wanted >= 0
    values = F.cross_entropy(logits, wanted.clamp_min(0), reduction="none")
    return (values * known).sum() / known.sum().clamp_min(1)
