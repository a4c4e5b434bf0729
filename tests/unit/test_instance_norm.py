"""Instance norm sample by sample: the numbers, gradients and layout of torch's, for every network of the zoo."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.instance_norm import InstanceNorm, with_instance_norm
from medseg.models.memory_layout import memory_format

SHAPES = [(3, 5, 7, 6), (1, 8, 2, 1), (2, 6, 4, 3, 5), (4, 16, 2, 1, 1)]
TOLERANCE = {torch.float32: 5e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2}


def norm(channels: int, dims: int, dtype: torch.dtype = torch.float32) -> nn.InstanceNorm2d | nn.InstanceNorm3d:
    torch.manual_seed(0)
    layer = (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(channels, affine=True, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(channels, dtype=torch.float64))
        layer.bias.copy_(torch.randn(channels, dtype=torch.float64))
    return layer


def through(layer: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    """The output, and the gradients of image, scale and shift."""
    x = x.detach().requires_grad_()
    out = layer(x)
    kept = out.detach().clone()
    # An activation in place, as in the networks, must not disturb what was kept for the way back.
    F.leaky_relu(out, 0.5, inplace=True).backward(gradient)
    return [kept, x.grad, layer.weight.grad, layer.bias.grad]  # type: ignore[list-item]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("innermost", [True, False])
def test_numbers_gradients_and_layout(shape: tuple[int, ...], dtype: torch.dtype, innermost: bool) -> None:
    dims = len(shape) - 2
    layout = memory_format(dims, innermost)
    drawn = torch.Generator().manual_seed(1)
    x, gradient = ((torch.randn(shape, generator=drawn) * 3 + 1).to(dtype) for _ in range(2))
    x = x.contiguous(memory_format=layout)
    weights = torch.float64 if dtype == torch.float64 else torch.float32
    ours = through(InstanceNorm(norm(shape[1], dims, weights)), x, gradient)
    exact = through(norm(shape[1], dims, torch.float64), x.double(), gradient.double())
    for mine, wanted in zip(ours, exact, strict=True):
        # Of two voxels, gradients cancel all but out: what is left is small beside what they were made of.
        error = (mine.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1)
        assert float(error) < TOLERANCE[dtype]
    assert ours[0].dtype == dtype
    if innermost:
        assert ours[0].is_contiguous(memory_format=layout)


def test_statistics_of_large_images_that_are_mostly_zero_are_exact() -> None:
    """As of a small image in much padding; one sum after the other in single precision is off by 2e-3."""
    x = torch.zeros(1, 4, 64, 64, 64)
    x[..., :8, :8, :8] = 80 + torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last_3d)
    exact = norm(4, 3, torch.float64)(x.double())
    error = (InstanceNorm(norm(4, 3))(x) - exact).abs().max() / exact.abs().max()
    assert float(error.detach()) < 1e-6


def test_gradients_by_differences() -> None:
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    layer = InstanceNorm(norm(3, 2, torch.float64))
    assert torch.autograd.gradcheck(lambda v: layer(v.contiguous(memory_format=torch.channels_last)), x)


def test_a_single_voxel_is_refused_as_torch_refuses_it() -> None:
    layer = InstanceNorm(norm(4, 2))
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        layer(torch.ones(2, 4, 1, 1).contiguous(memory_format=torch.channels_last))


def test_networks_keep_their_parameters_and_shared_layers_stay_shared() -> None:
    shared = norm(4, 2)
    plain = nn.InstanceNorm2d(4)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), shared, nn.Sequential(shared, plain))
    before = copy.deepcopy(network.state_dict())
    changed = with_instance_norm(network)
    assert isinstance(changed[1], InstanceNorm)
    assert changed[1] is changed[2][0]
    assert changed[1].weight is shared.weight
    assert changed[2][1] is plain
    after = changed.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) for k in before)
