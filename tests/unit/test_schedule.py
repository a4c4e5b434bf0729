"""The learning rate of every step, and the early end of trainings that learn no more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.image.labels import LabelTable
from medseg.plan.plan import Plan
from medseg.train import advance, saving
from medseg.train.loop import train
from medseg.train.schedule import SCHEDULES, Tail, learning_rate, tail_of
from medseg.train.state import FoldCases
from tests.plans import tiny_plan

LABELS = LabelTable.create({"ball": 1, "rod": 3})


@given(st.integers(1, 5000), st.sampled_from([1e-3, 0.5]), st.sampled_from(sorted(SCHEDULES)))
def test_learning_rate_warms_up_and_falls(steps: int, lr: float, schedule: str) -> None:
    plan = plan_of(steps=steps, lr=lr, schedule=schedule, warmup=0.05)
    every = max(1, steps // 50)
    warm = min(100, max(1, int(steps * 0.05)))
    rates = [learning_rate(plan, s) for s in range(0, steps, every)]
    assert all(0 < r <= lr for r in rates)
    assert learning_rate(plan, 0) == pytest.approx(lr / warm)
    after = [learning_rate(plan, s) for s in range(warm - 1, steps, every)]
    assert after == sorted(after, reverse=True)
    last, share = steps - 1, (steps - 1) / steps
    expected = {"poly": (1 - share) ** 0.9, "cosine": (1 + math.cos(math.pi * share)) / 2, "constant": 1.0}[schedule]
    if last >= warm:
        assert learning_rate(plan, last) == pytest.approx(lr * expected)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(plan_of(steps=1000, lr=0.01, warmup=0.0), 0) == 0.01


def test_the_tail_goes_down_to_zero_in_a_straight_line() -> None:
    plan, tail = plan_of(steps=1000, lr=1.0, schedule="constant"), Tail(200, 220)
    rates = [learning_rate(plan, step, tail) for step in range(195, 220)]
    assert rates[:6] == [1.0] * 6
    assert rates[5:] == pytest.approx([1 - k / 20 for k in range(20)])


def test_a_loss_that_falls_has_no_tail_and_one_that_stays_has() -> None:
    plan = plan_of(steps=1000, patience=0.1)
    falling = [0.97**k for k in range(200)]
    assert tail_of(plan, falling, 5) is None
    assert tail_of(plan_of(steps=1000, patience=None), [1.0] * 200, 5) is None
    # Flat from its 60th record on: its mean takes some fifty to follow, and a tenth of the steps are 20 records.
    flat = [*falling[:60], *[falling[60]] * 140]
    tail = tail_of(plan, flat, 5)
    assert tail is not None
    assert 80 * 5 < tail.start < 150 * 5
    assert tail.end == tail.start + round(tail.start * 0.1)
    # It is known when it begins, and stays what it was.
    number = tail.start // 5
    assert tail_of(plan, flat[: number - 1], 5) is None
    assert tail_of(plan, flat[:number], 5) == tail


@given(st.lists(st.floats(-1, 3), max_size=60), st.integers(1, 9), st.floats(0.05, 0.9))
def test_a_tail_lies_within_the_training_and_depends_on_the_past_alone(
    losses: list[float], every: int, patience: float
) -> None:
    plan = plan_of(steps=60 * every, patience=patience)
    tail = tail_of(plan, losses, every)
    if tail is None:
        return
    assert 0 < tail.start < tail.end <= plan.training.steps
    assert tail_of(plan, losses[: tail.start // every], every) == tail


def test_training_ends_early_and_a_killed_one_at_the_same_step(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(saving, "SAVE_PATIENCE", -1.0)
    cases = tiny_cases(2)
    fold = FoldCases(cases, cases[:1], LABELS)
    # So small a rate that nothing falls.
    plan = tiny_plan(steps=60, lr=1e-9, schedule="constant", warmup=0.0, patience=0.5, validate_every=60)
    train(plan, fold, 0, tmp_path / "whole", "whole")
    records = [json.loads(line) for line in (tmp_path / "whole" / "journal.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in records if "train/loss" in r["metrics"]]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) < 60
    rates = [r["metrics"]["train/lr"] for r in records if "train/lr" in r["metrics"]]
    assert rates[-1] < rates[0] == plan.training.lr
    assert records[-1]["metrics"].keys() >= {"val/dice/mean"}
    made = advance.augment_batch

    def dies(raw: Any, *rest: Any) -> Any:
        if raw.step == len(steps) - 1:
            raise KeyboardInterrupt
        return made(raw, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(advance, "augment_batch", dies)
        train(plan, fold, 0, tmp_path / "killed", "killed")
    train(plan, fold, 0, tmp_path / "killed", "killed")
    again = [json.loads(line) for line in (tmp_path / "killed" / "journal.jsonl").read_text().splitlines()]
    assert [(r["step"], r["metrics"]) for r in again] == [(r["step"], r["metrics"]) for r in records]


def plan_of(**values: Any) -> Plan:
    """A plan whose learning rate is easy to reckon with."""
    plain = {"steps": 100, "lr": 1.0, "schedule": "poly", "warmup": 0.0, "patience": None}
    return tiny_plan(**{**plain, **values})
