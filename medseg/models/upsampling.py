"""Ways up: feature maps ``stride`` times finer per axis by transposed convolution, interpolation or pixel shuffle.

A transposed convolution whose kernel is no multiple of its stride reaches some voxels more often than others and draws
a checkerboard, whatever its weights (Odena et al. 2016, https://distill.pub/2016/deconv-checkerboard). Here its kernel
is its stride: each output voxel has one source, so nothing overlaps, but each place in the stride's period has weights
of its own, and as long as these are random a pattern of that period shows. Pixel shuffle can express the same maps and
starts without it, linear interpolation never shows it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.layers import CONV, TRANSPOSED
from medseg.networks import Upsampling


def transposed(dims: int, inputs: int, outputs: int, stride: Sequence[int], bias: bool = True) -> nn.Module:
    """Transposed convolution with kernel = stride: (N, C, S) to (N, C', S * stride)."""
    layer: nn.Module = TRANSPOSED[dims](inputs, outputs, tuple(stride), tuple(stride), bias=bias)
    return layer


class Linear(nn.Module):
    """Linear interpolation and a 1x1 convolution.

    The convolution comes first: the two commute, since interpolation treats channels alike and its weights sum to one,
    and coarse maps are cheaper to convolve.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.mode = "bilinear" if dims == 2 else "trilinear"
        self.mix = CONV[dims](inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S * stride)."""
        size = [n * s for n, s in zip(x.shape[2:], self.stride, strict=True)]
        return F.interpolate(self.mix(x), size=size, mode=self.mode, align_corners=False)


class Shuffle(nn.Module):
    """A 1x1 convolution to one set of channels per place in the stride's period, sorted into space (Shi et al. 2016).

    It starts as nearest-neighbour upsampling, with equal weights for all places of a period (ICNR, Aitken et al. 2017).
    """

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.places = math.prod(stride)
        self.mix = CONV[dims](inputs, outputs * self.places, 1)
        self.equalise()

    def equalise(self) -> None:
        """Give all places of a period the weights of the first (in place)."""
        with torch.no_grad():
            for weights in (self.mix.weight, self.mix.bias):
                first = weights[:: self.places].clone()
                weights.copy_(first.repeat_interleave(self.places, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S * stride)."""
        return pixel_shuffle(self.mix(x), self.stride)


def pixel_shuffle(x: Tensor, stride: Sequence[int]) -> Tensor:
    """(N, C * product of stride, S) to (N, C, S * stride); the last axis' place in a period varies fastest.

    In 2-D with equal strides it is ``torch.nn.functional.pixel_shuffle``.
    """
    dims, size = len(stride), x.shape[2:]
    x = x.reshape(x.shape[0], -1, *stride, *size)
    # Places and voxels of an axis side by side: (N, C, S1, s1, S2, s2, ...).
    order = itertools.chain.from_iterable((2 + dims + axis, 2 + axis) for axis in range(dims))
    x = x.permute(0, 1, *order)
    return x.reshape(*x.shape[:2], *[n * s for n, s in zip(size, stride, strict=True)])


# Name -> (dimensions, channels in, channels out, stride) -> module.
UPSAMPLING: dict[Upsampling, Callable[[int, int, int, Sequence[int]], nn.Module]] = {
    "transposed": transposed,
    "linear": Linear,
    "shuffle": Shuffle,
}
