"""The contract of every row of MODELS, in 2-D and 3-D: a new network passes by being listed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.errors import PlanError
from medseg.losses.zoo import build_loss
from medseg.models.spec import NetworkSpec
from medseg.models.step import DTYPES, Step, autocast, build_optimizer, fast_precision, memory_format, pick_device
from medseg.models.zoo import MODELS, build_model, check_input
from medseg.plan.topology import feature_voxels, padded_patch, plan_kernels, plan_strides, total_stride

EVERY = [pytest.param(name, dims, id=f"{name}-{dims}d") for name in MODELS for dims in (2, 3)]
# (spacing that gives the strides, patch): one cube, one anisotropic grid whose first stages leave an axis alone.
GRIDS = {
    2: {"even": ((1.0, 1.0), (32, 32)), "anisotropic": ((1.0, 2.5), (48, 16))},
    3: {"even": ((1.0, 1.0, 1.0), (16, 16, 16)), "anisotropic": ((4.0, 1.0, 1.0), (6, 24, 16))},
}


def spec_of(dims: int, channels: int = 1, classes: int = 3, grid: str = "even") -> tuple[NetworkSpec, tuple[int, ...]]:
    spacing, patch = GRIDS[dims][grid]
    strides = plan_strides(patch, spacing)
    kernels, patch = plan_kernels(strides, spacing), padded_patch(patch, total_stride(strides))
    widths = tuple(8 * 2 ** min(i, 2) for i in range(len(strides)))
    return NetworkSpec(dims, channels, classes, widths, strides, kernels), patch


def built(name: str, spec: NetworkSpec, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(name, spec)


def images(spec: NetworkSpec, patch: tuple[int, ...], batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, spec.in_channels, *patch, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "dims"), EVERY)
@pytest.mark.parametrize("grid", ["even", "anisotropic"])
@pytest.mark.parametrize(("batch", "channels", "classes"), [(1, 1, 2), (2, 3, 4)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_have_the_shape_of_the_image(
    name: str, dims: int, grid: str, batch: int, channels: int, classes: int, precision: str
) -> None:
    spec, patch = spec_of(dims, channels, classes, grid)
    x = images(spec, patch, batch)
    with autocast("cpu", precision), torch.inference_mode():
        logits = built(name, spec)(x.contiguous(memory_format=memory_format(dims)))
    assert logits.shape == (batch, classes, *patch)
    assert logits.dtype == DTYPES[precision]
    assert torch.isfinite(logits).all()
    # Untrained, but not blind: other voxels, other logits.
    assert logits.float().std() > 1e-3


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_larger_multiples_of_the_strides_fit_too(name: str, dims: int) -> None:
    spec, patch = spec_of(dims)
    wider = (patch[0] * 2, *patch[1:])
    with torch.inference_mode():
        assert built(name, spec)(images(spec, wider, 1)).shape == (1, 3, *wider)


@pytest.mark.parametrize(("name", "dims"), EVERY)
@pytest.mark.parametrize("grid", ["even", "anisotropic"])
def test_the_gradient_reaches_every_parameter(name: str, dims: int, grid: str) -> None:
    spec, patch = spec_of(dims, channels=2, grid=grid)
    net = built(name, spec)
    labels = torch.randint(0, 3, (2, *patch), generator=torch.Generator().manual_seed(2))
    build_loss("dice_ce")(net(images(spec, patch)), labels).backward()
    idle = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_two_evaluations_and_two_builds_agree_bit_for_bit(name: str, dims: int) -> None:
    spec, patch = spec_of(dims)
    net, x = built(name, spec).eval(), images(spec, patch)
    with torch.inference_mode():
        first = net(x)
        assert torch.equal(first, net(x))
        assert torch.equal(first, built(name, spec).eval()(x))
        assert not torch.equal(first, built(name, spec, seed=9).eval()(x))


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_samples_of_a_batch_do_not_touch_each_other(name: str, dims: int) -> None:
    """Batches of tiles must predict what single tiles predict, in training mode as well (no batch statistics)."""
    spec, patch = spec_of(dims)
    net, x = built(name, spec), images(spec, patch, 3)
    with torch.inference_mode():
        together = net(x)
        for mode in (net.eval(), net.train()):
            alone = torch.cat([mode(x[i : i + 1]) for i in range(3)])
            torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_a_trained_step_survives_the_disk(name: str, dims: int, tmp_path: Path, tiny_plan: Any) -> None:
    from medseg.image.labels import LabelTable
    from medseg.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

    plan = tiny_plan(name, dims)
    net = built(name, plan.network_spec)
    step = Step(net, build_optimizer("adamw", net.parameters(), 0.01, 0.0), build_loss("ce"), "cpu", "fp32")
    x = images(plan.network_spec, plan.patch)
    assert math.isfinite(step(x, torch.ones(2, *plan.patch, dtype=torch.int64)))
    labels = LabelTable.create({"a": 1, "b": 2})
    write_checkpoint(tmp_path / "m", Checkpoint("d", ("MRI",), labels, plan, 0, 0, "f", {"medseg": "x"}), net)
    torch.manual_seed(77)
    checkpoint, loaded = read_checkpoint(tmp_path / "m")
    assert checkpoint == Checkpoint("d", ("MRI",), labels, plan, 0, 0, "f", {"medseg": "x"})
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(x), net.eval()(x))
    assert {n: p.shape for n, p in loaded.state_dict().items()} == {n: p.shape for n, p in net.state_dict().items()}


@pytest.mark.parametrize(("name", "dims"), EVERY)
def test_learning_lowers_the_loss(name: str, dims: int, draw_scene: Any) -> None:
    spec, patch = spec_of(dims)
    image, labels = draw_scene(patch, 3)
    x, y = torch.from_numpy(image)[None, None], torch.from_numpy(labels)[None].long()
    net = built(name, spec)
    step = Step(net, build_optimizer("adamw", net.parameters(), 0.01, 0.0), build_loss("dice_ce"), "cpu", "fp32")
    losses = [step(x, y) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("grid", ["even", "anisotropic"])
def test_the_memory_proxy_counts_the_feature_maps_that_the_unet_makes(dims: int, grid: str) -> None:
    spec, patch = spec_of(dims, grid=grid)
    net, counted = built("unet", spec), []
    convolutions = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    for module in net.modules():
        if isinstance(module, convolutions):
            module.register_forward_hook(lambda _module, _input, output: counted.append(output.numel()))
    with torch.inference_mode():
        net(images(spec, patch, 1))
    assert sum(counted) == feature_voxels(patch, spec.strides, spec.widths, spec.out_channels)


def test_unknown_networks_and_inputs_that_do_not_fit_are_named() -> None:
    spec, patch = spec_of(2, channels=2)
    with pytest.raises(PlanError, match=r"'vnet'.*deeplabv3plus"):
        build_model("vnet", spec)
    check_input(spec, torch.zeros(1, 2, *patch))
    for bad in (torch.zeros(1, 1, *patch), torch.zeros(1, 2, patch[0] + 1, patch[1])):
        with pytest.raises(ValueError, match="expected 2 channels and sizes divisible by"):
            check_input(spec, bad)


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
    from medseg.models.step import CLIP_NORM

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
    with pytest.raises(RuntimeError, match="set device: cpu or auto"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == "cuda"
