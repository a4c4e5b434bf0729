"""What the networks of MONAI share: their arguments, and how they are made to follow the rules of the zoo."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import nn

from medseg.models.blocks import CONVOLUTIONS, make_norm
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec


def channels(spec: NetworkSpec) -> dict[str, Any]:
    """The arguments that all networks of MONAI take: dimensions, image channels and outputs."""
    return {"spatial_dims": spec.dims, "in_channels": spec.in_channels, "out_channels": spec.out_channels}


def half_width(spec: NetworkSpec) -> int:
    """First width of networks that start with 16 channels in their paper; see MIN_WIDTH in ``medseg/limits.py``."""
    return max(8, spec.widths[0] // 2)


def halving(network: nn.Module, dims: int, times: int) -> nn.Module:
    """A network that halves every axis ``times`` times, for any image size."""
    return AnySize(network, (2**times,) * dims, (2 ** (times + 1),) * dims)


def independent(network: nn.Module, dims: int) -> nn.Module:
    """Instance norm in place of batch norm, and no bias in a convolution right before a norm of every channel.

    Such a norm takes the mean away, and the bias with it. What comes first is taken from the order in which layers are
    defined. In place.
    """
    leaves = [(name, layer) for name, layer in network.named_modules() if not any(True for _ in layer.children())]
    for (_, before), (name, layer) in pairwise(leaves):
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            parent, _, own = name.rpartition(".")
            layer = make_norm("instance", dims, layer.num_features)
            setattr(network.get_submodule(parent), own, layer)
        if isinstance(before, CONVOLUTIONS) and _is_per_channel(layer):
            before.bias = None
    return network


def _is_per_channel(layer: nn.Module) -> bool:
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups == layer.num_channels
    return isinstance(layer, nn.InstanceNorm2d | nn.InstanceNorm3d)
