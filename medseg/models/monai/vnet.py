"""V-Net (Milletari et al. 2016, arXiv 1606.04797), of MONAI's stages."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from medseg.models.blocks import conv
from medseg.models.layers import CONV
from medseg.models.monai.adapter import half_width, halving, independent
from medseg.models.spec import NetworkSpec
from medseg.networks import Options


def build(spec: NetworkSpec, options: Options) -> nn.Module:
    """V-Net (Milletari et al. 2016, arXiv 1606.04797)."""
    network = VNet(spec.dims, spec.in_channels, spec.out_channels, half_width(spec))
    return halving(independent(network, spec.dims), spec.dims, 4)


class VNet(nn.Module):
    """V-Net of MONAI's stages, which MONAI itself offers at 16 channels only.

    As in the paper, and not in MONAI: PReLU, any number of image channels, and a 1x1 convolution alone at the end
    (a norm of the last features, one per class, would hide how large each class is).

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        width: channels of the first stage, 16 in the paper.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, width: int) -> None:
        from monai.networks.nets.vnet import DownTransition, UpTransition

        super().__init__()
        self.enter = Enter(dims, inputs, width)
        self.down = nn.ModuleList(
            DownTransition(dims, i * width, depth, "prelu") for i, depth in ((1, 1), (2, 2), (4, 3), (8, 2))
        )
        # (features in, features out, convolutions); what comes from below was concatenated with a skip.
        ups = [(16, 16, 2), (16, 8, 2), (8, 4, 1), (4, 2, 1)]
        self.up = nn.ModuleList(
            UpTransition(dims, i * width, o * width, depth, "prelu", dropout_prob=(None, 0.0)) for i, o, depth in ups
        )
        self.head = CONV[dims](2 * width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S); S in multiples of 16."""
        x = self.enter(x)
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(x)
        for stage in self.up:
            x = stage(x, skips.pop())
        out: Tensor = self.head(x)
        return out


class Enter(nn.Module):
    """V-Net's first stage: a 5-wide convolution plus the image, which is repeated until its channels are as many."""

    def __init__(self, dims: int, inputs: int, width: int) -> None:
        super().__init__()
        self.body = conv(dims, inputs, width, 5, act=None)
        self.act = nn.PReLU(width)
        self.copies = math.ceil(width / inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, width, S)."""
        y = self.body(x)
        out: Tensor = self.act(y + torch.cat([x] * self.copies, dim=1)[:, : y.shape[1]])
        return out
