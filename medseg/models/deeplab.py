"""DeepLabv3+ (Chen et al. 2018) in 2-D and 3-D, at the widths a plan gives.

A residual encoder goes down to one eighth (2-D) or one quarter (3-D) of the resolution; from there dilation replaces
stride. Atrous spatial pyramid pooling looks at several rates and at the whole image; the decoder joins it with the
finest strided features. Instance norm stands for batch norm, so that a batch of one works.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from medseg.models.spec import NetworkSpec

# Strided stages before dilation takes over: output stride 8 in 2-D (as in the paper's finer setting), 4 in 3-D, where
# organs of a few voxels would vanish at 8.
STRIDED_STAGES = {2: 3, 3: 2}
# The paper's rates at output stride 8, against feature maps of 64 and more.
PAPER_RATES = (12, 24, 36)
PAPER_FEATURES = 64


def conv(dims: int, inputs: int, outputs: int, kernel: int, *, stride: int | tuple[int, ...] = 1, dilation: int = 1,
         groups: int = 1, act: bool = True) -> nn.Module:  # fmt: skip
    """Convolution, instance norm and (unless ``act`` is false) leaky ReLU, "same" padding."""
    block: nn.Module = Convolution(
        dims,
        inputs,
        outputs,
        strides=stride,
        kernel_size=kernel,
        dilation=dilation,
        groups=groups,
        bias=False,
        norm=("INSTANCE", {"affine": True}),
        act=("leakyrelu", {"inplace": True, "negative_slope": 0.01}) if act else None,
    )
    return block


def separable(dims: int, inputs: int, outputs: int, dilation: int = 1) -> nn.Module:
    """Depthwise-separable atrous convolution: one 3-wide filter per channel, then a pointwise mix."""
    depthwise = conv(dims, inputs, inputs, 3, dilation=dilation, groups=inputs)
    return nn.Sequential(depthwise, conv(dims, inputs, outputs, 1))


class Residual(nn.Module):
    """Two convolutions around a shortcut (He et al. 2016); stride or dilation in the first."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: tuple[int, ...], dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(dims, inputs, outputs, 3, stride=stride, dilation=dilation),
            conv(dims, outputs, outputs, 3, dilation=dilation, act=False),
        )
        same = inputs == outputs and all(s == 1 for s in stride)
        self.stride = stride
        self.shortcut = nn.Identity() if same else conv(dims, inputs, outputs, 1, act=False)
        self.act = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S / stride)."""
        # Every stride-th voxel, then a plain 1x1 convolution: the same as a strided one, for which oneDNN in torch 2.13
        # writes beyond its memory if there are fewer input channels than a vector register holds numbers.
        taken = x[(slice(None), slice(None), *[slice(None, None, s) for s in self.stride])]
        out: Tensor = self.act(self.body(x) + self.shortcut(taken))
        return out


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling with an image-level branch (Chen et al. 2017, 2018)."""

    def __init__(self, dims: int, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        branches = [conv(dims, inputs, outputs, 1)]
        branches += [separable(dims, inputs, outputs, dilation=r) for r in rates]
        self.branches = nn.ModuleList(branches)
        # No norm here: instance norm of a single voxel would erase it.
        pointwise = Convolution(dims, inputs, outputs, kernel_size=1, norm=None, act=("leakyrelu", {"inplace": True}))
        self.image_level: nn.Module = pointwise
        self.project = conv(dims, outputs * (len(branches) + 1), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S)."""
        pooled = self.image_level(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True))
        parts = [branch(x) for branch in self.branches]
        out: Tensor = self.project(torch.cat([*parts, pooled.expand(-1, -1, *x.shape[2:])], dim=1))
        return out


class DeepLabV3Plus(nn.Module):
    """Encoder, ASPP and decoder."""

    def __init__(self, spec: NetworkSpec, rates: tuple[int, ...]) -> None:
        super().__init__()
        dims = spec.dims
        strided = min(STRIDED_STAGES[dims], len(spec.strides) - 1)
        widths = (*spec.widths, *[spec.widths[-1]] * 2)
        self.stem = conv(dims, spec.in_channels, widths[0], 3)
        self.strided = nn.ModuleList(
            Residual(dims, widths[i], widths[i + 1], spec.strides[i + 1], 1) for i in range(strided)
        )
        deep, wide = widths[strided], widths[strided + 1]
        one = (1,) * dims
        self.dilated = nn.Sequential(Residual(dims, deep, wide, one, 2), Residual(dims, wide, wide, one, 4))
        middle = widths[2]
        self.aspp = ASPP(dims, wide, middle, rates)
        # The paper reduces 256 low-level channels to 48; the same share here.
        low = max(8, widths[1] * 48 // 256)
        self.reduce = conv(dims, widths[1], low, 1)
        self.decode = nn.Sequential(separable(dims, middle + low, middle), separable(dims, middle, middle))
        self.head = (nn.Conv2d if dims == 2 else nn.Conv3d)(middle, spec.out_channels, 1)
        self.mode = "bilinear" if dims == 2 else "trilinear"

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        features = self.stem(x)
        levels = []
        for stage in self.strided:
            features = stage(features)
            levels.append(features)
        context = self.aspp(self.dilated(features))
        low = self.reduce(levels[0])
        context = F.interpolate(context, size=low.shape[2:], mode=self.mode, align_corners=False)
        logits = self.head(self.decode(torch.cat([context, low], dim=1)))
        return F.interpolate(logits, size=x.shape[2:], mode=self.mode, align_corners=False)


def build(spec: NetworkSpec) -> nn.Module:
    """DeepLabv3+; ASPP rates are the paper's in 2-D and scaled down to 3-D feature maps, never below 1."""
    scale = 1 if spec.dims == 2 else PAPER_FEATURES // 8
    # Feature maps of a plan's patch are smaller than the paper's: a rate beyond them would see padding only.
    rates = tuple(max(1, r // (2 * scale)) for r in PAPER_RATES)
    return DeepLabV3Plus(spec, rates)
