"""What encoders share: their contract, how strides become dilation, convolutions and pools of "same" padding."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.models.layers import CONV
from medseg.networks import Norm

# Channels of the papers' first stage, in whose place a width is given.
PAPER_WIDTH = 64


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is built from.

    Attributes:
        dims: 2 or 3.
        in_channels: image channels.
        width: channels in place of the paper's first 64; all others in proportion.
        norm: what normalises features.
        output_stride: strides beyond it become dilation; none: the paper's 32.
        multi_grid: factors on the dilation of the last stage's units (Chen et al. 2017, section 3.2.1).
    """

    dims: int
    in_channels: int
    width: int = PAPER_WIDTH
    norm: Norm = "instance"
    output_stride: int | None = None
    multi_grid: tuple[int, ...] | None = None

    def scaled(self, channels: int) -> int:
        """The paper's number of channels at this width."""
        return max(1, round(channels * self.width / PAPER_WIDTH))


class Encoder(nn.Module):
    """The convolutions of a classifier: an image (N, C, S) to features (N, C', ceil(S / stride)), finest first.

    Attributes:
        channels: of each feature.
        strides: total stride of each feature, the same on all axes.
        middle: whether a feature's voxel lies in the middle of the image voxels that it strides over (pooling by two
            does so), or on the first of them (strided odd kernels with "same" padding).
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    middle: bool = False

    def centre(self, stride: int) -> float:
        """Where the first voxel of the feature with this stride lies, in image voxels."""
        return (stride - 1) / 2 if self.middle else 0.0

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to one (N, C', ceil(S / stride)) for each of ``strides``."""
        raise NotImplementedError


@dataclass(slots=True)
class Strides:
    """Goes down an encoder: up to ``limit`` layers stride, beyond it what follows them is dilated instead.

    Every ``by``-th voxel of the dilated features is then what the strided layers would have given (the "hole"
    algorithm, Chen et al. 2015, section 3.1).
    """

    limit: int | None
    stride: int = 1
    dilation: int = 1
    passed: list[int] = field(default_factory=list)

    def down(self, by: int = 2) -> tuple[int, int]:
        """Stride and dilation of a layer that the paper strides by ``by``; then ``dilation`` is that of the next."""
        before = self.dilation
        if self.limit is not None and self.stride * by > self.limit:
            self.dilation *= by
            return 1, before
        self.stride *= by
        return by, before

    def mark(self) -> None:
        """Note the stride of a feature that is handed out."""
        self.passed.append(self.stride)


class MaxPool(nn.Module):
    """Largest of an odd window, "same" padding: size S becomes ceil(S / stride)."""

    def __init__(self, dims: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.pool = F.max_pool2d if dims == 2 else F.max_pool3d
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        self.pads = (dilation * (kernel // 2),) * (2 * dims)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C, ceil(S / stride))."""
        if self.dilation == 1:
            return self.pool(x, self.kernel, self.stride, self.kernel // 2)
        # torch's own padding is limited to half the kernel before dilation.
        padded = F.pad(x, self.pads, value=-float("inf"))
        return self.pool(padded, self.kernel, self.stride, 0, self.dilation)


def same_conv(
    dims: int, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, *, bias: bool = False
) -> nn.Module:
    """A bare convolution of odd kernel with zero padding so that size S becomes ceil(S / stride)."""
    if kernel == 1 < stride:
        raise ValueError("subsample before a 1x1 convolution instead of striding it")
    pad = dilation * (kernel // 2)
    layer: nn.Module = CONV[dims](inputs, outputs, kernel, stride, pad, dilation, bias=bias)
    return layer


def check_spec(name: str, spec: EncoderSpec, finest: int, *, multi_grid: bool) -> None:
    """Refuse what an encoder cannot do.

    Args:
        finest: smallest output stride that it can have.
        multi_grid: whether it has units to apply multi-grid to.

    Raises:
        PlanError: naming the encoder, the value and what is possible.
    """
    possible = [s for s in (4, 8, 16, 32) if s >= finest]
    if spec.output_stride is not None and spec.output_stride not in possible:
        raise PlanError(f"encoder '{name}': output stride {spec.output_stride}; expected one of {possible}")
    if spec.multi_grid is not None and not multi_grid:
        raise PlanError(f"encoder '{name}' has no residual units for multi_grid {spec.multi_grid}; leave it out")


def tapped(layers: nn.Sequential, taps: Container[int], x: Tensor) -> list[Tensor]:
    """What the layers with the numbers ``taps`` give for an image ``x`` (N, C, S), in their order."""
    found = []
    for number, layer in enumerate(layers):
        x = layer(x)
        if number in taps:
            found.append(x)
    return found
