"""How well objects are found at every IoU, and how well they are counted: curves, intervals, limits of agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from medseg.compare.block import Block
from medseg.compare.interval import (
    FEWEST_SUBJECTS,
    LEVEL,
    RESAMPLES,
    Array,
    Interval,
    members,
    places_of,
    resample_counts,
)
from medseg.compare.product import product
from medseg.compare.summary import number
from medseg.metrics.quantities import HUNDREDTHS

# Of differences that are normal, 95 % lie within so many standard deviations of their mean (Bland & Altman 1986).
LIMITS = 1.96
# A resample has no spread if what is left is this share of its sum of squares: rounding.
_FLAT = 1e-12


def object_rows(block: Block) -> list[dict[str, Any]]:
    """What the objects of each class come to, one row per class; none where labels do not number objects.

    Columns: data set, split, model and label; objects over all cases (means over seeds): ``n_ref``, ``n_pred``,
    ``n_matched`` (at an IoU of 0.5), ``n_merged``, ``n_split``; ``curve``: AP of summed matches at each IoU with its
    interval over subjects; ``bias``, ``limit_low``, ``limit_high``: mean difference of the numbers of objects in a case
    (predicted - reference) and its limits of agreement (Bland & Altman 1986), over ``n_counted`` cases, those that
    failed left out; ``note``: why there is no interval.
    """
    if "n_objects_ref" not in block.counts:
        return []
    return [_row(block, place) for place in range(len(block.labels))]


def pooled_interval(found: ArrayLike, total: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Ratio of two sums over subjects, and its bootstrap-t interval.

    Whole subjects are drawn with replacement, as for means; the standard error is that of the linearised ratio (delta
    method). Where every subject has the same total, this is the interval of the mean of the subjects' ratios.

    Args:
        found, total: (S,) of each subject, ``0 <= found <= total``.
        resamples, seed: as of ``mean_interval``.
    """
    rows = (np.asarray(one, dtype=np.float64)[None] for one in (found, total))
    return pooled_intervals(*rows, resamples=resamples, seed=seed)[0]


def pooled_intervals(
    found: ArrayLike, total: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """:func:`pooled_interval` of each of K rows of (K, S) sums, all in the same resamples."""
    counted, of = np.asarray(found, dtype=np.float64), np.asarray(total, dtype=np.float64)
    n, sums = of.shape[1], of.sum(axis=1)
    ratios = counted.sum(axis=1) / np.where(sums > 0, sums, 1.0)
    rest = counted - ratios[:, None] * of
    varies = np.abs(rest).max(axis=1, initial=0.0) > _FLAT * of.max(axis=1, initial=0.0)
    drawn = np.flatnonzero(varies & (sums > 0)) if n >= FEWEST_SUBJECTS else np.zeros(0, dtype=np.intp)
    ends = dict(zip(drawn.tolist(), _ends(rest[drawn], of[drawn], resamples, seed), strict=True))
    intervals = []
    for k, ratio in enumerate(ratios.tolist()):
        if not sums[k]:
            intervals.append(Interval(math.nan, math.nan, math.nan, n, "there are no objects"))
        elif n < FEWEST_SUBJECTS:
            reason = f"{n} subject{'' if n == 1 else 's'}; an interval needs {FEWEST_SUBJECTS}"
            intervals.append(Interval(ratio, math.nan, math.nan, n, reason))
        elif k not in ends:
            intervals.append(Interval(ratio, ratio, ratio, n, f"all {n} subjects have the same value"))
        else:
            low, high = (float(np.clip(ratio - end, 0.0, 1.0)) for end in ends[k])
            intervals.append(Interval(ratio, min(low, ratio), max(high, ratio), n))
    return intervals


def _ends(rest: Array, total: Array, resamples: int, seed: int) -> Array:
    """(K, 2) distances of an interval's lower and upper end below each ratio."""
    if not len(rest):
        return np.zeros((0, 2))
    first, last = places_of(LEVEL, resamples)
    ratios = np.partition(_studentised(rest, total, resamples, seed), (first, last), axis=1)[:, [last, first]]
    n = total.shape[1]
    errors = np.sqrt(n / (n - 1) * np.einsum("ks,ks->k", rest, rest)) / total.sum(axis=1)
    return np.asarray(ratios * errors[:, None])


def _studentised(rest: Array, total: Array, resamples: int, seed: int) -> Array:
    """(K, R) deviations of ratios in resamples over their own standard errors; infinite where there is no spread."""
    (count, n), out = rest.shape, []
    rows = np.concatenate([rest, total, rest**2, rest * total, total**2])
    for times in resample_counts(n, resamples, seed):
        deviated, sums, squares, mixed, of_total = product(rows, times.T).reshape(5, count, -1)
        some = sums > 0
        deviations = np.where(some, deviated / np.where(some, sums, 1.0), 0.0)
        left = squares - 2 * deviations * mixed + deviations**2 * of_total
        flat = left <= _FLAT * squares
        error = np.sqrt(np.where(flat, 1.0, left) * n / (n - 1)) / np.where(some, sums, 1.0)
        no_spread = np.where(np.abs(deviations) <= _FLAT, 0.0, np.copysign(np.inf, deviations))
        out.append(np.where(flat, no_spread, deviations / error))
    return np.concatenate(out, axis=1)


def agreement(reference: ArrayLike, predicted: ArrayLike) -> tuple[float, float, float]:
    """Bias (mean of predicted - reference) and 95 % limits of agreement: bias -+ 1.96 standard deviations.

    Both are (N,); without values all are NaN, with a single one the limits are (Bland & Altman 1986).
    """
    differences = np.asarray(predicted, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    bias = float(differences.mean()) if differences.size else math.nan
    spread = LIMITS * float(differences.std(ddof=1)) if differences.size > 1 else math.nan
    return bias, bias - spread, bias + spread


def _row(block: Block, place: int) -> dict[str, Any]:
    counts = {name: values[:, place] for name, values in block.counts.items()}
    reference, predicted = counts["n_objects_ref"], counts["n_objects_pred"]
    curve, note = _curve(counts, block.subjects)
    counted = (block.shown | block.lacking)[:, place] & ~block.failed[:, place]
    ends = agreement(reference[counted], predicted[counted])
    sums = {"n_ref": reference, "n_pred": predicted, "n_matched": counts["matched_50"]}
    sums |= {name: counts[name] for name in ("n_merged", "n_split")}
    return {
        "dataset": block.dataset,
        "split": block.split,
        "model": block.model,
        "label": block.labels[place],
        **{name: number(float(values.sum())) for name, values in sums.items()},
        "curve": curve,
        **dict(zip(("bias", "limit_low", "limit_high"), map(number, ends), strict=True)),
        "n_counted": int(counted.sum()),
        "note": note,
    }


def _curve(counts: dict[str, Array], subjects: Sequence[str]) -> tuple[list[dict[str, float | None]], str]:
    """AP of summed matches at each IoU, with its interval; and why there is none."""
    _, member = members(tuple(subjects))
    every = np.bincount(member, weights=counts["n_objects_ref"] + counts["n_objects_pred"])
    matched = np.stack([np.bincount(member, weights=counts[f"matched_{k}"]) for k in HUNDREDTHS])
    found = pooled_intervals(matched, every - matched)
    points = [
        {"iou": hundredths / 100, "ap": number(one.mean), "low": number(one.low), "high": number(one.high)}
        for hundredths, one in zip(HUNDREDTHS, found, strict=True)
    ]
    return points, found[0].reason
