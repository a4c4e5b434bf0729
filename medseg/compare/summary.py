"""What the scores of one model on one data set come to: means, intervals, counts and tails, one row per metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from medseg.compare.interval import caution, macro_mean, mean_interval, subject_means
from medseg.compare.scores import MEAN, Block, Values
from medseg.compare.training_variance import FEWEST_SEEDS, method_mean
from medseg.compare.trainings import by_seed, folds_of
from medseg.metrics.table import METRICS

DECIMALS = 6
# Share of the cases that the tail of a mean is: the worst tenth.
TAIL = 0.1


def number(value: float) -> float | None:
    """A float as it is published: rounded, undefined as None (JSON has no NaN)."""
    return round(float(value), DECIMALS) if math.isfinite(value) else None


def summary_rows(block: Block) -> list[dict[str, Any]]:
    """One row per metric and class, the mean over classes first.

    Metrics: ``score_subject``, what models are ranked by, and for Dice and IoU ``…_subject`` (mean of subject means,
    with its interval), ``…_case`` (mean over cases) and ``…_pooled`` (from summed counts).
    """
    rows = []
    for label, columns in _labels(block):
        rows.append(_row(block, "score_subject", label, columns, _subject(block, "score", columns)))
    for metric in METRICS:
        pooled = _pooled(block, metric)
        for label, columns in _labels(block):
            rows.append(_row(block, f"{metric}_subject", label, columns, _subject(block, metric, columns)))
            mean = _class_mean(block.values[metric][:, columns])
            rows.append(_row(block, f"{metric}_case", label, columns, _plain(mean)))
            rows.append(_row(block, f"{metric}_pooled", label, columns, _plain(_mean(pooled[columns]))))
    return rows


def means(block: Block) -> dict[tuple[str, str], float | None]:
    """(metric, class) -> mean, as in ``summary_rows``, without intervals."""
    found: dict[tuple[str, str], float] = {}
    for label, columns in _labels(block):
        for name, values in (("score", block.score), *block.values.items()):
            table = subject_means(values[:, columns], block.subjects)[1]
            found[f"{name}_subject", label] = macro_mean(table)
    for metric in METRICS:
        pooled = _pooled(block, metric)
        for label, columns in _labels(block):
            found[f"{metric}_case", label] = _class_mean(block.values[metric][:, columns])
            found[f"{metric}_pooled", label] = _mean(pooled[columns])
    return {key: number(value) for key, value in found.items()}


def counts(block: Block) -> dict[str, int]:
    """How many cases there are, and how many of them were missed, failed, or invented a class, over all classes."""
    spurious = block.lacking & (block.volume > 0)
    missed, failed = int(block.missed.sum()), int(block.failed.any(axis=1).sum())
    return {"n_cases": len(block.cases), "n_missed": missed, "n_failed": failed, "n_spurious": int(spurious.sum())}


def _labels(block: Block) -> list[tuple[str, list[int]]]:
    """What is summarised: the mean over all classes, then each class; names and columns of the block."""
    return [(MEAN, list(range(len(block.labels)))), *((name, [c]) for c, name in enumerate(block.labels))]


def _subject(block: Block, name: str, columns: list[int]) -> dict[str, Any]:
    """The mean of subject means with its interval; the subjects' own means where there are too few of them.

    With two seeds or more the variance between trainings is in the interval: it takes the wider ends of the subjects'
    bootstrap-t interval, which skewed scores need, and the method's t interval.
    """
    values = (block.score if name == "score" else block.values[name])[:, columns]
    _, table = subject_means(values, block.subjects)
    known = table[np.isfinite(table).any(axis=1)]
    found = mean_interval(table)
    low, high, note = found.low, found.high, found.reason or caution(table)
    if len(block.seeds) >= FEWEST_SEEDS and math.isfinite(low):
        method = method_mean(by_seed(block, name)[:, :, columns], folds_of(block).tolist())
        if not method.reason:
            low, high = min(low, method.low), max(high, method.high)
        seeds = method.reason or f"variance of {len(block.seeds)} seeds included"
        note = "; ".join(filter(None, [seeds, note]))
    points = [] if math.isfinite(found.low) else sorted(number(_mean(row)) or 0.0 for row in known)
    numbers = {"mean": number(found.mean), "low": number(low), "high": number(high), "points": points}
    return {**numbers, "n_subjects": found.n_subjects, "note": note if len(known) else "no reference shows the class"}


def _plain(mean: float) -> dict[str, Any]:
    return {"mean": number(mean), "low": None, "high": None, "points": [], "n_subjects": None, "note": ""}


def _class_mean(values: Values) -> float:
    """Mean over the classes that any case has of the mean over those cases; (N, C) -> number."""
    return _mean(np.array([_mean(column) for column in values.T]))


def _mean(values: Values) -> float:
    """Mean of the defined values; NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def _pooled(block: Block, metric: str) -> Values:
    """(C,) the metric of counts summed over all cases; NaN for a class that no reference shows."""
    tp, fp, fn = (block.counts[m].sum(axis=0) for m in ("tp", "fp", "fn"))
    weight = {"dice": 2.0, "iou": 1.0}[metric]
    shown = tp + fn > 0
    return np.where(shown, weight * tp / np.where(shown, weight * tp + fp + fn, 1.0), np.nan)


def _row(block: Block, metric: str, label: str, columns: list[int], numbers: dict[str, Any]) -> dict[str, Any]:
    """A row of the summary: the numbers of a mean, and which cases are behind it."""
    shown, lacking = block.shown[:, columns], block.lacking[:, columns]
    empty = block.left_empty[:, columns][lacking]
    # What a failed case would have invented is not known.
    volume = block.volume[:, columns][lacking & ~block.failed[:, columns]]
    return {
        "dataset": block.dataset,
        "split": block.split,
        "model": block.model,
        "metric": metric,
        "label": label,
        **numbers,
        "n": int(shown.any(axis=1).sum()),
        "n_missed": int(block.missed[:, columns].sum()),
        "n_failed": int(block.failed[:, columns].any(axis=1).sum()),
        "n_lacking": int(lacking.sum()),
        "n_spurious": int((volume > 0).sum()),
        "left_empty": number(_mean(empty)),
        "false_volume": number(_mean(volume)),
        "volume_unit": block.volume_unit,
    }


def tail(block: Block) -> dict[str, Any]:
    """How far the mean over cases depends on its worst cases, by each case's mean Dice over its classes.

    Returns:
        ``worst_tenth``: mean of the worst tenth of the cases (at least one), ``trimmed``: mean of all others,
        ``n_worst``: cases in that tenth, ``worst``: the ids of up to five of them, the worst first.
    """
    dice = block.values["dice"]
    scored = [(_mean(row), case) for row, case in zip(dice, block.cases, strict=True) if np.isfinite(row).any()]
    scored.sort()
    count = math.ceil(TAIL * len(scored))
    worst, rest = ([value for value, _ in part] for part in (scored[:count], scored[count:]))
    return {
        "worst_tenth": number(_mean(np.array(worst))),
        "trimmed": number(_mean(np.array(rest))),
        "n_worst": count,
        "worst": [case for _, case in scored[:5][:count]],
    }
