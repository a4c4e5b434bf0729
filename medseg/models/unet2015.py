"""The first U-Nets, independent of the plan's stages: Ronneberger et al. 2015 in 2-D, Cicek et al. 2016 in 3-D.

Both are pairs of 3-wide convolutions with ReLU, max pooling by 2 on the way down, 2-wide up-convolutions on the way up.
Volumes have a stage less, and channels double before the pooling instead of after it, so that the narrow place between
two stages is avoided. Their batch norm is the option ``norm``; without it, as by default, features are as in 2015.

The dropout of 2015 (a half) is an option, too, and off by default, as volumes had none in 2016 and norms replace it.

With ``valid`` convolutions, as in both papers, an output is smaller than its input by a margin. The image is mirrored
into it, and each output voxel has seen nothing but image (the overlap-tile strategy of Ronneberger et al., figure 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.models.blocks import he_normal, make_act, make_norm
from medseg.models.layers import CONV, MAX_POOL
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.models.upsampling import transposed
from medseg.networks import Norm, UNet2015Options


@dataclass(frozen=True, slots=True)
class Form:
    """What a paper chose.

    Attributes:
        stages: resolutions.
        early: whether channels double in the second convolution of a stage, before the pooling, and not in the first.
            Up-convolutions then keep channels and have no bias (so that 19 069 955 parameters are counted, as in the
            paper); else they halve channels.
    """

    stages: int
    early: bool


FORMS = {2: Form(stages=5, early=False), 3: Form(stages=4, early=True)}
# Stages at the end of the way down that have dropout, as in the networks published with the paper.
DROPPED = 2
# Weights of the last layer start at this share of He's. Features without a norm are far from 0 and would shift whole
# classes by more than what the bias of that layer says of their frequency.
HEAD_START = 0.1


def pair(dims: int, channels: tuple[int, int, int], norm: Norm, padding: int) -> nn.Module:
    """Two convolutions with ReLU from channels[0] over channels[1] to channels[2]."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers.append(CONV[dims](inputs, outputs, 3, padding=padding, bias=norm == "none"))
        layers += [make_norm(norm, dims, outputs), make_act("relu")]
    return nn.Sequential(*layers)


class UNet2015(nn.Module):
    """Encoder and decoder; skipped features are cropped to the size of the upsampled ones."""

    def __init__(self, spec: NetworkSpec, options: UNet2015Options) -> None:
        super().__init__()
        dims, norm, form = spec.dims, options.norm, FORMS[spec.dims]
        padding = 0 if options.padding == "valid" else 1
        widths = [spec.width(options.width) * 2**stage for stage in range(form.stages)]
        self.down, self.up, self.join = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = spec.in_channels
        for stage, width in enumerate(widths):
            convolved = pair(dims, (inputs, width // 2 if form.early else width, width), norm, padding)
            last = stage >= form.stages - DROPPED
            self.down.append(nn.Sequential(convolved, nn.Dropout(options.dropout)) if last else convolved)
            inputs = width
        for width, deeper in pairwise(widths):
            raised = deeper if form.early else width
            self.up.append(transposed(dims, deeper, raised, (2,) * dims, bias=not form.early))
            self.join.append(pair(dims, (width + raised, width, width), norm, padding))
        self.pool = MAX_POOL[dims](2)
        self.head = CONV[dims](widths[0], spec.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S), or of a smaller S with valid convolutions."""
        passed: list[Tensor] = []
        for stage in self.down:
            x = stage(self.pool(x) if passed else x)
            passed.append(x)
        x = passed.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = up(x)
            x = join(torch.cat([centre(passed.pop(), x), x], dim=1))
        logits: Tensor = self.head(x)
        return logits


class OverlapTile(nn.Module):
    """Outputs of a network of valid convolutions for a whole image, which is mirrored beyond its borders.

    A network of p poolings gives sizes that are 4 more than a multiple of 2^p, from images larger by 6 * 2^p - 4 on
    each side: 388 from 572 pixels in the paper.

    Attributes:
        network: with valid convolutions, in pairs.
        step: 2^p.
        margin: what it takes off each side of an image.
    """

    def __init__(self, network: nn.Module, poolings: int) -> None:
        super().__init__()
        self.network = network
        self.step = 2**poolings
        self.margin = 6 * self.step - 4

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to logits (N, K, S)."""
        shape = x.shape[2:]
        missing = [(4 - size) % self.step for size in shape]
        for axis, extra in enumerate(missing, start=2):
            x = mirrored(x, axis, self.margin + extra // 2, self.margin + extra - extra // 2)
        logits: Tensor = self.network(x)
        for axis, (extra, size) in enumerate(zip(missing, shape, strict=True), start=2):
            logits = logits.narrow(axis, extra // 2, size)
        return logits


def mirrored(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """``x`` continued along an axis by mirroring at its first and last voxel, again and again where it is short."""
    size = x.shape[axis]
    period = max(1, 2 * (size - 1))
    places = torch.arange(-before, size + after, device=x.device).remainder(period)
    return x.index_select(axis, torch.minimum(places, period - places))


def centre(x: Tensor, like: Tensor) -> Tensor:
    """The middle of ``x`` (N, C, S) in the size of ``like``."""
    for axis in range(2, x.ndim):
        size = like.shape[axis]
        x = x.narrow(axis, (x.shape[axis] - size) // 2, size)
    return x


def build(spec: NetworkSpec, options: UNet2015Options) -> nn.Module:
    """The U-Net of 2015 or 2016; "same" convolutions pad with zeros and keep sizes."""
    network = UNet2015(spec, options)
    # The start of Ronneberger et al. (section 3): a normal distribution of variance 2 / inputs.
    he_normal(network)
    with torch.no_grad():
        network.head.weight.mul_(HEAD_START)
    poolings = FORMS[spec.dims].stages - 1
    if options.padding == "valid":
        return OverlapTile(network, poolings)
    return AnySize(network, [2**poolings] * spec.dims, [2 ** (poolings + 1)] * spec.dims)
