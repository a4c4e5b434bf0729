"""U-Net with nnU-Net's residual encoder (Isensee et al. 2024, arXiv 2404.09556).

The way down is a residual network of growing depth behind a convolution at full resolution; the way up is short, one
convolution per stage. Both follow the plan.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.blocks import conv, make_act
from medseg.models.layers import AVG_POOL
from medseg.models.sizes import any_size
from medseg.models.spec import NetworkSpec
from medseg.models.unet import UNet, convolutions, joins, start
from medseg.networks import UNetOptions

# Residual blocks of the first stages, and of all that follow.
BLOCKS = (1, 3, 4)
DEEP_BLOCKS = 6


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut in which a stride averages and skips no voxel (ResNet-D, He et al. 2019).

    The block starts as its shortcut: the scale of its last norm is 0 (``start_as_shortcut``).
    """

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(dims, inputs, outputs, kernel, stride, act="leakyrelu"),
            conv(dims, outputs, outputs, kernel, act=None),
        )
        self.shortcut = nn.Sequential()
        if max(stride) > 1:
            self.shortcut.add_module("pool", AVG_POOL[dims](tuple(stride), tuple(stride)))
        if inputs != outputs:
            self.shortcut.add_module("project", conv(dims, inputs, outputs, 1, act=None))
        self.act = make_act("leakyrelu")

    def start_as_shortcut(self) -> None:
        """Let the convolutions contribute nothing yet: they get their first gradient in the second step."""
        nn.init.zeros_(self.body[1].norm.weight)  # type: ignore[arg-type, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S / stride)."""
        out: Tensor = self.act(self.body(x) + self.shortcut(x))
        return out


def residual_stage(spec: NetworkSpec, stage: int) -> nn.Module:
    """The residual blocks of a stage, the first with its stride; before those of the finest a single convolution."""
    dims, width, kernel = spec.dims, spec.widths[stage], spec.kernels[stage]
    inputs = spec.widths[max(stage - 1, 0)]
    layers = [convolutions(dims, spec.in_channels, inputs, kernel, count=1)] if stage == 0 else []
    layers.append(ResidualBlock(dims, inputs, width, kernel, spec.strides[stage]))
    more = (BLOCKS[stage] if stage < len(BLOCKS) else DEEP_BLOCKS) - 1
    layers += [ResidualBlock(dims, width, width, kernel, (1,) * dims) for _ in range(more)]
    return nn.Sequential(*layers)


def build(spec: NetworkSpec, options: UNetOptions) -> nn.Module:
    """nnU-Net's residual encoder form."""
    down = [residual_stage(spec, stage) for stage in range(len(spec.widths))]
    network = UNet(spec, options, down, joins(spec, count=1))
    start(network)
    for block in network.modules():
        if isinstance(block, ResidualBlock):
            block.start_as_shortcut()
    return any_size(spec, network)
