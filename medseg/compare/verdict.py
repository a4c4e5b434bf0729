"""The verdict on two models: better only if interval, test and ranking agree; and what the verdict is about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.compare.power import ALPHA, POWER, Equivalence, can_be_shown, fewest_subjects

BETTER, EQUIVALENT, NOT_SHOWN, CANNOT = "better", "equivalent", "not shown", "cannot be shown"
# What a verdict is about. With one training per model, luck of the training and merit of the method are one number.
NETWORKS, METHODS = "networks", "methods"
ABOUT_NETWORKS = "nothing is said about the methods: that needs two seeds or more"


def about_ensemble(name: str, members: Sequence[str]) -> str:
    """What a verdict on an ensemble says nothing about; more seeds would make it larger, and not repeat it."""
    return (
        f"{name} is one ensemble, of {', '.join(members)}: how far another one of such trainings would have "
        "scored from it is not shown"
    )


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of two models, the better ranked first.

    Attributes:
        first, second: names.
        difference: of the ranking statistic, first minus second.
        low, high: its interval over subjects (with training variance for the scope of methods); NaN: none.
        statistic: of the test; its sign must be that of ``difference``.
        p: adjusted for the family; NaN: refused.
        n_subjects, comparisons: subjects, and pairs of models in the family.
        smallest: smallest difference that the test shows in a study like this with a power of 80 %; NaN: unknown.
        trainings: trained networks of the first and the second model.
        scope: ``networks`` or ``methods``.
        quantity: what differs, in words.
        equivalence: outcome against the margin of the configuration; None: there is no margin.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    statistic: float
    p: float
    n_subjects: int
    comparisons: int
    smallest: float
    trainings: tuple[int, int]
    scope: str
    quantity: str
    equivalence: Equivalence | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict: its kind (``better``, ``equivalent``, ``not shown``, ``cannot be shown``) and its sentence."""

    kind: str
    sentence: str


def verdict(evidence: Evidence) -> Verdict:
    """The verdict on a pair.

    ``better`` needs three things: an interval that excludes 0, a test below 5 % after adjustment, and both on the side
    of the model that is ranked first.
    """
    e = evidence
    about = _about(e)
    pairs = f"{e.comparisons} comparison{'s' if e.comparisons != 1 else ''}"
    if not can_be_shown(e.n_subjects, e.comparisons):
        needed = fewest_subjects(e.comparisons)
        return Verdict(
            CANNOT,
            f"a difference between {about} cannot be shown with {e.n_subjects} subjects and {pairs}, whatever the "
            f"scores are: at least {needed} subjects are needed",
        )
    if _agree(e):
        return Verdict(BETTER, f"{e.first} is better than {e.second}, {about} compared: {_numbers(e)}")
    if e.equivalence is not None and e.equivalence.equivalent:
        return Verdict(
            EQUIVALENT,
            f"{about} are equivalent within {e.equivalence.margin:g}: the {1 - 2 * ALPHA / e.comparisons:.1%} interval "
            f"of the difference is [{e.equivalence.low:+.3f}, {e.equivalence.high:+.3f}]",
        )
    shown = ""
    if e.smallest > 0:
        shown = (
            f"; the smallest difference that the test would show here with a power of {POWER:.0%} is {e.smallest:.3f}"
        )
    return Verdict(NOT_SHOWN, f"no difference between {about} was shown: {_numbers(e)}{_against(e)}{shown}")


def _about(e: Evidence) -> str:
    """What the sentence is about."""
    if e.scope == METHODS:
        return f"these methods ({_each(e)})"
    if e.trainings == (1, 1):
        return "these two trained networks"
    return f"these trained networks ({_each(e)})"


def _each(e: Evidence) -> str:
    """How many trainings stand behind each model."""
    one, two = e.trainings
    return f"{one} trainings each" if one == two else f"{one} and {two} trainings"


def _agree(e: Evidence) -> bool:
    return e.difference > 0 and e.low > 0 and e.p < ALPHA and e.statistic > 0


def _numbers(e: Evidence) -> str:
    interval = "no interval" if math.isnan(e.low) else f"95 % interval [{e.low:+.3f}, {e.high:+.3f}]"
    test = "no test" if math.isnan(e.p) else f"adjusted p = {e.p:.4f}" if e.p >= 0.0001 else "adjusted p < 0.0001"
    return f"{e.difference:+.3f} in {e.quantity}, {interval}, {test}, {e.n_subjects} subjects"


def _against(e: Evidence) -> str:
    """Why interval and test together do not suffice, where one of them alone would."""
    interval, test = e.low > 0 or e.high < 0, e.p < ALPHA
    if interval and test:
        return " (interval and test point to the model that is ranked second)"
    if interval or test:
        one, other = ("interval", "test") if interval else ("test", "interval")
        return f" (the {one} alone would say so, the {other} does not)"
    return ""
