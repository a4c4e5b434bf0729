"""GoogLeNet's convolutions (Szegedy et al. 2015, Inception-v1, with the norm that torchvision's ``googlenet`` has)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.models.blocks import he_normal, make_act, make_norm
from medseg.models.encoders.encoder import Encoder, EncoderSpec, MaxPool, Strides, check_spec, same_conv
from medseg.networks import Norm

# Channels of each module: 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; after the pool (table 1 of the paper).
MODULES: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
EPS = 1e-3


class ConvNormAct(nn.Module):
    """Convolution (``conv``), norm (``bn``), ReLU."""

    def __init__(
        self, dims: int, norm: Norm, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.conv = same_conv(dims, inputs, outputs, kernel, stride, dilation, bias=norm == "none")
        self.bn = make_norm(norm, dims, outputs, EPS)
        self.act = make_act("relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', ceil(S / stride))."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class Inception(nn.Module):
    """Four views side by side: 1x1, 3x3, 5x5, and a pool.

    The 5x5 branch is 3 wide, as in torchvision's network (and the TensorFlow one it was taken from), whose weights
    would not fit otherwise.
    """

    def __init__(self, spec: EncoderSpec, inputs: int, channels: tuple[int, ...], dilation: int) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = channels
        dims, norm = spec.dims, spec.norm
        self.branch1 = ConvNormAct(dims, norm, inputs, one, 1)
        self.branch2 = nn.Sequential(
            ConvNormAct(dims, norm, inputs, reduce3, 1),
            ConvNormAct(dims, norm, reduce3, three, 3, dilation=dilation),
        )
        self.branch3 = nn.Sequential(
            ConvNormAct(dims, norm, inputs, reduce5, 1),
            ConvNormAct(dims, norm, reduce5, five, 3, dilation=dilation),
        )
        self.branch4 = nn.Sequential(MaxPool(dims, 3, 1, dilation), ConvNormAct(dims, norm, inputs, pooled, 1))
        self.outputs = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class GoogLeNet(Encoder):
    """Features: conv1 (stride 2), conv3 (4), inception3b (8), 4e (16), 5b (32); names as in torchvision's.

    All pools are 3 wide and pad by 1, where torchvision's do not pad and the last is 2 wide: so voxels stay aligned.
    The auxiliary classifiers are left out.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        check_spec("googlenet", spec, 4, multi_grid=False)
        dims, norm, first = spec.dims, spec.norm, spec.scaled(64)
        grid = Strides(spec.output_stride)
        self.conv1 = ConvNormAct(dims, norm, spec.in_channels, first, 7, *grid.down())
        grid.mark()
        self.maxpool1 = MaxPool(dims, 3, *grid.down())
        self.conv2 = ConvNormAct(dims, norm, first, first, 1)
        self.conv3 = ConvNormAct(dims, norm, first, spec.scaled(192), 3)
        grid.mark()
        self.maxpool2 = MaxPool(dims, 3, *grid.down())
        channels, inputs = [first, spec.scaled(192)], spec.scaled(192)
        self.pools = {"4a": "maxpool3", "5a": "maxpool4"}
        for name, paper in MODULES.items():
            if name in self.pools:
                channels.append(inputs)
                grid.mark()
                self.add_module(self.pools[name], MaxPool(dims, 3, *grid.down()))
            module = Inception(spec, inputs, tuple(spec.scaled(c) for c in paper), grid.dilation)
            self.add_module(f"inception{name}", module)
            inputs = module.outputs
        grid.mark()
        self.channels = (*channels, inputs)
        self.strides = tuple(grid.passed)
        he_normal(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to five features."""
        found = [self.conv1(x)]
        found.append(self.conv3(self.conv2(self.maxpool1(found[-1]))))
        x = self.maxpool2(found[-1])
        for name in MODULES:
            if name in self.pools:
                found.append(x)
                x = self.get_submodule(self.pools[name])(x)
            x = self.get_submodule(f"inception{name}")(x)
        return [*found, x]
