"""DeepLab v1, "large field of view" (Chen et al. 2015, arXiv 1412.7062, section 3.1 and table 1).

A VGG-16 whose last poolings do not stride and whose later convolutions are dilated instead. The first fully connected
layer becomes a 3-wide convolution with its taps 12 features apart, which sees as much as one of 7 at rate 4 and is
quicker. The paper's dense CRF is a step of post-processing here; its dropout is left out, since a training must be a
function of its seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.atrous import dilate, dilated_encoder, fit_rates, map_sizes, output_stride
from medseg.models.blocks import conv, he_normal
from medseg.models.logits import enlarge, score_layer
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import DeepLabV1Options, Norm

# The paper's rate of fc6, at its output stride.
RATE, AT_STRIDE = 12, 8
# Channels of fc6 and fc7, in units of the width: 1024 for 64.
DENSE = 16


def dense_layers(dims: int, inputs: int, width: int, rate: Sequence[int], norm: Norm) -> nn.Sequential:
    """fc6 (3-wide, atrous) and fc7 (1-wide) as convolutions: (N, C, S) to (N, 16 width, S)."""
    fc6 = dilate(conv(dims, inputs, DENSE * width, 3, norm=norm), rate)
    layers = nn.Sequential(fc6, conv(dims, DENSE * width, DENSE * width, 1, norm=norm))
    he_normal(layers)
    return layers


class DeepLabV1(nn.Module):
    """Dilated VGG-16, two dense layers as convolutions, scores, enlarged to the image."""

    def __init__(self, spec: NetworkSpec, options: DeepLabV1Options, stride: int) -> None:
        super().__init__()
        dims, width = spec.dims, spec.width(options.width)
        self.encoder = dilated_encoder("vgg16", spec, width=width, norm=options.norm, stride=stride)
        (rate,) = fit_rates([RATE * AT_STRIDE // stride], dims, map_sizes(spec.patch, stride))
        self.dense = dense_layers(dims, self.encoder.channels[-1], width, rate, options.norm)
        self.score = score_layer(dims, DENSE * width, spec.out_channels)
        self.heads = [self.score]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        scores = self.score(self.dense(self.encoder(x)[-1]))
        return enlarge(scores, x.shape[2:], middle=self.encoder.middle)


def build(spec: NetworkSpec, options: DeepLabV1Options) -> nn.Module:
    """DeepLab v1 for images of any size."""
    stride = output_stride(spec.dims, options.output_stride)
    return AnySize(DeepLabV1(spec, options, stride), (stride,) * spec.dims, (2 * stride,) * spec.dims)
