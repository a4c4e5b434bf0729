"""A budget in minutes: which candidate is taken, how many steps it gets, and what it says; paces are made up."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import PlanError
from medseg.plan import budget
from medseg.plan.budget import Pace, WidthCandidate, fastest_variant, plan_within_minutes, steps_in, validate_every
from medseg.plan.plan import Plan

paces = st.builds(Pace, st.floats(1e-3, 30), st.floats(1e-3, 20), st.floats(0, 0.03))


def seconds_of(steps: int, pace: Pace) -> float:
    """What a training of ``steps`` takes, told apart from the planner's own sum."""
    validations = math.ceil(steps / validate_every(steps)) * budget.VALIDATION_CASES * pace.validation_s
    return budget.START_S + (steps * pace.step_s + validations) / (1 - pace.save_share) / (1 - budget.RESERVE)


@given(st.floats(0.5, 600), paces)
def test_steps_fill_the_budget_and_never_exceed_it(minutes: float, pace: Pace) -> None:
    steps = steps_in(minutes, pace)
    assert steps >= 0
    if steps:
        assert seconds_of(steps, pace) <= minutes * 60 + 1e-6
    assert seconds_of(steps + 1, pace) > minutes * 60 - 1e-6


@given(st.floats(0.5, 300), paces)
def test_more_minutes_or_a_faster_step_never_mean_fewer_steps(minutes: float, pace: Pace) -> None:
    steps = steps_in(minutes, pace)
    assert steps_in(minutes * 1.3, pace) >= steps
    assert steps_in(minutes, replace(pace, step_s=pace.step_s / 1.3)) >= steps


def stopwatch(seconds: dict[int, float], asked: list[tuple[int, float]]) -> Callable[[Plan, float], Pace]:
    """Paces by the width of the first stage."""

    def measure(plan: Plan, spend: float) -> Pace:
        asked.append((plan.network.widths[0], spend))
        return Pace(seconds[plan.network.widths[0]], 0.1, 0.02)

    return measure


def candidates(tiny_plan: Any) -> list[WidthCandidate]:
    plan = tiny_plan().changed(reasons={"widths": "by rule", "steps": "not measured yet"})
    least = {8: 1, 16: 300, 32: 1500}
    return [WidthCandidate(plan.changed(widths=(w, 2 * w, 4 * w)), steps) for w, steps in least.items()]


SECONDS = {8: 0.2, 16: 0.6, 32: 2.0}


@pytest.mark.parametrize(
    ("minutes", "width", "looked_at"),
    [(60, 32, [8, 16, 32, 32]), (15, 16, [8, 16, 32, 16]), (2, 8, [8, 16, 8]), (1, 8, [8, 16, 8])],
)
def test_the_largest_network_with_enough_steps_is_taken(
    minutes: float, width: int, looked_at: list[int], tiny_plan: Any
) -> None:
    asked: list[tuple[int, float]] = []
    plan = plan_within_minutes(candidates(tiny_plan), minutes, stopwatch(SECONDS, asked))
    assert plan.network.widths[0] == width
    assert [w for w, _ in asked] == looked_at
    assert asked[-1][1] == min(budget.LONG_MEASUREMENT_S, budget.LONG_MEASUREMENT_SHARE * minutes * 60)
    assert plan.training.steps == steps_in(minutes, Pace(SECONDS[width], 0.1, 0.02))
    assert plan.training.validate_every == validate_every(plan.training.steps)
    for said in (f"{minutes} min", f"{plan.training.steps} steps"):
        assert said in plan.reasons["steps"]
    assert plan.reasons["widths"].startswith(f"by rule; the largest that gets enough steps in {minutes} min: 8 gets ")


def test_a_single_candidate_is_measured_once(tiny_plan: Any) -> None:
    asked: list[tuple[int, float]] = []
    only = candidates(tiny_plan)[2:]
    assert plan_within_minutes(only, 5, stopwatch(SECONDS, asked)).network.widths == only[0].plan.network.widths
    assert len(asked) == 1


def test_a_budget_that_holds_no_step_is_refused(tiny_plan: Any) -> None:
    with pytest.raises(PlanError, match=r"budget\.minutes: 0\.1 is used up by start and validation"):
        plan_within_minutes(candidates(tiny_plan)[:1], 0.1, stopwatch({8: 0.2}, []))


@given(st.integers(1, 10**6))
def test_the_curve_has_some_ten_points(steps: int) -> None:
    every = validate_every(steps)
    assert 1 <= every <= steps
    assert steps / every <= 2 * budget.VALIDATIONS or steps <= budget.CURVE_STEPS


def test_another_arithmetic_is_taken_only_if_it_is_clearly_quicker(tiny_plan: Any) -> None:
    plan = tiny_plan(precision="bf16")
    variants = [plan, plan.changed(channels_last=False), plan.changed(precision="fp32")]

    def measured(*seconds: float) -> Callable[[Plan, float], Pace]:
        times = iter(seconds)
        return lambda plan, spend: Pace(next(times), 0.1, 0.02)

    assert fastest_variant(variants, measured(1.0, 0.93, 1.2))[0] is variants[0]
    assert fastest_variant(variants, measured(1.0, 0.8, 1.2))[0] is variants[1]
    best, why = fastest_variant(variants, measured(1.0, 0.9, 0.5))
    assert best is variants[2]
    assert why == (
        "a step took 1.000 s in bf16, channels innermost; 0.900 s in bf16, channels outermost; "
        "0.500 s in fp32, channels innermost"
    )
