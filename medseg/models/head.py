"""Where a network's answers start: regions are rare, and its last layer is told so before the first step."""

from __future__ import annotations

import math

from torch import nn

# Share of an image that a region is taken to fill before anything is learnt.
PRIOR = 0.05


def expect_rare(network: nn.Module, outputs: int) -> None:
    """Set the bias of the last layer so that every sigmoid starts near ``PRIOR`` and not at 1/2 (in place).

    Optimisers move a bias by about the learning rate a step, so that from 1/2 it takes hundreds of steps until a voxel
    of background is below 1/2 (Lin et al. 2017, focal loss, section 3.3; measured in ``docs/notebook.md``).

    Args:
        network: one of the zoo, freshly drawn.
        outputs: channels of its output.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and m.out_channels == outputs]
    bias = next(m.bias for m in reversed(layers) if m.bias is not None)
    nn.init.constant_(bias, math.log(PRIOR / (1 - PRIOR)))
