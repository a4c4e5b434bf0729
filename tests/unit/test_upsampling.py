"""Ways up: sizes, what they compute, and whether they draw a checkerboard.

The checkerboard is measured on the response to a constant image: any change from voxel to voxel, away from the borders,
is then of the layer's own making. ``periodic_share`` is the share of the response's energy at the frequencies that
repeat with the stride, zero frequency left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.upsampling import UPSAMPLING, Linear, Shuffle, pixel_shuffle, transposed

STRIDES = [(2, 2), (1, 2), (3, 2), (2, 2, 2), (1, 2, 2), (2, 1, 3)]
INPUTS, OUTPUTS = 5, 3


def drawn(kind: str, stride: Sequence[int], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return UPSAMPLING[kind](len(stride), INPUTS, OUTPUTS, stride)  # type: ignore[index]


def image(stride: Sequence[int], size: Sequence[int] = (4, 6, 5)) -> Tensor:
    return torch.randn(2, INPUTS, *size[: len(stride)], generator=torch.Generator().manual_seed(1))


def periodic_share(response: Tensor, stride: Sequence[int]) -> float:
    """Share of the energy of (N, C, S) that has the stride's period, two periods at borders left out; a constant: 0."""
    for axis, s in enumerate(stride, start=2):
        response = response.narrow(axis, 2 * s, (response.shape[axis] // s - 4) * s)
    axes = tuple(range(2, response.ndim))
    energy = torch.fft.fftn(response.double(), dim=axes).abs().square().sum(dim=(0, 1))
    harmonics = [range(0, n, n // s) for n, s in zip(energy.shape, stride, strict=True)]
    periodic = sum(float(energy[place]) for place in itertools.product(*harmonics) if any(place))
    return periodic / float(energy.sum())


@pytest.mark.parametrize("kind", UPSAMPLING)
@pytest.mark.parametrize("stride", STRIDES)
def test_sizes_grow_by_the_stride(kind: str, stride: tuple[int, ...]) -> None:
    layer, x = drawn(kind, stride), image(stride)
    y = layer(x)
    assert y.shape == (2, OUTPUTS, *[n * s for n, s in zip(x.shape[2:], stride, strict=True)])
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


@pytest.mark.parametrize("stride", [(2, 2), (3, 3)])
def test_pixel_shuffle_is_that_of_torch(stride: tuple[int, int]) -> None:
    x = torch.randn(2, 7 * stride[0] * stride[1], 4, 5)
    assert torch.equal(pixel_shuffle(x, stride), F.pixel_shuffle(x, stride[0]))


@pytest.mark.parametrize("stride", STRIDES)
def test_pixel_shuffle_puts_each_channel_at_its_place(stride: tuple[int, ...]) -> None:
    """Channel p of a set is the p-th place of the stride's period, last axis fastest."""
    places = list(itertools.product(*[range(s) for s in stride]))
    x = torch.randn(2, 4 * len(places), *(5, 3, 4)[: len(stride)])
    y = pixel_shuffle(x, stride)
    for number, place in enumerate(places):
        every = [slice(p, None, s) for p, s in zip(place, stride, strict=True)]
        assert torch.equal(y[(slice(None), slice(None), *every)], x[:, number :: len(places)])


@pytest.mark.parametrize("stride", STRIDES)
def test_pixel_shuffle_starts_as_nearest_neighbour(stride: tuple[int, ...]) -> None:
    layer, x = drawn("shuffle", stride), image(stride)
    assert isinstance(layer, Shuffle)
    mixed = layer.mix(x)[:, :: math.prod(stride)]
    nearest = F.interpolate(mixed, scale_factor=tuple(float(s) for s in stride), mode="nearest")
    torch.testing.assert_close(layer(x), nearest)
    assert mixed.std() > 0.1


@pytest.mark.parametrize("stride", STRIDES)
def test_pixel_shuffle_can_be_any_transposed_convolution(stride: tuple[int, ...]) -> None:
    """The same maps with the same number of weights; what differs is where training starts."""
    up, layer, x = drawn("transposed", stride), drawn("shuffle", stride), image(stride)
    with torch.no_grad():
        layer.mix.weight.copy_(up.weight.flatten(2).permute(1, 2, 0).reshape_as(layer.mix.weight))
        layer.mix.bias.copy_(up.bias.repeat_interleave(math.prod(stride)))
    torch.testing.assert_close(layer(x), up(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", STRIDES)
def test_interpolation_and_its_convolution_commute(stride: tuple[int, ...]) -> None:
    layer, x = drawn("linear", stride), image(stride)
    assert isinstance(layer, Linear)
    scale = tuple(float(s) for s in stride)
    torch.testing.assert_close(layer(x), layer.mix(F.interpolate(x, scale_factor=scale, mode=layer.mode)))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_kernel_that_is_no_multiple_of_the_stride_draws_a_checkerboard(dims: int) -> None:
    """Kernel 3 at stride 2, all weights 1: along an axis voxels are reached once and twice in turn (Odena et al. 2016).

    Of the energy of 1, 2, 1, 2, ... the mean 3/2 holds 9/10, and so along each axis.
    """
    layer = transposed(dims, 1, 1, (2,) * dims)
    layer.weight, layer.kernel_size = nn.Parameter(torch.ones(1, 1, *(3,) * dims)), (3,) * dims
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        y = layer(torch.ones(1, 1, *(12,) * dims))
    inside = y[(0, 0, *[slice(4, 8)] * dims)]
    assert sorted(set(inside.flatten().tolist())) == [2.0**k for k in range(dims + 1)]
    assert periodic_share(y[(..., *[slice(0, 24)] * dims)], (2,) * dims) == pytest.approx(1 - 0.9**dims)


@pytest.mark.parametrize("kind", ["linear", "shuffle"])
@pytest.mark.parametrize("stride", STRIDES)
def test_interpolation_and_pixel_shuffle_start_without_one(kind: str, stride: tuple[int, ...]) -> None:
    constant = torch.randn(1, INPUTS, *(1,) * len(stride)).expand(-1, -1, *(12,) * len(stride))
    for seed in range(5):
        with torch.no_grad():
            assert periodic_share(drawn(kind, stride, seed)(constant), stride) < 1e-10


@pytest.mark.parametrize("stride", STRIDES)
def test_kernel_as_wide_as_the_stride_has_no_overlap_but_random_weights_have_a_pattern(stride: tuple[int, ...]) -> None:
    """Equal weights give a constant, so nothing is reached twice; drawn ones differ from place to place at first.

    Of independent draws for P places, the mean holds 1/P of the energy: the rest is pattern. Over many draws it
    averages out: no place is favoured.
    """
    constant = torch.ones(1, INPUTS, *(12,) * len(stride))
    layer = drawn("transposed", stride)
    nn.init.zeros_(layer.bias)
    with torch.no_grad():
        assert periodic_share(layer(constant), stride) > 0.1
        nn.init.ones_(layer.weight)
        assert periodic_share(layer(constant), stride) < 1e-10
        torch.manual_seed(3)
        many = transposed(len(stride), INPUTS, 4000, stride)
        nn.init.normal_(many.weight)
        nn.init.zeros_(many.bias)
        response = many(constant)
        places = math.prod(stride)
        assert periodic_share(response, stride) == pytest.approx(1 - 1 / places, abs=0.03)
        # Energy of the mean of 4000 draws is 1/4000 of theirs.
        mean = response.mean(dim=1)
        assert float(mean.square().mean() / response.square().mean()) < 5 / 4000
