"""DeepLab v3+ (Chen et al. 2018, arXiv 1802.02611): v3 as the encoder, and a decoder that brings edges back.

The context is enlarged to the size of early features, joined with few channels of them, and refined by two 3-wide
convolutions. Convolutions of ASPP and decoder may be depthwise-separable, as in the paper's section 4.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medseg.models.atrous import dilated_encoder, fit_rates, map_sizes, output_stride
from medseg.models.blocks import Act, conv, he_normal, separable
from medseg.models.deeplab.aspp import ASPP
from medseg.models.deeplab.planned import PlannedEncoder
from medseg.models.deeplab.v3 import BRANCH, MULTI_GRID, rates_at
from medseg.models.logits import draw_small, enlarge
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import DeepLabV3PlusOptions, Norm

# Of the channels of early features, how many the decoder sees (section 3.1): 48 for a width of 64.
LOW, LOW_AT_WIDTH = 48, 64
# Rates over the planned encoder: half of the paper's at output stride 8, against patches half as large; in 3-D an
# eighth of those.
PLANNED_RATES = {2: (6, 12, 18), 3: (1, 1, 2)}


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """What surrounds an encoder.

    Attributes:
        level: which of its features the decoder sees; context is the last.
        low: channels that these are reduced to.
        middle: channels of the branches and of the decoder.
        rates: of the branches, per axis.
        norm, act: after convolutions.
        depthwise: separable convolutions in branches and decoder.
        middle_of: whether features belong to the middle of their voxels (``enlarge``).
    """

    level: int
    low: int
    middle: int
    rates: Sequence[Sequence[int]]
    norm: Norm
    act: Act
    depthwise: bool
    middle_of: bool


class DeepLabV3Plus(nn.Module):
    """Encoder, ASPP and decoder."""

    def __init__(
        self, dims: int, classes: int, encoder: nn.Module, channels: Sequence[int], decoder: DecoderSpec
    ) -> None:
        super().__init__()
        d, middle = decoder, decoder.middle
        self.encoder = encoder
        self.level, self.middle_of = d.level, d.middle_of
        self.aspp = ASPP(dims, channels[-1], middle, d.rates, norm=d.norm, act=d.act, depthwise=d.depthwise)
        self.reduce = conv(dims, channels[d.level], d.low, 1, norm=d.norm, act=d.act)
        refine = separable if d.depthwise else conv
        self.decode = nn.Sequential(
            refine(dims, middle + d.low, middle, 3, norm=d.norm, act=d.act),
            refine(dims, middle, middle, 3, norm=d.norm, act=d.act),
        )
        self.score = (nn.Conv2d if dims == 2 else nn.Conv3d)(middle, classes, 1)
        self.heads = [self.score]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        features = self.encoder(x)
        context, low = self.aspp(features[-1]), self.reduce(features[self.level])
        joined = torch.cat([enlarge(context, low.shape[2:], middle=self.middle_of), low], dim=1)
        return enlarge(self.score(self.decode(joined)), x.shape[2:], middle=self.middle_of)


def build(spec: NetworkSpec, options: DeepLabV3PlusOptions) -> nn.Module:
    """DeepLab v3+ for images of any size, over the planned encoder or one of a paper."""
    return _planned(spec, options) if options.encoder == "planned" else _published(spec, options)


def _planned(spec: NetworkSpec, options: DeepLabV3PlusOptions) -> nn.Module:
    encoder = PlannedEncoder(spec, options.norm)
    sizes = [map_sizes([n], stride)[0] for n, stride in zip(spec.patch, encoder.total, strict=False)]
    decoder = DecoderSpec(
        level=0,
        low=max(8, encoder.channels[0] * LOW // 256),
        middle=spec.widths[min(2, len(spec.widths) - 1)],
        rates=fit_rates(PLANNED_RATES[spec.dims], spec.dims, sizes),
        norm=options.norm,
        act="leakyrelu",
        depthwise=options.separable is not False,
        middle_of=True,
    )
    network = DeepLabV3Plus(spec.dims, spec.out_channels, encoder, encoder.channels, decoder)
    return AnySize(network, encoder.total, [2 * s for s in encoder.total])


def _published(spec: NetworkSpec, options: DeepLabV3PlusOptions) -> nn.Module:
    stride, width = output_stride(spec.dims, options.output_stride), spec.width(options.width)
    grid = None if options.encoder == "xception" else MULTI_GRID
    encoder = dilated_encoder(
        options.encoder, spec, width=width, norm=options.norm, stride=stride, multi_grid=grid
    )  # fmt: skip
    # Features of stride 4 (section 3.1), or of 2 where the context itself has 4: the deepest of that stride.
    early = min(4, stride // 2)
    decoder = DecoderSpec(
        level=max(i for i, s in enumerate(encoder.strides) if s == early),
        low=max(8, LOW * width // LOW_AT_WIDTH),
        middle=BRANCH * width,
        rates=rates_at(spec, stride),
        norm=options.norm,
        act="relu",
        # The paper's ResNet has full convolutions (section 4.1 and 4.2), its Xception separable ones (4.3).
        depthwise=options.encoder == "xception" if options.separable is None else options.separable,
        middle_of=encoder.middle,
    )
    network = DeepLabV3Plus(spec.dims, spec.out_channels, encoder, encoder.channels, decoder)
    for part in (network.aspp, network.reduce, network.decode):
        he_normal(part)
    draw_small(network.score)
    return AnySize(network, (stride,) * spec.dims, (2 * stride,) * spec.dims)
