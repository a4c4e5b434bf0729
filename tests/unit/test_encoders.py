"""Encoders: what they promise about features, and that dilation, names and counts are those of the papers."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.models.blocks import FrozenBatchNorm, Subsample, conv, make_norm, separable
from medseg.models.encoders.build import build_encoder
from medseg.models.encoders.encoder import Encoder, MaxPool
from medseg.models.encoders.table import ENCODERS
from medseg.networks import EncoderName, Norm
from tests.choices import few

ODD = {2: (39, 70), 3: (33, 20, 37)}
NORMS = get_args(Norm)


def drawn(shape: tuple[int, ...], seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(name: str, dims: int = 2, channels: int = 1, seed: int = 0, **options: object) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(name, dims, channels, **{"width": 8, "norm": "none", **options})  # type: ignore[arg-type]


def size_of(encoder: nn.Module) -> int:
    return sum(p.numel() for p in encoder.parameters())


def test_every_encoder_that_can_be_configured_is_there() -> None:
    assert set(get_args(EncoderName)) <= set(ENCODERS)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("output_stride", [None, 16, 8])
def test_features_are_what_the_encoder_says(name: str, dims: int, output_stride: int | None) -> None:
    encoder = made(name, dims, 2, norm="instance", output_stride=output_stride)
    with torch.inference_mode():
        features = encoder(drawn((1, 2, *ODD[dims])))
    assert max(encoder.strides) == (output_stride or 32)
    assert list(encoder.strides) == sorted(encoder.strides)
    for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=True):
        assert tuple(feature.shape) == (1, channels, *[-(-n // stride) for n in ODD[dims]])
        assert torch.isfinite(feature).all()
        assert feature.std() > 0.1


@pytest.mark.parametrize("name", ENCODERS)
def test_strides_of_the_papers(name: str) -> None:
    expected = {"vgg16": (1, 2, 4, 8, 16, 32), "alexnet": (4, 8, 16, 16, 16, 32)}
    assert made(name).strides == expected.get(name, (2, 4, 8, 16, 32))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_output_stride_changes_no_parameter(name: str) -> None:
    with torch.device("meta"):
        plain = made(name, norm="batch").state_dict()
        for output_stride in (16, 8, 4):
            other = made(name, norm="batch", output_stride=output_stride).state_dict()
            assert {n: t.shape for n, t in other.items()} == {n: t.shape for n, t in plain.items()}


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", [n for n in ENCODERS if n != "vgg16"])
def test_dilated_features_at_every_hole_are_the_strided_ones(name: str, output_stride: int) -> None:
    """The hole algorithm's law (Chen et al. 2015). VGG's pools of two change to three instead, so not for it."""
    dense, strided = made(name, output_stride=output_stride).double(), made(name).double()
    strided.load_state_dict(dense.state_dict())
    x = drawn((1, 1, 69, 50), dtype=torch.float64)
    every = slice(None, None, 32 // output_stride)
    with torch.inference_mode():
        torch.testing.assert_close(dense(x)[-1][:, :, every, every], strided(x)[-1])


# Voxels per axis that a feature of the last kind sees, by the layers' arithmetic. AlexNet's and VGG-16's are those in
# Araujo, Norris & Sim (Distill, 2019), table of receptive fields (alexnet_v2, vgg_16).
FIELDS = {"alexnet": 195, "vgg16": 212, "resnet18": 435}


def seen(encoder: Encoder, size: int, index: int, places: list[int], level: int = -1) -> list[bool]:
    """Whether the feature at ``index`` sees the image at ``places``: not-a-number goes through everything."""
    x = torch.zeros(len(places), 1, size, 1, dtype=torch.float64)
    x[range(len(places)), 0, places, 0] = float("nan")
    with torch.inference_mode():
        feature = encoder.double()(x)[level][:, :, index, 0]
    return [bool(v) for v in feature.isnan().any(dim=1)]


@pytest.mark.parametrize(("name", "field"), FIELDS.items())
def test_receptive_fields_are_known_and_centred(name: str, field: int) -> None:
    encoder = made(name)
    index = -(-field // 64) + 1
    middle = 32 * index + encoder.centre(32)
    first, last = round(middle - (field - 1) / 2), round(middle + (field - 1) / 2)
    assert last - first + 1 == field
    places = [first - 1, first, last, last + 1]
    assert seen(encoder, 64 * (index + 1), index, places) == [False, True, True, False]


@pytest.mark.parametrize("name", ["googlenet", "resnet50", "xception"])
def test_features_see_symmetrically_around_their_own_voxel(name: str) -> None:
    encoder = made(name)
    for level, stride in enumerate(encoder.strides[:2]):
        found = seen(encoder, 128, 64 // stride, [64 + d for d in range(-40, 41)], level)
        assert found == found[::-1]
        assert found[40]
        assert not all(found)


def test_the_field_grows_with_depth_and_with_multi_grid() -> None:
    def reach(encoder: Encoder, level: int) -> int:
        return sum(seen(encoder, 768, 384 // encoder.strides[level], list(range(0, 768, 12)), level))

    plain = made("resnet18", output_stride=8)
    reaches = [reach(plain, level) for level in range(5)]
    assert reaches == sorted(set(reaches))
    assert reach(made("resnet18", output_stride=8, multi_grid=(1, 2, 4)), 4) > reaches[4]


def test_multi_grid_multiplies_the_dilation_of_the_last_stage() -> None:
    encoder = made("resnet50", output_stride=16, multi_grid=(1, 2, 4))
    # "When output stride = 16 and Multi_Grid = (1, 2, 4), the three convolutions have rates 2 * (1, 2, 4)"
    # (Chen et al. 2017, section 3.2.1).
    rates = [encoder.get_submodule(f"layer4.{i}.conv2").dilation for i in range(3)]
    assert rates == [(2, 2), (4, 4), (8, 8)]
    assert encoder.get_submodule("layer3.1.conv2").dilation == (1, 1)


# What torchvision's networks hold without their heads: its documented totals (in its documentation of weights) less
# the last layer, or for AlexNet and VGG-16 the paper's table of layers.
COUNTS = {
    "alexnet": 2_469_696,
    "vgg16": 14_714_688,
    "googlenet": 6_624_904 - 1024 * 1000 - 1000,
    "resnet18": 11_689_512 - 512 * 1000 - 1000,
    "resnet34": 21_797_672 - 512 * 1000 - 1000,
    "resnet50": 25_557_032 - 2048 * 1000 - 1000,
    "resnet101": 44_549_160 - 2048 * 1000 - 1000,
}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameters_are_as_many_as_in_torchvision(name: str, count: int) -> None:
    norm = "none" if name in ("alexnet", "vgg16") else "batch"
    with torch.device("meta"):
        assert size_of(made(name, channels=3, width=64, norm=norm)) == count


def test_parameters_of_xception_follow_from_its_figure() -> None:
    """Figure 4 of Chen et al. 2018; every convolution is followed by a norm of two numbers per channel."""

    def separable_conv(i: int, o: int) -> int:
        return 9 * i + 2 * i + i * o + 2 * o

    def module(i: int, a: int, b: int, c: int) -> int:
        return separable_conv(i, a) + separable_conv(a, b) + separable_conv(b, c) + i * c + 2 * c

    stem = 27 * 32 + 64 + 9 * 32 * 64 + 128
    entry = module(64, 128, 128, 128) + module(128, 256, 256, 256) + module(256, 728, 728, 728)
    middle = 16 * 3 * separable_conv(728, 728)
    last = separable_conv(1024, 1536) + separable_conv(1536, 1536) + separable_conv(1536, 2048)
    with torch.device("meta"):
        counted = size_of(made("xception", channels=3, width=64, norm="batch"))
    assert counted == stem + entry + middle + module(728, 728, 1024, 1024) + last


# Names and shapes in torchvision's state dicts.
NAMES = {
    "alexnet": {
        "features.0.weight": (64, 3, 11, 11),
        "features.3.bias": (192,),
        "features.10.weight": (256, 256, 3, 3),
    },
    "vgg16": {"features.0.weight": (64, 3, 3, 3), "features.17.weight": (512, 256, 3, 3), "features.28.bias": (512,)},
    "googlenet": {
        "conv1.conv.weight": (64, 3, 7, 7),
        "conv1.bn.running_mean": (64,),
        "conv2.conv.weight": (64, 64, 1, 1),
        "inception3a.branch2.1.conv.weight": (128, 96, 3, 3),
        "inception4e.branch3.0.bn.num_batches_tracked": (),
        "inception5b.branch4.1.conv.weight": (128, 832, 1, 1),
    },
    "resnet18": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer4.1.bn2.bias": (512,),
    },
    "resnet101": {
        "layer1.0.downsample.1.running_mean": (256,),
        "layer3.22.conv3.weight": (1024, 256, 1, 1),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
    },
}
# All tensors of torchvision's state dicts without their heads.
TENSORS = {"alexnet": 10, "vgg16": 26, "googlenet": 342, "resnet18": 120, "resnet34": 216, "resnet50": 318}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_torchvisions(name: str) -> None:
    norm = "none" if name in ("alexnet", "vgg16") else "frozen_batch"
    with torch.device("meta"):
        tensors = made(name, channels=3, width=64, norm=norm).state_dict()
    assert {n: tuple(tensors[n].shape) for n in NAMES[name]} == NAMES[name]
    assert len(tensors) == TENSORS.get(name, len(tensors))
    assert not [n for n in tensors if "downsample" in n and name == "resnet18" and n.startswith("layer1")]


def test_vgg_with_a_norm_is_named_like_its_variant_with_batch_norm() -> None:
    with torch.device("meta"):
        tensors = made("vgg16", norm="batch").state_dict()
    assert {"features.0.weight", "features.1.running_mean", "features.40.weight", "features.41.weight"} <= set(tensors)
    assert len(tensors) == 13 * 7


@pytest.mark.parametrize(
    ("name", "norm"),
    few(product(ENCODERS, NORMS), lambda name, norm: name == next(iter(ENCODERS)) or norm == NORMS[0]),
)
def test_gradient_reaches_every_parameter_with_every_norm(name: str, norm: Norm) -> None:
    # Wide enough that no two channels of a branch can be silent everywhere at the start.
    encoder = made(name, norm=norm, width=24).double()
    features = encoder(drawn((2, 1, 70, 70), dtype=torch.float64))
    # A weight per voxel: the mean of what instance norm gives is constant.
    sum((f * drawn(tuple(f.shape))).mean() for f in features).backward()
    found = {n: float(p.grad.abs().max()) for n, p in encoder.named_parameters() if p.grad is not None}
    # Rounding leaves less than this.
    idle = [n for n, _ in encoder.named_parameters() if found.get(n, 0.0) < 1e-12 * max(found.values())]
    if (name, norm) == ("vgg16", "batch"):
        # torchvision's variant with batch norm has biases that the norm takes away.
        assert len(idle) == 13
        idle = [n for n in idle if not n.endswith("bias")]
    assert idle == []
    # Sizes stay of order one at any depth, so that training can start.
    assert all(0.05 < f.detach().std() < 20 for f in features)


def test_what_an_encoder_cannot_do_is_refused() -> None:
    with pytest.raises(PlanError, match=r"'vgg19' is not known.*vgg16"):
        made("vgg19")
    with pytest.raises(PlanError, match=r"'resnet18': output stride 12; expected one of \[4, 8, 16, 32\]"):
        made("resnet18", output_stride=12)
    with pytest.raises(PlanError, match="'vgg16' has no residual units"):
        made("vgg16", multi_grid=(1, 2, 4))


# Blocks


def test_frozen_batch_norm_is_batch_norm_that_evaluates_and_learns() -> None:
    torch.manual_seed(0)
    plain, frozen = nn.BatchNorm2d(3), FrozenBatchNorm(3)
    for _ in range(3):
        plain(drawn((4, 3, 5, 5)) * 3 + 2)
    nn.init.normal_(plain.weight)
    frozen.load_state_dict(plain.state_dict())
    before = {n: b.clone() for n, b in frozen.named_buffers()}
    x = drawn((4, 3, 5, 5))
    for mode in (True, False):
        torch.testing.assert_close(frozen.train(mode)(x), plain.eval()(x))
    optimizer = torch.optim.SGD(frozen.parameters(), lr=0.1)
    weight = frozen.weight.detach().clone()
    frozen.train()(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(frozen.weight, weight)
    assert all(torch.equal(b, before[n]) for n, b in frozen.named_buffers())
    # Samples do not touch each other.
    assert torch.equal(frozen(x)[1:2], frozen(x[1:2]))


@pytest.mark.parametrize("channels", [1, 2, 8, 24, 32, 728])
def test_groups_divide_the_channels_and_hold_two(channels: int) -> None:
    layer = make_norm("group", 2, channels)
    assert isinstance(layer, nn.GroupNorm)
    assert channels == 1 or channels // layer.num_groups >= 2
    assert torch.isfinite(layer(drawn((2, channels, 1, 1)))).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 3)])
def test_convolutions_have_same_padding(dims: int, kernel: int, stride: int, dilation: int) -> None:
    size = (9, 12, 7)[:dims]
    for block in (conv(dims, 2, 4, kernel, stride, dilation), separable(dims, 2, 4, kernel, stride, dilation)):
        assert tuple(block(drawn((1, 2, *size))).shape) == (1, 4, *[-(-n // stride) for n in size])


def test_a_convolution_has_a_bias_only_where_no_norm_follows() -> None:
    assert conv(2, 1, 2, norm="none").get_submodule("conv").bias is not None
    assert conv(2, 1, 2).get_submodule("conv").bias is None
    assert conv(2, 1, 2, bias=True).get_submodule("conv").bias is not None


def test_a_strided_pointwise_convolution_is_what_torch_would_compute() -> None:
    block = conv(3, 8, 4, 1, (1, 2, 2), norm="none", act=None)
    layer, x = block.get_submodule("conv"), drawn((1, 8, 5, 6, 7))
    expected = torch.nn.functional.conv3d(x, layer.weight, layer.bias, (1, 2, 2))
    torch.testing.assert_close(block(x), expected)
    assert tuple(Subsample(2)(x).shape) == (1, 8, 3, 3, 4)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_dilated_pool_takes_the_largest_of_its_taps(dims: int) -> None:
    x = drawn((1, 1, *(11, 9, 8)[:dims]))
    dilated = MaxPool(dims, 3, 1, 2)(x)
    for start in range(2):
        every = (slice(None), slice(None), *[slice(start, None, 2)] * dims)
        torch.testing.assert_close(dilated[every], MaxPool(dims, 3)(x[every]))
