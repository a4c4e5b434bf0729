"""Where a network's predictions start before anything is learnt: foreground is rare."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medseg.models.objective import own_objective

# Share of an image that foreground (a region, or all classes together) is taken to fill before anything is learnt.
PRIOR = 0.05


def init_foreground_prior(network: nn.Module, outputs: int, *, sigmoids: int) -> None:
    """Set the bias of the last layer so that foreground starts near ``PRIOR`` and not at one share in K (in place).

    Optimisers move a bias by about the learning rate a step, so that it takes hundreds of steps until a voxel of
    background is better than chance (Lin et al. 2017, focal loss, section 3.3; measured in ``docs/notebook.md``).

    Args:
        network: one of the zoo, freshly drawn.
        outputs: channels of its output.
        sigmoids: how many of them, from the first on, are sigmoids of regions, each ``PRIOR``; what follows them begins
            at 0. None (0): all are a softmax of background and classes, which share ``PRIOR``.
    """
    with torch.no_grad():
        for bias in output_biases(network, outputs):
            if sigmoids:
                bias.fill_(0.0)
                bias[:sigmoids] = math.log(PRIOR / (1 - PRIOR))
            else:
                bias.fill_(math.log(PRIOR / (outputs - 1)))
                bias[0] = math.log(1 - PRIOR)


def output_biases(network: nn.Module, outputs: int) -> list[Tensor]:
    """The biases that shift a network's logits, one per output that it gives while training.

    None of a network that makes its own loss: it starts where it wants to. Else a network names the layers that have
    them in an attribute ``heads``, or it is the last convolution with as many channels as there are outputs.
    """
    if own_objective(network) is not None:
        return []
    named: Any = next((m.heads for m in network.modules() if hasattr(m, "heads")), ())
    if named:
        return [layer.bias for layer in named]
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and m.out_channels == outputs]
    return [next(m.bias for m in reversed(layers) if m.bias is not None)]
