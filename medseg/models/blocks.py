"""What networks are made of: convolution with norm and activation, separable convolution, starting weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.layers import BATCH_NORM, CONV, INSTANCE_NORM
from medseg.networks import Norm

Act = Literal["relu", "leakyrelu"]
# Groups of group norm (Wu & He 2018); fewer where that would leave a single channel to a group.
GROUPS = 32
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class FrozenBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm whose running statistics never change, while its scale and shift are trained; 2-D and 3-D.

    Works at a batch of one and keeps samples independent. The statistics are those of loaded weights; without any
    (mean 0, variance 1) it only scales and shifts. Names are those of batch norm, so that its state dicts load.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C, S)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class GroupedConv2d(nn.Conv2d):
    """Grouped 2-D convolution that a processor computes in 32 bits where it is dilated, whatever autocast chooses.

    oneDNN in torch 2.13 sums the gradient of such a kernel in bfloat16 over uninitialised memory: it is NaN,
    huge or a little wrong, depending on what lay there. Tested in ``tests/unit/test_blocks.py``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H', W'), in the type that autocast chooses."""
        if x.device.type != "cpu" or max(self.dilation) == 1 or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            wide: Tensor = super().forward(x.float())
        return wide.to(torch.get_autocast_dtype("cpu"))


class Subsample(nn.Module):
    """Every ``stride``-th voxel per axis, from the first on.

    Before a 1x1 convolution it is the same as that convolution strided, for which oneDNN in torch 2.13 writes beyond
    its memory if there are fewer input channels than a vector register holds numbers.
    """

    def __init__(self, stride: int | Sequence[int]) -> None:
        super().__init__()
        self.stride = stride if isinstance(stride, int) else tuple(stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C, ceil(S / stride))."""
        steps = [self.stride] * (x.ndim - 2) if isinstance(self.stride, int) else self.stride
        return x[(slice(None), slice(None), *[slice(None, None, s) for s in steps])]


def make_norm(norm: Norm, dims: int, channels: int, eps: float = 1e-5) -> nn.Module:
    """A trainable normalisation of ``channels`` features, or the identity for ``none``."""
    if norm == "none":
        return nn.Identity()
    if norm == "frozen_batch":
        return FrozenBatchNorm(channels, eps=eps)
    if norm == "group":
        groups = math.gcd(channels, GROUPS)
        return nn.GroupNorm(max(1, groups // 2 if groups == channels else groups), channels, eps=eps, affine=True)
    kinds = INSTANCE_NORM if norm == "instance" else BATCH_NORM
    layer: nn.Module = kinds[dims](channels, eps=eps, affine=True)
    return layer


def make_act(act: Act) -> nn.Module:
    """ReLU, or leaky ReLU of slope 0.01; in place."""
    return nn.LeakyReLU(negative_slope=0.01, inplace=True) if act == "leakyrelu" else nn.ReLU(inplace=True)


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    dilation: int = 1,
    groups: int = 1,
    norm: Norm = "instance",
    act: Act | None = "relu",
    bias: bool | None = None,
) -> nn.Module:
    """Convolution (zero padding so that size S becomes ceil(S / stride)), norm, activation.

    Args:
        dims: 2 or 3.
        inputs, outputs: channels.
        kernel: odd, per axis or for all.
        stride, dilation, groups: of the convolution.
        norm: ``none`` leaves it out.
        act: none leaves it out.
        bias: of the convolution; by default only where no norm follows that would cancel it.

    Returns:
        A sequence of ``conv`` (before it ``subsample`` for a strided 1x1), ``norm`` and ``act``.
    """
    block = nn.Sequential()
    kernels, strides = _per_axis(dims, kernel), _per_axis(dims, stride)
    if max(kernels) == 1 < max(strides):
        block.add_module("subsample", Subsample(strides))
        strides = (1,) * dims
    biased = norm == "none" if bias is None else bias
    if dims == 2 and groups > 1:
        (height, width), (down, right) = kernels, strides
        padding = (dilation * (height // 2), dilation * (width // 2))
        layer: nn.Module = GroupedConv2d(
            inputs, outputs, (height, width), (down, right), padding, dilation, groups=groups, bias=biased
        )
    else:
        around = tuple(dilation * (size // 2) for size in kernels)
        layer = CONV[dims](inputs, outputs, kernels, strides, around, dilation, groups=groups, bias=biased)
    block.add_module("conv", layer)
    if norm != "none":
        block.add_module("norm", make_norm(norm, dims, outputs))
    if act is not None:
        block.add_module("act", make_act(act))
    return block


def separable(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    norm: Norm = "instance",
    act: Act | None = "relu",
) -> nn.Module:
    """Depthwise-separable atrous convolution: one filter per channel, then a pointwise mix.

    Norm and activation follow both, as in Chen et al. 2018 (section 3.2, Xception as the network backbone).
    """
    depthwise = conv(dims, inputs, inputs, kernel, stride, dilation, groups=inputs, norm=norm, act=act)
    return nn.Sequential(depthwise, conv(dims, inputs, outputs, 1, norm=norm, act=act))


def he_normal(module: nn.Module) -> None:
    """Draw convolutions and linear layers for rectifiers (He et al. 2015, equation 10), biases 0; in place.

    torch's own start shrinks features by more than half per layer, which deep networks without a norm do not survive.
    """
    for layer in module.modules():
        if isinstance(layer, (*CONVOLUTIONS, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _per_axis(dims: int, value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)
