"""The optimisation step where memory runs out, parts are frozen, and where its time is counted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medseg.engine.freeze import freeze
from medseg.engine.phases import STEP, Phases
from medseg.engine.placement import flushed_subnormals, set_exact
from medseg.engine.step import Step, build_optimizer
from medseg.errors import PlanError
from medseg.image.labels import LabelTable
from medseg.losses.build import build_loss
from medseg.losses.table import LOSSES
from medseg.models.zoo import build_model
from medseg.train import run as stage
from medseg.train.loop import train
from medseg.train.state import FoldCases, RunOptions

LABELS = LabelTable.create({"ball": 1, "rod": 3})


class Small(nn.Module):
    """A network that has memory for so many samples at once."""

    def __init__(self, inner: nn.Module, room: int) -> None:
        super().__init__()
        self.inner, self.room, self.calls = inner, room, []

    def forward(self, x: Tensor) -> Any:
        self.calls.append(len(x))
        if len(x) > self.room:
            torch.rand(3)  # what a network drew before it ran out is drawn again
            raise torch.OutOfMemoryError("no room")
        return self.inner(x)


def small(plan: Any, room: int, loss: str = "dice_ce") -> Step:
    torch.manual_seed(0)
    network = Small(build_model(plan.network.name, plan.network), room)
    optimizer = build_optimizer("sgd", network.parameters(), 0.1, 0.0)
    return Step(network, optimizer, build_loss(loss), "cpu", "fp32")


def batch(count: int = 5) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 32, 32, generator=source), torch.randint(0, 3, (count, 32, 32), generator=source)


@pytest.mark.parametrize("room", [4, 2, 1])
@pytest.mark.parametrize("loss", ["dice_ce", "lovasz", "dice_topk"])
@pytest.mark.parametrize("options", [{}, {"deep_supervision": True}])
def test_out_of_memory_is_the_same_step_in_parts(room: int, loss: str, options: Any, tiny_plan: Any) -> None:
    """Also for losses that are not means over samples."""
    assert loss in LOSSES
    plan = tiny_plan(options=options)
    whole, parts = small(plan, 5, loss), small(plan, room, loss)
    values = [step(*batch()) for step in (whole, parts)]
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    assert whole.at_once is None
    assert parts.at_once == {4: 2, 2: 2, 1: 1}[room]
    for mine, theirs in zip(parts.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-3, atol=1e-5)
    # From then on at once in parts, without trying again.
    parts.network.calls.clear()
    parts(*batch())
    assert max(parts.network.calls) <= room


def test_dropout_draws_the_same_in_both_passes(tiny_plan: Any) -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 3, 1)
            self.drop = nn.Dropout2d(0.5)
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            out = self.drop(self.layer(x))
            self.seen.append(out.detach())
            return out

    network = Noisy()
    step = Step(network, build_optimizer("sgd", network.parameters(), 0.1, 0.0), build_loss("ce"), "cpu", "fp32")
    step.at_once = 2
    torch.manual_seed(7)
    step(*batch(4))
    assert torch.equal(network.seen[0], network.seen[2])
    assert torch.equal(network.seen[1], network.seen[3])
    assert not torch.equal(network.seen[0] == 0, network.seen[1] == 0), "parts draw each their own"


def test_one_sample_that_does_not_fit_is_an_error(tiny_plan: Any) -> None:
    step = small(tiny_plan(), 0)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        step(*batch())
    assert step.network.calls == [5, 2, 1]


def test_the_reaction_is_journalled_and_survives_a_resume(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.train import saving
    from medseg.train import state as train_state

    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(saving, "SAVE_PATIENCE", -1.0)
    made, steps = train_state.build_step, []

    def build_step(network: nn.Module, *rest: Any) -> Step:
        step = made(network, *rest)
        plain = step._forward

        def forward(x: Tensor) -> Any:
            if network.training and len(x) > 1:
                raise torch.OutOfMemoryError("no room")
            return plain(x)

        step._forward = forward
        steps.append(step)
        return step

    monkeypatch.setattr(train_state, "build_step", build_step)
    cases, plan = tiny_cases(2), tiny_plan(batch=4, steps=3)
    fold = FoldCases(cases, [], LABELS)
    train(plan, fold, 0, tmp_path, "small")
    records = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    told = [
        (r["step"], r["metrics"]["train/samples_at_once"]) for r in records if "train/samples_at_once" in r["metrics"]
    ]
    assert told == [(1, 1.0)]
    train(plan, fold, 0, tmp_path, "again")
    assert steps[1].at_once == 1


# What is not finite


def spoilt(step: Step, value: float) -> Any:
    """Let the gradient of the last parameter be ``value``, whatever the loss; remove the handle to let it be."""
    *_, parameter = step.network.parameters()
    return parameter.register_hook(lambda gradient: torch.full_like(gradient, value))


def plain_step(plan: Any, precision: str = "fp32", clip: float | None = 12.0, optimizer: str = "adamw") -> Step:
    torch.manual_seed(0)
    network = build_model(plan.network.name, plan.network)
    made = build_optimizer(optimizer, network.parameters(), 0.01, 0.0)
    return Step(network, made, build_loss("dice_ce"), "cpu", precision, clip=clip)


def everything(step: Step) -> list[Any]:
    """Copies of weights, moments and the loss scale."""
    weights = [p.detach().clone() for p in step.network.parameters()]
    moments = [v.clone() for state in step.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
    return [*weights, *moments, torch.tensor(step.scaler.get_scale()), torch.tensor(step.scaler._get_growth_tracker())]


def alike(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at_once", [None, 2])
@pytest.mark.parametrize("clip", [12.0, None])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gradient_that_is_not_finite_changes_nothing(
    value: float, at_once: int | None, clip: float | None, precision: str, tiny_plan: Any
) -> None:
    step, undisturbed = (plain_step(tiny_plan(), precision, clip) for _ in range(2))
    step.at_once = undisturbed.at_once = at_once
    for one in (step, undisturbed):
        one(*batch())
    before = everything(step)
    handle = spoilt(step, value)
    loss = step(*batch())
    assert math.isfinite(loss)
    assert step.fault == f"gradient (its norm is {abs(value)})"
    assert alike(everything(step), before)
    # The next one is none the worse for it.
    handle.remove()
    assert step(*batch()) == undisturbed(*batch()) == loss
    assert step.fault is None
    assert alike(everything(step), everything(undisturbed))
    assert not alike(everything(step), before)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("at_once", [None, 2])
def test_a_loss_that_is_not_finite_changes_nothing(precision: str, at_once: int | None, tiny_plan: Any) -> None:
    step = plain_step(tiny_plan(), precision)
    step.at_once = at_once
    step(*batch())
    before, (images, labels) = everything(step), batch()
    images[0, 0, 0, 0] = math.nan
    assert math.isnan(step(images, labels))
    assert step.fault == "loss nan"
    assert alike(everything(step), before)
    assert math.isfinite(step(*batch()))
    assert step.fault is None


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_gradient_that_the_loss_scale_made_too_large_is_skipped(optimizer: str, tiny_plan: Any) -> None:
    step = plain_step(tiny_plan(), "fp16", optimizer=optimizer)
    step(*batch())
    step(*batch())
    *before, scale, _ = everything(step)
    handle = spoilt(step, math.inf)
    step(*batch())
    *after, less, _ = everything(step)
    assert step.fault is None
    assert alike(before, after)
    assert less == scale / 2
    # It cannot have been the scale where there is none.
    step.scaler.update(1.0)
    before = everything(step)
    assert math.isfinite(step(*batch()))
    assert step.fault == "gradient (its norm is inf)"
    assert alike(everything(step), before)
    handle.remove()
    step(*batch())
    assert step.fault is None
    assert not alike(everything(step), before)


def test_a_gradient_that_is_never_finite_ends_a_training_in_half_precision(tiny_plan: Any) -> None:
    """Skipped for ever, it would look like a training and train nothing."""
    step = plain_step(tiny_plan(), "fp16")
    step(*batch())
    assert step.scaler.get_scale() == 2**16
    step.scaler.update(4.0)
    spoilt(step, math.nan)
    faults = [(step(*batch()), step.fault)[1] for _ in range(3)]
    assert faults == [None, None, "gradient (its norm is nan)"]


def test_clipping_is_to_the_norm_and_no_clipping_is_none(tiny_plan: Any) -> None:
    """The norm that is looked at is that of the whole gradient, before it is clipped."""
    moved = {}
    for clip in (None, 1e-3):
        torch.manual_seed(0)
        network = build_model("unet", tiny_plan().network)
        made = torch.optim.SGD(network.parameters(), lr=1.0)
        step = Step(network, made, build_loss("dice_ce"), "cpu", "fp32", clip=clip)
        before = [p.detach().clone() for p in network.parameters()]
        step(*batch())
        change = [p.detach() - b for p, b in zip(network.parameters(), before, strict=True)]
        moved[clip] = torch.cat([c.flatten() for c in change]).norm()
    assert moved[None] > 0.1
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-3)


GROUP = """
import json, math, sys
import torch
import torch.distributed as dist
from torch import nn
from medseg.losses.build import build_loss
from medseg.engine.group import Group
from medseg.engine.step import Step, build_optimizer

dist.init_process_group("gloo")
group = Group(dist.get_rank(), dist.get_world_size())
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
optimizer = build_optimizer("sgd", network.parameters(), 0.1, 0.0)
step = Step(network, optimizer, build_loss("ce"), "cpu", "fp32", group=group)
images, labels = torch.randn(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
before = [p.detach().clone() for p in network.parameters()]
if group.rank == 1:
    # The activations' gradient, of one process only.
    handle = network[1].register_full_backward_hook(lambda m, i, o: (torch.full_like(i[0], math.nan),))
loss = step(images, labels)
same = all(torch.equal(p, b) for p, b in zip(network.parameters(), before))
first = step.fault
if group.rank == 1:
    handle.remove()
step(images, labels)
moved = any(not torch.equal(p, b) for p, b in zip(network.parameters(), before))
facts = [math.isfinite(loss), first, same, step.fault, moved]
open(f"{sys.argv[1]}/rank{group.rank}.json", "w").write(json.dumps(facts))
dist.destroy_process_group()
"""


@pytest.mark.exhaustive
def test_all_processes_of_a_group_see_the_fault_of_one(tmp_path: Path) -> None:
    (tmp_path / "group.py").write_text(GROUP)
    runner = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "group.py")]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *runner, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        facts = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert facts == [True, "gradient (its norm is nan)", True, None, True]


# Freezing


def test_what_decays_below_normal_numbers_is_zero() -> None:
    """On processors that is what keeps steps of weights without a gradient from taking ten times as long."""
    tiny = torch.full((1000,), 1e-20)
    set_exact(1, "fp32")
    assert tiny.square().count_nonzero() == 1000
    with flushed_subnormals():
        assert tiny.square().count_nonzero() == 0
        with flushed_subnormals():
            pass
        assert tiny.square().count_nonzero() == 0
    assert tiny.square().count_nonzero() == 1000


def test_training_flushes_them_and_leaves_the_process_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, study: Any
) -> None:
    seen: list[float] = []
    monkeypatch.setattr("medseg.train.run._run", lambda *_: seen.append(float(torch.tensor(1e-20).square())))
    paths = [study.manifest("flat"), study.plan("flat"), study.index("flat"), study.splits("flat")]
    stage.run(stage.Inputs(*paths, 0, 0), tmp_path / "s", tmp_path / "o", "code")
    assert seen == [0.0]
    assert float(torch.tensor(1e-20).square()) > 0


def test_frozen_parts_stay_as_they_are(tiny_plan: Any, tiny_cases: Any, tmp_path: Path) -> None:
    cases = tiny_cases(2)
    fold = FoldCases(cases, [], LABELS)
    plan = tiny_plan("fcn32s", options={"encoder": "alexnet"}, steps=2)
    trained = train(plan, fold, 0, tmp_path / "all", "all")
    frozen = train(
        tiny_plan("fcn32s", options={"encoder": "alexnet"}, steps=2, freeze=("encoder",)),
        fold,
        0,
        tmp_path / "some",
        "some",
    )
    start = train(
        tiny_plan("fcn32s", options={"encoder": "alexnet"}, steps=1, lr=1e-12, weight_decay=0.0),
        fold,
        0,
        tmp_path / "none",
        "none",
    )
    kept = {n: p for n, p in start.named_parameters() if n.startswith("network.encoder.")}
    assert kept
    for name, parameter in frozen.named_parameters():
        if name in kept:
            assert torch.allclose(parameter, kept[name], atol=1e-9)
            assert not parameter.requires_grad
    assert any(not torch.equal(p, kept[n]) for n, p in trained.named_parameters() if n in kept)


def test_freezing_what_is_not_there_names_what_is(tiny_plan: Any) -> None:
    plan = tiny_plan()
    network = build_model(plan.network.name, plan.network)
    names = [name.removeprefix("network.") for name, _ in network.named_parameters()]
    first = names[0].split(".")[0]
    with pytest.raises(PlanError, match=rf"no tensor's name begins with 'encodr'; they begin with .*{first}"):
        freeze(network, ["encodr"])
    with pytest.raises(PlanError, match="nothing is left to train"):
        freeze(network, sorted({name.split(".")[0] for name in names}))
    with pytest.raises(PlanError, match="begins with"):
        freeze(network, [first[:-1]])


# Phases


def test_phases_of_a_training_are_told(tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    cases, phases = tiny_cases(2), Phases()
    train(tiny_plan(steps=4, validate_every=2), FoldCases(cases, cases[:1], LABELS), 0, tmp_path, "x", phases=phases)
    assert phases.steps == 4
    facts = phases.to_json()
    assert set(facts) == {*(f"step/{name}_s" for name in STEP), "total/validate_s", "total/save_s"}
    assert all(value >= 0 for value in facts.values())
    assert phases.summary().startswith("a step took ")
    assert all(f"{name} " in phases.summary() for name in (*STEP, "validate", "save"))
    assert Phases().summary() == "no step was timed"


def test_a_trace_of_some_steps_is_written(tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    cases = tiny_cases(2)
    options = RunOptions(trace=tmp_path / "out" / "trace.json")
    traced = train(tiny_plan(steps=13), FoldCases(cases, [], LABELS), 0, tmp_path / "a", "a", options=options)
    names = {event.get("name") for event in json.loads((tmp_path / "out" / "trace.json").read_text())["traceEvents"]}
    assert any("conv" in str(name) for name in names)
    plain = train(tiny_plan(steps=13), FoldCases(cases, [], LABELS), 0, tmp_path / "b", "b")
    assert all(torch.equal(p, q) for p, q in zip(traced.parameters(), plain.parameters(), strict=True))
