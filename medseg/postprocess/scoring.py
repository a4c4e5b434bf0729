"""The score by which operations are chosen: that of ``compare``'s ranking, where labels tell classes apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medseg.image.labels import IGNORE, LabelTable
from medseg.metrics.counts import dice_of_counts, overlap_counts

# Draws of signs where there are more subjects than all signs can be tried of.
RESAMPLES = 9999
CONFIDENCE = 0.95
# Differences of means that are rounding alone.
ROUNDING = 1e-12


def target_scores(reference: NDArray[Any], labels: NDArray[Any], table: LabelTable) -> NDArray[np.float64]:
    """(R,) score of each class or region of one case: Dice, or where the reference lacks it 1 if the prediction does.

    Args:
        reference: (S) channel indices; ``IGNORE`` where nobody annotated.
        labels: (S) file values of a prediction.
        table: label table; no objects.

    Returns:
        NaN where nobody annotated a voxel.
    """
    if not (reference != IGNORE).any():
        return np.full(len(table.target_names), np.nan)
    predicted = replace(table, ignore=None).to_channels(labels)
    counts = overlap_counts(reference, predicted, table.classes, table.members)
    return np.array([dice_of_counts(c) if c.reference else float(c.predicted == 0) for c in counts])


def by_subject(scores: NDArray[np.float64], subjects: Sequence[str]) -> NDArray[np.float64]:
    """(N, R) means over the cases of each subject, in the order of their names, from (cases, R)."""
    names = np.array(subjects)
    with warnings.catch_warnings():
        # A subject whose cases are all without annotation.
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.array([np.nanmean(scores[names == name], axis=0) for name in sorted(set(subjects))])


@dataclass(frozen=True, slots=True)
class Gain:
    """A difference of means, and its 95 % t interval over subjects; NaN: there is none."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Gain:
        """The gain from (N,) differences of subjects; NaN where a subject has none."""
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(float("nan"), float("nan"), float("nan"))
        mean = float(values.mean())
        if len(values) < 2:
            return cls(mean, float("nan"), float("nan"))
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        return cls(mean, mean - float(half), mean + float(half))

    def to_json(self) -> dict[str, float | None]:
        """As plain JSON values."""
        return {name: _number(getattr(self, name)) for name in ("mean", "low", "high")}


@dataclass(frozen=True, slots=True)
class Gains:
    """What an operation changes.

    Attributes:
        score: in the score, the mean over classes.
        classes: in each class or region.
        p: of the one-sided sign-flip test that the score does not rise.
        changed: subjects whose score it changes.
    """

    score: Gain
    classes: tuple[Gain, ...]
    p: float
    changed: int

    @classmethod
    def of(cls, before: NDArray[np.float64], after: NDArray[np.float64]) -> Gains:
        """The gains from scores of subjects (N, R)."""
        difference = after - before
        there = np.isfinite(difference)
        classes = there.any(axis=0).sum()
        # Each subject's share of the mean over classes of means over subjects.
        weights = there / (np.maximum(there.sum(axis=0), 1) * max(classes, 1))
        shares = np.where(there, difference, 0.0) * weights
        of_subjects = len(difference) * shares.sum(axis=1)
        return cls(Gain.of(of_subjects), tuple(Gain.of(column) for column in difference.T), *_test(of_subjects))

    def falls(self) -> list[int]:
        """Classes or regions whose mean falls."""
        return [k for k, gain in enumerate(self.classes) if gain.mean < -ROUNDING]


def _test(values: NDArray[np.float64]) -> tuple[float, int]:
    """The p value of the sign-flip test that a mean is not above 0, and how many values are not 0."""
    changed = values[np.abs(values) > ROUNDING]
    if not len(changed):
        return 1.0, 0
    if len(changed) == 1:
        return (0.5 if changed[0] > 0 else 1.0), 1
    found = stats.permutation_test(
        (changed,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        alternative="greater",
        random_state=0,
    )
    return float(found.pvalue), len(changed)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
