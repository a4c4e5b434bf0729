"""The contract of every row of NETWORKS, in all dimensions it exists in: a new network passes by being listed.

Conditions are spread over the tests (image sizes, channels, classes, batch, precision, grid), so that each row meets
every one of them and pairs of them, but not all their combinations.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.engine.placement import DTYPES, autocast, place
from medseg.engine.step import Step, build_optimizer
from medseg.errors import MachineError, PlanError
from medseg.image.objects import STEP
from medseg.losses.build import build_loss
from medseg.losses.supervision import OutputLoss
from medseg.machine import fast_precision, pick_device
from medseg.models.memory_layout import memory_format
from medseg.models.objective import own_objective
from medseg.models.spec import NetworkSpec, total_stride
from medseg.models.zoo import build_model
from medseg.networks import NETWORKS
from medseg.objects.decoding import Decoding
from medseg.plan.topology import feature_voxels, padded_patch, plan_kernels, plan_strides
from tests.choices import few
from tests.plans import head_of

EVERY = [pytest.param(name, dims, id=f"{name}-{dims}d") for name, row in NETWORKS.items() for dims in row.dims]
# In three dimensions these take long, and differ from fcn8s by their skips alone.
EVERY = few(EVERY, lambda name, dims: (name, dims) not in {("fcn32s", 3), ("fcn16s", 3)})
# What a plan would choose here. Processors without bf16 run it through other code, for minutes where a transposed
# convolution is large.
FAST = fast_precision("cpu")
# Score layers that start at zero, as in their papers: what lies before them gets no gradient at the first step.
ZERO_INIT: dict[str, str] = {
    "resenc_unet": "the last norm of each residual block starts at scale 0, as nnU-Net's",
}
# (spacing that gives the strides, patch): one cube, one anisotropic grid whose first stages leave an axis alone.
GRIDS = {
    2: {"even": ((1.0, 1.0), (32, 32)), "anisotropic": ((1.0, 2.5), (48, 16))},
    3: {"even": ((1.0, 1.0, 1.0), (16, 16, 16)), "anisotropic": ((4.0, 1.0, 1.0), (6, 24, 16))},
}
# Neither is a multiple of anything; the second is larger than the patch.
ODD = {2: (17, 23), 3: (9, 12, 7)}
LARGER = {2: (45, 19), 3: (19, 9, 12)}


# Objects of a training image are blocks of so many voxels per axis.
BLOCK = {2: 6, 3: 4}


def spec_of(dims: int, channels: int = 1, classes: int = 3, grid: str = "even", head: str = "") -> NetworkSpec:
    spacing, patch = GRIDS[dims][grid]
    strides = plan_strides(patch, spacing)
    kernels, patch = plan_kernels(strides, spacing), padded_patch(patch, total_stride(strides))
    widths = tuple(8 * 2 ** min(i, 1) for i in range(len(strides)))
    return NetworkSpec(dims, channels, classes, widths, strides, kernels, patch, head=head)


def built(name: str, spec: NetworkSpec, seed: int = 0) -> nn.Module:
    """A network whose layers all matter: those that start at zero are drawn, too."""
    torch.manual_seed(seed)
    network = build_model(name, spec)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.05)
    return network


@cache
def ready(name: str, dims: int) -> nn.Module:
    """A network for two channels and three classes that predicts; shared, so not to be changed."""
    return built(name, spec_of(dims, channels=2, head=head_of(name))).eval()


def images(spec: NetworkSpec, size: Sequence[int], batch: int, seed: int = 1) -> Tensor:
    drawn = torch.randn(batch, spec.in_channels, *size, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=memory_format(spec.dims))


def labels_of(spec: NetworkSpec, size: Sequence[int], batch: int) -> Tensor:
    """Classes at random; with a head, codes of blocks that are objects."""
    drawn = torch.Generator().manual_seed(2)
    if not spec.head:
        return torch.randint(0, spec.classes, (batch, *size), generator=drawn)
    coarse = [-(-n // BLOCK[spec.dims]) for n in size]
    channels = torch.randint(0, spec.classes, (batch, *coarse), generator=drawn)
    codes = torch.where(channels > 0, 1 + torch.arange(math.prod(coarse)).view(1, *coarse) + STEP * channels, 0)
    for axis in range(1, spec.dims + 1):
        codes = codes.repeat_interleave(BLOCK[spec.dims], dim=axis)
    return codes[(slice(None), *(slice(0, n) for n in size))].contiguous()


def loss_of(network: nn.Module) -> OutputLoss:
    own = own_objective(network)
    return build_loss("dice_ce") if own is None else own.objective


def finest(outputs: Tensor | Sequence[Tensor]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


@pytest.mark.parametrize(("name", "dims"), EVERY)
@pytest.mark.parametrize(
    ("precision", "grid", "channels", "classes", "odd", "training"),
    [("fp32", "even", 1, 2, True, True), (FAST, "anisotropic", 4, 5, False, False)],
    ids=["first", "second"],
)
def test_logits_have_the_shape_of_the_image(
    name: str, dims: int, precision: str, grid: str, channels: int, classes: int, odd: bool, training: bool
) -> None:
    spec = spec_of(dims, channels, classes, grid, head_of(name))
    size = ODD[dims] if odd else spec.patch
    batch = 1 if training else 2
    # In training they give what only they can judge.
    training = training and not NETWORKS[name].objective
    network = built(name, spec).train(training)
    with autocast("cpu", precision), torch.inference_mode():
        logits = finest(network(images(spec, size, batch)))
    assert logits.shape == (batch, spec.out_channels, *size)
    # autocast goes up in float32 where it interpolates.
    assert logits.dtype in (DTYPES[precision], torch.float32)
    assert torch.isfinite(logits).all()
    # Untrained, but not blind: other voxels, other logits.
    assert logits.float().std() > 1e-3


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_images_larger_than_the_patch_fit_or_the_error_names_their_size(name: str, dims: int) -> None:
    spec, size = spec_of(dims, channels=2, head=head_of(name)), LARGER[dims]
    # A patch is padded to what a network takes, so that only much larger images are too large.
    size = size if NETWORKS[name].sizes == "any" else tuple(4 * n for n in size)
    x = images(spec, size, 1)
    with torch.inference_mode():
        if NETWORKS[name].sizes == "any":
            assert ready(name, dims)(x).shape == (1, spec.out_channels, *size)
        else:
            with pytest.raises(ValueError, match=", ".join(map(str, size))):
                ready(name, dims)(x)


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_the_gradient_reaches_every_parameter(name: str, dims: int) -> None:
    """In training, at a batch of one."""
    spec = spec_of(dims, channels=3, head=head_of(name))
    found = gradients(name, spec, torch.float32)
    assert [n for n, g in found.items() if g is None] == []
    largest = {n: float(g.abs().max()) for n, g in found.items()}
    assert all(map(math.isfinite, largest.values()))
    # A parameter without effect gets what rounding leaves: little (of a bias, more), and much less in float64.
    most = max(largest.values())
    if any(v < (1e-5 if found[n].ndim == 1 else 1e-7) * most for n, v in largest.items()):
        largest = {n: float(g.abs().max()) for n, g in gradients(name, spec, torch.float64).items()}
    assert [n for n, v in largest.items() if v < 1e-13 * max(largest.values())] == []


def gradients(name: str, spec: NetworkSpec, dtype: torch.dtype) -> dict[str, Any]:
    size = ODD[spec.dims]
    torch.manual_seed(0)
    network = without_dropout(build_model(name, spec).to(dtype).train())
    x, y = images(spec, size, 1).to(dtype), labels_of(spec, size, 1)
    optimizer = build_optimizer("sgd", network.parameters(), 0.1, 0.0)
    for _ in range(2 if name in ZERO_INIT else 1):
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss_of(network)(network(x), y).backward()
    return {n: p.grad for n, p in network.named_parameters()}


def without_dropout(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return network


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_two_evaluations_agree_bit_for_bit_and_samples_do_not_touch_each_other(name: str, dims: int) -> None:
    """Batches of tiles must predict what single tiles predict, in training mode as well (no batch statistics)."""
    spec = spec_of(dims, channels=2, head=head_of(name))
    network, x = ready(name, dims), images(spec, ODD[dims], 2)
    with torch.inference_mode():
        together = network(x)
        alone = network(x[1:])
        assert torch.equal(alone, network(x[1:]))
        torch.testing.assert_close(alone, together[1:], atol=1e-4, rtol=1e-4)
        training = without_dropout(copy.deepcopy(network).train())
        together = finest(training(x))
        torch.testing.assert_close(finest(training(x[1:])), together[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_two_builds_agree_bit_for_bit(name: str, dims: int) -> None:
    spec = spec_of(dims, channels=2, head=head_of(name))
    first = ready(name, dims).state_dict()
    same, other = (built(name, spec, seed).state_dict() for seed in (0, 9))
    assert {n: v.shape for n, v in same.items()} == {n: v.shape for n, v in first.items()}
    assert all(torch.equal(v, first[n]) for n, v in same.items())
    assert not all(torch.equal(v, first[n]) for n, v in other.items())


@pytest.mark.parametrize(("name", "dims"), few(EVERY, lambda name, dims: (name, dims) != ("fcn8s", 3)))
def test_learning_lowers_the_loss_and_what_was_learnt_survives_the_disk(
    name: str, dims: int, draw_scene: Any, tmp_path: Path, tiny_plan: Any
) -> None:
    from medseg.image.labels import LabelTable
    from medseg.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

    objects = bool(head_of(name))
    plan = tiny_plan(name, dims)
    image, labels = draw_scene(plan.network.patch, 3)
    x, y = torch.from_numpy(image)[None, None], torch.from_numpy(labels)[None].long()
    # With a head, ball and rod are an object each.
    y = y + STEP * (y > 0) if objects else y
    torch.manual_seed(0)
    network = build_model(name, plan.network)
    optimizer = build_optimizer("adamw", network.parameters(), 0.01, 0.0)
    step = Step(network, optimizer, loss_of(network), "cpu", "fp32")
    # Steps in 3-D cost more, so that they stop earlier.
    enough = {2: 0.6, 3: 0.75}[dims] * step(x, y)
    assert any(step(x, y) < enough for _ in range(25))

    table = LabelTable.create({"a": 1} if objects else {"a": 1, "b": 2}, instances=objects)
    decoding = Decoding() if objects else None
    checkpoint = Checkpoint("d", ("MRI",), table, plan, 0, 0, "f", {"medseg": "x"}, decoding=decoding)
    write_checkpoint(tmp_path / "m", checkpoint, network)
    torch.manual_seed(77)
    read, loaded = read_checkpoint(tmp_path / "m")
    assert read == checkpoint
    assert not loaded.training
    mine, theirs = network.state_dict(), loaded.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(v, theirs[n]) for n, v in mine.items())
    with torch.inference_mode():
        assert torch.equal(loaded(x), network.eval()(x))


@pytest.mark.parametrize(("name", "dims"), few(EVERY, lambda name, dims: dims == 2 or name == "unet"))
@pytest.mark.parametrize("precision", sorted({FAST, "fp32"}))
def test_nothing_is_computed_from_memory_that_nobody_has_written(
    name: str, dims: int, precision: str, soiled: None
) -> None:
    spec = spec_of(dims, channels=2, head=head_of(name))
    network = place(built(name, spec), "cpu", dims).train()
    x, y = images(spec, spec.patch, 2), labels_of(spec, spec.patch, 2)
    step = Step(network, build_optimizer("sgd", network.parameters(), 0.01, 0.0), loss_of(network), "cpu", precision)
    assert math.isfinite(step(x, y))
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.fixture
def soiled() -> Iterator[None]:
    """Memory that holds NaN whenever torch hands it out."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="torch.compile needs a C++ compiler")
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["unet", "deeplabv3plus"])
def test_compiled_networks_agree_with_plain_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler works on the C++ of every layer; without optimising it takes a fraction of the time.
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")
    two = NetworkSpec(2, 1, 2, (8, 8), ((1, 1), (2, 2)), ((3, 3), (3, 3)), (16, 16))
    network, x = built(name, two).eval(), images(two, (9, 14), 1)
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(network)(x), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("grid", ["even", "anisotropic"])
def test_the_memory_proxy_counts_the_feature_maps_that_the_unet_makes(dims: int, grid: str) -> None:
    spec, counted = spec_of(dims, grid=grid), []
    network = built("unet", spec)
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in network.modules():
        if isinstance(module, convolutions):
            module.register_forward_hook(lambda _module, _input, output: counted.append(output.numel()))
    with torch.inference_mode():
        network(images(spec, spec.patch, 1))
    assert sum(counted) == feature_voxels(spec.patch, spec.strides, spec.widths, spec.out_channels)


def test_networks_that_are_not_in_the_zoo_are_refused_with_those_that_are() -> None:
    with pytest.raises(PlanError, match=r"'resunet'.*deeplabv3plus"):
        build_model("resunet", spec_of(2))


def test_dimensions_that_a_network_does_not_exist_in_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setitem(NETWORKS, "unet", replace(NETWORKS["unet"], dims=(3,)))
    with pytest.raises(PlanError, match=r"'unet' exists in \(3,\) dimensions, not in 2"):
        build_model("unet", spec_of(2))


# One step


class Scale(nn.Module):
    """Logits (N, 2, S) = (0, w x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), self.w * x], dim=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_changes_no_weight(bad: float) -> None:
    net = Scale()
    step = Step(net, build_optimizer("adamw", net.parameters(), 0.1, 0.1), build_loss("ce"), "cpu", "fp32")
    x, y = torch.randn(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64)
    step(x, y)
    before = net.w.detach().clone()
    x[0, 0, 0, 0] = bad
    assert not math.isfinite(step(x, y))
    assert torch.equal(net.w.detach(), before)


def test_gradients_are_clipped() -> None:
    from medseg.engine.step import CLIP_NORM

    net = Scale()
    step = Step(net, torch.optim.SGD(net.parameters(), lr=1.0), lambda out, y: (1e6 * out[:, 1]).sum(), "cpu", "fp32")
    step(torch.ones(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))
    assert float(net.w.detach()) == pytest.approx(1.0 - CLIP_NORM, rel=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimizers_are_those_named(name: str, kind: type) -> None:
    optimizer = build_optimizer(name, Scale().parameters(), 0.3, 0.2)
    assert isinstance(optimizer, kind)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.99, True)


def test_devices_and_their_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == "cpu"
    assert fast_precision("cpu") in {"fp32", "bf16"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(MachineError, match="set device: cpu or auto"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == "cuda"
