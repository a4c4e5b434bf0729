"""Hypercolumns (Hariharan et al. 2015, arXiv 1411.5752): a classifier of the features above a voxel, at all depths.

The hypercolumn of a voxel is the stack of a classifier's features there, each level upsampled to the finest grid.
Upsampling and a linear classifier can change places (paper, section 3.3), so the stack is never made: every level is
scored by a 1x1 convolution at its own resolution, and the scores are upsampled and added.

Not here: the paper's grid of classifiers, one per place in a detected object's box, since there are no boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import conv, make_act, make_norm
from medseg.models.encoders.build import build_encoder
from medseg.models.encoders.encoder import Encoder
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import HypercolumnsOptions, Norm

# Volumes are cut into shorter patches than images: from here on, the encoder dilates instead of striding.
OUTPUT_STRIDE = {2: 32, 3: 16}


class ColumnSum(nn.Module):
    """What a linear layer makes of the hypercolumns: one 1x1 convolution per level, upsampled and added."""

    def __init__(self, encoder: Encoder, dims: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        channels, strides = encoder.channels, encoder.strides
        # A last pool that does not stride any more (pool5 of a dilated encoder) repeats the features before it.
        if (channels[-1], strides[-1]) == (channels[-2], strides[-2]):
            channels, strides = channels[:-1], strides[:-1]
        # Features of different depths differ in scale; without this the largest would be all that a column shows.
        self.norms = nn.ModuleList(make_norm(norm, dims, c) for c in channels)
        # One bias is enough for a sum.
        self.levels = nn.ModuleList(
            conv(dims, c, outputs, 1, norm="none", act=None, bias=level == 0) for level, c in enumerate(channels)
        )
        self.factors = [stride // strides[0] for stride in strides]
        self.middle = encoder.middle

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (N, C of the level, S / its factor), finest first, to (N, outputs, S)."""
        parts = zip(features[: len(self.levels)], self.norms, self.levels, self.factors, strict=True)
        scores = [upsample(level(norm(f)), factor, middle=self.middle) for f, norm, level, factor in parts]
        return sum(scores[1:], scores[0])


def upsample(x: Tensor, factor: int, *, middle: bool) -> Tensor:
    """Features (N, C, S) on a grid ``factor`` times finer, linearly: (N, C, S * factor).

    Args:
        x: features.
        factor: along every axis.
        middle: whether a voxel lies in the middle of the finer ones that it becomes, or on the first of them
            (``Encoder.middle``).
    """
    if factor == 1:
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    size = [n * factor for n in x.shape[2:]]
    if middle:
        return F.interpolate(x, size=size, mode=mode, align_corners=False)
    for axis in range(2, x.ndim):
        x = torch.cat([x, x.narrow(axis, x.shape[axis] - 1, 1)], dim=axis)
    finer = F.interpolate(x, size=[n + 1 for n in size], mode=mode, align_corners=True)
    return finer[(slice(None), slice(None), *[slice(n) for n in size])]


class Hypercolumns(nn.Module):
    """Encoder and classifier of its columns.

    Attributes:
        encoder: the classifier's convolutions.
        columns: linear in the columns; gives the logits, or with a hidden layer its input.
        hidden: the activation and the layer after it, or nothing.
        heads: the layer whose bias shifts the logits.
    """

    def __init__(self, spec: NetworkSpec, options: HypercolumnsOptions) -> None:
        super().__init__()
        dims, classes = spec.dims, spec.out_channels
        self.encoder = build_encoder(
            options.encoder,
            dims,
            spec.in_channels,
            width=spec.width(options.width),
            norm=options.norm,
            output_stride=OUTPUT_STRIDE[dims],
        )
        self.columns = ColumnSum(self.encoder, dims, options.hidden or classes, options.norm)
        self.hidden = nn.Sequential()
        head = self.columns.levels[0]
        if options.hidden:
            head = conv(dims, options.hidden, classes, 1, norm="none", act=None)
            self.hidden = nn.Sequential(make_act("relu"), head)
        self.heads = [m for m in head.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S); S are multiples of the encoder's strides."""
        logits: Tensor = self.hidden(self.columns(self.encoder(x)))
        return upsample(logits, self.encoder.strides[0], middle=self.encoder.middle)


def build(spec: NetworkSpec, options: HypercolumnsOptions) -> nn.Module:
    """Hypercolumns over all features of the encoder; sizes are padded so that the deepest keep two voxels per axis."""
    network = Hypercolumns(spec, options)
    deepest = max(network.encoder.strides)
    return AnySize(network, (deepest,) * spec.dims, (2 * deepest,) * spec.dims)
