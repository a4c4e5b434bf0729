"""State on disk and exact resume: whatever ends a training, the next attempt gives the bits of an undisturbed one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medseg.engine.step import Step, build_optimizer
from medseg.errors import TrainingError
from medseg.image.labels import LabelTable
from medseg.losses.build import build_loss
from medseg.models.zoo import build_model
from medseg.train import advance, resume, saving
from medseg.train import state as train_state
from medseg.train.checkpoint import network_tensors, pack_tensors
from medseg.train.loop import train
from medseg.train.resume import KEPT, LossHistory, generations, load_state, save_state
from medseg.train.state import FoldCases

LABELS = LabelTable.create({"ball": 1, "rod": 3})


class Killed(BaseException):
    """Stands for a kill: nothing gets to clean up after it."""


@pytest.fixture(scope="module")
def folds(tiny_cases: Any) -> dict[int, FoldCases]:
    made = {dims: tiny_cases(dims) for dims in (2, 3)}
    # Draws of fold 0 and of another fold come from seeds of different lengths.
    return {dims: FoldCases(cases, cases[:1], LABELS, number=dims - 2) for dims, cases in made.items()}


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(saving, "SAVE_PATIENCE", -1.0)


def bits(network: torch.nn.Module) -> str:
    return hashlib.sha256(pack_tensors(network_tensors(network))).hexdigest()


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], Any]) -> None:
    """Call ``act`` once, when the batch of ``step`` is made."""
    made, pending = advance.augment_batch, [step]

    def augment_batch(raw: Any, *rest: Any) -> Any:
        if pending and raw.step == pending[0]:
            pending.clear()
            act()
        return made(raw, *rest)

    monkeypatch.setattr(advance, "augment_batch", augment_batch)


def kill() -> None:
    raise Killed


def metrics_of(state: Path) -> list[tuple[int, dict[str, float]]]:
    lines = (state / "journal.jsonl").read_text().splitlines()
    return [(r["step"], r["metrics"]) for r in map(json.loads, lines)]


PLANS = {
    "unet-2d": ("unet", 2, {}),
    "deeplab-2d": ("deeplabv3plus", 2, {}),
    "dropout-2d": ("fcn32s", 2, {"options": {"encoder": "alexnet"}}),
    "unet-3d-sgd": ("unet", 3, {"optimizer": "sgd"}),
    "unet-2d-bf16": ("unet", 2, {"precision": "bf16"}),
    "unet-2d-fp16": ("unet", 2, {"precision": "fp16"}),
}


@pytest.mark.parametrize("name", PLANS)
def test_killed_and_continued_is_undisturbed(
    name: str,
    folds: dict[int, FoldCases],
    tiny_plan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every_step: None,
) -> None:
    network, dims, changes = PLANS[name]
    plan = tiny_plan(network, dims, **changes)
    # A record of the journal covers several steps, some of them before the kill.
    monkeypatch.setattr(train_state, "LOSS_RECORDS", 2)
    whole = train(plan, folds[dims], 3, tmp_path / "whole", "whole")
    # Only even steps are saved, so that a kill throws steps away and they are done again.
    saved = saving.save_state
    monkeypatch.setattr(saving, "save_state", lambda folder, step, *rest: step % 2 == 0 and saved(folder, step, *rest))
    for step in (1, 3, 5):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            at_step(patch, step, kill)
            train(plan, folds[dims], 3, tmp_path / "killed", "killed")
    ended = train(plan, folds[dims], 3, tmp_path / "killed", "killed")
    assert bits(ended) == bits(whole)
    assert metrics_of(tmp_path / "killed") == metrics_of(tmp_path / "whole")
    # Another seed is another training, and a finished one is not trained further.
    assert bits(train(plan, folds[dims], 3, tmp_path / "killed", "again")) == bits(whole)
    if dims == 2:
        assert bits(train(plan, folds[dims], 4, tmp_path / "other", "other")) != bits(whole)


def test_sigterm_saves_at_the_end_of_the_step_and_the_rest_follows(
    folds: dict[int, FoldCases], tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, before = tiny_plan(), signal.getsignal(signal.SIGTERM)
    whole = train(plan, folds[2], 0, tmp_path / "whole", "whole")
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=r"SIGTERM after step 3.*run again"):
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(plan, folds[2], 0, tmp_path / "stopped", "stopped")
    assert [p.name for p in generations(tmp_path / "stopped")] == ["step-000000003"]
    assert signal.getsignal(signal.SIGTERM) is before
    ended = train(plan, folds[2], 0, tmp_path / "stopped", "stopped")
    assert bits(ended) == bits(whole)
    assert metrics_of(tmp_path / "stopped") == metrics_of(tmp_path / "whole")


def test_a_second_sigterm_ends_at_once(
    folds: dict[int, FoldCases], tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    at_step(monkeypatch, 2, twice)
    with pytest.raises(SystemExit) as caught:
        train(tiny_plan(), folds[2], 0, tmp_path, "stopped")
    assert caught.value.code == 128 + signal.SIGTERM


def test_sigterm_in_the_last_step_is_too_late_to_matter(
    folds: dict[int, FoldCases], tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan()
    at_step(monkeypatch, plan.training.steps - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    train(plan, folds[2], 0, tmp_path, "last")
    assert generations(tmp_path)[0].name == f"step-{plan.training.steps:09d}"


def test_state_is_saved_as_time_passes_but_not_too_often(
    folds: dict[int, FoldCases], tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(saving, "save_state", lambda folder, step, *rest: steps.append(step))
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", 3600.0)
    plan = tiny_plan()
    train(plan, folds[2], 0, tmp_path / "a", "a")
    assert steps == [plan.training.steps]
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(saving, "SAVE_PATIENCE", -1.0)
    train(plan, folds[2], 0, tmp_path / "b", "b")
    assert steps[1:] == list(range(1, plan.training.steps + 1))


@pytest.mark.parametrize("clip", [12.0, None])
@pytest.mark.parametrize("part", [None, 1])
def test_a_gradient_that_is_not_finite_leaves_the_state_before_it(
    clip: float | None,
    part: int | None,
    folds: dict[int, FoldCases],
    tiny_plan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    every_step: None,
) -> None:
    """At a finite loss, its own step is blamed, not the one after; without the fault, the end is that of all others."""
    plan, k = tiny_plan(clip=clip, average=0.9), 3
    made = train_state.build_step

    def build_step(network: torch.nn.Module, *rest: Any) -> Step:
        step = made(network, *rest)
        step.at_once = part
        return step

    def arm() -> None:
        """Spoil the gradient of one parameter, once."""
        parameter = next(armed[-1].network.parameters())
        handle = parameter.register_hook(lambda g: (handle.remove(), g * math.nan)[1])

    armed: list[Step] = []
    monkeypatch.setattr(train_state, "build_step", lambda *rest: armed.append(build_step(*rest)) or armed[-1])
    whole = train(plan, folds[2], 0, tmp_path / "whole", "whole")
    cases = sorted({case.id for case in advance.batch_cases(folds[2].train, plan, 0, k)})
    expected = rf"bad: gradient \(its norm is nan\) at step {k}, cases {', '.join(cases)}; the state before it is kept"
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=expected):
        at_step(patch, k, arm)
        train(plan, folds[2], 0, tmp_path / "bad", "bad")
    assert [p.name for p in generations(tmp_path / "bad")] == [f"step-{n:09d}" for n in (k, k - 1)]
    assert max(step for step, _ in metrics_of(tmp_path / "bad")) == k
    steps: list[int] = []
    with monkeypatch.context() as patch:
        at_step(patch, k, lambda: steps.append(k))
        ended = train(plan, folds[2], 0, tmp_path / "bad", "bad")
    assert steps == [k]
    assert bits(ended) == bits(whole)
    assert metrics_of(tmp_path / "bad") == metrics_of(tmp_path / "whole")


# Generations

Trained = tuple[torch.nn.Module, torch.optim.Optimizer, Step]


def fresh(plan: Any, seed: int = 0) -> Trained:
    torch.manual_seed(seed)
    network = build_model(plan.network.name, plan.network)
    optimizer = build_optimizer(
        plan.training.optimizer, network.parameters(), plan.training.lr, plan.training.weight_decay
    )
    return network, optimizer, Step(network, optimizer, build_loss("ce"), "cpu", plan.machine.precision)


@pytest.fixture
def saved(tiny_plan: Any, tmp_path: Path) -> Iterator[tuple[Path, dict[int, str]]]:
    """A folder with states after steps 1 to 4, and the digest of the weights at each."""
    plan = tiny_plan()
    network, _, step = fresh(plan)
    source, digests = torch.Generator().manual_seed(0), {}
    for number in range(1, 5):
        step(torch.randn(1, 1, 32, 32, generator=source), torch.ones(1, 32, 32, dtype=torch.int64))
        save_state(tmp_path / "s", number, step, LossHistory())
        digests[number] = bits(network)
    yield tmp_path / "s", digests


def test_two_generations_are_kept_and_nothing_else(saved: tuple[Path, dict[int, str]], tiny_plan: Any) -> None:
    folder, digests = saved
    assert KEPT == 2
    assert sorted(p.name for p in folder.iterdir()) == ["step-000000003", "step-000000004"]
    (folder / ".step-000000005.123").mkdir()
    (folder / ".step-000000005.123" / "state.safetensors").write_bytes(b"half")
    network, _, step = fresh(tiny_plan(), 5)
    assert load_state(folder, step)[0] == 4
    assert bits(network) == digests[4]
    assert sorted(p.name for p in folder.iterdir()) == ["step-000000003", "step-000000004"]


def test_the_optimizer_comes_back_whole(saved: tuple[Path, dict[int, str]], tiny_plan: Any) -> None:
    """One more step from the loaded state equals one more step from the state in memory."""
    folder, _ = saved
    runs = []
    for _ in range(2):
        network, optimizer, step = fresh(tiny_plan(), seed=len(runs))
        assert load_state(folder, step)[0] == 4
        assert optimizer.state_dict()["state"][0]["step"] == 4
        step(torch.ones(1, 1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64))
        runs.append(bits(network))
    assert runs[0] == runs[1]
    network, optimizer, step = fresh(tiny_plan())
    load_state(folder, step)
    plain = build_optimizer("adamw", network.parameters(), 0.005, 1e-4)
    Step(network, plain, build_loss("ce"), "cpu", "fp32")(
        torch.ones(1, 1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64)
    )
    assert bits(network) != runs[0], "moments matter, or the test above shows nothing"


def test_the_loss_scale_of_half_precision_comes_back(tiny_plan: Any, tmp_path: Path) -> None:
    plan = tiny_plan(precision="fp16")
    network, optimizer, step = fresh(plan)
    for value in (1.0, float("inf"), 1.0):  # gradients that overflow halve the scale
        step.optimizer.zero_grad()
        step.scaler.scale(sum(p.sum() for p in network.parameters()) * value).backward()
        step.scaler.step(optimizer)
        step.scaler.update()
    save_state(tmp_path, 3, step, LossHistory())
    _, _, other = fresh(plan, 5)
    assert other.scaler.state_dict() != step.scaler.state_dict()
    load_state(tmp_path, other)
    assert other.scaler.state_dict() == step.scaler.state_dict()


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    before = path.read_bytes()
    assert change(before) != before
    path.write_bytes(change(before))


def foreign_weights(generation: Path) -> None:
    """Whole, with the right digest beside it, but of another network."""
    data, old = pack_tensors({"model.other": torch.zeros(3)}), (generation / "state.safetensors").read_bytes()
    (generation / "state.safetensors").write_bytes(data)
    digests = [hashlib.sha256(b).hexdigest().encode() for b in (old, data)]
    rewrite(generation / "state.json", lambda b: b.replace(*digests))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "weights cut": lambda g: rewrite(g / "state.safetensors", lambda b: b[:-9]),
    "weights flipped": lambda g: rewrite(g / "state.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]),
    "weights empty": lambda g: (g / "state.safetensors").write_bytes(b""),
    "weights gone": lambda g: (g / "state.safetensors").unlink(),
    "weights foreign": foreign_weights,
    "facts gone": lambda g: (g / "state.json").unlink(),
    "facts torn": lambda g: rewrite(g / "state.json", lambda b: b[: len(b) // 2]),
    "facts empty": lambda g: (g / "state.json").write_text("{}"),
    "facts list": lambda g: (g / "state.json").write_text("[]"),
    "no step": lambda g: rewrite(g / "state.json", lambda b: b.replace(b'"step": 4', b'"step": null')),
    "other step": lambda g: rewrite(g / "state.json", lambda b: b.replace(b'"step": 4', b'"step": 5')),
    "scalar changed": lambda g: rewrite(g / "state.json", lambda b: b.replace(b'"losses": []', b'"losses": [1.5]')),
    "other key": lambda g: rewrite(g / "state.json", lambda b: b.replace(b'"optimizer"', b'"optimizes"')),
    "all gone": lambda g: [p.unlink() for p in g.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_generation_gives_way_to_the_one_before(
    damage: str, saved: tuple[Path, dict[int, str]], tiny_plan: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, digests = saved
    DAMAGES[damage](folder / "step-000000004")
    network, optimizer, step = fresh(tiny_plan(), 5)
    assert load_state(folder, step)[0] == 3
    assert bits(network) == digests[3]
    assert optimizer.state_dict()["state"][0]["step"] == 3
    assert "step-000000004" in capsys.readouterr().err


def test_without_a_whole_generation_training_starts_over(saved: tuple[Path, dict[int, str]], tiny_plan: Any) -> None:
    folder, _ = saved
    for generation in generations(folder):
        DAMAGES["weights flipped"](generation)
    network, optimizer, step = fresh(tiny_plan(), 5)
    before = bits(network)
    assert load_state(folder, step)[0] == 0
    assert bits(network) == before
    assert not optimizer.state_dict()["state"]


def test_a_damaged_generation_does_not_push_out_a_whole_one(saved: tuple[Path, dict[int, str]], tiny_plan: Any) -> None:
    """After falling back, two whole generations must come to be again, the damaged one not counted among them."""
    folder, _ = saved
    shutil.copytree(folder / "step-000000004", folder / "step-000000009")
    DAMAGES["weights cut"](folder / "step-000000009")
    _, _, step = fresh(tiny_plan())
    assert load_state(folder, step)[0] == 4
    for number in (5, 6):
        save_state(folder, number, step, LossHistory())
    DAMAGES["weights cut"](folder / "step-000000006")
    assert load_state(folder, step)[0] == 5


@pytest.mark.parametrize("where", ["write_bytes", "write_record", "rename"])
def test_death_while_saving_leaves_the_generations_before(
    where: str, saved: tuple[Path, dict[int, str]], tiny_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, digests = saved
    network, _, step = fresh(tiny_plan(), 5)

    def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(resume.os if where == "rename" else resume, where, die)
        save_state(folder, 5, step, LossHistory())
    assert load_state(folder, step)[0] == 4
    assert bits(network) == digests[4]


def test_weights_that_are_not_finite_are_never_continued(saved: tuple[Path, dict[int, str]], tiny_plan: Any) -> None:
    folder, digests = saved
    network, _, step = fresh(tiny_plan())
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    save_state(folder, 5, step, LossHistory())
    assert load_state(folder, step)[0] == 4
    assert bits(network) == digests[4]
