"""FCNs: deconvolutions that interpolate, sizes of the papers, and finer networks that start from coarser ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.losses.build import build_loss
from medseg.models.bilinear import Deconvolution
from medseg.models.fcn import HEADS, build_8s, build_16s, build_32s
from medseg.models.head import init_foreground_prior
from medseg.models.spec import NetworkSpec
from medseg.networks import EncoderOptions

BUILDERS = {32: build_32s, 16: build_16s, 8: build_8s}


def spec_of(dims: int, channels: int = 1, classes: int = 3) -> NetworkSpec:
    one = (1,) * dims
    return NetworkSpec(dims, channels, classes, (8, 16, 16), (one,) * 3, ((3,) * dims,) * 3, (32,) * dims)


def made(finest: int, encoder: str = "vgg16", dims: int = 2, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return BUILDERS[finest](spec_of(dims), EncoderOptions.model_validate({"encoder": encoder, **options}))


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Deconvolutions


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_fresh_deconvolution_is_linear_interpolation(dims: int, factor: int) -> None:
    """Voxels in the middle of those they stand for: what torch calls not aligning corners, up to the border."""
    x = images(2, 3, *(5, 4, 3)[:dims])
    mode = "bilinear" if dims == 2 else "trilinear"
    up = Deconvolution(dims, 3, factor, (factor - 1) / 2)
    with torch.inference_mode():
        torch.testing.assert_close(up(x), F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False))


@pytest.mark.parametrize("factor", [2, 4, 16, 32])
@pytest.mark.parametrize("place", ["first", "middle", "half", "next"])
def test_a_ramp_stays_the_ramp_it_is(factor: int, place: str) -> None:
    offset = {"first": 0.0, "middle": (factor - 1) / 2, "half": factor / 2, "next": 1.0}[place]
    ramp = torch.arange(7.0).expand(1, 1, 6, 7)
    with torch.inference_mode():
        found = Deconvolution(2, 1, factor, offset)(ramp)
    assert found.shape == (1, 1, 6 * factor, 7 * factor)
    at = ((torch.arange(7 * factor) - offset) / factor).clamp(0, 6)
    inside = (torch.arange(7 * factor) >= offset - factor) & (torch.arange(7 * factor) <= offset + 7 * factor)
    torch.testing.assert_close(found[0, 0, :, inside], at[inside].expand(6 * factor, -1))


def test_classes_mix_only_after_learning() -> None:
    up = Deconvolution(2, 3, 2, 0.5)
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1] = 1
    torch.testing.assert_close(up(x)[0, :, 4, 4], torch.tensor([0.0, 1.0, 0.0]))
    up(images(1, 3, 4, 4)).square().sum().backward()
    assert (up.conv.weight.grad.abs().flatten(2).sum(2) > 0).all()


# The networks


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", HEADS)
@pytest.mark.parametrize("finest", BUILDERS)
def test_odd_sizes_come_back(finest: int, encoder: str, dims: int) -> None:
    size = (70, 33, 17)[:dims]
    with torch.inference_mode():
        logits = made(finest, encoder, dims).eval()(images(1, 1, *size))
    assert logits.shape == (1, 3, *size)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0.05


@pytest.mark.parametrize("finest", BUILDERS)
@pytest.mark.parametrize("encoder", HEADS)
def test_gradient_reaches_every_parameter_at_once(finest: int, encoder: str) -> None:
    """Although skips are scored by zeros: what lies below them is also below the coarsest score."""
    net = made(finest, encoder)
    labels = torch.randint(0, 3, (1, 40, 40), generator=torch.Generator().manual_seed(2))
    build_loss("dice_ce")(net(images(1, 1, 40, 40)), labels).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def started(fine: nn.Module, coarse: nn.Module) -> list[str]:
    """Warm start by tensor names; returns what the finer network has on its own."""
    mine, theirs = fine.state_dict(), coarse.state_dict()
    shared = {n: t for n, t in theirs.items() if n in mine and mine[n].shape == t.shape}
    fine.load_state_dict(shared, strict=False)
    return sorted(mine.keys() - shared.keys())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["vgg16", "alexnet", "resnet18"])
def test_finer_networks_start_with_the_predictions_of_coarser_ones(encoder: str, dims: int) -> None:
    coarse, middle, fine = (made(finest, encoder, dims, seed=finest).eval() for finest in (32, 16, 8))
    pooled = ["network.score_pool4.bias", "network.score_pool4.weight", "network.upscore16.conv.weight"]
    assert started(middle, coarse) == [*pooled, "network.upscore2.conv.weight"]
    assert started(fine, middle) == [
        "network.score_pool3.bias",
        "network.score_pool3.weight",
        "network.upscore8.conv.weight",
        "network.upscore_pool4.conv.weight",
    ]
    x = images(1, 1, *(96, 70, 33)[:dims])
    with torch.inference_mode():
        expected = coarse(x)
        for net in (middle, fine):
            found = net(x)
            if encoder == "resnet18":
                # Coarse voxels lie on fine ones: going up in two steps is going up in one.
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
            else:
                # Otherwise the steps cut the corners between coarse voxels a little.
                assert (found - expected).abs().max() < 0.2 * (expected.max() - expected.min())
                assert (found - expected).square().mean() < 0.03 * expected.var()


@pytest.mark.parametrize("encoder", HEADS)
def test_scores_lie_over_the_voxels_that_they_saw(encoder: str) -> None:
    """Of an image whose only bright spot is in the middle, the answer is symmetric around the middle."""
    net = made(32, encoder, norm="none").eval().double()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            # All channels alike and positive: every layer spreads the spot evenly.
            if "upscore" not in name:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0 / parameter[0].numel())
    middle = net.network.encoder.centre(32) + 32 * 8
    middle += 16 if encoder == "alexnet" else 0
    spot = round(middle)
    x = torch.zeros(1, 1, 544, 544, dtype=torch.float64)
    x[..., spot - 16 : spot + 17, 272] = 1
    with torch.inference_mode():
        answer = net(x)[0, 0].sum(dim=1)
    centre = (answer * torch.arange(len(answer))).sum() / answer.sum()
    assert answer.max() > 0
    assert abs(centre - middle) < 4


def test_dropout_is_drawn_from_torchs_generator_while_training_only() -> None:
    net, x = made(32), images(1, 1, 64, 64)
    torch.manual_seed(3)
    first = net(x)
    assert not torch.equal(net(x), first)
    torch.manual_seed(3)
    assert torch.equal(net(x), first)
    net.eval()
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("finest", BUILDERS)
def test_the_prior_is_what_an_untrained_network_says_everywhere(finest: int) -> None:
    net = made(finest)
    with torch.no_grad():
        net.network.score_fr.weight.zero_()
    init_foreground_prior(net, 3, sigmoids=0)
    background = net(images(1, 1, 50, 37)).softmax(dim=1)[:, 0]
    torch.testing.assert_close(background, torch.full_like(background, 0.95))


# Sizes


def count(network: nn.Module, *, without: str = "") -> int:
    return sum(p.numel() for n, p in network.named_parameters() if not (without and without in n))


def published(finest: int, encoder: str) -> nn.Module:
    spec = NetworkSpec(2, 3, 21, (32,), ((1, 1),), ((3, 3),))
    options = EncoderOptions.model_validate({"encoder": encoder, "norm": "none", "width": 64})
    with torch.device("meta"):
        return BUILDERS[finest](spec, options)


FEATURES = 14_714_688
FC6 = 512 * 7 * 7 * 4096 + 4096
FC7 = 4096 * 4096 + 4096
SCORE = 4096 * 21 + 21


def test_parameters_of_the_vgg16_networks() -> None:
    """Long et al. 2015, table 1: 134 M for FCN-VGG16; with 21 classes and all of the deconvolutions 8s has 134.5 M."""
    coarse = count(published(32, "vgg16"), without="upscore")
    assert coarse == FEATURES + FC6 + FC7 + SCORE == 134_346_581
    skips = (512 * 21 + 21) + (256 * 21 + 21)
    # Kernels of 4, 4 and 16 for strides 2, 2 and 8, between all pairs of 21 classes.
    up = 21 * 21 * (4**2 + 4**2 + 16**2)
    assert count(published(8, "vgg16")) == coarse + skips + up == 134_489_759
    assert count(published(32, "vgg16")) - coarse == 21 * 21 * 64**2


def test_parameters_of_the_other_networks_of_the_paper() -> None:
    """Long et al. 2015, table 1: 57 M for FCN-AlexNet, 6 M for FCN-GoogLeNet."""
    alexnet = count(published(32, "alexnet"), without="upscore")
    assert alexnet == 2_469_696 + (256 * 6 * 6 * 4096 + 4096) + FC7 + SCORE
    assert round(alexnet / 1e6) == 57
    assert round(count(published(32, "googlenet"), without="upscore") / 1e6) == 6
