"""The DeepLab family: what its convolutions see, at which stride, how large it is, and how its parts are fused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from medseg.losses.build import build_loss
from medseg.models.atrous import dilate, fit_rates, map_sizes, output_stride
from medseg.models.blocks import conv, separable
from medseg.models.deeplab.aspp import ASPP
from medseg.models.encoders.encoder import MaxPool
from medseg.models.logits import enlarge
from medseg.models.spec import NetworkSpec
from medseg.models.zoo import build_model
from medseg.networks import options_of

ROWS = ("deeplabv1", "deeplabv2", "deeplabv3", "deeplabv3plus")
PUBLISHED = {"deeplabv1": "vgg16", "deeplabv2": "vgg16", "deeplabv3": "resnet18", "deeplabv3plus": "resnet18"}
ODD = {2: (17, 23), 3: (9, 12, 7)}


def spec_of(
    dims: int, patch: tuple[int, ...] = (), channels: int = 1, classes: int = 3, **options: Any
) -> NetworkSpec:  # fmt: skip
    strides = ((1,) * dims, (2,) * dims, (2,) * dims)
    return NetworkSpec(dims, channels, classes, (8, 16, 16), strides, ((3,) * dims,) * 3, patch, options)


def built(name: str, spec: NetworkSpec) -> Any:
    """The row's network without its padding."""
    torch.manual_seed(0)
    return build_model(name, spec).network


def published(name: str, dims: int = 2, patch: tuple[int, ...] = (), **options: Any) -> Any:
    return built(name, spec_of(dims, patch, **{"encoder": PUBLISHED[name], "width": 8, **options}))


def convolutions(module: nn.Module) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]


def support(gradient: Tensor) -> Tensor:
    """Voxels (n, axes) with any gradient."""
    return gradient.abs().sum(dim=(0, 1)).nonzero()


# Rates


def test_the_papers_maps_keep_the_papers_rates() -> None:
    """Crops of 321 (v1, v2) and 513 (v3) voxels."""
    for rates, crop, stride in (((12,), 321, 8), ((6, 12, 18, 24), 321, 8), ((6, 12, 18), 513, 16),
                                ((12, 24, 36), 513, 8)):  # fmt: skip
        sizes = map_sizes((crop, crop), stride)
        assert fit_rates(rates, 2, sizes) == [(r, r) for r in rates]
    assert fit_rates((6, 12), 3, ()) == [(6, 6, 6), (12, 12, 12)]


def test_rates_shrink_together_and_per_axis() -> None:
    assert fit_rates((6, 12, 18), 2, (33, 15)) == [(6, 3), (12, 6), (18, 9)]
    assert fit_rates((6, 12, 18), 3, (2, 2, 100)) == [(1, 1, 6), (1, 1, 12), (1, 1, 18)]
    assert fit_rates((4,), 2, (10, 40), taps=3) == [(2, 4)]


@given(
    rates=st.lists(st.integers(1, 80), min_size=1, max_size=5).map(sorted),
    size=st.integers(1, 90),
    taps=st.integers(1, 3),
)
def test_the_farthest_tap_stays_within_three_fifths_of_the_map(rates: list[int], size: int, taps: int) -> None:
    fitted = [rate for (rate,) in fit_rates(rates, 1, (size,), taps)]
    assert fitted == sorted(fitted)
    assert fitted[0] >= 1
    assert fitted[-1] == 1 or 5 * taps * fitted[-1] <= 3 * size
    if 5 * taps * rates[-1] <= 3 * size:
        assert fitted == rates
    else:
        # By one factor, up to rounding.
        assert all(abs(f - max(1, r * fitted[-1] / rates[-1])) <= 1 for f, r in zip(fitted, rates, strict=True))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ROWS)
def test_no_filter_of_a_small_patch_sees_padding_only(name: str, dims: int) -> None:
    """A tap that is nowhere inside the map leaves its weight without gradient."""
    patch = (64, 48, 32)[:dims]
    net = published(name, dims, patch)
    stride = output_stride(dims, None)
    rates = {c.dilation for c in convolutions(net)}
    assert len(rates) > 2
    for rate in rates:
        assert all(r <= 0.6 * n for r, n in zip(rate, map_sizes(patch, stride), strict=True) if r > 1)
    build_loss("dice_ce")(net(torch.randn(1, 1, *patch)), torch.randint(0, 3, (1, *patch))).backward()
    for layer in convolutions(net):
        if max(layer.dilation) > 1:
            assert (layer.weight.grad.abs().sum(dim=(0, 1)) > 0).all()


# What is seen


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("depthwise", [False, True])
def test_each_branch_sees_taps_at_its_rate(dims: int, depthwise: bool) -> None:
    rates = [(2,) * dims, (3,) * dims, (1, 4, 2)[:dims]]
    aspp = ASPP(dims, 4, 8, rates, norm="none", depthwise=depthwise)
    for layer in convolutions(aspp):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    x = torch.ones(1, 4, *[11] * dims, requires_grad=True)
    for branch, rate in zip(aspp.branches, [(0,) * dims, *rates], strict=True):
        (gradient,) = torch.autograd.grad(branch(x)[(0, 0, *[5] * dims)], x)
        wanted = torch.cartesian_prod(*[torch.tensor(sorted({5 - r, 5, 5 + r})) for r in rate])
        assert torch.equal(support(gradient), wanted.reshape(-1, dims))
    # The image-level branch sees everything, everywhere.
    aspp.branches = nn.ModuleList()
    (gradient,) = torch.autograd.grad(aspp.image_level(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)).sum(), x)
    assert len(support(gradient)) == 11**dims


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "group", "batch", "frozen_batch", "none"])
def test_what_the_whole_image_says_is_not_normalised_away(dims: int, norm: Any) -> None:
    """The branch is constant over an image: a norm over voxels after it must not be the next thing."""
    torch.manual_seed(0)
    aspp = ASPP(dims, 8, 16, [(2,) * dims], norm=norm).double()
    x = torch.randn(2, 8, *[6] * dims, dtype=torch.float64)
    y = aspp(x)
    (y * torch.randn_like(y)).sum().backward()
    largest = {n: float(p.grad.abs().max()) for n, p in aspp.named_parameters() if p.grad is not None}
    assert len(largest) == len(list(aspp.parameters()))
    # What is the same in all images of a batch is what batch norm is there to remove.
    removed = {"image_level.conv.bias"} if norm == "batch" else set()
    assert min(v for n, v in largest.items() if n not in removed) > 1e-4 * max(largest.values())


class Mean(nn.Module):
    """Average where a network takes the largest, so that the gradient shows all that is seen."""

    def __init__(self, kernel: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.settings = {"stride": stride, "padding": dilation * (kernel // 2) * (stride == 1), "dilation": dilation}
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.full((x.shape[1], 1, self.kernel, self.kernel), self.kernel**-2, dtype=x.dtype)
        return F.conv2d(x, weight, groups=x.shape[1], **self.settings)  # type: ignore[arg-type]


def test_the_large_field_of_view_of_v1() -> None:
    """fc6 sees 25 features, 200 voxels apart; with the encoder below it a score depends on 428 voxels per axis."""
    net = published("deeplabv1", norm="none", width=8).double()
    for name, module in list(net.encoder.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            net.encoder.set_submodule(name, Mean(2, 2, 1))
        elif isinstance(module, MaxPool):
            net.encoder.set_submodule(name, Mean(3, 1, module.dilation))
    for layer in convolutions(net):
        nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    x = torch.ones(1, 1, 448, 448, dtype=torch.float64, requires_grad=True)
    features = net.encoder(x)[-1]
    scores = net.score(net.dense(features))
    assert scores.shape[2:] == (56, 56)
    gradients = torch.autograd.grad(scores[0, 0, 28, 28], (features, x))
    assert torch.equal(support(gradients[0]), torch.cartesian_prod(*[torch.tensor([16, 28, 40])] * 2))
    # Jump x (window - 1) of every layer: two and two 3-wide ones at jumps 1 and 2, three at 4 and 8, three at 8 with
    # rate 2, pools of two at 1, 2 and 4, pools of three at 8 and (rate 2) at 16, fc6 at 8 x 12.
    wanted = 1 + 2 * (2 * 1 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 16) + (1 + 2 + 4) + 2 * (8 + 16) + 2 * 96
    assert wanted == 428
    seen = support(gradients[1])
    assert (seen.max(dim=0).values - seen.min(dim=0).values + 1).tolist() == [428, 428]


# Strides


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("stride", [None, 4, 8, 16])
@pytest.mark.parametrize("name", ROWS)
def test_the_output_stride_is_what_is_asked_for(name: str, stride: int | None, dims: int) -> None:
    net = published(name, dims, output_stride=stride)
    wanted = stride or {2: 8, 3: 4}[dims]
    features = net.encoder(torch.zeros(1, 1, *[32] * dims))
    assert features[-1].shape[2:] == (32 // wanted,) * dims
    # The first dilations follow right where strides end, and rates keep the field of view in voxels.
    heads = [c for n, c in net.named_modules() if c in convolutions(net) and not n.startswith("encoder")]
    rates = sorted({c.dilation[0] for c in heads} - {1})
    at_eight = {"deeplabv1": [12], "deeplabv2": [6, 12, 18, 24]}.get(name, [12, 24, 36])
    assert rates == [r * 8 // wanted for r in at_eight]
    if name in ("deeplabv3", "deeplabv3plus"):
        units = [c.dilation[0] for c in convolutions(net.encoder.layer4) if c.kernel_size[0] == 3]
        # ResNet-18 has two units of two convolutions here; multi-grid 1 and 2 on what replaces the stride.
        assert units == [u * 32 // wanted for u in (1, 1, 2, 2)]


def test_multi_grid_is_1_2_4_in_deeper_resnets() -> None:
    net = published("deeplabv3", encoder="resnet50", output_stride=16)
    assert [c.dilation[0] for c in convolutions(net.encoder.layer4) if c.kernel_size[0] == 3] == [2, 4, 8]
    plain = published("deeplabv2", encoder="resnet50", output_stride=16)
    assert [c.dilation[0] for c in convolutions(plain.encoder.layer4) if c.kernel_size[0] == 3] == [1, 2, 2]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("stride", "early"), [(4, 2), (8, 4), (16, 4)])
@pytest.mark.parametrize("encoder", ["resnet18", "xception"])
def test_the_decoder_sees_features_finer_than_the_context(dims: int, stride: int, early: int, encoder: str) -> None:
    if dims == 3 and encoder == "xception" and stride != 8:
        pytest.skip("one of the three is enough of a deep network in 3-D")
    net = published("deeplabv3plus", dims, encoder=encoder, output_stride=stride)
    seen = []
    net.reduce.register_forward_hook(lambda _module, given, out: seen.append((given[0].shape[2:], out.shape[1])))
    net(torch.randn(1, 1, *[32] * dims))
    # 48 of 64 in proportion, and never fewer than 8.
    assert seen == [((32 // early,) * dims, 8)]
    assert published("deeplabv3plus", width=64).reduce[0].out_channels == 48


@pytest.mark.parametrize("name", ROWS)
def test_a_shift_by_the_stride_shifts_the_logits(name: str) -> None:
    torch.manual_seed(0)
    # A small patch has small rates, so that 256 voxels from the border nothing of it is seen.
    spec = spec_of(2, (32, 32), encoder=PUBLISHED[name], width=8, norm="none")
    net = build_model(name, spec).eval()
    for module in net.modules():
        if isinstance(module, ASPP):
            # All but the mean of the whole image, which sees the shift.
            nn.init.zeros_(module.image_level[0].weight)  # type: ignore[index, arg-type]
    x = torch.randn(1, 1, 616, 16)
    with torch.inference_mode():
        here, there = net(x[:, :, :-8]), net(x[:, :, 8:])
    torch.testing.assert_close(here[:, :, 272:352], there[:, :, 264:344], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(here[:, :, 264:344], there[:, :, 264:344], atol=1e-3)


# The way up


@pytest.mark.parametrize("dims", [2, 3])
def test_scores_return_to_the_voxels_that_they_come_from(dims: int) -> None:
    """A ramp, read as encoders read it, is a ramp again: at the first of four voxels, or averaged over them."""
    ramp = torch.arange(16.0).expand(1, 1, *[16] * dims)
    first = ramp[(slice(None), slice(None), *[slice(None, None, 4)] * dims)]
    up = enlarge(first, [16] * dims, middle=False)
    torch.testing.assert_close(up[..., :13], ramp[..., :13])
    torch.testing.assert_close(up[..., 13:], torch.full_like(up[..., 13:], 12.0))
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    up = enlarge(pool(ramp, 4), [16] * dims)
    torch.testing.assert_close(up[..., 2:14], ramp[..., 2:14])
    assert enlarge(ramp, [16] * dims, middle=False) is ramp


@pytest.mark.parametrize(("dims", "encoder"), [(2, "vgg16"), (2, "resnet18"), (3, "resnet18")])
def test_scales_are_fused_by_their_maximum(dims: int, encoder: str) -> None:
    one = published("deeplabv2", dims, encoder=encoder).eval()
    three = published("deeplabv2", dims, encoder=encoder, scales=True).eval()
    assert one.state_dict().keys() == three.state_dict().keys()
    mode, x = {2: "bilinear", 3: "trilinear"}[dims], torch.randn(1, 1, *[64] * dims)
    with torch.inference_mode():
        parts = [one(x)]
        for size in (48, 32):
            smaller = F.interpolate(x, size=[size] * dims, mode=mode, align_corners=False)
            parts.append(F.interpolate(one(smaller), size=[64] * dims, mode=mode, align_corners=False))
        torch.testing.assert_close(three(x), torch.stack(parts).max(dim=0).values)
        winners = torch.stack(parts).argmax(dim=0)
    assert set(winners.unique().tolist()) == {0, 1, 2}


def test_branches_of_v2_are_summed() -> None:
    net = published("deeplabv2", encoder="resnet18").eval()
    x = torch.randn(1, net.encoder.channels[-1], 6, 6)
    torch.testing.assert_close(net.aspp(x), torch.stack([branch(x) for branch in net.aspp.branches]).sum(dim=0))


# Sizes


def count(name: str, **options: Any) -> int:
    spec = spec_of(2, channels=3, classes=21, width=64, **options)
    with torch.device("meta"):
        return sum(p.numel() for p in built(name, spec).parameters())


# Convolutions of VGG-16: torchvision's ``vgg16`` (138,357,544) without its three dense layers.
VGG16 = 138_357_544 - (512 * 49 + 1) * 4096 - (4096 + 1) * 4096 - (4096 + 1) * 1000
# Convolutions and norms of ResNet-101: torchvision's ``resnet101`` (44,549,160) without its dense layer.
RESNET101 = 44_549_160 - (2048 + 1) * 1000
CLASSES = 21


def normed(inputs: int, outputs: int, taps: int) -> int:
    """Weights of a convolution, scale and shift of its norm."""
    return inputs * outputs * taps + 2 * outputs


def test_v1_has_the_20_5_million_parameters_of_its_table() -> None:
    """Table 1 of the paper, DeepLab-LargeFOV (3x3, rate 12): 20.5 M."""
    dense = (512 * 9 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * CLASSES
    assert count("deeplabv1", norm="none") == VGG16 + dense == 20_505_429


def test_v2_has_four_heads_of_v1_or_four_score_layers() -> None:
    dense = (512 * 9 + 1) * 1024 + (1024 + 1) * 1024 + (1024 + 1) * CLASSES
    assert count("deeplabv2", norm="none") == VGG16 + 4 * dense == 37_877_652
    score = (2048 * 9 + 1) * CLASSES
    assert count("deeplabv2", encoder="resnet101") == RESNET101 + 4 * score == 44_048_532


# Image-level branch: a bias per channel, where the known implementations have scale and shift of a batch norm.
BRANCHES = 2 * normed(2048, 256, 1) - 256 + 3 * normed(2048, 256, 9) + normed(5 * 256, 256, 1)


def test_v3_has_the_parameters_of_torchvisions_but_for_what_the_paper_has_not() -> None:
    """torchvision's ``deeplabv3_resnet101`` states 60,996,202: it has an auxiliary classifier and one more 3x3."""
    score, auxiliary = (256 + 1) * CLASSES, normed(1024, 256, 9) + (256 + 1) * CLASSES
    wanted = RESNET101 + BRANCHES + score
    assert wanted + 256 + auxiliary + normed(256, 256, 9) == 60_996_202
    assert count("deeplabv3", encoder="resnet101") == wanted


def test_v3plus_has_59_3_million_parameters_with_resnet_101() -> None:
    """pytorch-deeplab-xception (jfzhang95), ResNet-101: 59.3 M; it is the paper's decoder with full convolutions."""
    decoder = normed(256, 48, 1) + normed(256 + 48, 256, 9) + normed(256, 256, 9) + (256 + 1) * CLASSES
    wanted = RESNET101 + BRANCHES + decoder
    assert wanted + 256 == 59_344_309
    assert count("deeplabv3plus", encoder="resnet101") == wanted


def test_separable_convolutions_save_what_they_should() -> None:
    full, separated = (count("deeplabv3plus", encoder="resnet101", separable=s) for s in (False, True))

    def saved(inputs: int, outputs: int) -> int:
        return normed(inputs, outputs, 9) - normed(inputs, outputs, 1) - (9 * inputs + 2 * inputs)

    assert full - separated == 3 * saved(2048, 256) + saved(304, 256) + saved(256, 256)


# Options


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        *[(name, {}) for name in ROWS],
        ("deeplabv1", {"norm": "none"}),
        ("deeplabv1", {"output_stride": 16}),
        ("deeplabv2", {"scales": True}),
        ("deeplabv2", {"scales": True, "encoder": "resnet18", "norm": "frozen_batch"}),
        ("deeplabv2", {"encoder": "resnet101", "width": 8}),
        ("deeplabv3", {"encoder": "resnet18", "output_stride": 16, "norm": "batch"}),
        ("deeplabv3", {"encoder": "resnet34", "norm": "group"}),
        ("deeplabv3", {"encoder": "resnet18", "norm": "none"}),
        ("deeplabv3plus", {"norm": "group", "separable": False}),
        ("deeplabv3plus", {"norm": "none"}),
        ("deeplabv3plus", {"encoder": "resnet50", "width": 8, "separable": True}),
        ("deeplabv3plus", {"encoder": "resnet18", "output_stride": 16, "norm": "frozen_batch"}),
        ("deeplabv3plus", {"encoder": "xception", "width": 8}),
    ],
)
def test_every_option_takes_a_step_that_reaches_every_parameter(name: str, chosen: dict[str, Any], dims: int) -> None:
    torch.manual_seed(0)
    size = ODD[dims]
    net = build_model(name, spec_of(dims, size, channels=2, **chosen))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.001)
    x, y = torch.randn(2, 2, *size), torch.randint(0, 3, (2, *size))
    logits = net(x)
    assert logits.shape == (2, 3, *size)
    build_loss("dice_ce")(logits, y).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    optimizer.step()
    with torch.inference_mode():
        assert torch.isfinite(net.eval()(x[:1])).all()


def test_the_planned_encoder_takes_no_options_of_a_published_one() -> None:
    for key, value in (("width", 16), ("output_stride", 8), ("weights", "r.safetensors")):
        with pytest.raises(ValidationError, match=f"'planned' follows the plan and takes no {key}"):
            options_of("deeplabv3plus", {key: value})
        options_of("deeplabv3plus", {key: value, "encoder": "resnet18"})
    for name, wrong in (("deeplabv1", "resnet18"), ("deeplabv3", "vgg16"), ("deeplabv3plus", "vgg16")):
        with pytest.raises(ValidationError, match="encoder"):
            options_of(name, {"encoder": wrong})


@pytest.mark.parametrize("dims", [2, 3])
def test_the_planned_encoder_follows_the_plan(dims: int) -> None:
    strides = ((1,) * dims, (1, 2, 2)[:dims], (2,) * dims, (2,) * dims)
    spec = NetworkSpec(dims, 1, 3, (8, 12, 16, 24), strides, ((3,) * dims,) * 4)
    net = built("deeplabv3plus", spec)
    features = net.encoder(torch.zeros(1, 1, *[32] * dims))
    if dims == 2:
        assert [tuple(f.shape[1:]) for f in features] == [(12, 32, 16), (16, 16, 8), (24, 8, 4), (24, 8, 4)]
    else:
        assert [tuple(f.shape[1:]) for f in features] == [(12, 32, 16, 16), (16, 16, 8, 8), (24, 16, 8, 8)]
    assert build_model("deeplabv3plus", spec)(torch.zeros(1, 1, *ODD[dims])).shape == (1, 3, *ODD[dims])


def test_dilation_keeps_sizes_and_leaves_pointwise_convolutions_alone() -> None:
    for module in (conv(3, 4, 8, 3), separable(3, 4, 8), conv(3, 4, 8, (1, 3, 3))):
        wide = dilate(module, (1, 2, 3))
        assert wide is module
        assert wide(torch.zeros(1, 4, 8, 9, 10)).shape == (1, 8, 8, 9, 10)
    assert convolutions(separable(2, 4, 8))[1].dilation == (1, 1)
