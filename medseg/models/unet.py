"""U-Net in nnU-Net's plain form (Isensee et al. 2021), and the frame of all U-Nets that follow a plan.

A stage is two convolutions, each with instance norm and leaky ReLU; the first takes the stage's stride. Features go up
again by transposed convolution with kernel = stride, are joined with those of the way down, and pass two convolutions
with the kernel of the stage they are now in. Deep supervision gives logits at the resolutions where they arise, not
upsampled; the coarsest has none, because nnU-Net weighs it 0. Convolutions lack nnU-Net's bias: the norm behind each
takes it away again, so it would be a parameter without effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.blocks import conv, he_normal
from medseg.models.layers import CONV
from medseg.models.sizes import any_size
from medseg.models.spec import NetworkSpec
from medseg.models.upsampling import UPSAMPLING, Shuffle
from medseg.networks import UNetOptions


class UNet(nn.Module):
    """Encoder, and decoder with skip connections.

    Attributes:
        down: the stages, finest first; stage i takes the stride i and gives widths[i] channels.
        up: brings stage i + 1 to the resolution and the width of stage i.
        join: mixes that with what stage i was on the way down, from 2 * widths[i] channels to widths[i].
        heads: 1x1 convolutions to logits, finest first.
        supervised: whether training gives the logits of all heads.
    """

    def __init__(
        self, spec: NetworkSpec, options: UNetOptions, down: Sequence[nn.Module], join: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        widths, upsampling = spec.widths, UPSAMPLING[options.upsampling]
        self.down = nn.ModuleList(down)
        self.up = nn.ModuleList(
            upsampling(spec.dims, widths[i + 1], widths[i], spec.strides[i + 1]) for i in range(len(join))
        )
        self.join = nn.ModuleList(join)
        self.supervised = options.deep_supervision
        heads = max(1, len(join) - 1) if self.supervised else 1
        self.heads = nn.ModuleList(CONV[spec.dims](w, spec.out_channels, 1) for w in widths[:heads])

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """(N, C, S) to logits (N, K, S); in training with deep supervision a list of them, finest first."""
        passed: list[Tensor] = []
        for stage in self.down:
            x = stage(x)
            passed.append(x)
        x = passed.pop()
        logits: list[Tensor] = []
        several = self.supervised and self.training
        for level in reversed(range(len(self.join))):
            x = self.join[level](torch.cat([self.up[level](x), passed.pop()], dim=1))
            if level == 0 or (several and level < len(self.heads)):
                logits.insert(0, self.heads[level](x))
        return logits if several else logits[0]


def convolutions(dims: int, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int] | int = 1,
                 count: int = 2) -> nn.Module:  # fmt: skip
    """Convolutions, each with instance norm and leaky ReLU; the first takes the stride."""
    layers = [conv(dims, inputs, outputs, kernel, stride, act="leakyrelu")]
    layers += [conv(dims, outputs, outputs, kernel, act="leakyrelu") for _ in range(count - 1)]
    return nn.Sequential(*layers)


def joins(spec: NetworkSpec, count: int = 2) -> list[nn.Module]:
    """The stages of the way up, finest first: ``count`` convolutions with the kernel of their own stage."""
    stages = zip(spec.widths[:-1], spec.kernels[:-1], strict=True)
    return [convolutions(spec.dims, 2 * width, width, kernel, count=count) for width, kernel in stages]


def start(network: nn.Module) -> None:
    """He's normal weights and biases of 0 everywhere (in place), which pixel shuffles then give to all their places.

    The slope of the leaky ReLU would change the spread by 1 in 20 000 and is left out.
    """
    he_normal(network)
    for layer in network.modules():
        if isinstance(layer, Shuffle):
            layer.equalise()


def build(spec: NetworkSpec, options: UNetOptions) -> nn.Module:
    """nnU-Net's plain form."""
    stages = zip((spec.in_channels, *spec.widths[:-1]), spec.widths, spec.kernels, spec.strides, strict=True)
    down = [convolutions(spec.dims, *stage) for stage in stages]
    network = UNet(spec, options, down, joins(spec))
    start(network)
    return any_size(spec, network)
