"""Dilated convolutions for dense prediction (Yu & Koltun 2016, arXiv 1511.07122): front end and context module.

The front end is a VGG-16 without its last two poolings, dilated in their place, its dense layers convolutions. The
context module widens the field of view of the scores layer by layer, at their resolution, and starts as the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.models.atrous import dilate, dilated_encoder, fit_rates, map_sizes
from medseg.models.blocks import conv, he_normal
from medseg.models.encoders.encoder import MaxPool
from medseg.models.layers import CONV
from medseg.models.logits import enlarge, score_layer
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import DilatedOptions

# Voxels per score: three of VGG-16's five poolings are left, in 3-D two (patches are small, and a few voxels an organ).
STRIDE = {2: 8, 3: 4}
# Kernel and rate of fc6. The paper's 7-wide filters at rate 4 would be 343 taps in 3-D; 3 taps at rate 12 stand as wide
# (Chen et al. 2015, section 3.1), or at 24 of features half as far apart.
FC6 = {2: (7, 4), 3: (3, 24)}
# Channels of fc6 and fc7, in units of the width: 4096 for 64.
DENSE = 64
# Table 1 of the paper: rates of the 3-wide layers, and their channels in units of the classes. A 1-wide layer follows.
RATES = (1, 1, 2, 4, 8, 16, 1)
CHANNELS = {"basic": (1, 1, 1, 1, 1, 1, 1), "large": (2, 2, 4, 8, 16, 32, 32)}
# Deviation of the noise in equation 5, as a share of the weights that it is added to.
NOISE = 0.01
# Where scores start if a context module follows. It truncates what is negative, and a score that nothing comes through
# learns nothing: scores start with a deviation of 0.1 about this.
ABOVE_ZERO = 0.2


class ContextModule(nn.Module):
    """Seven 3-wide dilated convolutions, each truncated at zero, and a 1-wide one: (N, K, S) to (N, K, S).

    Args:
        dims: 2 or 3.
        classes: K.
        channels: of the seven layers, in units of K.
        rates: of the seven layers, per axis.
    """

    def __init__(self, dims: int, classes: int, channels: Sequence[int], rates: Sequence[Sequence[int]]) -> None:
        super().__init__()
        widths = [classes, *[c * classes for c in channels]]
        layers = [
            nn.Sequential(dilate(CONV[dims](i, o, 3), rate), nn.ReLU())
            for (i, o), rate in zip(pairwise(widths), rates, strict=True)
        ]
        self.layers = nn.Sequential(*layers)
        self.last: nn.Module = CONV[dims](widths[-1], classes, 1)
        for convolution in (*[layer[0] for layer in layers], self.last):
            draw_identity(convolution, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, S) to (N, K, S); at the start what is positive passes unchanged."""
        out: Tensor = self.last(self.layers(x))
        return out


def draw_identity(layer: nn.Module, classes: int) -> None:
    """Weights that pass ``classes`` scores on, each in one group of channels (equations 4 and 5), biases 0; in place.

    Where a group has several channels, they share the score out, and noise makes them differ.
    """
    weight: Tensor = layer.get_parameter("weight")
    bias = layer.get_parameter("bias")
    outputs, inputs = weight.shape[:2]
    group_out = torch.arange(outputs) * classes // outputs
    group_in = torch.arange(inputs) * classes // inputs
    share = classes / outputs
    with torch.no_grad():
        if inputs == outputs == classes:
            weight.zero_()
        else:
            weight.normal_(0, NOISE * share)
        middle = weight
        for size in weight.shape[2:]:
            middle = middle.select(2, size // 2)
        same = (group_out[:, None] == group_in[None]).to(weight)
        middle.mul_(1 - same).add_(share * same)
        bias.zero_()


class Dilated(nn.Module):
    """Front end and, as an option, context module; scores are enlarged to the image."""

    def __init__(self, spec: NetworkSpec, options: DilatedOptions) -> None:
        super().__init__()
        dims, classes, stride = spec.dims, spec.out_channels, STRIDE[spec.dims]
        sizes = map_sizes(spec.patch, stride)
        width, norm = spec.width(options.width), options.norm
        self.encoder = dilated_encoder("vgg16", spec, width=width, norm=norm, stride=stride)
        remove_pools(self.encoder)
        kernel, wanted = FC6[dims]
        (rate,) = fit_rates([wanted], dims, sizes, taps=kernel // 2)
        self.dense = nn.Sequential(
            dilate(conv(dims, self.encoder.channels[-1], DENSE * width, kernel, norm=norm), rate),
            conv(dims, DENSE * width, DENSE * width, 1, norm=norm),
        )
        he_normal(self.dense)
        self.score = score_layer(dims, DENSE * width, classes)
        self.context: nn.Module = nn.Identity()
        self.heads = [self.score]
        if options.context != "none":
            nn.init.constant_(self.score.get_parameter("bias"), ABOVE_ZERO)
            context = ContextModule(dims, classes, CHANNELS[options.context], fit_rates(RATES, dims, sizes))
            self.context, self.heads = context, [context.last]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        scores = self.score(self.dense(self.encoder(x)[-1]))
        return enlarge(self.context(scores), x.shape[2:], middle=self.encoder.middle)


def remove_pools(encoder: nn.Module) -> None:
    """Take out the poolings that do not stride any more (section 4 of the paper), in place."""
    for name, module in list(encoder.named_modules()):
        if isinstance(module, MaxPool):
            encoder.set_submodule(name, nn.Identity())


def build(spec: NetworkSpec, options: DilatedOptions) -> nn.Module:
    """The front end with the context module of the options, for images of any size."""
    stride = STRIDE[spec.dims]
    return AnySize(Dilated(spec, options), (stride,) * spec.dims, (2 * stride,) * spec.dims)
