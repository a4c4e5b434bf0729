"""What a study could have shown: the smallest difference, the fewest subjects, equivalence, and the typical case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medseg.compare.interval import RESAMPLES, TIE, Array, Interval, mean_interval
from medseg.compare.permutation import MOST_ENUMERATED, max_t, without_ties
from medseg.compare.training_variance import MethodInterval, method_difference

ALPHA = 0.05
POWER = 0.8
# Below this many subjects that differ, the smallest two-sided p-value of a signed-rank test is above 0.05.
FEWEST_UNTIED = 6
# Up to this many subjects without ties the signed-rank test is exact.
MOST_EXACT = 50


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
    return float(smallest_differences(_finite(differences)[None], comparisons, alpha=alpha, power=power)[0])


def smallest_differences(gaps: Array, comparisons: int = 1, *, alpha: float = ALPHA, power: float = POWER) -> Array:
    """:func:`smallest_difference` of each of K rows of differences; (K, n) -> (K,)."""
    n = gaps.shape[1]
    if n < 2:
        return np.full(len(gaps), math.nan)
    return _smallest(without_ties(gaps).std(axis=1, ddof=1) / math.sqrt(n), n - 1, comparisons, alpha, power)


def smallest_method_difference(
    found: MethodInterval, comparisons: int = 1, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The same for two methods, with the variance between trainings and its degrees of freedom; NaN if refused."""
    if found.reason:
        return math.nan
    error = math.sqrt(found.subject_variance + found.training_variance)
    return float(_smallest(np.array([error]), found.freedom, comparisons, alpha, power)[0])


def _smallest(error: Array, freedom: float, comparisons: int, alpha: float, power: float) -> Array:
    from scipy import special  # a while to import, and only such functions need it

    reach = special.stdtrit(freedom, 1.0 - alpha / (2.0 * comparisons)) + special.stdtrit(freedom, power)
    return np.where(error <= TIE, 0.0, reach * error)


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
    return equivalent_within(margin, interval)


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
    return equivalent_within(margin, method_difference(first, second, folds, bounds=bounds, level=level))


def equivalent_within(margin: float, interval: Interval | MethodInterval) -> Equivalence:
    """What an interval at level 1 - 2 alpha says of equivalence."""
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
    p, effect = signed_ranks(_finite(differences)[None])
    return float(p[0]), float(effect[0])


def signed_ranks(gaps: Array) -> tuple[Array, Array]:
    """:func:`signed_rank` of each of K rows of differences; (K, n) -> (K,) p-values and (K,) correlations.

    All sign flips are enumerated up to 13 subjects. Above, p is exact where no two ranks are tied and nobody has a zero
    among at most 50, and else normal, with the variance of tied ranks (Cureton 1967).
    """
    from scipy import special, stats  # a second to import, and only this function needs it

    # Rounded, or differences that are equal but for rounding would get ranks of their own.
    gaps = np.round(without_ties(gaps), 9)
    n, untied = gaps.shape[1], np.count_nonzero(gaps, axis=1)
    p, effect = np.full(len(gaps), math.nan), np.full(len(gaps), math.nan)
    if n:
        p[untied == 0], effect[untied == 0] = 1.0, 0.0
    tested = np.flatnonzero(untied >= FEWEST_UNTIED)
    if not len(tested):
        return p, effect
    signs, ranks, ties = _ranked(gaps[tested])
    above, below = (ranks * (signs > 0)).sum(axis=1), (ranks * (signs < 0)).sum(axis=1)
    effect[tested] = (above - below) / (above + below)
    if n <= MOST_ENUMERATED:  # scipy enumerates them as well where there are ties, in a second a test
        p[tested] = [max_t(row)[0].p for row in signs * ranks]
        return p, effect
    zeros = n - untied[tested]
    mean = (n * (n + 1.0) - zeros * (zeros + 1.0)) / 4
    squares = n * (n + 1.0) * (2.0 * n + 1.0) - zeros * (zeros + 1.0) * (2.0 * zeros + 1.0)
    spread = np.sqrt((squares - ties / 2) / 24)
    p[tested] = 2 * special.ndtr(-np.abs(above - mean) / spread)
    exact = (ties == 0) & (zeros == 0) & (n <= MOST_EXACT)
    p[tested[exact]] = [float(stats.wilcoxon(row).pvalue) for row in gaps[tested[exact]]]
    return p, effect


def _ranked(gaps: Array) -> tuple[Array, Array, Array]:
    """Of (K, n) differences in the order of their size: signs, ranks (means of tied ones), and (K,) sum of t^3 - t.

    The sum goes over groups of t tied ranks, zeros left out.
    """
    rows, n = gaps.shape
    order = np.argsort(np.abs(gaps), axis=1, kind="stable")
    gaps = np.take_along_axis(gaps, order, axis=1)
    sizes = np.abs(gaps)
    begins = np.ones(gaps.shape, dtype=bool)
    begins[:, 1:] = sizes[:, 1:] != sizes[:, :-1]
    starts = np.flatnonzero(begins)  # of a group in the flattened rows
    counts = np.diff(starts, append=rows * n)
    ranks = np.repeat(starts % n + (counts + 1) / 2, counts).reshape(rows, n)
    tied = np.where(sizes.ravel()[starts] > 0, counts.astype(np.float64) ** 3 - counts, 0.0)
    sums: Array = np.bincount(starts // n, weights=tied, minlength=rows).astype(np.float64)
    return np.sign(gaps), ranks, sums


def _finite(differences: ArrayLike) -> Array:
    gaps = np.asarray(differences, dtype=np.float64).ravel()
    return gaps[np.isfinite(gaps)]
