"""MONAI's networks in the zoo: as large as published, without parts that nobody uses, at any width."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.models.blocks import CONVOLUTIONS
from medseg.models.monai.adapter import independent
from medseg.models.monai.mednext import MEDNEXT
from medseg.models.monai.unetr import TOKEN
from medseg.models.monai.vnet import Enter
from medseg.models.spec import NetworkSpec
from medseg.models.zoo import build_model
from medseg.networks import NETWORKS

ROWS = [name for name, row in NETWORKS.items() if "MONAI" in row.paper and name != "dynunet"]
# Paper's widths: 32 channels first, 96 voxels a side.
FULL = {
    "widths": tuple(32 * 2**i for i in range(5)),
    "strides": ((1, 1, 1), *((2, 2, 2),) * 4),
    "kernels": ((3, 3, 3),) * 5,
    "patch": (96, 96, 96),
}


def spec_of(dims: int, channels: int, classes: int, **changes: Any) -> NetworkSpec:
    shape = {k: tuple(v[:dims] if isinstance(v, tuple) else v for v in values) for k, values in FULL.items()}
    return NetworkSpec(dims, channels, classes, **{**shape, "patch": FULL["patch"][:dims], **changes})


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# (row, dims, channels, classes, options, published millions, tolerance in millions, where)
PUBLISHED = [
    *[
        ("mednext", 3, 1, 14, {"size": size, "kernel": kernel}, millions, 0.1, "Roy et al. 2023")
        for (size, kernel), millions in {
            ("S", 3): 5.6, ("S", 5): 5.9, ("B", 3): 10.5, ("B", 5): 11.0,
            ("M", 3): 17.6, ("M", 5): 18.3, ("L", 3): 61.8, ("L", 5): 63.0,
        }.items()
    ],
    # MONAI's, by the authors of the paper, is 0.2 larger than the paper says.
    ("unetr", 3, 1, 14, {}, 92.58, 0.25, "Hatamizadeh et al. 2022 (UNETR)"),
    ("swin_unetr", 3, 1, 14, {}, 62.19, 0.01, "the trained models that MONAI's authors publish"),
    ("highresnet", 3, 1, 160, {}, 0.81, 0.02, "Li et al. 2017"),
    # MONAI goes up to the finest level with twice the paper's channels, which makes 0.07.
    ("basic_unetpp", 2, 3, 2, {}, 9.04, 0.1, "Zhou et al. 2018"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dims", "channels", "classes", "options", "millions", "within", "where"), PUBLISHED)
def test_networks_are_as_large_as_published(
    name: str, dims: int, channels: int, classes: int, options: Any, millions: float, within: float, where: str
) -> None:
    network = build_model(name, spec_of(dims, channels, classes, options=options))
    assert parameters(network) / 1e6 == pytest.approx(millions, abs=within), where


def kernels(network: nn.Module) -> list[tuple[int, ...]]:
    return sorted(tuple(p.shape) for p in network.parameters() if p.ndim > 2)


def test_the_vnet_has_the_kernels_of_monais_but_for_its_end() -> None:
    from monai.networks.nets import VNet

    theirs = VNet(spatial_dims=2, in_channels=1, out_channels=3)
    theirs.out_tr = nn.Conv2d(32, 3, 1)
    assert kernels(build_model("vnet", spec_of(2, 1, 3))) == kernels(theirs)


@pytest.mark.parametrize("size", MEDNEXT)
def test_mednext_has_the_kernels_of_monais(size: str) -> None:
    from monai.networks.nets.mednext import create_mednext

    theirs = create_mednext(size, spatial_dims=2, in_channels=3, out_channels=4, kernel_size=5)
    ours = build_model("mednext", spec_of(2, 3, 4, options={"size": size, "kernel": 5}))
    assert kernels(ours) == kernels(theirs)


@pytest.mark.parametrize("name", ROWS)
def test_nothing_normalises_over_the_batch_or_drops_at_random(name: str) -> None:
    network = build_model(name, spec_of(2, 1, 2, widths=(8, 16, 16, 16, 16), patch=(32, 32)))
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())
    assert all(m.p == 0 for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd))
    # Nobody resumes what a network keeps beside its parameters.
    assert all(not b.is_floating_point() for b in network.buffers())


def test_only_biases_that_a_norm_takes_away_are_left_out() -> None:
    layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 2)]
    layers += [nn.GroupNorm(6, 6), nn.Conv2d(6, 6, 1), nn.GroupNorm(3, 6)]
    network = nn.Sequential(*layers)
    x, before = torch.randn(1, 2, 6, 6), [layer for layer in network if isinstance(layer, CONVOLUTIONS)]
    network[1] = nn.InstanceNorm2d(4, affine=True)
    with torch.inference_mode():
        expected = network(x)
        network[1] = nn.BatchNorm2d(4)
        assert independent(network, 2) is network
        torch.testing.assert_close(network(x), expected, atol=1e-5, rtol=1e-5)
    assert isinstance(network[1], nn.InstanceNorm2d)
    assert [layer.bias is None for layer in before] == [True, False, True, False]


@pytest.mark.parametrize("dims", [2, 3])
def test_unetr_takes_what_fits_into_whole_tokens_of_the_patch(dims: int) -> None:
    patch = (40, 20, 33)[:dims]
    most = tuple(max(2, math.ceil(n / TOKEN)) * TOKEN for n in patch)
    network = build_model("unetr", spec_of(dims, 1, 2, widths=(8, 16, 16, 16, 16), patch=patch)).eval()
    with torch.inference_mode():
        for size in (patch, most, (5,) * dims):
            assert network(torch.zeros(1, 1, *size)).shape == (1, 2, *size)
        larger = (most[0] + 1, *most[1:])
        with pytest.raises(ValueError, match=rf"\({larger[0]}, .*at most \({most[0]}, "):
            network(torch.zeros(1, 1, *larger))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_vnet_adds_the_image_to_its_first_features(channels: int) -> None:
    enter = Enter(2, channels, 8)
    x = torch.rand(1, channels, 5, 4)
    with torch.no_grad():
        enter.body[-1].weight.zero_()
        y: Tensor = enter(x)
    assert torch.equal(y, x[:, torch.arange(8) % channels])
