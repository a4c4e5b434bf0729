"""Intervals and tests for scores of cases that belong to subjects: arrays in, the same numbers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95
# Below this many non-tied pairs the smallest two-sided p-value a signed-rank test can give is above 0.05.
FEWEST_PAIRS = 6
# Percentile intervals of a mean hold their level from about 50 subjects on (André et al. 2025).
ENOUGH_GROUPS = 50
# Smaller differences are rounding left over from averaging seeds.
TIE = 1e-9
# Resampled group counts are made in blocks of about this many numbers, so that memory stays bounded.
_BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its percentile bootstrap interval.

    Attributes:
        mean: the mean over defined values; NaN if there is none.
        low, high: bounds; NaN where ``reason`` says why there are none.
        n: cases with at least one defined value.
        n_groups: subjects among them.
        n_undefined: values that were NaN.
        reason: empty, or why there is no interval.
    """

    mean: float
    low: float
    high: float
    n: int
    n_groups: int
    n_undefined: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same cases.

    Attributes:
        difference: first minus second.
        wins, losses, ties: cases in which the first is better, worse, equal.
        p: two-sided Wilcoxon signed-rank p-value over subjects; NaN if refused.
        effect: rank-biserial correlation, -1 (second always better) to 1; NaN if refused.
        status: ``ok``, or ``refused: <reason>``.
    """

    difference: Interval
    wins: int
    losses: int
    ties: int
    p: float
    effect: float
    status: str


def bootstrap_mean_interval(
    values: ArrayLike,
    groups: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of N values and its interval, resampling whole groups (subjects) with replacement.

    Args:
        values: N numbers; NaN means undefined, is left out and counted.
        groups: the subject of each value.
        resamples: bootstrap resamples.
        level: coverage the interval aims at.
        seed: seed of the resampling; the same input and seed give the same interval.
    """
    column = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    return bootstrap_macro_interval(column, groups, resamples=resamples, level=level, seed=seed)


def bootstrap_macro_interval(
    values: ArrayLike,
    groups: Sequence[str] | NDArray[np.str_],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Macro mean of an N x C table (cases x classes): mean over classes of the means over defined cases.

    Subjects are resampled and the whole macro mean is computed again each time (percentile method, Efron
    1979). A class without a defined case in a resample is left out of that resample's mean.
    """
    table = np.asarray(values, dtype=np.float64)
    defined = np.isfinite(table)
    kept = defined.any(axis=1)
    names, member = np.unique(np.asarray(groups, dtype=np.str_)[kept], return_inverse=True)
    sums = np.zeros((len(names), table.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, member, np.where(defined, table, 0.0)[kept])
    np.add.at(counts, member, defined[kept].astype(np.float64))

    mean = float(_macro(sums.sum(axis=0, keepdims=True), counts.sum(axis=0, keepdims=True))[0])
    found = (int(kept.sum()), len(names), int((~defined).sum()))
    if len(names) < 2:
        reason = "no defined value" if not len(names) else "one subject only"
        return Interval(mean, np.nan, np.nan, *found, reason)
    means = _resampled_macro(sums, counts, resamples, seed)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), *found)


def _macro(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over classes (last axis) of sums / counts, over the classes that have any; (R, C) -> (R)."""
    present = counts > 0
    means = np.where(present, sums / np.where(present, counts, 1.0), 0.0)
    classes = present.sum(axis=-1)
    return np.where(classes > 0, means.sum(axis=-1) / np.maximum(classes, 1), np.nan)


def _resampled_macro(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Macro means of ``resamples`` draws of G groups from G groups, from per-group sums and counts (G, C)."""
    groups = len(sums)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // groups)
    out = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, groups, size=(rows, groups)) + groups * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups).astype(np.float64)
        # einsum, not matmul: its order of summation does not depend on the number of threads.
        out.append(_macro(np.einsum("rg,gc->rc", times, sums), np.einsum("rg,gc->rc", times, counts)))
    return np.concatenate(out)


def compare_paired(
    first: ArrayLike, second: ArrayLike, groups: Sequence[str] | NDArray[np.str_], *, seed: int = 0
) -> Paired:
    """Compare two models on the same N cases (x C classes).

    Only entries that both models have defined take part; ``difference.n_undefined`` counts the rest. Wins
    are counted per case (mean difference over its classes). The Wilcoxon test (zeros ranked, Pratt 1959) sees
    one mean difference per subject, because the cases of a subject are not independent.
    """
    one, two = (np.atleast_2d(np.asarray(v, dtype=np.float64).T).T for v in (first, second))
    gap = one - two
    gap[np.abs(gap) < TIE] = 0.0
    interval = bootstrap_macro_interval(gap, groups, seed=seed)
    kept = np.isfinite(gap).any(axis=1)
    per_case = np.nanmean(gap[kept], axis=1) if kept.any() else np.zeros(0)
    per_case[np.abs(per_case) < TIE] = 0.0
    names, member = np.unique(np.asarray(groups, dtype=np.str_)[kept], return_inverse=True)
    per_subject = np.bincount(member, weights=per_case, minlength=len(names)) / np.maximum(np.bincount(member), 1)
    # Rounded, or differences that are equal but for rounding would get ranks of their own.
    p, effect, status = _signed_rank(np.round(per_subject, 9))
    wins, losses = int((per_case > 0).sum()), int((per_case < 0).sum())
    return Paired(interval, wins, losses, len(per_case) - wins - losses, p, effect, status)


def _signed_rank(differences: NDArray[np.float64]) -> tuple[float, float, str]:
    """Two-sided Wilcoxon signed-rank test: p-value, rank-biserial correlation (Kerby 2014), status."""
    if not len(differences):
        return np.nan, np.nan, "refused: no common case with a defined value"
    untied = int(np.count_nonzero(differences))
    if untied == 0:
        return 1.0, 0.0, "ok"
    if untied < FEWEST_PAIRS:
        return np.nan, np.nan, f"refused: {untied} subjects that differ, {FEWEST_PAIRS} needed"
    from scipy import stats  # a second to import, and only this function needs it

    ranks = stats.rankdata(np.abs(differences))
    above, below = ranks[differences > 0].sum(), ranks[differences < 0].sum()
    p = float(stats.wilcoxon(differences, zero_method="pratt").pvalue)
    return p, float((above - below) / (above + below)), "ok"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family (Holm 1979); NaN (a refused test) stays NaN and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    order = [int(i) for i in np.argsort(p, kind="stable") if np.isfinite(p[i])]
    adjusted = np.full(len(p), np.nan)
    running = 0.0
    for position, index in enumerate(order):
        running = max(running, (len(order) - position) * float(p[index]))
        adjusted[index] = min(running, 1.0)
    return [float(value) for value in adjusted]
