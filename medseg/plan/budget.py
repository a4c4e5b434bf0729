"""A budget in minutes: which network it pays for, and how many steps.

Candidates of growing cost are timed on this machine, each for a moment; the largest that still gets enough steps is
taken, timed for longer, and given as many steps as fit. What was measured is kept in the plan's reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medseg.errors import PlanError
from medseg.plan.plan import Plan

# The validation curve has this many points, but none closer together than ``CURVE_STEPS``.
VALIDATIONS = 10
CURVE_STEPS = 25
# Cases of the validation fold that are predicted for a point of the curve.
VALIDATION_CASES = 8
# Starting Python, torch and MONAI; building the network; writing the model.
START_S = 12.0
# A long training is a little slower than a short look at it: measured 3 to 4 % (docs/notebook.md).
RESERVE = 0.05
# Another arithmetic or layout is taken from this share of the time on.
WORTH_IT = 0.9
# Time spent on a first look at a candidate, and on the one that was taken (at most this share of the budget).
LOOK_S, CLOSE_LOOK_S, CLOSE_LOOK_SHARE = 2.0, 40.0, 0.05


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a plan trains here.

    Attributes:
        step_s: seconds of a step, from reading its patches to the updated weights.
        validation_s: seconds to predict one case of the median size.
        save_share: share of the training time that saving its state takes.
        finish_s: seconds after the last step to fit what is not learnt by gradients.
    """

    step_s: float
    validation_s: float
    save_share: float
    finish_s: float = 0.0


# (plan, seconds to spend) -> its pace on this machine.
Stopwatch = Callable[[Plan, float], Pace]


def validate_every(steps: int) -> int:
    """Steps between two points of the validation curve."""
    return max(1, min(steps, max(math.ceil(steps / VALIDATIONS), CURVE_STEPS)))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that a budget may be spent on, if it gets at least ``enough`` steps."""

    plan: Plan
    enough: int


def quickest(variants: Sequence[Plan], stopwatch: Stopwatch) -> tuple[Plan, str]:
    """The variant (of arithmetic and memory layout) whose steps are shortest here, and what was measured.

    The first stays unless another is quicker by more than a short look can be wrong.
    """
    times = [stopwatch(variant, LOOK_S).step_s for variant in variants]
    best = min(range(len(variants)), key=lambda k: times[k])
    chosen = best if times[best] < WORTH_IT * times[0] else 0
    told = [
        f"{time:.3f} s in {v.machine.precision}, channels {'innermost' if v.machine.channels_last else 'outermost'}"
        for v, time in zip(variants, times, strict=True)
    ]
    return variants[chosen], f"a step took {'; '.join(told)}"


def fit(candidates: Sequence[Candidate], minutes: float, stopwatch: Stopwatch) -> Plan:
    """The plan that a training of ``minutes`` is best spent on, with its steps.

    Args:
        candidates: of growing cost; the first is taken if no other gets enough steps.
        minutes: wall-clock of one training, start and validation included.
        stopwatch: measures a plan's pace on this machine.

    Raises:
        PlanError: if start and validation alone take longer.
    """
    chosen, looks = candidates[0].plan, []
    for candidate in candidates if len(candidates) > 1 else ():
        steps = steps_in(minutes, stopwatch(candidate.plan, LOOK_S))
        looks.append(f"{candidate.plan.network.widths[0]} gets {steps} steps of {candidate.enough}")
        if steps < candidate.enough:
            break
        chosen = candidate.plan
    pace = stopwatch(chosen, min(CLOSE_LOOK_S, CLOSE_LOOK_SHARE * minutes * 60))
    steps = steps_in(minutes, pace)
    if steps < 1:
        used = START_S + pace.finish_s + VALIDATION_CASES * pace.validation_s
        raise PlanError(
            f"budget.minutes: {minutes:g} is used up by start and validation ({used:.0f} s) before the first step "
            f"({pace.step_s:.2f} s); raise it, or give budget.steps"
        )
    rounds = math.ceil(steps / validate_every(steps))
    why = (
        f"{minutes:g} min hold {steps} steps of {pace.step_s:.3f} s, measured here with "
        f"{chosen.machine.threads} threads, beside {START_S:.0f} s to start, {rounds} validations of "
        f"{VALIDATION_CASES * pace.validation_s:.1f} s and {pace.save_share:.1%} for saving; {RESERVE:.0%} kept back"
    )
    reasons = {**chosen.reasons, "steps": why}
    if looks:
        reasons["widths"] += f"; the largest that gets enough steps in {minutes:g} min: {', '.join(looks)}"
    return chosen.changed(steps=steps, validate_every=validate_every(steps), reasons=reasons)


def steps_in(minutes: float, pace: Pace) -> int:
    """Whole steps that fit into ``minutes`` beside start, validation and saving; 0 if none does."""
    seconds = (minutes * 60 - START_S) * (1 - pace.save_share) * (1 - RESERVE) - pace.finish_s
    most = 0
    for rounds in range(1, VALIDATIONS + 1):
        fits = int((seconds - rounds * VALIDATION_CASES * pace.validation_s) / pace.step_s)
        # Fewer points of the curve than there can be means that it is short.
        most = max(most, fits if rounds == VALIDATIONS else min(fits, rounds * CURVE_STEPS))
    return most
