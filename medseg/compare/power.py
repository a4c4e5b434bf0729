"""What a study could have shown: the smallest difference, the fewest subjects, equivalence, and the typical case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medseg.compare.interval import RESAMPLES, TIE, Interval, mean_interval
from medseg.compare.permutation import MOST_ENUMERATED, max_t
from medseg.compare.training_variance import MethodInterval, method_difference

ALPHA = 0.05
POWER = 0.8
# Below this many subjects that differ, the smallest two-sided p-value of a signed-rank test is above 0.05.
FEWEST_UNTIED = 6


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two one-sided tests of a difference against a margin (Schuirmann 1987).

    Attributes:
        margin: half width of the zone of equivalence, in units of the metric.
        low, high: interval at level 1 - 2 alpha; NaN if refused.
        equivalent: whether the interval lies inside (-margin, margin); False if refused.
        refused: empty, or why there is no answer.
    """

    margin: float
    low: float
    high: float
    equivalent: bool
    refused: str = ""


def smallest_difference(
    differences: ArrayLike, comparisons: int = 1, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Smallest true difference that a study of this size shows with the given power; NaN below two subjects.

    (t(1 - alpha' / 2, n - 1) + t(power, n - 1)) sd / sqrt(n) with alpha' = alpha / comparisons and the standard
    deviation (ddof 1) of the n differences seen. Bonferroni's alpha' is what the first step of max-T needs if the
    comparisons were independent; dependent ones need less, so the number errs on the large side.

    Args:
        differences: (S,) contributions of the subjects; NaN where a subject is not common to both models.
        comparisons: size of the family of tests.
        alpha: family-wise error, two-sided.
        power: probability of showing a true difference of that size.
    """
    gaps = _finite(differences)
    if len(gaps) < 2:
        return math.nan
    return _smallest(float(gaps.std(ddof=1)) / math.sqrt(len(gaps)), len(gaps) - 1, comparisons, alpha, power)


def smallest_method_difference(
    found: MethodInterval, comparisons: int = 1, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The same for two methods, with the variance between trainings and its degrees of freedom; NaN if refused."""
    if found.reason:
        return math.nan
    error = math.sqrt(found.subject_variance + found.training_variance)
    return _smallest(error, found.freedom, comparisons, alpha, power)


def _smallest(error: float, freedom: float, comparisons: int, alpha: float, power: float) -> float:
    if error <= TIE:
        return 0.0
    from scipy import stats  # a second to import, and only this function needs it

    return float(stats.t.ppf(1.0 - alpha / (2.0 * comparisons), freedom) + stats.t.ppf(power, freedom)) * error


def can_be_shown(n_subjects: int, comparisons: int, alpha: float = ALPHA) -> bool:
    """Whether any result could be significant: the smallest p-value of n sign flips, 2^(1 - n), times the family."""
    return n_subjects >= 1 and 2.0 ** (1 - n_subjects) * comparisons <= alpha


def fewest_subjects(comparisons: int, alpha: float = ALPHA) -> int:
    """Smallest number of subjects for which :func:`can_be_shown` holds."""
    n = 1
    while not can_be_shown(n, comparisons, alpha):
        n += 1
    return n


def equivalence(
    differences: ArrayLike,
    margin: float,
    *,
    comparisons: int = 1,
    alpha: float = ALPHA,
    bounds: tuple[float, float] = (-1.0, 1.0),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Equivalence:
    """Decide whether two models are equivalent within a margin, by the (1 - 2 alpha) bootstrap-t interval.

    Args:
        differences: (S, C) table of differences of two models.
        margin: largest mean difference that does not matter, above 0.
        comparisons: number of pairs in the family; alpha is divided by it (Bonferroni).
        alpha: error of each one-sided test.
        bounds: smallest and largest mean difference the metric can have.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Raises:
        ValueError: if the margin is not a number above 0.
    """
    level = 1.0 - 2.0 * alpha / comparisons
    interval = mean_interval(differences, bounds=bounds, level=level, resamples=resamples, seed=seed)
    return _equivalent(margin, interval)


def method_equivalence(
    first: ArrayLike,
    second: ArrayLike,
    folds: Sequence[int],
    margin: float,
    *,
    comparisons: int = 1,
    alpha: float = ALPHA,
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> Equivalence:
    """Decide whether two methods are equivalent within a margin: :func:`equivalence` with training variance.

    Args:
        first: (R1, S, C) scores of the first method's seeds.
        second: (R2, S, C) scores of the second's.
        folds: the fold of each of the S subjects.
        margin: largest mean difference that does not matter, above 0.
        comparisons: number of pairs in the family; alpha is divided by it (Bonferroni).
        alpha: error of each one-sided test.
        bounds: smallest and largest mean difference the metric can have.

    Raises:
        ValueError: if the margin is not a number above 0.
    """
    level = 1.0 - 2.0 * alpha / comparisons
    return _equivalent(margin, method_difference(first, second, folds, bounds=bounds, level=level))


def _equivalent(margin: float, interval: Interval | MethodInterval) -> Equivalence:
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin of equivalence {margin}: expected a number above 0")
    if math.isnan(interval.low):
        return Equivalence(margin, math.nan, math.nan, False, interval.reason)
    inside = -margin < interval.low and interval.high < margin
    return Equivalence(margin, interval.low, interval.high, inside)


def signed_rank(differences: ArrayLike) -> tuple[float, float]:
    """Two-sided Wilcoxon signed-rank test of the typical subject, with zeros ranked (Pratt 1959).

    It asks whether the median-like centre of the differences is 0, not their mean, so it never decides a verdict.

    Args:
        differences: (S,) contributions; NaN where a subject is not common to both models.

    Returns:
        p-value and rank-biserial correlation (Kerby 2014), -1 (second always better) to 1; p = 1 and 0 where no
        subject differs, both NaN where fewer than six do.
    """
    # Rounded, or differences that are equal but for rounding would get ranks of their own.
    gaps = np.round(_finite(differences), 9)
    untied = int(np.count_nonzero(gaps))
    if len(gaps) and not untied:
        return 1.0, 0.0
    if untied < FEWEST_UNTIED:
        return math.nan, math.nan
    from scipy import stats  # a second to import, and only this function needs it

    ranks = stats.rankdata(np.abs(gaps))
    above, below = float(ranks[gaps > 0].sum()), float(ranks[gaps < 0].sum())
    effect = (above - below) / (above + below)
    if len(gaps) <= MOST_ENUMERATED:  # scipy enumerates them as well where there are ties, in a second a test
        return max_t(np.sign(gaps) * ranks)[0].p, effect
    return float(stats.wilcoxon(gaps, zero_method="pratt").pvalue), effect


def _finite(differences: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    gaps = np.asarray(differences, dtype=np.float64).ravel()
    gaps = gaps[np.isfinite(gaps)]
    return np.where(np.abs(gaps) > TIE, gaps, 0.0)
