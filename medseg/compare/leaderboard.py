"""From blocks and their summary to the ranked table of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medseg.compare.block import Block
from medseg.compare.quantity import MEAN, SCORE, Quantity, metric_quantities, quantity
from medseg.compare.summary import tail
from medseg.compare.tolerance import class_tolerances, listed

# What a leaderboard row says of its cases, whichever metric is looked at; fields of every row of the summary.
_COUNTS = ("n_missed", "n_failed", "n_penalised", "n_lacking", "left_empty", "false_volume", "volume_unit")


def columns() -> list[str]:
    """Columns of ``leaderboard.csv``: those of every metric of the table, empty for one that nobody computed."""
    numbers = [column for one in _ranked_first() for column in [*_number_columns(one), *_tolerance_names(one)]]
    return [
        *("dataset", "split", "rank", "model"),
        *numbers,
        *_COUNTS,
        *("worst_tenth", "trimmed", "n_cases", "n_subjects", "folds", "seeds", "ranked_by", "points", "note"),
    ]


def leaderboard_rows(blocks: Sequence[Block], summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``leaderboard.csv``: per data set and split, models by falling ``score_subject``, undefined ones last."""
    found = {
        (r["dataset"], r["split"], r["model"], r["metric"]): r for r in summary if r["label"] == MEAN
    }  # fmt: skip
    tolerances = _tolerance_columns(summary)
    rows: list[dict[str, Any]] = []
    for block in blocks:
        where = (block.dataset, block.split, block.model)
        score, ranked = found[*where, f"{SCORE}_subject"], found[*where, f"{block.ranked}_subject"]
        ends = tail(block)
        row: dict[str, Any] = {"dataset": block.dataset, "split": block.split, "rank": 0, "model": block.model}
        for one in _ranked_first():
            for column, (metric, field) in _number_columns(one).items():
                row[column] = found.get((*where, metric), {}).get(field)
            row |= {column: tolerances.get((*where, column)) for column in _tolerance_names(one)}
        row |= {name: score[name] for name in _COUNTS}
        row |= {"worst_tenth": ends["worst_tenth"], "trimmed": ends["trimmed"]}
        row |= {"n_cases": len(block.cases), "n_subjects": len(set(block.subjects))}
        row |= {"folds": " ".join(map(str, block.folds)), "seeds": " ".join(map(str, block.seeds))}
        row |= {"ranked_by": block.ranked}
        row |= {"points": " ".join(f"{v:.4f}" for v in ranked["points"]), "note": ranked["note"]}
        rows.append(row)
    rows.sort(key=lambda r: (r["dataset"], r["split"], -_or_worst(r["score_subject"]), r["model"]))
    for row in rows:
        rivals = [r for r in rows if (r["dataset"], r["split"]) == (row["dataset"], row["split"])]
        row["rank"] = 1 + sum(_or_worst(r["score_subject"]) > _or_worst(row["score_subject"]) for r in rivals)
    return rows


def _ranked_first() -> list[Quantity]:
    """The score, then every metric of the table."""
    return [quantity(SCORE), *metric_quantities().values()]


def _number_columns(one: Quantity) -> dict[str, tuple[str, str]]:
    """Column of the leaderboard -> metric of the summary's row for the mean over classes, and its field."""
    found = {
        f"{one.column}_subject": (f"{one.name}_subject", "mean"),
        f"{one.column}_low": (f"{one.name}_subject", "low"),
        f"{one.column}_high": (f"{one.name}_subject", "high"),
    }
    if one.name != SCORE:
        found[f"{one.column}_case"] = (f"{one.name}_case", "mean")
    if one.pooled:
        found[f"{one.column}_pooled"] = (f"{one.name}_pooled", "mean")
    if one.is_length:
        # One case that was missed counts its whole diagonal, which the mean alone would not show.
        found[f"{one.column}_median"] = (f"{one.name}_subject", "median")
        found[f"{one.column}_unit"] = (f"{one.name}_subject", "unit")
    return found


def _tolerance_names(one: Quantity) -> list[str]:
    """Columns of a metric that needs a tolerance: its tolerances, and the classes behind its mean."""
    return [f"{one.column}_tolerance", f"{one.column}_classes"] if one.needs_tolerance else []


def _tolerance_columns(summary: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str, str], str]:
    """(data set, split, model, column) -> tolerances and classes of the metrics that need a tolerance."""
    needing = [one for one in metric_quantities().values() if one.needs_tolerance]
    wanted = {f"{one.name}_subject" for one in needing}
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in summary:
        if row["metric"] in wanted:
            groups.setdefault((row["dataset"], row["split"], row["model"]), []).append(row)
    found: dict[tuple[str, str, str, str], str] = {}
    for where, rows in groups.items():
        for one in needing:
            tolerances = class_tolerances(rows, one)
            sizes, names = _tolerance_names(one)
            found |= {(*where, sizes): listed(tolerances), (*where, names): ", ".join(tolerances)}
    return found


def _or_worst(value: float | None) -> float:
    """A score to sort by; undefined ones come last."""
    return -math.inf if value is None else value
