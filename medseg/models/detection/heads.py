"""What is said of a box: its class, its refinement, and its mask (He et al. 2017, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import conv, he_normal
from medseg.models.logits import draw_small
from medseg.networks import Norm

# Bins of a box per axis, of the paper.
BOX_BINS = 7


class BoxHead(nn.Module):
    """Two hidden layers of all features of a box, then K + 1 classes and four refinements."""

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(
            nn.Linear(channels * BOX_BINS**2, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
        )
        he_normal(self.hidden)
        self.score, self.refine = nn.Linear(hidden, classes + 1), nn.Linear(hidden, 4)
        for layer in (self.score, self.refine):
            draw_small(layer)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(R, C, 7, 7) to logits (R, K + 1), background first, and refinements (R, 4)."""
        hidden = self.hidden(features.flatten(1))
        return self.score(hidden).float(), self.refine(hidden).float()


class MaskHead(nn.Module):
    """Convolutions, a learnt enlargement by two, and one mask per class."""

    def __init__(self, channels: int, layers: int, norm: Norm, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[conv(2, channels, channels, 3, norm=norm) for _ in range(layers)])
        self.enlarge = nn.ConvTranspose2d(channels, channels, 2, 2)
        he_normal(self.enlarge)
        self.masks = nn.Conv2d(channels, classes, 1)
        draw_small(self.masks)

    def forward(self, features: Tensor) -> Tensor:
        """(R, C, m, m) to logits (R, K, 2 m, 2 m)."""
        masks: Tensor = self.masks(F.relu(self.enlarge(self.layers(features))))
        return masks.float()


def of_class(masks: Tensor, classes: Tensor) -> Tensor:
    """The masks (R, m, m) of the classes 1..K (R) among masks (R, K, m, m)."""
    place = (classes - 1).clamp_min(0)
    return masks.gather(1, place.view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:]))[:, 0]


def second_loss(
    logits: Tensor, refinements: Tensor, classes: Tensor, wanted: Tensor, used: Tensor, positive: Tensor
) -> Tensor:
    """Cross-entropy of classes and smooth L1 of refinements (Girshick 2015), means over the boxes that are used.

    Args:
        logits, refinements: (R, K + 1) and (R, 4).
        classes, wanted: what they should be, (R) and (R, 4).
        used, positive: (R) which boxes count, and which of them are objects.
    """
    count = used.sum().clamp_min(1)
    right = (F.cross_entropy(logits, classes, reduction="none") * used).sum()
    # What is not used may be far off.
    goal = torch.where(positive[:, None], wanted, refinements.detach())
    return (right + F.smooth_l1_loss(refinements, goal, reduction="none").sum()) / count
