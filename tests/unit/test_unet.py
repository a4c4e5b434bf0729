"""U-Nets that follow a plan: nnU-Net's counts, kernels per stage, deep supervision at native resolutions, any size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.engine.step import Step, build_optimizer
from medseg.losses.build import build_loss
from medseg.losses.supervision import deeply_supervised
from medseg.models import dynunet, resenc_unet, residual_unet, unet
from medseg.models.head import PRIOR, init_foreground_prior, output_biases
from medseg.models.instance_norm import InstanceNorm
from medseg.models.resenc_unet import ResidualBlock
from medseg.models.sizes import AnySize
from medseg.models.spec import NetworkSpec
from medseg.models.unet import UNet
from medseg.models.upsampling import UPSAMPLING, Shuffle
from medseg.networks import Options, UNetOptions
from medseg.plan.topology import feature_voxels

OURS = {"unet": unet.build, "resenc_unet": resenc_unet.build, "residual_unet": residual_unet.build}
# Kernels and strides of an anisotropic volume; a flat and a solid even one.
FLAT = NetworkSpec(2, 1, 3, (8, 16, 16, 16), ((1, 1), (2, 2), (2, 2), (2, 2)), ((3, 3),) * 4)
SOLID = NetworkSpec(3, 2, 3, (8, 16, 16), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 3)
THICK = NetworkSpec(
    3, 1, 2, (8, 8, 16, 16), ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
)
SPECS = {"flat": FLAT, "solid": SOLID, "thick": THICK}
# nnU-Net's own plan for Task04_Hippocampus, 3d_fullres.
HIPPOCAMPUS = NetworkSpec(3, 1, 3, (32, 64, 128, 256), ((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3), ((3,) * 3,) * 4)


def built(name: str, spec: NetworkSpec, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return OURS[name](spec, UNetOptions(**options))


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def image(spec: NetworkSpec, size: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randn(batch, spec.in_channels, *size, generator=torch.Generator().manual_seed(1))


def plain_parameters(spec: NetworkSpec, heads: int) -> int:
    """Parameters of nnU-Net's plain form by its own arithmetic: biases everywhere, two numbers a channel per norm."""

    def convolution(inputs: int, outputs: int, kernel: tuple[int, ...]) -> int:
        return (inputs * math.prod(kernel) + 1) * outputs + 2 * outputs

    widths, kernels = spec.widths, spec.kernels
    total = 0
    for i, width in enumerate(widths):
        before = widths[i - 1] if i else spec.in_channels
        total += convolution(before, width, kernels[i]) + convolution(width, width, kernels[i])
        if i:
            total += (width * math.prod(spec.strides[i]) + 1) * before
            total += convolution(2 * before, before, kernels[i - 1]) + convolution(before, before, kernels[i - 1])
    return total + sum((w + 1) * spec.out_channels for w in widths[:heads])


def idle_biases(spec: NetworkSpec) -> int:
    """Biases of nnU-Net's that a norm takes away: of two convolutions in each stage down and in each stage up."""
    return 2 * sum(spec.widths) + 2 * sum(spec.widths[:-1])


@pytest.mark.parametrize("spec", [*SPECS.values(), HIPPOCAMPUS], ids=[*SPECS, "hippocampus"])
def test_parameters_are_those_of_nnunet_without_idle_biases(spec: NetworkSpec) -> None:
    stages, idle = len(spec.widths), idle_biases(spec)
    with torch.device("meta"):
        assert count(built("unet", spec)) == plain_parameters(spec, heads=1) - idle
        # nnU-Net has one more head, whose loss it weighs 0.
        assert count(built("unet", spec, deep_supervision=True)) == plain_parameters(spec, heads=stages - 2) - idle


def test_a_bias_before_a_norm_has_no_effect() -> None:
    net, x = built("unet", FLAT), image(FLAT, (32, 32))
    with torch.inference_mode():
        plain = net(x)
        for block in net.network.modules():
            if hasattr(block, "conv") and hasattr(block, "norm"):
                block.conv.bias = nn.Parameter(torch.randn(block.conv.out_channels))
        torch.testing.assert_close(net(x), plain, atol=1e-4, rtol=1e-4)


def test_hippocampus_has_the_published_size() -> None:
    """nnU-Net 2.8.1 gives 5.6 M parameters for its own plan of this data set."""
    assert round(plain_parameters(HIPPOCAMPUS, heads=3) / 1e6, 1) == 5.6


def test_dynunet_has_no_bias_in_transposed_convolutions_and_else_as_many_parameters() -> None:
    with torch.device("meta"):
        theirs = dynunet.build(HIPPOCAMPUS, Options())
        ours = built("unet", HIPPOCAMPUS)
    assert count(ours) - count(theirs) == sum(HIPPOCAMPUS.widths[:-1])
    assert isinstance(theirs, AnySize)
    assert [layer.out_channels for layer in theirs.network.heads] == [3]


def test_stages_of_the_way_up_have_their_own_kernels() -> None:
    """MONAI's have those of the next deeper stage, so a thick-slice plan is convolved across slices too early there."""
    net = built("unet", THICK).network
    assert isinstance(net, UNet)
    kernels = [{m.kernel_size for m in join.modules() if isinstance(m, nn.Conv3d)} for join in net.join]
    assert kernels == [{k} for k in THICK.kernels[:-1]]
    with torch.device("meta"):
        theirs = dynunet.build(THICK, Options()).network
    deeper = [{m.kernel_size for m in up.conv_block.modules() if isinstance(m, nn.Conv3d)} for up in theirs.upsamples]
    assert deeper[::-1] == [{k} for k in THICK.kernels[1:]]


def test_the_start_is_he_normal_with_biases_of_zero() -> None:
    net = built("unet", FLAT)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.bias is None or not layer.bias.any()
        # Wide enough that a sample tells; the gain of leaky ReLU and its sampling error are within 10 %.
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 1000:
            expected = math.sqrt(2 / (1 + 0.01**2) / (layer.in_channels * 9))
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.1)
        if isinstance(layer, InstanceNorm):
            assert layer.eps == 1e-5


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_deep_supervision_gives_every_resolution_but_the_coarsest_two(
    name: str, spec: NetworkSpec, upsampling: str
) -> None:
    """The coarsest stage has no way up, and nnU-Net weighs the coarsest stage that has one 0."""
    size = tuple(2 * math.prod(s[a] for s in spec.strides) for a in range(spec.dims))
    net = built(name, spec, deep_supervision=True, upsampling=upsampling)
    outputs = net(image(spec, size))
    levels = len(spec.widths) - 2
    sizes, level_size = [], size
    for stride in spec.strides[:levels]:
        level_size = tuple(n // s for n, s in zip(level_size, stride, strict=True))
        sizes.append((2, spec.out_channels, *level_size))
    assert [tuple(o.shape) for o in outputs] == sizes
    assert len(net.network.heads) == levels
    with torch.inference_mode():
        evaluated = net.eval()(image(spec, size))
    assert isinstance(evaluated, Tensor)
    torch.testing.assert_close(evaluated, outputs[0])


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("upsampling", UPSAMPLING)
@pytest.mark.parametrize("deep", [False, True])
def test_gradients_reach_every_parameter(name: str, spec: NetworkSpec, upsampling: str, deep: bool) -> None:
    net = built(name, spec, upsampling=upsampling, deep_supervision=deep)
    for block in net.modules():
        if isinstance(block, ResidualBlock):
            # Starts at 0 (next test); what is upstream gets gradient once it has moved.
            nn.init.ones_(block.body[1].norm.weight)
    size = (21, 18, 17)[: spec.dims]
    labels = torch.randint(0, spec.out_channels, (2, *size), generator=torch.Generator().manual_seed(2))
    deeply_supervised(nn.functional.cross_entropy)(net(image(spec, size)), labels).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_residual_blocks_start_as_their_shortcuts() -> None:
    net = built("resenc_unet", FLAT)
    blocks = [m for m in net.modules() if isinstance(m, ResidualBlock)]
    assert len(blocks) == 1 + 3 + 4 + 6
    for block in blocks:
        x = torch.randn(2, next(m.in_channels for m in block.modules() if isinstance(m, nn.Conv2d)), 8, 8)
        torch.testing.assert_close(block(x), nn.functional.leaky_relu(block.shortcut(x), 0.01))
    labels = torch.ones(2, 32, 32, dtype=torch.int64)
    step = torch.optim.SGD(net.parameters(), lr=0.1)
    for last in (False, True):
        step.zero_grad()
        nn.functional.cross_entropy(net(image(FLAT, (32, 32))), labels).backward()
        reached = [bool(block.body[0].conv.weight.grad.any()) for block in blocks]
        assert reached == [last] * len(blocks)
        step.step()


def test_shortcuts_of_strided_blocks_average() -> None:
    block = ResidualBlock(3, 4, 4, (3, 3, 3), (1, 2, 2))
    x = torch.randn(1, 4, 3, 6, 4)
    torch.testing.assert_close(block.shortcut(x), x.reshape(1, 4, 3, 3, 2, 2, 2).mean(dim=(4, 6)))
    assert block(x).shape == (1, 4, 3, 3, 2)


def test_parameters_of_the_residual_encoder_counted_stage_by_stage() -> None:
    """3-D, widths 8 and 16: stem, blocks 1 and 3, one convolution up."""
    spec = NetworkSpec(3, 1, 2, (8, 16), ((1,) * 3, (2,) * 3), ((3,) * 3,) * 2)

    def convolution(inputs: int, outputs: int) -> int:
        return 27 * inputs * outputs + 2 * outputs

    down = convolution(1, 8) + 2 * convolution(8, 8)
    down += convolution(8, 16) + convolution(16, 16) + (8 * 16 + 2 * 16) + 4 * convolution(16, 16)
    up = 16 * 8 * 8 + 8 + convolution(16, 8) + 9 * 2
    assert count(built("resenc_unet", spec)) == down + up


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_memory_is_counted_for_the_plain_form(spec: NetworkSpec) -> None:
    size = tuple(2 * math.prod(s[a] for s in spec.strides) for a in range(spec.dims))
    net, counted = built("unet", spec), []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            module.register_forward_hook(lambda _module, _input, output: counted.append(output[0].numel()))
    net(image(spec, size, 1))
    assert sum(counted) == feature_voxels(size, spec.strides, spec.widths, spec.out_channels)


def test_pixel_shuffles_keep_their_start() -> None:
    shuffles = [m for m in built("unet", THICK, upsampling="shuffle").modules() if isinstance(m, Shuffle)]
    assert len(shuffles) == 3
    for shuffle in shuffles:
        sets = shuffle.mix.weight.unflatten(0, (-1, shuffle.places))
        assert torch.equal(sets, sets[:, :1].expand_as(sets))
        assert float(sets.detach().std()) == pytest.approx(math.sqrt(2 / shuffle.mix.in_channels), rel=0.3)


class Seen:
    """A loss that keeps the labels it is given."""

    def __init__(self) -> None:
        self.labels: list[Tensor] = []

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        assert logits.shape[2:] == labels.shape[1:]
        self.labels.append(labels)
        return logits.mean()


def test_labels_of_coarse_outputs_are_those_of_their_own_voxels() -> None:
    """Each output at half or quarter resolution gets a label from inside the block of voxels that it stands for."""
    net, loss = built("unet", THICK, deep_supervision=True), Seen()
    size = (4, 16, 24)
    place = torch.arange(math.prod(size)).reshape(1, *size)
    deeply_supervised(loss)(net(image(THICK, size, 1)), place)
    assert len(loss.labels) == 2
    assert torch.equal(loss.labels[0], place)
    first, second, third = (torch.arange(n) for n in (4, 8, 12))
    assert torch.equal(loss.labels[1], place[:, first][:, :, 2 * second + 1][:, :, :, 2 * third + 1])


def test_an_image_that_is_padded_keeps_its_coarse_labels_in_place() -> None:
    """A square's logits, read off at each resolution, lie where the labels of that resolution say."""
    sizes, seen = (18, 22), Seen()
    square = torch.zeros(1, 1, *sizes)
    square[..., 6:14, 8:16] = 1.0

    class Pyramid(nn.Module):
        """The image and its averages over 2x2 and 4x4 pixels as logits."""

        def forward(self, x: Tensor) -> list[Tensor]:
            return [nn.functional.avg_pool2d(x, n) if n > 1 else x for n in (1, 2, 4)]

    outputs = AnySize(Pyramid(), (8, 8))(square)
    deeply_supervised(seen)(outputs, square[:, 0].long())
    for logits, labels in zip(outputs, seen.labels, strict=True):
        # Half a coarse pixel is what rounding may shift.
        for axis in (1, 2):
            rest = 3 - axis
            centre = [
                (v[0].sum(rest - 1) * torch.arange(v.shape[axis])).sum() / v.sum() for v in (logits[:, 0], labels)
            ]
            assert abs(float(centre[0] - centre[1])) <= 1.0


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("size", [(17, 23, 9), (5, 4, 3), (1, 1, 1)])
def test_every_size_is_taken(name: str, spec: NetworkSpec, size: tuple[int, ...]) -> None:
    size = size[: spec.dims]
    assert built(name, spec)(image(spec, size)).shape == (2, spec.out_channels, *size)


@pytest.mark.parametrize("name", OURS)
def test_every_head_expects_rare_foreground(name: str) -> None:
    net = built(name, FLAT, deep_supervision=True)
    init_foreground_prior(net, 3, sigmoids=0)
    for bias in output_biases(net, 3):
        assert bias.detach().softmax(0).tolist() == pytest.approx([1 - PRIOR, PRIOR / 2, PRIOR / 2], rel=1e-4)
    assert len(output_biases(net, 3)) == 2


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("upsampling", UPSAMPLING)
def test_deep_supervision_learns_with_every_way_up(name: str, upsampling: str, draw_scene: Any) -> None:
    x, y = (torch.from_numpy(a)[None] for a in draw_scene((32, 32), 3))
    net = built(name, FLAT, deep_supervision=True, upsampling=upsampling)
    optimizer = build_optimizer("adamw", net.parameters(), 0.01, 0.0)
    step = Step(net, optimizer, build_loss("dice_ce"), "cpu", "fp32")
    first = step(x[None], y.long())
    assert min(step(x[None], y.long()) for _ in range(25)) < 0.6 * first
