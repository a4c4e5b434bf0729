"""Macro means over subjects and their bootstrap-t intervals: arrays in, the same numbers out.

A table is an (S, C) array: S subjects (the units of independence), C classes, each entry the mean over the subject's
cases of one class's score, NaN where no reference of the subject shows the class. The pattern of NaN belongs to the
references alone, so it is the same for every model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
# With fewer subjects no interval: an exact two-sided test at 5 % needs six as well (2 / 2**6 < 0.05 < 2 / 2**5).
FEWEST_SUBJECTS = 6
# From here on the interval holds with misses in 8 % of subjects (benchmarks/simulations.py).
FEWEST_FOR_MISSES = 50
# Smaller differences are rounding left over from averaging.
TIE = 1e-9
# Resamples are made in blocks of about this many numbers, so that memory stays bounded.
_BLOCK = 2_000_000
Blocks = list[NDArray[np.unsignedinteger[Any]]]
# Resamples of n subjects, resamples and seed: every mean and difference over n subjects takes the same ones. The oldest
# are dropped where all together would be larger than this.
_drawn: dict[tuple[int, int, int], Blocks] = {}
_KEPT_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A macro mean with its bootstrap-t interval.

    Attributes:
        mean: the macro mean; NaN if nobody has any class.
        low, high: bounds, within the metric's bounds; NaN where there is no interval.
        n_subjects: subjects with at least one class.
        reason: empty; or why there is no interval; or that all values are equal (then low = mean = high).
    """

    mean: float
    low: float
    high: float
    n_subjects: int
    reason: str = ""


def subject_means(values: ArrayLike, subjects: Sequence[str]) -> tuple[tuple[str, ...], Array]:
    """Average the scores of N cases (x C classes) within each subject.

    Args:
        values: (N, C) or (N,) scores; NaN where the case's reference lacks the class.
        subjects: the subject of each case.

    Returns:
        The S subjects in sorted order, and their (S, C) table; NaN where none of a subject's cases has the class.
    """
    cases = np.asarray(values, dtype=np.float64)
    cases = cases.reshape(len(cases), -1)
    names, member = members(tuple(subjects))
    defined = np.isfinite(cases)
    known = np.where(defined, cases, 0.0)
    shape = (len(names), cases.shape[1])
    sums, counts = np.zeros(shape), np.zeros(shape)
    for c in range(shape[1]):
        sums[:, c] = np.bincount(member, weights=known[:, c], minlength=len(names))
        counts[:, c] = np.bincount(member, weights=defined[:, c], minlength=len(names))
    return names, _divide(sums, counts, np.nan)


@functools.lru_cache(maxsize=8)
def members(subjects: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The subjects of N cases in sorted order, and the place among them of each case's subject."""
    names, member = np.unique(np.asarray(subjects, dtype=np.str_), return_inverse=True)
    return tuple(str(name) for name in names), member


def macro_mean(table: ArrayLike) -> float:
    """Mean over the classes that anybody has of the mean over the subjects that have the class; (S, C) -> number."""
    values, _, weights = weighted(table)
    return float(np.einsum("sc,sc->", values, weights) / len(values)) if len(values) else float("nan")


def contributions(table: ArrayLike) -> Array:
    """What each subject adds to the macro mean: x_s with ``mean(x) = macro_mean(table)``; (S, C) -> (S,).

    x_s = (1 / C') sum_c (S / S_c) v_sc, with S_c subjects that have class c, C' classes that anybody has, and S
    subjects with any class. A subject without any class has NaN.
    """
    whole = np.asarray(table, dtype=np.float64)
    values, present, weights = weighted(whole)
    out = np.full(len(whole), np.nan)
    out[np.isfinite(whole).any(axis=1)] = np.einsum("sc,sc->s", values, np.where(present, weights, 0.0))
    return out


def influences(table: ArrayLike) -> Array:
    """Influence of each subject on the macro mean, which is a sum of ratios: their variance / S is the mean's.

    Contributions about the class means, (1 / C') sum_c (S / S_c) (v_sc - mean_c); subjects without any class are
    left out, so (S, C) -> (subjects with any class,).
    """
    values, present, weights = weighted(table)
    found: Array = np.einsum("sc,sc->s", centred_by_class(values, present), weights)
    return found


def standard_error(table: ArrayLike) -> float:
    """Delta-method standard error of the macro mean, from :func:`influences`; NaN below two subjects."""
    found = influences(table)
    n = len(found)
    return float(np.sqrt(np.einsum("s,s->", found, found) / (n * (n - 1)))) if n > 1 else float("nan")


def mean_interval(
    table: ArrayLike,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Macro mean of an (S, C) table and its bootstrap-t interval (Efron 1981, Hall 1988).

    Whole subjects are drawn with replacement. In each resample the deviation from the macro mean is divided by the
    resample's own delta-method standard error; the quantiles of these ratios take the place of Student's. There is
    no interval below six subjects, nor where a single subject shows a class: its scatter is unknown. Where too
    many resamples lack any spread (a single subject differs from all others), a quantile is infinite and the
    interval ends at the metric's bound: the data do not bound the mean on that side.

    Args:
        table: scores, or differences of two models' scores.
        bounds: smallest and largest mean the metric can have; (-1, 1) for differences of scores.
        level: coverage the interval aims at.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling; the same input and seed give the same bytes on any number of threads.
    """
    values, present, _ = weighted(table)
    n, mean = len(values), macro_mean(table)
    if reason := refusal(present):
        return Interval(mean, float("nan"), float("nan"), n, reason)
    centred = centred_by_class(values, present)
    if not np.abs(centred).max() > TIE:
        return Interval(mean, mean, mean, n, f"all {n} subjects have the same value")
    drawn = [studentised(times, centred, present) for times in resample_counts(n, resamples, seed)]
    first, last = np.sort(np.concatenate(drawn))[list(places_of(level, resamples))]
    error = standard_error(table)
    low, high = (float(np.clip(mean - ratio * error, *bounds)) for ratio in (last, first))
    return Interval(mean, min(low, mean), max(high, mean), n)


def refusal(present: NDArray[np.bool_]) -> str:
    """Why there is no interval of values that are defined there, (n, C) of n subjects with any class; else empty."""
    n = len(present)
    if n < FEWEST_SUBJECTS:
        return f"{n} subject{'' if n == 1 else 's'}; an interval needs {FEWEST_SUBJECTS}"
    if (present.sum(axis=0) == 1).any():
        return "a class is shown by one subject only, so its scatter is unknown"
    return ""


def places_of(level: float, resamples: int) -> tuple[int, int]:
    """Places of the two quantiles of an interval among so many sorted ratios."""
    tail = (1.0 - level) / 2.0
    first = max(0, int(np.floor((resamples + 1) * tail)) - 1)
    return first, min(resamples - 1, int(np.ceil((resamples + 1) * (1.0 - tail))) - 1)


def resample_counts(n: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each of n subjects is drawn in each bootstrap resample, as blocks of (resamples, n) counts."""
    return (block.astype(np.float64) for block in drawn_counts(n, resamples, seed))


def drawn_counts(n: int, resamples: int, seed: int) -> Blocks:
    """The blocks of :func:`resample_counts` in small integers, drawn once for all that ask for the same."""
    key = n, resamples, seed
    if key not in _drawn:
        made = _draw(*key)
        while _drawn and sum(block.nbytes for one in [made, *_drawn.values()] for block in one) > _KEPT_BYTES:
            del _drawn[next(iter(_drawn))]
        _drawn[key] = made
    return _drawn[key]


def _draw(n: int, resamples: int, seed: int) -> Blocks:
    """The counts of :func:`resample_counts`, in the smallest integers that hold them."""
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(n, 1))
    out = []
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(0, n, size=(rows, n)) + n * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        out.append(counts.astype(np.min_scalar_type(counts.max(initial=0))))
    return out


def weighted(table: ArrayLike) -> tuple[Array, NDArray[np.bool_], Array]:
    """Values (0 where undefined), where defined, weights (1 / C') (S / S_c); of subjects that have any class."""
    whole = np.asarray(table, dtype=np.float64)
    if whole.ndim != 2:
        raise ValueError(f"a table of subjects x classes has two axes, not shape {whole.shape}")
    present = np.isfinite(whole)
    kept = present.any(axis=1)
    whole, present = whole[kept], present[kept]
    carriers = present.sum(axis=0)
    classes = max(int((carriers > 0).sum()), 1)
    weights = np.where(present, len(whole) / (classes * np.maximum(carriers, 1)), 0.0)
    return np.where(present, whole, 0.0), present, weights


def centred_by_class(values: Array, present: NDArray[np.bool_]) -> Array:
    """Values less the mean of their class, 0 where undefined."""
    means = _divide(np.einsum("sc->c", values), present.sum(axis=0).astype(np.float64), 0.0)
    return np.where(present, values - means, 0.0)


def _divide(sums: Array, counts: Array, empty: float) -> Array:
    return np.where(counts > 0, sums / np.where(counts > 0, counts, 1.0), empty)


def studentised(times: Array, centred: Array, present: NDArray[np.bool_]) -> Array:
    """Deviations of resampled macro means over their own standard errors; infinite where a resample has no spread.

    Args:
        times: (R, n) how often each subject is drawn in each resample.
        centred: (n, C) values less the mean of their class, so a class that is missing in a resample does not shift
            its macro mean.
        present: (n, C) where they are defined.
    """
    n, here = len(centred), present.astype(np.float64)
    # einsum, not matmul: its order of summation does not depend on the number of threads.
    carriers = np.einsum("rs,sc->rc", times, here)
    means = _divide(np.einsum("rs,sc->rc", times, centred), carriers, 0.0)
    classes = np.maximum((carriers > 0).sum(axis=1), 1)
    deviations = np.einsum("rc->r", means) / classes
    weights = _divide(np.full_like(carriers, n), classes[:, None] * carriers, 0.0)
    influence = np.einsum("rc,sc->rs", weights, centred)
    influence -= np.einsum("rc,sc->rs", weights * means, here)
    variances = np.einsum("rs,rs,rs->r", times, influence, influence) / (n * (n - 1))
    flat = variances <= TIE**2
    no_spread = np.where(np.abs(deviations) <= TIE, 0.0, np.copysign(np.inf, deviations))
    return np.where(flat, no_spread, deviations / np.sqrt(np.where(flat, 1.0, variances)))


def caution(table: ArrayLike) -> str:
    """One sentence on when the interval of this (S, C) table is too narrow; empty if nothing is known against it.

    Two rules from simulations (benchmarks/simulations.py): a class that fewer than six subjects show has no error to
    speak of; and below 50 subjects, misses (scores of 0) in one subject of twelve may be absent from the sample.

    Args:
        table: scores, or differences of two models' scores.
    """
    present = np.isfinite(np.asarray(table, dtype=np.float64))
    n, carriers = int(present.any(axis=1).sum()), present.sum(axis=0)
    if n < FEWEST_SUBJECTS:
        return ""
    rare = [int(c) for c in np.flatnonzero((carriers > 0) & (carriers < FEWEST_SUBJECTS))]
    if rare:
        few = int(carriers[rare[0]])
        return f"one class is shown by {few} subject{'' if few == 1 else 's'} only, so the interval may be too narrow"
    if n < FEWEST_FOR_MISSES:
        return (
            f"with {n} subjects, misses in up to {unseen_share(n):.0%} of subjects can go unseen, "
            f"and the interval holds only if there are none"
        )
    return ""


def unseen_share(n_subjects: int, confidence: float = LEVEL) -> float:
    """Largest share of subjects that a failure can strike and n subjects miss with probability 5 %: 1 - 0.05^(1/n)."""
    return float(1.0 - (1.0 - confidence) ** (1.0 / n_subjects))
