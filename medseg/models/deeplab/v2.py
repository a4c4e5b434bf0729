"""DeepLab v2 (Chen et al. 2016, arXiv 1606.00915): several fields of view side by side, their scores summed.

Atrous spatial pyramid pooling, "ASPP-L" of section 3.2: branches that differ in their rate alone. Over VGG-16 each has
its own fc6, fc7 and score layer, over a ResNet each is one score layer. The image may also be read at three scales by
the same weights, of which the largest score wins (section 4.1.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.models.atrous import dilate, dilated_encoder, fit_rates, map_sizes, output_stride
from medseg.models.deeplab.v1 import DENSE, dense_layers
from medseg.models.logits import enlarge, score_layer
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import DeepLabV2Options

# The paper's rates of ASPP-L, at its output stride.
RATES, AT_STRIDE = (6, 12, 18, 24), 8
# Scales of the image beside 1, in quarters.
QUARTERS = (3, 2)


class SummedBranches(nn.Module):
    """Scores of several rates, summed."""

    def __init__(self, branches: list[nn.Sequential]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, K, S)."""
        scores: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            scores = scores + branch(x)
        return scores


class DeepLabV2(nn.Module):
    """Dilated encoder and summed branches, at one scale of the image or at three."""

    def __init__(self, spec: NetworkSpec, options: DeepLabV2Options, stride: int) -> None:
        super().__init__()
        dims, width, classes = spec.dims, spec.width(options.width), spec.out_channels
        self.encoder = dilated_encoder(options.encoder, spec, width=width, norm=options.norm, stride=stride)
        rates = fit_rates([r * AT_STRIDE // stride for r in RATES], dims, map_sizes(spec.patch, stride))
        inputs = self.encoder.channels[-1]
        branches: list[nn.Sequential] = []
        for rate in rates:
            if options.encoder == "vgg16":
                dense = dense_layers(dims, inputs, width, rate, options.norm)
                branches.append(nn.Sequential(dense, score_layer(dims, DENSE * width, classes)))
            else:
                branches.append(nn.Sequential(dilate(score_layer(dims, inputs, classes, 3), rate)))
        self.aspp = SummedBranches(branches)
        self.quarters = QUARTERS if options.scales else ()
        # The biases of all branches are summed, so that one of them shifts the scores.
        self.heads = [branches[0][-1]]

    def at_one_scale(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        return enlarge(self.aspp(self.encoder(x)[-1]), x.shape[2:], middle=self.encoder.middle)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S), multiples of 4 if there are scales, to logits (N, K, S)."""
        size = x.shape[2:]
        logits = self.at_one_scale(x)
        for quarters in self.quarters:
            smaller = enlarge(x, [n * quarters // 4 for n in size])
            logits = torch.maximum(logits, enlarge(self.at_one_scale(smaller), size))
        return logits


def build(spec: NetworkSpec, options: DeepLabV2Options) -> nn.Module:
    """DeepLab v2 for images of any size."""
    stride = output_stride(spec.dims, options.output_stride)
    # So that the strides divide the smaller images as well, and two features per axis are left of half an image.
    multiple = 4 * stride if options.scales else stride
    return AnySize(DeepLabV2(spec, options, stride), (multiple,) * spec.dims, (max(multiple, 2 * stride),) * spec.dims)
