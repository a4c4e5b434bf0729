"""Atrous convolutions: how far apart their taps stand, and how that follows from output stride and patch.

Rates of the papers belong to maps of 33 to 65 features per axis. On a smaller map the taps of a large rate fall outside
it, see padding only, and a 3-wide filter becomes a 1-wide one (Chen et al. 2017, section 3.3). So rates are fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from medseg.models.encoders.build import build_encoder
from medseg.models.encoders.encoder import Encoder
from medseg.models.spec import NetworkSpec
from medseg.networks import Norm

# Voxels per feature where none is given: the papers' finer setting, and half of it in 3-D, where patches are small
# and organs of a few voxels would vanish at 8.
OUTPUT_STRIDE = {2: 8, 3: 4}
# The farthest tap stands no farther away than this share (numerator, denominator) of the map. The papers' own: 24 of 41
# (v2), 18 of 33 and 36 of 65 (v3).
FARTHEST = (3, 5)


def output_stride(dims: int, wanted: int | None) -> int:
    """``wanted``, or what suits the dimensions."""
    return wanted or OUTPUT_STRIDE[dims]


def map_sizes(patch: Sequence[int], stride: int, least: int = 2) -> tuple[int, ...]:
    """Features per axis over a patch that is padded to at least ``least`` of them; empty for an empty patch."""
    return tuple(max(least, math.ceil(n / stride)) for n in patch)


def fit_rates(rates: Sequence[int], dims: int, sizes: Sequence[int], taps: int = 1) -> list[tuple[int, ...]]:
    """Rates per axis whose farthest tap stands at most three fifths of the map away, in their proportions.

    All rates of an axis shrink by one factor, and none below 1. Rates that fit stay as they are.

    Args:
        rates: of branches or layers that see the same map, isotropic.
        dims: axes.
        sizes: features per axis of the map; empty: as large as need be.
        taps: of a filter on each side of its centre.

    Returns:
        For each rate its value per axis.
    """
    if not sizes:
        return [(rate,) * dims for rate in rates]
    farthest = [max(1, size * FARTHEST[0] // FARTHEST[1] // taps) for size in sizes]
    largest = max(rates)
    return [
        tuple(rate if largest <= far else max(1, round(rate * far / largest)) for far in farthest) for rate in rates
    ]


def dilate(module: nn.Module, rate: Sequence[int]) -> nn.Module:
    """Give every convolution in ``module`` wider than one voxel this dilation, with "same" padding; returns it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d) and max(layer.kernel_size) > 1:
            layer.dilation = tuple(rate)
            layer.padding = tuple(r * (k // 2) for r, k in zip(rate, layer.kernel_size, strict=True))
    return module


def fit_dilations(module: nn.Module, dims: int, sizes: Sequence[int]) -> None:
    """Fit the rates of all dilated convolutions in ``module``, which see maps of ``sizes`` features, in place."""
    dilated = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d) and max(m.dilation) > 1]
    if not dilated:
        return
    rates = fit_rates([max(m.dilation) for m in dilated], dims, sizes)
    for layer, rate in zip(dilated, rates, strict=True):
        dilate(layer, rate)


def dilated_encoder(
    name: str,
    spec: NetworkSpec,
    *,
    width: int,
    norm: Norm,
    stride: int,
    multi_grid: tuple[int, ...] | None = None,
) -> Encoder:
    """The encoder ``name``, whose strides beyond ``stride`` are dilations, fitted to the plan's patch.

    Args:
        name: in ``medseg.models.encoders.table.ENCODERS``.
        spec: dimensions, channels and patch.
        width: channels in place of the paper's first 64.
        norm: of its features.
        stride: output stride.
        multi_grid: unit rates of the convolutions in the last stage (Chen et al. 2017, section 3.2).
    """
    encoder = build_encoder(
        name, spec.dims, spec.in_channels, width=width, norm=norm, output_stride=stride, multi_grid=multi_grid
    )
    fit_dilations(encoder, spec.dims, map_sizes(spec.patch, stride))
    return encoder
