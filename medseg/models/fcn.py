"""Fully convolutional networks (Long, Shelhamer & Darrell 2015; Shelhamer et al. 2017): 32s, 16s, 8s.

A classifier whose fully connected layers are convolutions scores every cell of its coarsest features; the scores go up
by learnable deconvolutions, and the finer networks add scores of earlier features on the way. What the three share has
the same names, so that each can start from the coarser one's weights (section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.bilinear import Deconvolution
from medseg.models.blocks import he_normal
from medseg.models.encoders.build import build_encoder
from medseg.models.encoders.encoder import MaxPool
from medseg.models.layers import CONV, MAX_POOL
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import EncoderOptions

STRIDE = 32
# Channels of fc6 and fc7 per channel of the first stage: 4096 for 64. A 7x7x7 window of 512 channels to 4096 would be
# 719 million weights, so in 3-D it is an eighth.
HIDDEN = {2: 64, 3: 8}


@dataclass(frozen=True, slots=True)
class Head:
    """How a classifier goes from its last features to classes.

    Attributes:
        window: cells per axis that its first fully connected layer sees; 0: it has a single one, straight to classes.
        dropout: share of features that are dropped while training, where the classifier did so.
        pooled: the encoder lists features before their pools, so that a skip has to pool those of half its stride.
        cells: of the deepest features per axis, at least. Instance norm in training needs different ones, and a pool
            of three sees the same everywhere if there are only two.
    """

    window: int = 0
    dropout: float = 0.0
    pooled: bool = False
    cells: int = 2


HEADS = {
    "alexnet": Head(window=6, dropout=0.5, pooled=True),
    "vgg16": Head(window=7, dropout=0.5, pooled=True),
    "googlenet": Head(dropout=0.4, cells=3),
    "resnet18": Head(),
    "resnet34": Head(),
    "resnet50": Head(),
    "resnet101": Head(),
}
# Stride of the finest features that are scored -> those that are added on the way there.
SKIPS: dict[int, tuple[int, ...]] = {32: (), 16: (16,), 8: (16, 8)}
# Stride of a skip -> the deconvolution that goes up to it, and the layer that scores it.
SKIP_LAYERS = {16: ("upscore2", "score_pool4"), 8: ("upscore_pool4", "score_pool3")}


class FCN(nn.Module):
    """Scores at stride 32, joined by those at 16 and 8, and up to the image; sizes are multiples of 32.

    "Same" padding and a crop at each deconvolution keep every score over its voxels; the paper pads images by 100
    instead. Layers that score skips start at zero, so that a finer network starts with the predictions of the
    coarser one. The paper starts ``score_fr`` at zero too and found a random start as good (section 4.3); it is drawn
    here, since everything below it would stand still for a step.

    Attributes:
        encoder: the classifier's convolutions.
        heads: the one layer whose bias shifts all logits.
    """

    def __init__(self, spec: NetworkSpec, options: EncoderOptions, finest: int) -> None:
        super().__init__()
        dims, classes, width = spec.dims, spec.out_channels, spec.width(options.width)
        head = HEADS[options.encoder]
        self.encoder = build_encoder(options.encoder, dims, spec.in_channels, width=width, norm=options.norm)
        convolution = CONV[dims]
        channels, place = self.encoder.channels[-1], self.encoder.centre(STRIDE)
        self.window = head.window
        if head.window:
            hidden = HIDDEN[dims] * width
            self.fc6 = convolution(channels, hidden, head.window)
            self.fc7 = convolution(hidden, hidden, 1)
            channels = hidden
            # An even window has its middle between two cells.
            place += STRIDE / 2 if head.window % 2 == 0 else 0.0
        self.dropout = nn.Dropout(head.dropout)
        self.score_fr = convolution(channels, classes, 1)
        he_normal(nn.ModuleList([m for n, m in self.named_children() if n != "encoder"]))
        self.pool: nn.Module = nn.Identity()
        if head.pooled:
            self.pool = MAX_POOL[dims](2, 2) if self.encoder.middle else MaxPool(dims, 3, 2)
        self.skips, stride = SKIPS[finest], STRIDE
        self.taps: list[int] = []
        for skip in self.skips:
            self.taps.append(self.encoder.strides.index(skip // 2 if head.pooled else skip))
            up, score = SKIP_LAYERS[skip]
            self.add_module(score, _zeros(convolution(self.encoder.channels[self.taps[-1]], classes, 1)))
            offset = (place - self.encoder.centre(skip)) / skip
            self.add_module(up, Deconvolution(dims, classes, stride // skip, offset))
            stride, place = skip, self.encoder.centre(skip)
        self.up = f"upscore{stride}"
        self.add_module(self.up, Deconvolution(dims, classes, stride, place))
        self.heads = [self.score_fr]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        features = self.encoder(x)
        deep = features[-1]
        if self.window:
            before, after = (self.window - 1) // 2, self.window // 2
            deep = F.relu(self.fc6(F.pad(deep, (before, after) * (x.ndim - 2))))
            deep = F.relu(self.fc7(self.dropout(deep)))
        score = self.score_fr(self.dropout(deep))
        for skip, tap in zip(self.skips, self.taps, strict=True):
            up, scored = (self.get_submodule(name) for name in SKIP_LAYERS[skip])
            score = up(score) + scored(self.pool(features[tap]))
        logits: Tensor = self.get_submodule(self.up)(score)
        return logits


def _zeros(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _builder(finest: int) -> Callable[[NetworkSpec, EncoderOptions], nn.Module]:
    def build(spec: NetworkSpec, options: EncoderOptions) -> nn.Module:
        least = HEADS[options.encoder].cells * STRIDE
        return AnySize(FCN(spec, options, finest), (STRIDE,) * spec.dims, (least,) * spec.dims)

    return build


build_32s = _builder(32)
build_16s = _builder(16)
build_8s = _builder(8)
