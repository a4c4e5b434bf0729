"""From score rows to the leaderboard, the summary of every class and metric, and the paired comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.compare.scores import MEAN, OVERLAPS, Block
from medseg.compare.statistics import (
    ENOUGH_GROUPS,
    FEWEST_PAIRS,
    LEVEL,
    RESAMPLES,
    Interval,
    Paired,
    bootstrap_macro_interval,
    compare_paired,
    holm,
)
from medseg.errors import DataError

# Metrics in the family of tests. IoU is a function of Dice, so testing it too would only dilute the family.
TESTED = ("dice",)
DECIMALS = 6

COLUMNS = (
    "dataset",
    "rank",
    "model",
    "dice_mean",
    "dice_low",
    "dice_high",
    "miou_mean",
    "miou_low",
    "miou_high",
    "dice_micro",
    "iou_micro",
    "n_cases",
    "n_subjects",
    "n_undefined",
    "folds",
    "seeds",
)

DEFINITIONS = {
    "dice": "2 TP / (2 TP + FP + FN) of one class over all voxels of one whole case, without "
    "smoothing. If only one of reference and prediction is empty, 0; if both are, undefined.",
    "iou": "TP / (TP + FP + FN), with the same rules as Dice.",
    "mean": "Macro mean: for each foreground class the mean over the cases where it is defined, then "
    "the mean over classes. Background never counts. The macro mean of IoU is called mIoU.",
    "micro": "dice_micro and iou_micro: TP, FP and FN of a class are summed over all cases before the "
    "formula is applied, then averaged over classes. Large objects weigh more than in the macro mean.",
    "undefined": "Scores of a class that both reference and prediction lack (under every seed). They "
    "are left out of means and counted here.",
    "missed": "Cases in which the reference has the class and the prediction, under at least one seed, "
    "has none of it. They score 0 under that seed.",
    "spurious": "Cases in which the prediction, under at least one seed, has the class and the "
    "reference has none of it. They score 0 under that seed.",
    "seeds and folds": "The seeds of a case are averaged before anything else, so a case counts once. "
    "Folds are pooled over cases.",
    "interval": f"{LEVEL:.0%} percentile bootstrap of the mean: {RESAMPLES} resamples of whole "
    f"subjects, fixed seed. With fewer than {ENOUGH_GROUPS} subjects its coverage is doubtful, with "
    "fewer than 2 there is none.",
    "paired comparison": "First minus second model on the cases that both were evaluated on, where "
    "both scores are defined; wins, ties and losses of the first model are counted per case.",
    "p": "Two-sided Wilcoxon signed-rank test (zeros ranked as by Pratt) on the mean difference of "
    f"each subject; refused with fewer than {FEWEST_PAIRS} subjects that differ; 1 if none does.",
    "p (Holm)": "Adjusted for the family of all tests of a data set: Dice x (each class, and their "
    "mean if there are several) x pairs of models.",
    "effect": "Rank-biserial correlation of that test: 1 if the first model is better for every "
    "subject, -1 if the second is.",
    "rank": "By the macro mean of Dice within a data set; equal means share a rank. A rank is no test: "
    "see the paired comparisons.",
}


def number(value: float) -> float | None:
    """A float as it is published: rounded, undefined as None (JSON has no NaN)."""
    return round(float(value), DECIMALS) if math.isfinite(value) else None


def summary_rows(block: Block) -> list[dict[str, Any]]:
    """One row per metric and class, the macro mean first."""
    rows = []
    for metric in OVERLAPS:
        for label, columns in _labels(block):
            interval = bootstrap_macro_interval(block.values[metric][:, columns], block.subjects)
            rows.append(_row(block, metric, label, interval, columns))
    for metric, micro in (("dice_micro", _micro(block, 2.0)), ("iou_micro", _micro(block, 1.0))):
        for label, columns in _labels(block):
            chosen = micro[columns]
            mean = float(np.nanmean(chosen)) if np.isfinite(chosen).any() else math.nan
            undefined = int(np.isnan(chosen).sum())
            found = Interval(
                mean,
                math.nan,
                math.nan,
                len(block.cases),
                len(set(block.subjects)),
                undefined,
                "none for pooled counts",
            )
            rows.append(_row(block, metric, label, found, columns))
    return rows


def _labels(block: Block) -> list[tuple[str, list[int]]]:
    """What is summarised: the mean over all classes, then each class; names and columns of the block."""
    return [(MEAN, list(range(len(block.labels)))), *((name, [c]) for c, name in enumerate(block.labels))]


def _micro(block: Block, weight: float) -> NDArray[np.float64]:
    """w TP / (w TP + FP + FN) per class, counts summed over cases (w = 2: Dice, 1: IoU); NaN for 0 / 0."""
    tp, fp, fn = (block.values[m].sum(axis=0) for m in ("tp", "fp", "fn"))
    whole = weight * tp + fp + fn
    return np.where(whole > 0, weight * tp / np.where(whole > 0, whole, 1.0), np.nan)


def _row(block: Block, metric: str, label: str, interval: Interval, columns: list[int]) -> dict[str, Any]:
    doubtful = f"fewer than {ENOUGH_GROUPS} subjects: coverage doubtful" if interval.n_groups < ENOUGH_GROUPS else ""
    return {
        "dataset": block.dataset,
        "model": block.model,
        "metric": metric,
        "label": label,
        "mean": number(interval.mean),
        "low": number(interval.low),
        "high": number(interval.high),
        "n": interval.n,
        "n_subjects": interval.n_groups,
        "n_undefined": interval.n_undefined,
        "n_partly_undefined": int(block.partly[:, columns].sum()),
        "n_missed": int(block.missed[:, columns].sum()),
        "n_spurious": int(block.spurious[:, columns].sum()),
        "note": interval.reason or doubtful,
    }


def leaderboard_rows(blocks: Sequence[Block], summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``leaderboard.csv``: per data set, models by falling mean Dice, undefined ones last."""
    found = {(r["dataset"], r["model"], r["metric"]): r for r in summary if r["label"] == MEAN}
    rows: list[dict[str, Any]] = []
    for block in blocks:
        dice, iou, dice_micro, iou_micro = (
            found[block.dataset, block.model, m] for m in ("dice", "iou", "dice_micro", "iou_micro")
        )
        values: list[Any] = [block.dataset, 0, block.model]
        values += [dice["mean"], dice["low"], dice["high"], iou["mean"], iou["low"], iou["high"]]
        values += [dice_micro["mean"], iou_micro["mean"], len(block.cases), len(set(block.subjects))]
        values += [dice["n_undefined"], " ".join(map(str, block.folds)), " ".join(map(str, block.seeds))]
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    rows.sort(key=lambda r: (r["dataset"], -_or_worst(r["dice_mean"]), r["model"]))
    for row in rows:
        rivals = [r for r in rows if r["dataset"] == row["dataset"]]
        row["rank"] = 1 + sum(_or_worst(r["dice_mean"]) > _or_worst(row["dice_mean"]) for r in rivals)
    return rows


def _or_worst(value: float | None) -> float:
    return -math.inf if value is None else value


def pair_rows(blocks: Sequence[Block], leaderboard: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired comparisons of every two models of a data set, the better ranked first, Holm per data set.

    Raises:
        DataError: if two models of a data set were scored on different classes.
    """
    by_name = {(b.dataset, b.model): b for b in blocks}
    rows: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(r["dataset"] for r in leaderboard):
        family: list[dict[str, Any]] = []
        ranked = [by_name[dataset, r["model"]] for r in leaderboard if r["dataset"] == dataset]
        for first, second in itertools.combinations(ranked, 2):
            family += _pair(first, second)
        for row, adjusted in zip(family, holm([r["p"] for r in family]), strict=True):
            rows.append({**row, "p": number(row["p"]), "p_holm": number(adjusted)})
    return rows


def _pair(first: Block, second: Block) -> list[dict[str, Any]]:
    if first.labels != second.labels:
        raise DataError(
            f"{first.dataset}: '{first.model}' was scored on {list(first.labels)}, '{second.model}' on "
            f"{list(second.labels)}; evaluate both on the same classes"
        )
    places = [{case: row for row, case in enumerate(b.cases)} for b in (first, second)]
    common = [case for case in first.cases if case in places[1]]
    rows_first, rows_second = ([place[c] for c in common] for place in places)
    subjects = [first.subjects[i] for i in rows_first]
    rows = []
    for metric, (label, columns) in itertools.product(TESTED, _labels(first)):
        if label != MEAN and len(first.labels) == 1:
            continue  # the mean over one class is that class
        one = first.values[metric][np.ix_(rows_first, columns)]
        two = second.values[metric][np.ix_(rows_second, columns)]
        result = compare_paired(one, two, subjects)
        names = {"dataset": first.dataset, "metric": metric, "label": label}
        cases = {
            "n_common": len(common),
            "n_only_first": len(first.cases) - len(common),
            "n_only_second": len(second.cases) - len(common),
        }
        rows.append({**names, "first": first.model, "second": second.model, **_numbers(result), **cases})
    return rows


def _numbers(result: Paired) -> dict[str, Any]:
    interval = result.difference
    return {
        "difference": number(interval.mean),
        "low": number(interval.low),
        "high": number(interval.high),
        "n": interval.n,
        "n_subjects": interval.n_groups,
        "n_undefined": interval.n_undefined,
        "wins": result.wins,
        "ties": result.ties,
        "losses": result.losses,
        "effect": number(result.effect),
        "status": result.status,
        "p": result.p,
    }
