"""What the scores of one model on one data set come to: means, intervals, counts and tails, one row per metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.compare.block import Block, Values
from medseg.compare.interval import FEWEST_SUBJECTS, Interval, caution, macro_mean, subject_means
from medseg.compare.quantity import MEAN, SCORE, quantity
from medseg.compare.resampled import mean_intervals
from medseg.compare.training_variance import FEWEST_SEEDS, method_mean
from medseg.compare.trainings import by_seed, folds_of
from medseg.late import resolve
from medseg.metrics.table import METRICS

DECIMALS = 6
# Share of the cases that the tail of a mean is: the worst tenth.
TAIL = 0.1


def number(value: float) -> float | None:
    """A float as it is published: rounded, undefined as None (JSON has no NaN)."""
    return round(float(value), DECIMALS) if math.isfinite(value) else None


def summary_rows(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Of each block one row per metric and class, the mean over classes first.

    Metrics: ``score_subject``, what models are ranked by, and of every metric ``…_subject`` (mean of subject means,
    with its interval), ``…_case`` (mean over cases) and, where it can be taken of summed counts, ``…_pooled``.
    """
    intervals = _intervals(blocks)
    return [row for place, block in enumerate(blocks) for row in _rows(block, intervals[place])]


def _rows(block: Block, intervals: Mapping[tuple[str, str], Interval]) -> list[dict[str, Any]]:
    rows = []
    for name in block.values:
        sums = _pooled(block, name)
        for label, columns in _labels(block, name):
            subject = _subject(block, name, columns, intervals[name, label])
            rows.append(_row(block, f"{name}_subject", label, columns, subject))
            if name != SCORE:
                mean = _class_mean(block.values[name][:, columns])
                rows.append(_row(block, f"{name}_case", label, columns, _plain(mean)))
            if sums is not None:
                rows.append(_row(block, f"{name}_pooled", label, columns, _plain(_mean(sums[columns]))))
    return rows


def _intervals(blocks: Sequence[Block]) -> list[dict[tuple[str, str], Interval]]:
    """Of each block: (metric, class) -> the mean of subject means with its interval, all in the same resamples."""
    asked: dict[tuple[str, str, str], list[tuple[int, str, list[int]]]] = {}
    for place, block in enumerate(blocks):
        for name in block.values:
            for label, columns in _labels(block, name):
                asked.setdefault((block.dataset, block.split, label), []).append((place, name, columns))
    found: list[dict[tuple[str, str], Interval]] = [{} for _ in blocks]
    for (_, _, label), mine in asked.items():
        tables = [subject_means(blocks[k].values[name][:, columns], blocks[k].subjects)[1] for k, name, columns in mine]
        intervals = mean_intervals(tables, [blocks[k].bounds[name] for k, name, _ in mine])
        for (k, name, _), interval in zip(mine, intervals, strict=True):
            found[k][name, label] = interval
    return found


def means(block: Block) -> dict[tuple[str, str], float | None]:
    """(metric, class) -> mean, as in ``summary_rows``, without intervals."""
    found: dict[tuple[str, str], float] = {}
    for name, values in block.values.items():
        sums = _pooled(block, name)
        for label, columns in _labels(block, name):
            table = subject_means(values[:, columns], block.subjects)[1]
            found[f"{name}_subject", label] = macro_mean(table)
            if name != SCORE:
                found[f"{name}_case", label] = _class_mean(values[:, columns])
            if sums is not None:
                found[f"{name}_pooled", label] = _mean(sums[columns])
    return {key: number(value) for key, value in found.items()}


def counts(block: Block) -> dict[str, int]:
    """How many cases there are, and how many of them were missed, failed, or invented a class, over all classes."""
    spurious = block.lacking & (block.volume > 0)
    missed, failed = int(block.missed.sum()), int(block.failed.any(axis=1).sum())
    return {"n_cases": len(block.cases), "n_missed": missed, "n_failed": failed, "n_spurious": int(spurious.sum())}


def _labels(block: Block, name: str) -> list[tuple[str, list[int]]]:
    """What is summarised: the mean over all classes, then each class; names and columns of the block.

    A metric that not every class has (the normalised surface distance needs a tolerance) has no row of the others.
    """
    wanted = list(range(len(block.labels)))
    if quantity(name).optional:
        wanted = [c for c in wanted if np.isfinite(block.values[name][:, c]).any()]
    return [(MEAN, list(range(len(block.labels)))), *((block.labels[c], [c]) for c in wanted)]


def _subject(block: Block, name: str, columns: list[int], found: Interval) -> dict[str, Any]:
    """The mean of subject means with its interval; the subjects' own means where there are too few of them.

    With two seeds or more the variance between trainings is in the interval: it takes the wider ends of the subjects'
    bootstrap-t interval, which skewed scores need, and the method's t interval.
    """
    _, table = subject_means(block.values[name][:, columns], block.subjects)
    known = table[np.isfinite(table).any(axis=1)]
    bounds = block.bounds[name]
    low, high, note = found.low, found.high, found.reason or caution(table)
    if len(block.seeds) >= FEWEST_SEEDS and math.isfinite(low):
        method = method_mean(by_seed(block, name)[:, :, columns], folds_of(block).tolist(), bounds=bounds)
        if not method.reason:
            low, high = min(low, method.low), max(high, method.high)
        seeds = method.reason or f"variance of {len(block.seeds)} seeds included"
        note = "; ".join(filter(None, [seeds, note]))
    few = found.n_subjects < FEWEST_SUBJECTS
    points = sorted(number(_mean(row)) or 0.0 for row in known) if few else []
    numbers = {"mean": number(found.mean), "low": number(low), "high": number(high), "points": points}
    numbers["median"] = number(_class_median(table))
    return {**numbers, "n_subjects": found.n_subjects, "note": note if len(known) else "no reference shows the class"}


def _plain(mean: float) -> dict[str, Any]:
    empty: dict[str, Any] = {"low": None, "high": None, "points": [], "median": None, "n_subjects": None, "note": ""}
    return {"mean": number(mean), **empty}


def _class_mean(values: Values) -> float:
    """Mean over the classes that any case has of the mean over those cases; (N, C) -> number."""
    return _mean(np.array([_mean(column) for column in values.T]))


def _class_median(values: Values) -> float:
    """Mean over the classes that anybody has of the median over those who have it; (S, C) -> number."""
    columns = [column[np.isfinite(column)] for column in values.T]
    return _mean(np.array([np.median(column) for column in columns if column.size]))


def _mean(values: Values) -> float:
    """Mean of the defined values; NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def row_means(values: Values) -> Values:
    """(N, C) -> (N,) means over the classes that have a value; NaN where none has."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(counts, 1), np.nan)


def _pooled(block: Block, name: str) -> Values | None:
    """(C,) the metric of counts summed over all cases, NaN for a class that no reference shows; None: has no such."""
    if not quantity(name).pooled:
        return None
    function = resolve(METRICS[name].pooled)
    # Counts are means over seeds, so not always whole numbers.
    sums = {name: values.sum(axis=0).tolist() for name, values in block.counts.items()}
    pooled = [function({name: values[c] for name, values in sums.items()}) for c in range(len(block.labels))]
    return np.where(block.shown.any(axis=0), pooled, math.nan)


def _row(block: Block, metric: str, label: str, columns: list[int], numbers: dict[str, Any]) -> dict[str, Any]:
    """A row of the summary: the numbers of a mean, and which cases are behind it; of classes that have the metric."""
    name = metric.rpartition("_")[0]
    columns = [c for c in columns if block.covered[name][c]]
    shown, lacking = block.shown[:, columns], block.lacking[:, columns]
    tolerances = dict.fromkeys(filter(None, (block.tolerances.get((name, block.labels[c])) for c in columns)))
    empty = block.left_empty[:, columns][lacking]
    # What a failed case would have invented is not known.
    volume = block.volume[:, columns][lacking & ~block.failed[:, columns]]
    return {
        "dataset": block.dataset,
        "split": block.split,
        "model": block.model,
        "metric": metric,
        "label": label,
        "unit": block.units[name],
        "tolerance": ", ".join(tolerances),
        **numbers,
        "n": int(shown.any(axis=1).sum()),
        "n_missed": int(block.missed[:, columns].sum()),
        "n_failed": int(block.failed[:, columns].any(axis=1).sum()),
        "n_penalised": int((block.penalised & np.isfinite(block.values[name]))[:, columns].sum()),
        "n_lacking": int(lacking.sum()),
        "n_spurious": int((volume > 0).sum()),
        "left_empty": number(_mean(empty)),
        "false_volume": number(_mean(volume)),
        "volume_unit": block.volume_unit,
    }


def tail(block: Block) -> dict[str, Any]:
    """How far the mean over cases depends on its worst cases, by each case's mean over classes.

    Cases are sorted by the metric that the score extends: Dice, or PQ of objects.

    Returns:
        ``worst_tenth``: mean of the worst tenth of the cases (at least one), ``trimmed``: mean of all others,
        ``n_worst``: cases in that tenth, ``worst``: the ids of up to five of them, the worst first.
    """
    by_case = row_means(block.values[block.ranked]).tolist()
    scored = sorted((value, case) for value, case in zip(by_case, block.cases, strict=True) if math.isfinite(value))
    count = math.ceil(TAIL * len(scored))
    worst, rest = ([value for value, _ in part] for part in (scored[:count], scored[count:]))
    return {
        "worst_tenth": number(_mean(np.array(worst))),
        "trimmed": number(_mean(np.array(rest))),
        "n_worst": count,
        "worst": [case for _, case in scored[:5][:count]],
    }
