"""Yu & Koltun's front end and context module: what each voxel sees, how it starts, how large it is."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.losses.build import build_loss
from medseg.models.dilated import CHANNELS, RATES, STRIDE, ContextModule, Dilated, build
from medseg.models.spec import NetworkSpec
from medseg.networks import DilatedOptions, options_of


def spec_of(dims: int, patch: tuple[int, ...] = (), channels: int = 1, classes: int = 3) -> NetworkSpec:
    strides = ((1,) * dims, (2,) * dims, (2,) * dims)
    return NetworkSpec(dims, channels, classes, (8, 16, 16), strides, ((3,) * dims,) * 3, patch)


def context(dims: int, classes: int, size: str, rates: tuple[int, ...] = RATES) -> ContextModule:
    torch.manual_seed(0)
    return ContextModule(dims, classes, CHANNELS[size], [(r,) * dims for r in rates])


def extent(gradient: Tensor) -> tuple[int, ...]:
    """Voxels per axis from the first to the last with any gradient."""
    touched = gradient.abs().sum(dim=(0, 1)).nonzero()
    return tuple((touched.max(dim=0).values - touched.min(dim=0).values + 1).tolist())


def convolutions(module: nn.Module) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]


# Table 1 of the paper, row "receptive field".
FIELDS = (3, 5, 9, 17, 33, 65, 67, 67)


@pytest.mark.parametrize(("dims", "size"), [(2, "basic"), (2, "large"), (3, "basic")])
def test_each_layer_sees_what_table_1_says(dims: int, size: str) -> None:
    module = context(dims, 1, size)
    for convolution in convolutions(module):
        nn.init.constant_(convolution.weight, 1 / convolution.weight[0].numel())
    x = torch.ones(1, 1, *[69] * dims, requires_grad=True)
    found, features = [], x
    for layer in (*module.layers, module.last):
        features = layer(features)
        (gradient,) = torch.autograd.grad(features[(0, 0, *[34] * dims)], x, retain_graph=True)
        found.append(extent(gradient))
        # Dense: no voxel in between is missed.
        assert int((gradient != 0).sum()) == found[-1][0] ** dims
    assert found == [(field,) * dims for field in FIELDS]


def test_the_table_follows_from_the_rates() -> None:
    assert tuple(accumulate([2 * r for r in RATES], initial=1))[1:] == FIELDS[:-1]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_basic_module_starts_as_the_identity(dims: int) -> None:
    module = context(dims, 4, "basic")
    x = torch.rand(2, 4, *[9] * dims)
    assert torch.equal(module(x), x)
    # Equation 4 is about the weights; the truncation takes what is negative.
    assert torch.equal(module(-x), torch.zeros_like(x))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("classes", [2, 5])
def test_the_large_module_starts_close_to_it(dims: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(1, classes, *[9] * dims)
    noisy = context(dims, classes, "large")(x)
    assert not torch.equal(noisy, x)
    assert float((noisy - x).detach().abs().max()) < 0.3
    monkeypatch.setattr("medseg.models.dilated.NOISE", 0.0)
    torch.testing.assert_close(context(dims, classes, "large")(x), x)


def test_noise_tells_the_channels_of_a_group_apart() -> None:
    weight = convolutions(context(2, 3, "large"))[3].weight.detach()
    assert weight.shape[:2] == (8 * 3, 4 * 3)
    share = 3 / 24
    deviation = float(weight[..., 0, 0].std())
    # Much smaller than the share, and not zero (equation 5).
    assert 0 < deviation < 0.05 * share
    group_out, group_in = torch.arange(24) // 8, torch.arange(12) // 4
    same = group_out[:, None] == group_in[None]
    centre = weight[:, :, 1, 1]
    torch.testing.assert_close(centre[same], torch.full_like(centre[same], share))
    assert float(centre[~same].abs().max()) < 0.1 * share


@pytest.mark.parametrize("classes", [2, 21])
def test_the_context_module_has_as_many_weights_as_the_paper_says(classes: int) -> None:
    """64 C^2 for the basic module (section 3); the large one follows from the channels of table 1."""
    with torch.device("meta"):
        basic, large = (sum(c.weight.numel() for c in convolutions(context(2, classes, s))) for s in ("basic", "large"))
    assert basic == 64 * classes**2
    steps = (1 * 2, 2 * 2, 2 * 4, 4 * 8, 8 * 16, 16 * 32, 32 * 32)
    assert large == (9 * sum(steps) + 32) * classes**2


def test_the_front_end_has_the_parameters_of_vgg_16() -> None:
    """138,357,544 (configuration D with 1000 classes, torchvision's ``vgg16``), with a last layer for 21 classes."""
    with torch.device("meta"):
        net = build(spec_of(2, channels=3, classes=21), DilatedOptions(context="none", width=64, norm="none"))
    expected = 138_357_544 - (4096 + 1) * 1000 + (4096 + 1) * 21
    assert sum(p.numel() for p in net.parameters()) == expected == 134_346_581


def test_the_front_end_is_the_papers() -> None:
    net = Dilated(spec_of(2), DilatedOptions(width=8, norm="none"))
    # Five blocks of convolutions, three poolings: conv5 is dilated by 2, fc6 by 4.
    rates = [c.dilation[0] for c in convolutions(net.encoder)]
    assert rates == [1] * 10 + [2] * 3
    fc6, fc7 = convolutions(net.dense)
    assert (fc6.kernel_size, fc6.dilation, fc7.kernel_size) == ((7, 7), (4, 4), (1, 1))
    x = torch.zeros(1, 1, 48, 64)
    features = net.encoder(x)
    assert features[-1].shape[2:] == (6, 8)
    pools = [m for m in net.encoder.modules() if "Pool" in type(m).__name__]
    assert [type(m) for m in pools] == [nn.MaxPool2d] * 3


def test_three_taps_in_3d_stand_as_wide_as_seven_in_2d() -> None:
    flat, deep = (convolutions(Dilated(spec_of(d), DilatedOptions(width=8)).dense)[0] for d in (2, 3))
    assert [c.dilation[0] * (c.kernel_size[0] - 1) * STRIDE[d] for c, d in ((flat, 2), (deep, 3))] == [192, 192]


@pytest.mark.parametrize("dims", [2, 3])
def test_a_score_stands_for_8_voxels_or_in_3d_4(dims: int) -> None:
    features = Dilated(spec_of(dims), DilatedOptions(width=8)).encoder(torch.zeros(1, 1, *[16] * dims))
    assert features[-1].shape[2:] == ((2, 2), (4, 4, 4))[dims - 2]


@pytest.mark.parametrize("dims", [2, 3])
def test_rates_fit_the_patch(dims: int) -> None:
    """On 6 features per axis no tap stands more than 3 away, so that the middle half of the map sees all of them."""
    patch = (6 * STRIDE[dims],) * dims
    net = Dilated(spec_of(dims, patch), DilatedOptions(width=8))
    assert all(c.dilation[0] * (c.kernel_size[0] // 2) <= 3 for c in convolutions(net))
    assert [layer[0].dilation[0] for layer in net.context.layers] == [1, 1, 1, 1, 2, 3, 1]  # type: ignore[union-attr]
    free = Dilated(spec_of(dims), DilatedOptions(width=8))
    assert [layer[0].dilation[0] for layer in free.context.layers] == list(RATES)  # type: ignore[union-attr]


@pytest.mark.parametrize("size", ["none", "basic"])
def test_a_shift_by_the_stride_shifts_the_scores(size: str) -> None:
    torch.manual_seed(0)
    # A small patch has small rates: nothing sees farther than 190 voxels.
    net = build(spec_of(2, (32, 32)), DilatedOptions(width=8, norm="none", context=size)).eval()
    x = torch.randn(1, 1, 600, 16)
    with torch.inference_mode():
        here, there = net(x[:, :, :-8]), net(x[:, :, 8:])
    middle = slice(256, 336)
    torch.testing.assert_close(here[:, :, 264:344], there[:, :, middle], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(here[:, :, middle], there[:, :, middle], atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("given", [{"context": c} for c in ("none", "basic", "large")] + [{"norm": "group"}])
def test_every_option_takes_a_step_that_reaches_every_parameter(dims: int, given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    size = (17, 23) if dims == 2 else (9, 12, 7)
    options = options_of("dilated", given)
    net = build(spec_of(dims, size, channels=2), options)  # type: ignore[arg-type]
    logits = net(torch.randn(2, 2, *size))
    assert logits.shape == (2, 3, *size)
    build_loss("dice_ce")(logits, torch.randint(0, 3, (2, *size))).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_score_of_no_class_starts_truncated() -> None:
    """A class whose scores are all negative would learn nothing through the context module."""
    torch.manual_seed(0)
    net = Dilated(spec_of(2, (64, 64), classes=8), DilatedOptions(width=8))
    with torch.inference_mode():
        scores = net.score(net.dense(net.encoder(torch.randn(2, 1, 64, 64))[-1]))
    assert float((scores > 0).float().mean(dim=(0, 2, 3)).min()) > 0.5
