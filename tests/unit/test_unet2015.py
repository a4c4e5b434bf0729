"""The U-Nets of 2015 and 2016: their published sizes and counts, and valid convolutions over whole images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.models.unet2015 import OverlapTile, UNet2015, build, mirrored
from medseg.networks import UNet2015Options


def spec_of(dims: int, channels: int = 1, classes: int = 2, base: int = 4) -> NetworkSpec:
    return NetworkSpec(dims, channels, classes, (base,), ((1,) * dims,), ((3,) * dims,))


def built(dims: int, seed: int = 0, channels: int = 1, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build(spec_of(dims, channels), UNet2015Options(**options)).eval()


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameters_of_the_network_of_2015() -> None:
    """Counted by the paper's figure 1, biases included: 31.0 M."""

    def layer(inputs: int, outputs: int, kernel: int) -> int:
        return (inputs * kernel**2 + 1) * outputs

    widths = [64, 128, 256, 512, 1024]
    down = sum(layer(i, o, 3) + layer(o, o, 3) for i, o in zip([1, *widths[:-1]], widths, strict=True))
    up = sum(layer(2 * w, w, 2) + layer(2 * w, w, 3) + layer(w, w, 3) for w in widths[:-1])
    assert down + up + layer(64, 2, 1) == 31_030_658
    with torch.device("meta"):
        assert count(build(spec_of(2), UNet2015Options(width=64))) == 31_030_658
        # The plan's full width of 32 gives the paper's 64.
        assert count(build(spec_of(2, base=32), UNet2015Options())) == 31_030_658


def test_parameters_of_the_network_of_2016() -> None:
    """The paper counts 19 069 955 (Cicek et al. 2016, section 2), with three channels and three classes."""
    with torch.device("meta"):
        assert count(build(spec_of(3, 3, 3), UNet2015Options(width=64))) == 19_069_955


@pytest.mark.parametrize(
    ("dims", "size", "given"), [(2, (572, 572), (388, 388)), (3, (132, 132, 116), (44, 44, 28))], ids=["2015", "2016"]
)
def test_valid_convolutions_give_the_sizes_of_the_papers(dims: int, size: tuple, given: tuple) -> None:
    with torch.device("meta"):
        network = build(spec_of(dims, classes=3), UNet2015Options(padding="valid"))
        assert isinstance(network, OverlapTile)
        assert network.network(torch.zeros(1, 1, *size)).shape == (1, 3, *given)
        assert {s - 2 * network.margin for s in size} == set(given)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(17, 23), (1, 4), (40, 20), (64, 65), (9, 12, 7), (20, 1, 3)])
def test_every_size_is_covered(padding: Any, size: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = build(spec_of(len(size), 2, 3), UNet2015Options(padding=padding, norm="instance"))
        assert network(torch.zeros(1, 2, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize(("size", "before", "after"), [(7, 3, 6), (7, 20, 33), (2, 5, 4), (1, 3, 2), (5, 0, 0)])
def test_mirroring_is_that_of_numpy(size: int, before: int, after: int) -> None:
    x = torch.arange(2.0 * size).reshape(1, 1, 2, size)
    padded = np.pad(x.numpy(), ((0, 0),) * 3 + ((before, after),), mode="reflect")
    np.testing.assert_array_equal(mirrored(x, 3, before, after).numpy(), padded)


def test_inside_an_image_the_margin_does_not_matter() -> None:
    """Where 92 pixels of image surround an output, it is what the network gives for these: mirroring is not seen.

    228 pixels and the margin fit the network exactly, so the poolings of both fall on the same pixels.
    """
    network, x = built(2, padding="valid"), torch.randn(1, 1, 228, 228, generator=torch.Generator().manual_seed(1))
    assert isinstance(network, OverlapTile)
    with torch.inference_mode():
        whole = network(x)
        # 92 is 12 more than a multiple of 16: start where the poolings of the padded image start.
        part = network.network(x[..., 4:208, 4:208])
    assert part.shape[-1] == 20
    torch.testing.assert_close(whole[..., 96:116, 96:116], part, atol=1e-5, rtol=1e-4)
    assert part.std() > 1e-3


def test_tiles_of_a_large_image_fit_together_without_seams() -> None:
    network, x = built(2, padding="valid"), torch.randn(1, 1, 236, 220, generator=torch.Generator().manual_seed(1))
    assert isinstance(network, OverlapTile)
    with torch.inference_mode():
        large = network.network(x)
        assert large.shape[2:] == (52, 36)
        tile = network.network(x[..., 32:236, 16:220])
    torch.testing.assert_close(large[..., 32:, 16:], tile, atol=1e-5, rtol=1e-4)


def test_an_image_is_mirrored_evenly_into_the_margin() -> None:
    network, x = built(2, padding="valid"), torch.randn(1, 1, 30, 20, generator=torch.Generator().manual_seed(1))
    assert isinstance(network, OverlapTile)
    # 30 becomes 36 = 4 + 2 * 16, 3 more on each side; 20 fits.
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (95, 95), (92, 92)), mode="reflect")
    with torch.inference_mode():
        torch.testing.assert_close(network(x), network.network(torch.from_numpy(padded))[..., 3:33, :])


def test_same_convolutions_answer_in_place() -> None:
    network = built(2)
    assert isinstance(network, AnySize)
    x = torch.randn(1, 1, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(network(x), network.network(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_stands_at_the_end_of_the_way_down_and_only_while_training(dims: int) -> None:
    network, plain = built(dims, dropout=0.5), built(dims)
    (core,) = [m for m in network.modules() if isinstance(m, UNet2015)]
    dropped = [any(isinstance(m, nn.Dropout) and m.p == 0.5 for m in stage.modules()) for stage in core.down]
    assert dropped == [False] * (len(dropped) - 2) + [True] * 2
    x = torch.randn(1, 1, *(32,) * dims)
    with torch.inference_mode():
        assert torch.equal(network(x), plain(x))
        assert torch.equal(plain.train()(x), plain(x))
        assert not torch.equal(network.train()(x), plain(x))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["none", "instance", "group", "batch", "frozen_batch"])
def test_gradients_reach_every_parameter(dims: int, norm: Any) -> None:
    network = built(dims, channels=3, norm=norm).train()
    network(torch.randn(1, 3, *(17, 23, 9)[:dims])).square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
