"""A budget in minutes: which network it pays for, and how many steps.

Networks of growing width are timed briefly on this machine. The widest that still gets enough steps is chosen, timed
for longer, and given as many steps as fit. The measurements are kept in the plan's reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medseg.errors import PlanError
from medseg.plan.plan import VALIDATION_CASES, Plan

# The validation curve has this many points, but none closer together than ``CURVE_STEPS``.
VALIDATIONS = 10
CURVE_STEPS = 25
# Seconds to start Python, torch and MONAI, build the network and write the model.
START_S = 12.0
# A long training is a little slower than a short measurement of it: 3 to 4 %, measured (docs/notebook.md).
RESERVE = 0.05
# Another arithmetic or memory layout is chosen if its steps take at most this share of the time.
FASTER = 0.9
# Seconds for a first measurement of a candidate, and for that of the chosen one (at most this share of the budget).
SHORT_MEASUREMENT_S, LONG_MEASUREMENT_S, LONG_MEASUREMENT_SHARE = 2.0, 40.0, 0.05


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a plan is trained on this machine.

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
class WidthCandidate:
    """A plan of one base width, chosen only if the budget holds at least ``min_steps`` of its steps."""

    plan: Plan
    min_steps: int


def fastest_variant(variants: Sequence[Plan], stopwatch: Stopwatch) -> tuple[Plan, str]:
    """The variant (of arithmetic and memory layout) with the shortest steps here, and text with what was measured.

    The first is kept unless another is faster by more than the error of a short measurement.
    """
    times = [stopwatch(variant, SHORT_MEASUREMENT_S).step_s for variant in variants]
    best = min(range(len(variants)), key=lambda k: times[k])
    chosen = best if times[best] < FASTER * times[0] else 0
    measured = [
        f"{time:.3f} s in {v.machine.precision}, channels {'innermost' if v.machine.channels_last else 'outermost'}"
        for v, time in zip(variants, times, strict=True)
    ]
    return variants[chosen], f"a step took {'; '.join(measured)}"


def plan_within_minutes(candidates: Sequence[WidthCandidate], minutes: float, stopwatch: Stopwatch) -> Plan:
    """The widest plan that gets enough steps in ``minutes``, with as many steps as fit.

    Args:
        candidates: from narrow to wide; the first is chosen if no other gets enough steps.
        minutes: wall-clock of one training, start and validation included.
        stopwatch: measures a plan's pace on this machine.

    Raises:
        PlanError: if start and validation alone take longer.
    """
    chosen, tried = candidates[0].plan, []
    for candidate in candidates if len(candidates) > 1 else ():
        steps = steps_in(minutes, stopwatch(candidate.plan, SHORT_MEASUREMENT_S))
        tried.append(f"{candidate.plan.network.widths[0]} gets {steps} steps of {candidate.min_steps}")
        if steps < candidate.min_steps:
            break
        chosen = candidate.plan
    pace = stopwatch(chosen, min(LONG_MEASUREMENT_S, LONG_MEASUREMENT_SHARE * minutes * 60))
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
    if tried:
        reasons["widths"] += f"; the largest that gets enough steps in {minutes:g} min: {', '.join(tried)}"
    return chosen.changed(steps=steps, validate_every=validate_every(steps), reasons=reasons)


def steps_in(minutes: float, pace: Pace) -> int:
    """Whole steps that fit into ``minutes`` beside start, validation and saving; 0 if none does."""
    seconds = (minutes * 60 - START_S) * (1 - pace.save_share) * (1 - RESERVE) - pace.finish_s
    most = 0
    for rounds in range(1, VALIDATIONS + 1):
        fits = int((seconds - rounds * VALIDATION_CASES * pace.validation_s) / pace.step_s)
        # A curve with fewer points than ``VALIDATIONS`` is that of a short training.
        most = max(most, fits if rounds == VALIDATIONS else min(fits, rounds * CURVE_STEPS))
    return most
