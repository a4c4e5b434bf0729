"""Hypercolumns: the cheap form equals the definition, levels stay aligned, with and without a hidden layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.losses.build import build_loss
from medseg.models.head import init_foreground_prior, output_biases
from medseg.models.hypercolumns import ColumnSum, Hypercolumns, build, upsample
from medseg.models.spec import NetworkSpec
from medseg.networks import HypercolumnsOptions

SIZES = {2: (17, 23), 3: (9, 12, 7)}


def spec_of(dims: int, channels: int = 1, classes: int = 3) -> NetworkSpec:
    strides = ((1,) * dims, (2,) * dims, (2,) * dims)
    return NetworkSpec(dims, channels, classes, (8, 16, 16), strides, ((3,) * dims,) * 3, (32,) * dims)


def built(dims: int, channels: int = 1, classes: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(spec_of(dims, channels, classes), HypercolumnsOptions(**options))


def noise(dims: int, channels: int = 1, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *SIZES[dims], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vgg16", "resnet18"])
def test_adding_scores_is_classifying_the_stacked_features(dims: int, encoder: str) -> None:
    """Upsample, concatenate, then one 1x1 convolution: the paper's definition, which is never computed."""
    torch.manual_seed(0)
    net = Hypercolumns(spec_of(dims), HypercolumnsOptions(encoder=encoder, norm="none"))
    columns = net.columns.double()
    features = [f.double() for f in net.encoder(torch.randn(1, 1, *[32] * dims))]
    stack = torch.cat(
        [upsample(f, k, middle=columns.middle) for f, k in zip(features, columns.factors, strict=False)], dim=1
    )
    whole = (nn.Conv2d if dims == 2 else nn.Conv3d)(stack.shape[1], 3, 1).double()
    with torch.no_grad():
        whole.weight.copy_(torch.cat([level.conv.weight for level in columns.levels], dim=1))
        whole.bias.copy_(columns.levels[0].conv.bias)
        torch.testing.assert_close(columns(features), whole(stack), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("middle", [True, False])
def test_upsampling_keeps_what_is_linear_where_it_is(dims: int, middle: bool) -> None:
    factor, n = 4, 6
    # The place of each coarse voxel, in finer ones.
    coarse = torch.arange(n) * factor + ((factor - 1) / 2 if middle else 0.0)
    x = coarse.view(1, 1, *[1] * (dims - 1), n).expand(1, 1, *[n] * dims)
    fine = upsample(x, factor, middle=middle)
    assert fine.shape[2:] == (n * factor,) * dims
    inside = fine[..., factor : (n - 1) * factor]
    expected = torch.arange(factor, (n - 1) * factor).float().expand_as(inside)
    torch.testing.assert_close(inside, expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"hidden": 12}, {"encoder": "resnet18"}, {"encoder": "alexnet", "width": 8}])
def test_any_size_and_a_gradient_everywhere(dims: int, options: dict[str, Any]) -> None:
    net = built(dims, channels=2, **options)
    logits = net(noise(dims, channels=2))
    assert logits.shape == (2, 3, *SIZES[dims])
    labels = torch.randint(0, 3, (2, *SIZES[dims]), generator=torch.Generator().manual_seed(2))
    build_loss("dice_ce")(logits, labels).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("hidden", [0, 12])
def test_a_prior_shifts_the_logits_once(hidden: int) -> None:
    net = built(2, hidden=hidden).eval()
    with torch.no_grad():
        before = net(noise(2))
        (bias,) = output_biases(net, 3)
        assert bias.abs().max() < 1
        shift = -bias.clone()
        init_foreground_prior(net, 3, sigmoids=0)
        shift += bias
        torch.testing.assert_close(net(noise(2)), before + shift[:, None, None], atol=1e-4, rtol=1e-4)


def test_every_level_is_seen() -> None:
    net = built(2)
    columns = next(m for m in net.modules() if isinstance(m, ColumnSum))
    assert columns.factors == [1, 2, 4, 8, 16, 32]
    net.eval()
    with torch.no_grad():
        before = net(noise(2))
        for level in columns.levels:
            level.conv.weight.mul_(2)
            after = net(noise(2))
            assert not torch.equal(after, before)
            before = after
