"""ResNet's convolutions (He et al. 2016), the stride of a bottleneck in its 3x3 convolution as in torchvision."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from medseg.models.blocks import Subsample, he_normal, make_act, make_norm
from medseg.models.encoders.encoder import Encoder, EncoderSpec, MaxPool, Strides, check_spec, same_conv
from medseg.networks import Norm

# Channels of layer1 to layer4, before the expansion of bottlenecks.
STAGES = (64, 128, 256, 512)


class Unit(nn.Module):
    """A residual unit: ``body`` around a shortcut; ``downsample`` where sizes or channels change."""

    expansion: ClassVar[int] = 1

    def __init__(self, dims: int, norm: Norm, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.relu = make_act("relu")
        self.subsample = Subsample(stride)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            # The stride of torchvision's downsample.0 is in ``subsample``.
            bare = same_conv(dims, inputs, outputs, 1, bias=norm == "none")
            self.downsample = nn.Sequential(bare, make_norm(norm, dims, outputs))

    def body(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', ceil(S / stride)), without the last rectifier."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', ceil(S / stride))."""
        out: Tensor = self.relu(self.body(x) + self.downsample(self.subsample(x)))
        return out


class BasicBlock(Unit):
    """Two 3x3 convolutions (figure 5, left)."""

    def __init__(
        self, dims: int, norm: Norm, inputs: int, channels: int, stride: int, dilations: tuple[int, int]
    ) -> None:
        super().__init__(dims, norm, inputs, channels, stride)
        bias = norm == "none"
        self.conv1 = same_conv(dims, inputs, channels, 3, stride, dilations[0], bias=bias)
        self.bn1 = make_norm(norm, dims, channels)
        self.conv2 = same_conv(dims, channels, channels, 3, 1, dilations[1], bias=bias)
        self.bn2 = make_norm(norm, dims, channels)

    def body(self, x: Tensor) -> Tensor:
        """The two convolutions."""
        out: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(Unit):
    """1x1, 3x3 and 1x1 convolutions (figure 5, right)."""

    expansion = 4

    def __init__(
        self, dims: int, norm: Norm, inputs: int, channels: int, stride: int, dilations: tuple[int, int]
    ) -> None:
        outputs = channels * self.expansion
        super().__init__(dims, norm, inputs, outputs, stride)
        bias = norm == "none"
        self.conv1 = same_conv(dims, inputs, channels, 1, bias=bias)
        self.bn1 = make_norm(norm, dims, channels)
        self.conv2 = same_conv(dims, channels, channels, 3, stride, dilations[0], bias=bias)
        self.bn2 = make_norm(norm, dims, channels)
        self.conv3 = same_conv(dims, channels, outputs, 1, bias=bias)
        self.bn3 = make_norm(norm, dims, outputs)

    def body(self, x: Tensor) -> Tensor:
        """The three convolutions."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        last: Tensor = self.bn3(self.conv3(out))
        return last


class ResNet(Encoder):
    """Features: stem (stride 2), layer1 (4), layer2 (8), layer3 (16), layer4 (32); names as in torchvision's.

    Beyond the output stride the first unit of a stage keeps the dilation before it and the others double it. With
    multi-grid all of layer4's 3x3 convolutions have the doubled dilation times their unit's factor.
    """

    def __init__(self, name: str, unit: type[BasicBlock] | type[Bottleneck], units: tuple[int, ...],
                 spec: EncoderSpec) -> None:  # fmt: skip
        super().__init__()
        check_spec(name, spec, 4, multi_grid=True)
        dims, norm, inputs = spec.dims, spec.norm, spec.scaled(64)
        grid = Strides(spec.output_stride)
        self.conv1 = same_conv(dims, spec.in_channels, inputs, 7, *grid.down(), bias=norm == "none")
        self.bn1 = make_norm(norm, dims, inputs)
        self.relu = make_act("relu")
        grid.mark()
        self.maxpool = MaxPool(dims, 3, *grid.down())
        channels = [inputs]
        for stage, (count, paper) in enumerate(zip(units, STAGES, strict=True), start=1):
            stride, before = grid.down() if stage > 1 else (1, grid.dilation)
            factors = spec.multi_grid if stage == len(STAGES) else None
            layer = nn.Sequential()
            for index in range(count):
                dilations = (before if index == 0 else grid.dilation, grid.dilation)
                if factors is not None:
                    dilations = (grid.dilation * factors[index % len(factors)],) * 2
                layer.append(unit(dims, norm, inputs, spec.scaled(paper), stride if index == 0 else 1, dilations))
                inputs = spec.scaled(paper) * unit.expansion
            self.add_module(f"layer{stage}", layer)
            channels.append(inputs)
            grid.mark()
        self.channels, self.strides = tuple(channels), tuple(grid.passed)
        he_normal(self)
        if norm in ("none", "frozen_batch"):
            last = "conv3" if unit is Bottleneck else "conv2"
            soften([m.get_submodule(last) for m in self.modules() if isinstance(m, Unit)])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to five features."""
        found = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(found[0])
        for stage in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found


def soften(last: list[nn.Module]) -> None:
    """Scale the last convolutions of all residual units so that their sum starts at the size of one (in place).

    Where no statistics of the features themselves normalise them, every unit would double their variance.
    """
    with torch.no_grad():
        for layer in last:
            layer.get_parameter("weight").mul_(len(last) ** -0.5)


def resnet18(spec: EncoderSpec) -> ResNet:
    """18 layers (table 1 of the paper, as are the others)."""
    return ResNet("resnet18", BasicBlock, (2, 2, 2, 2), spec)


def resnet34(spec: EncoderSpec) -> ResNet:
    """34 layers."""
    return ResNet("resnet34", BasicBlock, (3, 4, 6, 3), spec)


def resnet50(spec: EncoderSpec) -> ResNet:
    """50 layers."""
    return ResNet("resnet50", Bottleneck, (3, 4, 6, 3), spec)


def resnet101(spec: EncoderSpec) -> ResNet:
    """101 layers."""
    return ResNet("resnet101", Bottleneck, (3, 4, 23, 3), spec)
