"""DeepLab v3 (Chen et al. 2017, arXiv 1706.05587): a ResNet at a chosen output stride, multi-grid, and ASPP."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.models.atrous import dilated_encoder, fit_rates, map_sizes, output_stride
from medseg.models.blocks import he_normal
from medseg.models.deeplab.aspp import ASPP
from medseg.models.logits import enlarge, score_layer
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.networks import DeepLabV3Options

# The paper's rates at output stride 16, doubled at 8 (section 3.3), and so on.
RATES, AT_STRIDE = (6, 12, 18), 16
# Unit rates of the last stage's convolutions (section 4.3: the best with ASPP).
MULTI_GRID = (1, 2, 4)
# Channels of each branch, in units of the width: 256 for 64.
BRANCH = 4


def rates_at(spec: NetworkSpec, stride: int) -> list[tuple[int, ...]]:
    """Rates of the branches per axis, at an output stride and fitted to the plan's patch."""
    return fit_rates([r * AT_STRIDE // stride for r in RATES], spec.dims, map_sizes(spec.patch, stride))


class DeepLabV3(nn.Module):
    """Dilated ResNet, ASPP, scores, enlarged to the image."""

    def __init__(self, spec: NetworkSpec, options: DeepLabV3Options, stride: int) -> None:
        super().__init__()
        dims, width = spec.dims, spec.width(options.width)
        self.encoder = dilated_encoder(
            options.encoder, spec, width=width, norm=options.norm, stride=stride, multi_grid=MULTI_GRID
        )
        middle = BRANCH * width
        self.aspp = ASPP(dims, self.encoder.channels[-1], middle, rates_at(spec, stride), norm=options.norm)
        he_normal(self.aspp)
        self.score = score_layer(dims, middle, spec.out_channels)
        self.heads = [self.score]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        scores = self.score(self.aspp(self.encoder(x)[-1]))
        return enlarge(scores, x.shape[2:], middle=self.encoder.middle)


def build(spec: NetworkSpec, options: DeepLabV3Options) -> nn.Module:
    """DeepLab v3 for images of any size."""
    stride = output_stride(spec.dims, options.output_stride)
    return AnySize(DeepLabV3(spec, options, stride), (stride,) * spec.dims, (2 * stride,) * spec.dims)
