"""Statements about methods rather than trained networks: training variance from repeated seeds is in the interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.compare.interval import FEWEST_SUBJECTS, LEVEL, TIE, contributions, influences

Array = NDArray[np.float64]

FEWEST_SEEDS = 2


@dataclass(frozen=True, slots=True)
class MethodInterval:
    """A mean (or difference) over subjects, folds and seeds, with both sources of variance.

    Attributes:
        mean: macro mean over subjects of the scores averaged over seeds; first minus second for a difference.
        low, high: t interval with Satterthwaite's degrees of freedom; NaN if refused.
        p: two-sided p-value of "no difference" (of mean 0); NaN if refused.
        freedom: Satterthwaite's degrees of freedom; infinite if nothing varies.
        subject_variance: variance of the mean because other subjects could have been drawn.
        training_variance: variance of the mean because the trainings could have ended otherwise.
        n_subjects, n_folds, n_seeds: what the numbers rest on; the fewest seeds of any fold.
        reason: empty, or why the interval was refused.
    """

    mean: float
    low: float
    high: float
    p: float
    freedom: float
    subject_variance: float
    training_variance: float
    n_subjects: int
    n_folds: int
    n_seeds: int
    reason: str = ""


def method_mean(
    tables: ArrayLike, folds: Sequence[int], *, bounds: tuple[float, float] = (0.0, 1.0), level: float = LEVEL
) -> MethodInterval:
    """Mean of one method over R seeds, with the interval that another set of subjects and trainings is drawn from.

    Args:
        tables: (R, S, C) scores of R seeds; NaN where a subject lacks a class, and in whole rows where the seed was
            not trained in the subject's fold.
        folds: the fold whose networks scored each of the S subjects.
        bounds: smallest and largest mean the metric can have.
        level: coverage the interval aims at.
    """
    return Methods([tables], folds).mean(bounds, level)


def method_difference(
    first: ArrayLike,
    second: ArrayLike,
    folds: Sequence[int],
    *,
    bounds: tuple[float, float] = (-1.0, 1.0),
    level: float = LEVEL,
) -> MethodInterval:
    """Difference of two methods, first minus second, over their seeds, on the same S subjects in the same folds.

    The variance of the difference is v1 + v2: v1 = variance of the subjects' differences within folds / S; v2 = sum
    over both methods of sum_k w_k^2 var / R_k, with w_k the share of subjects in fold k, R_k its seeds and var the
    variance over seeds of a fold's mean, pooled over the folds ((1 / K) var / R for K equal folds). Trainings of
    different folds are taken as independent, so their first weights must not depend on the seed alone. The t interval
    has Satterthwaite's (1946) degrees of freedom. The scatter of single subjects between seeds is part of both terms,
    which errs on the careful side.

    Args:
        first: (R1, S, C) scores of the first method's seeds, as in :func:`method_mean`.
        second: (R2, S, C) scores of the second's; the seeds need not be as many.
        folds: the fold of each of the S subjects.
        bounds: smallest and largest difference the metric can have.
        level: coverage the interval aims at.
    """
    return Methods([first, second], folds).differences(0, 1, bounds, [level])[0]


class Methods:
    """Several methods on the same S subjects in the same folds, with what any two of them need computed once.

    A subject's class counts if all of the methods have a value of it.
    """

    def __init__(self, tables: Sequence[ArrayLike], folds: Sequence[int]) -> None:
        """Prepare.

        Args:
            tables: of each method, (R, S, C) scores of its seeds, as in :func:`method_mean`.
            folds: the fold of each of the S subjects.
        """
        methods = [_tables(one) for one in tables]
        means = np.stack([_mean_over_seeds(one) for one in methods])
        means = np.where(np.isfinite(means).all(axis=0), means, np.nan)
        kept = np.isfinite(means[0]).any(axis=1)
        names, self._fold = np.unique(np.asarray(folds)[kept], return_inverse=True)
        self._n, self._folds = int(kept.sum()), len(names)
        means, methods = means[:, kept], [one[:, kept] for one in methods]
        self._contributions = np.stack([contributions(one) for one in means])
        self._alone = bool((np.isfinite(means[0]).sum(axis=0) == 1).any())
        trained = [_trained(one, self._fold, self._folds) for one in methods]
        self._seeds = [int(t.sum(axis=0).min()) if t.size else 0 for t in trained]
        self._influences = [self._within_folds(influences(one)) for one in means]
        self._terms = [
            _training_term(one, seen, self._fold, table) if seeds >= FEWEST_SEEDS else (math.nan, math.nan)
            for one, seen, seeds, table in zip(methods, trained, self._seeds, means, strict=True)
        ]

    def mean(self, bounds: tuple[float, float], level: float = LEVEL) -> MethodInterval:
        """Of the first method; see :func:`method_mean`."""
        return self._intervals(self._contributions[0], self._influences[0], [0], bounds, [level])[0]

    def differences(
        self, first: int, second: int, bounds: tuple[float, float], levels: Sequence[float] = (LEVEL,)
    ) -> list[MethodInterval]:
        """Of two methods, one for each level; see :func:`method_difference`."""
        added = self._contributions[first] - self._contributions[second]
        influence = self._influences[first] - self._influences[second]
        return self._intervals(added, influence, [first, second], bounds, levels)

    def _within_folds(self, found: Array) -> Array:
        """Influences less their mean within the fold."""
        counts = np.bincount(self._fold, minlength=self._folds)
        sums = np.bincount(self._fold, weights=found, minlength=self._folds)
        return np.asarray(found - (sums / np.maximum(counts, 1))[self._fold])

    def _intervals(
        self,
        added: Array,
        influence: Array,
        which: Sequence[int],
        bounds: tuple[float, float],
        levels: Sequence[float],
    ) -> list[MethodInterval]:
        """Intervals from what each subject adds to a mean or difference, and its influence on it."""
        nan, n = math.nan, self._n
        if not n:
            return [MethodInterval(nan, nan, nan, nan, nan, nan, nan, 0, 0, 0, "no subject has a value")] * len(levels)
        mean, seeds = float(np.mean(added)), min(self._seeds[k] for k in which)
        rests_on = (n, self._folds, seeds)
        if reason := _refusal(*rests_on, self._alone):
            return [MethodInterval(mean, nan, nan, nan, nan, nan, nan, *rests_on, reason)] * len(levels)
        within = float(n - self._folds)
        terms = [(float(np.einsum("s,s->", influence, influence)) / (within * n), within)]
        terms += [self._terms[k] for k in which]
        variance = sum(v for v, _ in terms)
        below = sum(v**2 / freedom for v, freedom in terms)
        freedom = variance**2 / below if below > 0 else math.inf
        found = []
        for level in levels:
            low, high, p = _student(mean, variance, freedom, level)
            low, high = (float(np.clip(end, *bounds)) for end in (low, high))
            sources = (terms[0][0], variance - terms[0][0])
            found.append(MethodInterval(mean, low, high, p, freedom, *sources, *rests_on))
        return found


def _tables(tables: ArrayLike) -> Array:
    found = np.asarray(tables, dtype=np.float64)
    if found.ndim != 3:
        raise ValueError(f"scores of seeds x subjects x classes have three axes, not shape {found.shape}")
    return found


def _mean_over_seeds(tables: Array) -> Array:
    """(R, S, C) -> (S, C); NaN where no seed has a value."""
    defined = np.isfinite(tables)
    counts = defined.sum(axis=0)
    sums = np.where(defined, tables, 0.0).sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _refusal(n: int, folds: int, seeds: int, alone: bool) -> str:
    if n < FEWEST_SUBJECTS:
        return f"{n} subject{'' if n == 1 else 's'}; an interval needs {FEWEST_SUBJECTS}"
    if n - folds < 2:
        return f"{n} subjects in {folds} folds; within folds their spread needs two more subjects than folds"
    if seeds < FEWEST_SEEDS:
        return f"{seeds} training{'' if seeds == 1 else 's'} in a fold; a statement about methods needs {FEWEST_SEEDS}"
    return "a class is shown by one subject only, so its scatter is unknown" if alone else ""


def _trained(method: Array, fold: NDArray[np.int_], folds: int) -> NDArray[np.bool_]:
    """(R, K): whether a seed scored any subject of a fold."""
    scored: NDArray[np.bool_] = np.asarray(np.isfinite(method).any(axis=2))
    found = np.zeros((len(method), folds), dtype=bool)
    for k in range(folds):
        found[:, k] = scored[:, fold == k].any(axis=1)
    return found


def _training_term(
    method: Array, trained: NDArray[np.bool_], fold: NDArray[np.int_], table: Array
) -> tuple[float, float]:
    """Variance of the mean from repeating the trainings of one method, and its degrees of freedom."""
    runs, folds = trained.shape
    effects = np.zeros((runs, folds))
    for r in range(runs):
        # Weights of the classes as in the mean over all subjects, so that the folds' effects add up to the mean's.
        filled = np.where(np.isfinite(method[r]), method[r], np.where(np.isfinite(table), 0.0, np.nan))
        effects[r] = np.bincount(fold, weights=contributions(filled), minlength=folds)
    counts = np.bincount(fold, minlength=folds)
    seeds = trained.sum(axis=0)
    means = np.where(trained, effects, 0.0).sum(axis=0) / seeds
    squares = np.where(trained, ((effects - means) / counts) ** 2, 0.0).sum()
    freedom = float((seeds - 1).sum())
    shares = counts / counts.sum()
    return float(squares) / freedom * float((shares**2 / seeds).sum()), freedom


def _student(mean: float, variance: float, freedom: float, level: float) -> tuple[float, float, float]:
    """t interval and two-sided p-value of a mean with a variance and degrees of freedom."""
    if variance <= TIE**2:  # nothing varies: the mean is what it is
        return mean, mean, float(abs(mean) <= TIE)
    from scipy import special  # a while to import, and only such functions need it

    error = math.sqrt(variance)
    reach = float(special.stdtrit(freedom, (1.0 + level) / 2.0)) * error
    return mean - reach, mean + reach, float(2.0 * special.stdtr(freedom, -abs(mean) / error))
