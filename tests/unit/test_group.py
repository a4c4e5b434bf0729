"""Several processes that share each batch train as one does, to rounding; and end, and go on, as one does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.config import load_config
from medseg.engine.group import ALONE, Group, joined
from medseg.errors import PlanError
from medseg.files import read_json, sha256_file
from medseg.plan.fingerprint import read_fingerprint
from medseg.plan.plan import read_plan, write_plan
from medseg.plan.resources import Resources
from medseg.submission import training_gpus
from medseg.train import run as train
from tests.choices import few

STEPS = 150
# Rounding grows from step to step.
COMPARED = 3
VALIDATED = 25


def arguments(study: Any, plan: Path, folder: Path) -> list[str]:
    paths = {"manifest": study.manifest("flat"), "index": study.index("flat"), "splits": study.splits("flat")}
    inputs = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    where = ["--plan", str(plan), "--state", str(folder / "state"), "--out", str(folder / "out")]
    return ["train", *inputs, *where, "--fold", "0", "--seed", "0", "--code", "code"]


def plan_in(study: Any, folder: Path, **changes: Any) -> Path:
    """A plan in a folder, which is made."""
    folder.mkdir(exist_ok=True)
    base = {"batch": 4, "validate_every": VALIDATED, "threads": 1, "device": "cpu"}
    base |= {"augment": "default", "precision": "fp32"}
    write_plan(folder / "plan.json", read_plan(study.plan("flat")).changed(**{**base, **changes}))
    return folder / "plan.json"


def start(study: Any, folder: Path, **changes: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medseg", *arguments(study, plan_in(study, folder, **changes), folder)]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    said, _ = process.communicate(timeout=180)
    assert process.returncode == code, said
    return said


def meet(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until a training is on its way."""
    while not (journals := list(folder.glob("state/*/journal.jsonl"))) or len(journals[0].read_text().splitlines()) < 5:
        assert process.poll() is None
        time.sleep(0.05)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / "history.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [r["metrics"]["train/loss"] for r in records(folder) if "train/loss" in r["metrics"]]


@pytest.fixture(scope="module")
def steps(every_day: bool) -> int:
    """So many that a training can be stopped on its way, where one is."""
    return VALIDATED if every_day else STEPS


@pytest.fixture(scope="module")
def undisturbed(study: Any, steps: int, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``undisturbed(loss)``: the folder of a training by two processes, begun by one command; each loss once."""
    made: dict[str, Path] = {}

    def build(loss: str) -> Path:
        if loss not in made:
            folder = tmp_path_factory.mktemp(loss)
            said = finish(start(study, folder, processes=2, loss=loss, steps=steps))
            # The leader speaks for all.
            assert said.count("a step took") == 1
            made[loss] = folder
        return made[loss]

    return build


@pytest.mark.parametrize("loss", few(["dice_ce", "lovasz"], lambda loss: loss == "dice_ce"))
def test_two_processes_have_the_losses_of_one(
    loss: str, undisturbed: Callable[[str], Path], study: Any, steps: int, tmp_path: Path
) -> None:
    """Also of losses that are not means over samples: each process takes the loss of the whole batch."""
    one, two = tmp_path / "one", undisturbed(loss)
    plan = plan_in(study, one, processes=1, loss=loss, steps=steps)
    inputs = train.Inputs(study.manifest("flat"), plan, study.index("flat"), study.splits("flat"), 0, 0)
    train.run(inputs, one / "state", one / "out", "code")
    assert [read_json(folder / "out" / "timing.json")["processes"] for folder in (one, two)] == [1, 2]
    assert len(losses(two)) == len(losses(one)) == steps
    assert np.allclose(losses(two)[:COMPARED], losses(one)[:COMPARED], rtol=1e-5)
    scores = [
        [r["metrics"]["val/dice/mean"] for r in records(f) if "val/dice/mean" in r["metrics"]] for f in (one, two)
    ]
    assert len(scores[1]) == len(scores[0]) == steps // VALIDATED
    assert scores[1][0] == pytest.approx(scores[0][0], abs=1e-3)


@pytest.mark.exhaustive
def test_two_processes_stopped_and_continued_end_with_the_same_bits(
    undisturbed: Callable[[str], Path], study: Any, steps: int, tmp_path: Path
) -> None:
    process = start(study, tmp_path, processes=2, loss="dice_ce", steps=steps)
    meet(process, tmp_path)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert not (tmp_path / "out" / "model.json").exists()
    saved = [p.name for p in tmp_path.glob("state/*/step-*")]
    assert saved, said
    said = finish(start(study, tmp_path, processes=2, loss="dice_ce", steps=steps))
    assert "resumed after step" in said
    digests = {sha256_file(folder / "out" / "model.safetensors") for folder in (undisturbed("dice_ce"), tmp_path)}
    assert len(digests) == 1


@pytest.mark.exhaustive
def test_four_processes_have_the_losses_of_two(
    undisturbed: Callable[[str], Path], study: Any, steps: int, tmp_path: Path
) -> None:
    finish(start(study, tmp_path, processes=4, loss="dice_ce", steps=steps))
    assert read_json(tmp_path / "out" / "timing.json")["processes"] == 4
    assert np.allclose(losses(tmp_path)[:COMPARED], losses(undisturbed("dice_ce"))[:COMPARED], rtol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_costs_no_bit(
    rank: int, undisturbed: Callable[[str], Path], study: Any, steps: int, tmp_path: Path
) -> None:
    process = start(study, tmp_path, processes=2, loss="dice_ce", steps=steps)
    meet(process, tmp_path)
    os.kill(ranks_in(tmp_path)[rank], signal.SIGKILL)
    said = finish(process)
    assert f"process {rank} was killed by SIGKILL; all start again" in said
    assert "Traceback" not in said
    digests = {sha256_file(folder / "out" / "model.safetensors") for folder in (undisturbed("dice_ce"), tmp_path)}
    assert len(digests) == 1


def ranks_in(folder: Path) -> dict[int, int]:
    """Processes of a group whose command names the folder, by their rank."""
    found = {}
    for pid in started_in(folder):
        environment = dict(v.split("=", 1) for v in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in v)
        if "RANK" in environment:
            found[int(environment["RANK"])] = pid
    return found


def test_processes_end_with_the_one_that_started_them(study: Any, tmp_path: Path) -> None:
    """torchrun puts them into sessions of their own: a kill of the job's group spares them."""
    steps = 100_000
    process = start(study, tmp_path, processes=2, steps=steps, validate_every=steps)
    while not list(tmp_path.glob("state/*/journal.jsonl")):
        assert process.poll() is None
        time.sleep(0.05)
    assert len(started_in(tmp_path)) == 3
    process.kill()
    process.communicate()
    for _ in range(600):
        if not started_in(tmp_path):
            break
        time.sleep(0.1)
    assert not started_in(tmp_path)


def started_in(folder: Path) -> list[int]:
    """Processes whose command names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_another_number_of_processes_than_planned_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlanError, match="the plan is for 3 processes, and WORLD_SIZE is 2"), joined("cpu", 3):
        pass


def test_shares_of_a_batch() -> None:
    assert ALONE.part(4) is None
    assert [Group(rank, 2).part(6) for rank in (0, 1)] == [range(3), range(3, 6)]
    assert [Group(rank, 2).leads for rank in (0, 1)] == [True, False]
    assert ALONE.add([1, 2]) == [1, 2]
    assert (ALONE.any_rank(True), ALONE.any_rank(False)) == (True, False)


def test_a_batch_that_cannot_be_shared_equally_is_refused(study: Any, tmp_path: Path) -> None:
    from medseg.plan.planner import PlanRequest, make_plan

    fingerprint = read_fingerprint(study.fingerprint("flat"))
    models = {"m": {"network": "unet", "plan": {"batch": 5}}}
    config = load_config(
        [], {"datasets": {"flat": {"path": "flat"}}, "models": models, "budget": {"steps": 3}, "processes": 2}
    )
    with pytest.raises(PlanError, match=r"5 samples cannot be shared equally by 2 processes.*plan\.batch"):
        make_plan(PlanRequest.of(config, "m", fingerprint, Resources("cpu", "fp32", 4e9, 1, 2)))


@pytest.mark.parametrize(("optimizer", "power"), [("sgd", 1.0), ("adamw", 0.5)])
def test_processes_share_the_batch_of_one_or_the_next_larger_one(study: Any, optimizer: str, power: float) -> None:
    """And the learning rate grows with the batch, unless the configuration fixes it."""
    from medseg.plan.planner import PlanRequest, make_plan

    fingerprint = read_fingerprint(study.fingerprint("flat"))

    def planned(processes: int, **own: Any) -> tuple[int, float, str]:
        models = {"m": {"network": "unet", "optimizer": optimizer, **own}}
        config = load_config([], {"datasets": {"flat": {"path": "flat"}}, "models": models, "budget": {"steps": 3}})
        plan = make_plan(PlanRequest.of(config, "m", fingerprint, Resources("cpu", "fp32", 4e9, 1, processes)))
        return plan.training.batch, plan.training.lr, plan.reasons["batch"]

    batch, lr, _ = planned(1)
    assert planned(batch)[:2] == (batch, lr)
    more, larger_lr, reason = planned(batch + 1)
    assert more == batch + 1
    assert reason.endswith(f"; the next multiple of {batch + 1} processes")
    assert larger_lr == pytest.approx(lr * ((batch + 1) / batch) ** power)
    assert planned(batch + 1, lr=0.5)[1] == 0.5


def test_a_training_asks_for_a_gpu_per_process(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("datasets: {d: {path: d}}\nbudget: {steps: 3}\nprocesses: 2\ndevice: cuda\n")
    assert training_gpus(load_config([tmp_path / "c.yaml"])) == 2
    (tmp_path / "c.yaml").write_text("datasets: {d: {path: d}}\nbudget: {steps: 3}\nprocesses: 2\ndevice: cpu\n")
    assert training_gpus(load_config([tmp_path / "c.yaml"])) == 0
