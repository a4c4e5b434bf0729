"""VGG-16's convolutions (Simonyan & Zisserman 2015, configuration D)."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.models.blocks import he_normal, make_act, make_norm
from medseg.models.encoders.encoder import Encoder, EncoderSpec, MaxPool, Strides, check_spec, same_conv, tapped
from medseg.models.layers import MAX_POOL

# (convolutions, channels) of the five blocks.
BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))


class VGG16(Encoder):
    """Features: the five blocks before their pools (strides 1 to 16) and pool5 (32).

    Names are those of torchvision's ``vgg16`` without a norm (the paper's), of its ``vgg16_bn`` with any. Pools beyond
    the output stride become 3-wide with stride 1, as in DeepLab (Chen et al. 2015): a window of two would shift
    features by half a voxel.
    """

    middle = True

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        check_spec("vgg16", spec, 4, multi_grid=False)
        dims, inputs, grid = spec.dims, spec.in_channels, Strides(spec.output_stride)
        # Batch norm has one for torchvision's weights; after other norms it would have no effect.
        bias = spec.norm in ("none", "batch", "frozen_batch")
        layers: list[nn.Module] = []
        taps, channels = [], []
        for count, paper in BLOCKS:
            outputs = spec.scaled(paper)
            for _ in range(count):
                layers.append(same_conv(dims, inputs, outputs, 3, dilation=grid.dilation, bias=bias))
                if spec.norm != "none":
                    layers.append(make_norm(spec.norm, dims, outputs))
                layers.append(make_act("relu"))
                inputs = outputs
            taps.append(len(layers) - 1)
            channels.append(outputs)
            grid.mark()
            stride, dilation = grid.down()
            strided = stride > 1
            layers.append(MAX_POOL[dims](2, 2, ceil_mode=True) if strided else MaxPool(dims, 3, 1, dilation))
        grid.mark()
        self.features = nn.Sequential(*layers)
        self.taps = (*taps, len(layers) - 1)
        self.channels = (*channels, channels[-1])
        self.strides = tuple(grid.passed)
        he_normal(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to six features."""
        return tapped(self.features, self.taps, x)
