"""AlexNet's convolutions (Krizhevsky et al. 2012, in the one-column form of Krizhevsky 2014)."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.models.blocks import he_normal, make_act, make_norm
from medseg.models.encoders.encoder import Encoder, EncoderSpec, MaxPool, Strides, check_spec, same_conv, tapped
from medseg.models.layers import CONV, MAX_POOL

# (channels, kernel, whether a 3-wide pool of stride 2 follows) of conv1 to conv5; conv1 has stride 4.
CONVOLUTIONS = ((64, 11, True), (192, 5, True), (384, 3, False), (256, 3, False), (256, 3, True))


class AlexNet(Encoder):
    """Features: conv1 to conv5 (strides 4, 8, 16, 16, 16) and pool5 (32); names as in torchvision's ``alexnet``.

    A norm stands with the rectifier (``features.1.0``), so that the names of convolutions are the same with any.

    Args:
        spec: what to build.
        padded: pad so that sizes are ceil(S / stride). Without, conv1 pads by 2 and pools not at all, as the classifier
            does: 224 voxels become 55, 27, 13 and 6.
    """

    def __init__(self, spec: EncoderSpec, *, padded: bool = True) -> None:
        super().__init__()
        check_spec("alexnet", spec, 4, multi_grid=False)
        dims, inputs, grid = spec.dims, spec.in_channels, Strides(spec.output_stride)
        bias = spec.norm in ("none", "frozen_batch")
        layers: list[nn.Module] = []
        taps, channels = [], []
        for index, (count, kernel, pooled) in enumerate(CONVOLUTIONS):
            outputs = spec.scaled(count)
            stride, dilation = grid.down(4) if index == 0 else (1, grid.dilation)
            if index == 0 and not padded:
                layers.append(CONV[dims](inputs, outputs, kernel, stride, 2, bias=bias))
            else:
                layers.append(same_conv(dims, inputs, outputs, kernel, stride, dilation, bias=bias))
            act = make_act("relu")
            norm = make_norm(spec.norm, dims, outputs)
            layers.append(act if spec.norm == "none" else nn.Sequential(norm, act))
            taps.append(len(layers) - 1)
            channels.append(outputs)
            grid.mark()
            if pooled:
                stride, dilation = grid.down()
                layers.append(MaxPool(dims, 3, stride, dilation) if padded else MAX_POOL[dims](3, stride))
            inputs = outputs
        grid.mark()
        self.features = nn.Sequential(*layers)
        self.taps = (*taps, len(layers) - 1)
        self.channels = (*channels, channels[-1])
        self.strides = tuple(grid.passed)
        he_normal(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to six features."""
        return tapped(self.features, self.taps, x)
