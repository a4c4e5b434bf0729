"""Where a network's answers start (foreground is rare, and its last layer is told so) and how they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Share of an image that foreground (a region, or all classes together) is taken to fill before anything is learnt.
PRIOR = 0.05


def expect_rare(network: nn.Module, outputs: int, *, regions: bool) -> None:
    """Set the bias of the last layer so that foreground starts near ``PRIOR`` and not at one share in K (in place).

    Optimisers move a bias by about the learning rate a step, so that it takes hundreds of steps until a voxel of
    background is told from chance (Lin et al. 2017, focal loss, section 3.3; measured in ``docs/notebook.md``).

    Args:
        network: one of the zoo, freshly drawn.
        outputs: channels of its output.
        regions: whether they are sigmoids of regions, each ``PRIOR``; else a softmax of background and classes, which
            share ``PRIOR``.
    """
    with torch.no_grad():
        for bias in output_biases(network, outputs):
            if regions:
                bias.fill_(math.log(PRIOR / (1 - PRIOR)))
            else:
                bias.fill_(math.log(PRIOR / (outputs - 1)))
                bias[0] = math.log(1 - PRIOR)


def output_biases(network: nn.Module, outputs: int) -> list[Tensor]:
    """The biases that shift a network's logits, one per output that it gives while training.

    A network says which of its layers have them in an attribute ``heads``; else it is the last convolution with as many
    channels as there are outputs.
    """
    named: Any = next((m.heads for m in network.modules() if hasattr(m, "heads")), ())
    if named:
        return [layer.bias for layer in named]
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and m.out_channels == outputs]
    return [next(m.bias for m in reversed(layers) if m.bias is not None)]


def read_labels(logits: Tensor, painted: Sequence[int] = ()) -> Tensor:
    """Channel indices (S, uint8) from the logits (K or R, S) of one image.

    Args:
        logits: of classes, or of regions.
        painted: the class that each region paints; empty: the classes exclude one another and the largest logit wins.

    Returns:
        The label map. A region holds a voxel if its probability (sigmoid) is above 1/2; regions are painted in their
        order, later ones over earlier ones, on background (as nnU-Net does).
    """
    if not painted:
        return logits.argmax(dim=0).to(torch.uint8)
    labels = torch.zeros(logits.shape[1:], dtype=torch.uint8, device=logits.device)
    for logit, channel in zip(logits, painted, strict=True):
        labels[logit > 0] = channel
    return labels
