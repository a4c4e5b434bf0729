"""Where a network's answers start: foreground is rare, and its last layer is told so before the first step."""

from __future__ import annotations

import math

import torch
from torch import nn

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
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and m.out_channels == outputs]
    bias = next(m.bias for m in reversed(layers) if m.bias is not None)
    with torch.no_grad():
        if regions:
            bias.fill_(math.log(PRIOR / (1 - PRIOR)))
        else:
            bias.fill_(math.log(PRIOR / (outputs - 1)))
            bias[0] = math.log(1 - PRIOR)
