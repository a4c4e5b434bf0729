"""Memory of a training step: the estimate against what the allocator counts, and planning within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch._C._profiler import _EventType
from torch.profiler._utils import traverse_dfs

from medseg.config import load_config
from medseg.engine.memory import estimate_memory
from medseg.engine.placement import flushed_subnormals, place
from medseg.engine.step import Step, build_optimizer
from medseg.errors import PlanError
from medseg.losses.build import build_loss
from medseg.losses.table import LOSSES
from medseg.machine import fast_precision
from medseg.models.memory_layout import memory_format
from medseg.models.objective import own_objective
from medseg.models.zoo import build_model
from medseg.networks import NETWORKS
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.plan import Plan
from medseg.plan.planner import PlanRequest, make_plan, plan_within_memory
from medseg.plan.resources import Resources
from tests.choices import few

PATCH = {2: (96, 64), 3: (16, 32, 16)}
# Elsewhere bf16 runs through other code than a plan would choose.
PRECISION = ["fp32"] if fast_precision("cpu") == "fp32" else ["fp32", "bf16"]
# With AMX, oneDNN pads weights of one to three input channels to 32, which counts where kernels are 16 or 64 wide; no
# formula for it is known, so estimates of these are too low by 18 and 34 % there (docs/notebook.md).
TOO_LOW = {("fcn32s", 3, "bf16"), ("unetr", 3, "bf16")} if torch.cpu._is_amx_tile_supported() else set()


# Of `make test`; `make test-all` counts every network.
EVERY_DAY = {"unet", "deeplabv3plus", "dynunet"}


def allocated_peak(plan: Plan) -> int:
    """Most bytes that torch's allocator had given out during two real training steps."""
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile,
        flushed_subnormals(),
    ):
        network = place(build_model(plan.network.name, plan.network), "cpu", plan.network.dims)
        optimizer = build_optimizer(
            plan.training.optimizer, network.parameters(), plan.training.lr, plan.training.weight_decay
        )
        own = own_objective(network)
        loss = build_loss(plan.training.loss, plan.network.regions, ignore=plan.training.ignore)
        step = Step(network, optimizer, own.objective if own else loss, "cpu", plan.machine.precision)
        for _ in range(2):
            images = torch.randn(plan.training.batch, plan.network.in_channels, *plan.network.patch)
            labels = torch.zeros(plan.training.batch, *plan.network.patch, dtype=torch.int64)
            step(images.contiguous(memory_format=memory_format(plan.network.dims)), labels)
            del images, labels
    return peak_of_allocations(profile)


def peak_of_allocations(profile: torch.profiler.profile) -> int:
    """Most bytes given out and not yet given back, of blocks given out while the profile was taken.

    The allocator also reports blocks freed here that an earlier profile saw given out, garbage of
    an earlier test for one: those would count below zero, so only blocks of this profile count.
    """
    events = traverse_dfs(profile.profiler.kineto_results.experimental_event_tree())
    blocks: dict[int, int] = {}
    live = peak = 0
    for event in sorted((e for e in events if e.tag == _EventType.Allocation), key=lambda e: e.start_time_ns):
        block = event.extra_fields
        if block.alloc_size > 0:
            blocks[block.ptr] = block.alloc_size
            live += block.alloc_size
        else:
            live -= blocks.pop(block.ptr, 0)
        peak = max(peak, live)
    return peak


def test_garbage_of_an_earlier_profile_does_not_count() -> None:
    def profiled(work: Callable[[], None]) -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            work()
        return peak_of_allocations(profile)

    kept: list[torch.Tensor] = []

    def free_then_allocate() -> None:
        kept.clear()
        torch.empty(1000, dtype=torch.uint8)

    assert profiled(lambda: kept.append(torch.empty(5000, dtype=torch.uint8))) == 5000
    assert profiled(free_then_allocate) == 1000


@pytest.mark.parametrize("precision", PRECISION)
@pytest.mark.parametrize(
    ("network", "dims"),
    few(((name, dims) for name, row in NETWORKS.items() for dims in row.dims), lambda name, dims: name in EVERY_DAY),
)
def test_estimate_is_within_15_percent_of_what_is_allocated(
    network: str, dims: int, precision: str, tiny_plan: Any, request: pytest.FixtureRequest
) -> None:
    if (network, dims, precision) in TOO_LOW:
        request.applymarker(pytest.mark.xfail(reason="padded weights are not counted with AMX", strict=True))
    # From 16 channels on: see MIN_WIDTH in medseg/limits.py.
    plan = tiny_plan(network, dims, patch=PATCH[dims], widths=(16, 16, 32), precision=precision)
    assert estimate_memory(plan) == pytest.approx(allocated_peak(plan), rel=0.15)


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    few(product(LOSSES, ("adamw", "sgd")), lambda loss, optimizer: optimizer == "adamw" or loss == "dice_ce"),
)
def test_estimate_counts_every_loss_and_optimiser(loss: str, optimizer: str, tiny_plan: Any) -> None:
    plan = tiny_plan("unet", 2, patch=PATCH[2], widths=(16, 16, 32), loss=loss, optimizer=optimizer)
    assert estimate_memory(plan) == pytest.approx(allocated_peak(plan), rel=0.15)


def test_estimate_grows_with_batch_patch_and_width(tiny_plan: Any) -> None:
    plan = tiny_plan("unet", 2)
    base = estimate_memory(plan)
    for larger in ({"batch": 4}, {"patch": (64, 32)}, {"widths": (16, 32, 32)}):
        assert estimate_memory(plan.changed(**larger)) > base


def fingerprint() -> Fingerprint:
    return Fingerprint("d", 3, ("MRI",), 3, 50, "mm", True, ((60, 64, 56),) * 50, ((1.0,) * 3,) * 50, 1.0, ({},))


def plan_with(memory: float, network: str = "unet", **fixed: Any) -> Plan:
    value = {
        "experiment": "e",
        "datasets": {"d": {"layout": "pairs", "path": "p"}},
        "models": {"m": {"network": network, "plan": fixed}},
        "budget": {"steps": 10},
    }
    config = load_config([], value)
    request = PlanRequest.of(config, "m", fingerprint(), Resources("cpu", "fp32", memory, 1))
    return plan_within_memory(request, estimate_memory)


# Weights or crops take most of the memory of these, or they pad images to a least size inside.
@pytest.mark.parametrize("network", ["fcn32s", "rcnn"])
def test_what_no_patch_can_save_is_refused(network: str) -> None:
    needed = estimate_memory(plan_with(1e12, network))
    with pytest.raises(PlanError, match="no patch fits"):
        plan_with(needed / 50, network)


@pytest.mark.parametrize("network", few(["unet", "deeplabv3plus", "segresnet"], lambda network: network == "unet"))
def test_a_plan_shrinks_until_its_own_step_fits(network: str) -> None:
    """The patch where the batch is at its least already; what is left still uses the memory."""
    roomy = plan_with(1e12, network)
    needed = estimate_memory(roomy)
    assert "GB for a training step" in roomy.reasons["memory"]
    plan = plan_with(needed / 3, network)
    assert needed / 9 < estimate_memory(plan) <= needed / 3
    assert math.prod(plan.network.patch) < math.prod(roomy.network.patch)


def test_the_batch_shrinks_before_the_patch() -> None:
    few = {"patch": [16, 16, 16], "widths": [8, 16, 32], "strides": [[1] * 3, [2] * 3, [2] * 3]}
    roomy = plan_with(1e12, **few)
    needed = estimate_memory(roomy)
    plan = plan_with(0.8 * needed, **few)
    assert 2 <= plan.training.batch < roomy.training.batch == 4
    assert 0.4 * needed < estimate_memory(plan) <= 0.8 * needed


def test_what_is_fixed_stays_and_the_reason_says_so() -> None:
    plan = plan_with(1e7, patch=[32, 32, 32], batch=3)
    assert (plan.network.patch, plan.training.batch) == ((32, 32, 32), 3)
    assert "though more than 0.01 GB" in plan.reasons["memory"]


def test_what_fits_is_left_alone() -> None:
    plan = plan_with(1e12)
    value = {"experiment": "e", "datasets": {"d": {"layout": "pairs", "path": "p"}}, "budget": {"steps": 10}}
    config = load_config([], {**value, "models": {"m": {"network": "unet"}}})
    same = make_plan(PlanRequest.of(config, "m", fingerprint(), Resources("cpu", "fp32", 1e12, 1)))
    assert plan.changed(reasons={}) == same.changed(reasons={})
