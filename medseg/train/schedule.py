"""The learning rate of every step, and when a training that learns no more ends early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from medseg.plan.plan import Plan

WARM_UP_STEPS = 100
POLY_POWER = 0.9
# The training loss is looked at as an exponential mean over the journal's records, some 200 of a training; it must fall
# by this share to count as falling. nnU-Net's first version ended by such a mean, too.
SMOOTH = 0.9
GAIN = 0.01
# Of the steps that were made before: in these the rate goes down to 0.
TAIL_SHARE = 0.1

# Share of the peak rate at a share of the steps.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    # Isensee et al. 2021.
    "poly": lambda done: (1 - done) ** POLY_POWER,
    # Loshchilov & Hutter 2017, one period.
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a training that learns no more.

    Attributes:
        start: step from which the rate goes down to 0 in a straight line.
        end: number of steps of the whole training.
    """

    start: int
    end: int


def learning_rate(plan: Plan, step: int, tail: Tail | None = None) -> float:
    """A straight rise during the warm-up (at most ``WARM_UP_STEPS``) times the plan's schedule, or the tail's rate."""
    if tail is not None and step >= tail.start:
        return _scheduled(plan, tail.start) * (1 - (step - tail.start) / (tail.end - tail.start))
    return _scheduled(plan, step)


def _scheduled(plan: Plan, step: int) -> float:
    warm = min(WARM_UP_STEPS, max(1, int(plan.training.steps * plan.training.warmup)))
    return (
        plan.training.lr * min(1.0, (step + 1) / warm) * SCHEDULES[plan.training.schedule](step / plan.training.steps)
    )


def tail_of(plan: Plan, losses: Sequence[float], every: int) -> Tail | None:
    """Where the training ends early; None: nowhere so far, or not at all.

    Only the training loss counts: a training that ended by the scores of its validation fold would have chosen
    something by them.

    Args:
        plan: its ``patience`` is the share of the steps in which the loss must have fallen; None: ends by its steps.
        losses: the journal's records so far.
        every: steps from one record to the next.
    """
    if plan.training.patience is None:
        return None
    wait = max(1, round(plan.training.patience * plan.training.steps / every))
    mean, best, since = 0.0, math.inf, 0
    for number, loss in enumerate(losses, start=1):
        mean = loss if number == 1 else SMOOTH * mean + (1 - SMOOTH) * loss
        fell = number == 1 or mean < best - GAIN * abs(best)
        best, since = (mean, 0) if fell else (best, since + 1)
        if since >= wait:
            start = number * every
            end = min(plan.training.steps, start + max(1, round(start * TAIL_SHARE)))
            return Tail(start, end) if end > start else None
    return None
