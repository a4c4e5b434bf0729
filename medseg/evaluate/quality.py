"""Calibration of the quality estimate: what the Dice of validation cases was, against what their predictions expected.

Validation cases of a fold are the only ones that its model was not trained on. The estimate is the expected Dice less
its mean excess: it falls where a network becomes unsure, whether or not validation had such cases. A straight line, and
the mean of all cases, which knows nothing of the case, are taken where they are better by more than noise; each subject
is estimated by the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg.evaluate.score import NOT_ANNOTATED
from medseg.postprocess.scoring import Gains, by_subject
from medseg.predict.quality import Quality
from medseg.predict.record import Predictions

LEVEL = 0.9
# Subjects below which nothing is calibrated.
LEAST = 5
Numbers = NDArray[np.float64]
# Expected Dice and Dice of cases (N,) -> intercept and slope.
Fit = Callable[[Numbers, Numbers], tuple[float, float]]


def _mean(expected: Numbers, dice: Numbers) -> tuple[float, float]:
    return float(dice.mean()), 0.0


def _offset(expected: Numbers, dice: Numbers) -> tuple[float, float]:
    return float((dice - expected).mean()), 1.0


def _line(expected: Numbers, dice: Numbers) -> tuple[float, float]:
    spread = expected - expected.mean()
    square = float((spread**2).sum())
    slope = float((spread * dice).sum()) / square if square > 0 else 0.0
    # More expected Dice is never taken for less Dice.
    slope = max(slope, 0.0)
    return float(dice.mean() - slope * expected.mean()), slope


# The usual one first: another is taken where it is better by more than noise.
FITS: Mapping[str, Fit] = {"offset": _offset, "line": _line, "mean": _mean}
# Of the one-sided test that one way is no better than another.
NOISE = 0.05


def calibrate(predictions: Predictions, scores: pd.DataFrame) -> tuple[Quality | None, str]:
    """How Dice is estimated, or why it is not.

    Args:
        predictions: of validation cases, with the expected Dice of each.
        scores: score rows of the same cases.
    """
    expected, dice, subjects = _pairs(predictions, scores)
    if len(set(subjects)) < LEAST:
        return None, f"{len(set(subjects))} subjects with an expected Dice; at least {LEAST} are needed"
    found = {method: _errors(fit, expected, dice, subjects) for method, fit in FITS.items()}
    maes = {method: float(np.abs(errors).mean()) for method, errors in found.items()}
    usual, *others = FITS
    better = [name for name in others if _is_better(found[name], found[usual], subjects)]
    method = min(better or [usual], key=lambda name: maes[name])
    tells = _is_better(found[method], found["mean"], subjects)
    lines = {name: FITS[method](*_known(expected[name], dice[name])) for name in expected}
    errors = np.abs(found[method])
    half = half_width(errors)
    about = (maes[method], maes["mean"], _coverage(errors, subjects), len(subjects), len(set(subjects)))
    return Quality(method, tells, lines, half, LEVEL, *about), ""


def _is_better(errors: Numbers, than: Numbers, subjects: list[str]) -> bool:
    """Whether errors (N,) are smaller than others by more than noise: by the sign-flip test over subjects."""
    before, after = (by_subject(-np.abs(one)[:, None], subjects) for one in (than, errors))
    return Gains.of(before, after).p <= NOISE


def _pairs(predictions: Predictions, scores: pd.DataFrame) -> tuple[dict[str, Numbers], dict[str, Numbers], list[str]]:
    """Expected Dice and Dice (N,) of each class, NaN where the prediction shows none of it; subjects of the cases.

    The Dice of a class that the reference lacks and the prediction shows is 0.
    """
    rows = scores[scores["metric"] == "dice"]
    keys = zip(rows["case"], rows["label"], strict=True)
    known = dict(zip(keys, zip(rows["status"], rows["value"], strict=True), strict=True))
    subject_of = dict(zip(rows["case"], rows["subject"], strict=True))
    cases = [
        (case, entry.expected) for case, entry in predictions.cases.items() if entry.expected and case in subject_of
    ]
    names = list(dict.fromkeys(rows["label"]))
    expected = {name: np.array([values.get(name, np.nan) for _, values in cases]) for name in names}
    dice = {name: np.full(len(cases), np.nan) for name in names}
    for name in names:
        for place, (case, values) in enumerate(cases):
            status, value = known[case, name]
            if name in values and status != NOT_ANNOTATED:
                dice[name][place] = np.nan_to_num(value)
        expected[name][np.isnan(dice[name])] = np.nan
    there = ~np.all([np.isnan(values) for values in dice.values()], axis=0) if names else np.zeros(0, bool)
    kept = [subject_of[case] for (case, _), good in zip(cases, there, strict=True) if good]
    seen = [name for name in names if np.isfinite(dice[name]).any()]
    return {n: expected[n][there] for n in seen}, {n: dice[n][there] for n in seen}, kept


def _known(expected: Numbers, dice: Numbers) -> tuple[Numbers, Numbers]:
    there = np.isfinite(dice)
    return expected[there], dice[there]


def _errors(fit: Fit, expected: Mapping[str, Numbers], dice: Mapping[str, Numbers], subjects: list[str]) -> Numbers:
    """Estimate less Dice (N,), means over classes; each subject is estimated by the others."""
    names = np.array(subjects)
    errors = []
    for name in expected:
        estimate = np.full(len(names), np.nan)
        for subject in set(subjects):
            mine, others = names == subject, _known(*(one[name][names != subject] for one in (expected, dice)))
            if len(others[0]):
                intercept, slope = fit(*others)
                estimate[mine] = np.clip(intercept + slope * expected[name][mine], 0, 1)
        errors.append(np.where(np.isfinite(dice[name]), estimate - dice[name], np.nan))
    table = np.array(errors)
    there = np.isfinite(table)
    of_cases: Numbers = np.where(there, table, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    return of_cases


def half_width(errors: Numbers) -> float | None:
    """Half of the split-conformal interval at ``LEVEL`` from absolute errors (N,); None: too few of them."""
    rank = math.ceil((len(errors) + 1) * LEVEL)
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else None


def _coverage(errors: Numbers, subjects: list[str]) -> float | None:
    """Share of cases whose error is within the interval that the errors of other subjects give."""
    names, inside = np.array(subjects), []
    for subject in sorted(set(subjects)):
        half = half_width(errors[names != subject])
        if half is None:
            return None
        inside += (errors[names == subject] <= half).tolist()
    return float(np.mean(inside))
