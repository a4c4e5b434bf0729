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
    seeds = _tables(tables)
    return _interval(_mean_over_seeds(seeds), [seeds], np.asarray(folds), bounds, level)


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
    one, two = _tables(first), _tables(second)
    return _interval(_mean_over_seeds(one) - _mean_over_seeds(two), [one, two], np.asarray(folds), bounds, level)


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


def _interval(
    table: Array, methods: Sequence[Array], folds: NDArray[np.int_], bounds: tuple[float, float], level: float
) -> MethodInterval:
    """The interval of the macro mean of a table of subjects (S, C), given the seeds of the methods behind it."""
    kept = np.isfinite(table).any(axis=1)
    table, methods, folds = table[kept], [m[:, kept] for m in methods], folds[kept]
    if not len(table):
        nan = math.nan
        return MethodInterval(nan, nan, nan, nan, nan, nan, nan, 0, 0, 0, "no subject has a value")
    names, fold = np.unique(folds, return_inverse=True)
    n, mean = len(table), float(np.mean(contributions(table)))
    trained = [_trained(m, fold, len(names)) for m in methods]
    seeds = min((int(t.sum(axis=0).min()) for t in trained if t.size), default=0)
    if reason := _refusal(n, len(names), seeds, bool((np.isfinite(table).sum(axis=0) == 1).any())):
        nan = math.nan
        return MethodInterval(mean, nan, nan, nan, nan, nan, nan, n, len(names), seeds, reason)
    terms = [_subject_term(table, fold, len(names))]
    terms += [_training_term(m, t, fold, table) for m, t in zip(methods, trained, strict=True)]
    variance = sum(v for v, _ in terms)
    below = sum(v**2 / freedom for v, freedom in terms)
    freedom = variance**2 / below if below > 0 else math.inf
    low, high, p = _student(mean, variance, freedom, level)
    low, high = (float(np.clip(end, *bounds)) for end in (low, high))
    return MethodInterval(
        mean, low, high, p, freedom, terms[0][0], variance - terms[0][0], n, len(names), seeds, reason
    )


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
    return np.stack([scored[:, fold == k].any(axis=1) for k in range(folds)], axis=1)


def _subject_term(table: Array, fold: NDArray[np.int_], folds: int) -> tuple[float, float]:
    """Variance of the mean from drawing subjects, their influences taken within folds, and its degrees of freedom."""
    found = influences(table)
    counts = np.bincount(fold, minlength=folds)
    centred = found - (np.bincount(fold, weights=found, minlength=folds) / counts)[fold]
    freedom = len(found) - folds
    return float(np.einsum("s,s->", centred, centred)) / (freedom * len(found)), float(freedom)


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
    from scipy import stats  # a second to import, and only this function needs it

    error = math.sqrt(variance)
    reach = float(stats.t.ppf((1.0 + level) / 2.0, freedom)) * error
    return mean - reach, mean + reach, float(2.0 * stats.t.sf(abs(mean) / error, freedom))
