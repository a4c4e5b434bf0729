"""Tables of scores as plain values: leaderboard, metrics by family and class, paired comparisons, tails of means.

All numbers are those of ``leaderboard.csv`` and ``summary.json``; none is computed here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medseg.compare.quantity import MEAN, SCORE, Quantity, families, quantity
from medseg.compare.terminal import metrics_beside
from medseg.compare.text import heading
from medseg.compare.tolerance import PER_CLASS, behind_mean, class_tolerances, common_tolerance
from medseg.compare.tolerance import shown as shown_tolerance
from medseg.report.sources import Experiment

Row = Mapping[str, Any]
# Of objects: what stands beside the ranked metric in the leaderboard, and class by class.
BESIDE = ("ap50", "map", "f1_50", "count_error", "dice")
BY_CLASS = ("pq", "ap50")


def board(experiment: Experiment, dataset: str) -> dict[str, Any]:
    """Leaderboard rows with the place of mean and interval on a common axis, in percent."""
    ranked = experiment.ranked(dataset)
    rows = [dict(row) for row in experiment.leaderboard if row["dataset"] == dataset]
    ends = [f"{ranked.column}_{name}" for name in ("subject", "low", "high")]
    bounds = [float(row[c]) for row in rows for c in ends if row[c]]
    low = max(ranked.low, math.floor(min(bounds, default=ranked.low) * 20 - 0.2) / 20)
    high = min(ranked.high, math.ceil(max(bounds, default=ranked.high) * 20 + 0.2) / 20)
    scale = 100 / max(high - low, 1e-9)
    for row in rows:
        at = [(float(row[c]) - low) * scale if row[c] else math.nan for c in ends]
        row["at"] = "" if math.isnan(at[0]) else f"{at[0]:.2f}"
        row["left"], row["width"] = ("", "") if math.isnan(at[1]) else (f"{at[1]:.2f}", f"{at[2] - at[1]:.2f}")
        row["mean"], row["low"], row["high"] = (row[c] for c in ends)
        row["score"] = row[f"{SCORE}_subject"]
    shown = {
        "score": any(row["score"] != row["mean"] for row in rows),
        "by_case": any(row[f"{ranked.column}_case"] != row["mean"] for row in rows),
        "lacking": any(int(row["n_lacking"]) for row in rows),
        "subjects": any(row["n_subjects"] != row["n_cases"] for row in rows),
    }
    found = of_dataset(experiment, "rows", dataset)
    beside = [
        {
            "heading": _column_heading(one, unit, found),
            "values": [row[f"{one.column}_subject"] for row in rows],
            "unit": unit,
        }
        for one in _beside(ranked, rows)
        for unit in (_unit(one, rows),)
    ]
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    axis = {"low": f"{low:.2f}", "high": f"{high:.2f}"}
    behind = list(filter(None, (behind_mean(found, one) for one in _beside(ranked, rows))))
    texts = {"notes": notes, "behind": behind, "title": ranked.title}
    return {"rows": rows, **axis, "shown": shown, "beside": beside, **texts}


def _beside(ranked: Quantity, rows: list[dict[str, Any]]) -> list[Quantity]:
    """The metrics beside the ranked one in the leaderboard; of objects there is room for more than on the terminal."""
    if ranked.family != "objects":
        return metrics_beside(rows)
    return [one for name in BESIDE for one in (quantity(name),) if any(row[f"{one.column}_subject"] for row in rows)]


def classes(experiment: Experiment, dataset: str) -> dict[str, Any]:
    """Metrics of the ranked metric's family per class and model; classes in the data set's order, best model first.

    Of the many metrics of objects, a few: the others stand in a table of their own.
    """
    found, ranked = _summary(experiment, dataset), experiment.ranked(dataset)
    members = families()[ranked.family]
    if ranked.family == "objects":
        computed = {metric for _, _, metric in found}
        members = [one for one in map(quantity, BY_CLASS) if f"{one.name}_subject" in computed]
    rows = []
    for label, model in _labels_and_models(experiment, dataset):
        cells = [found[label, model, f"{one.name}_subject"] for one in members]
        pooled = [found[label, model, f"{one.name}_pooled"] for one in members if one == ranked]
        rows.append({"label": label, "model": model, "cells": cells, "pooled": pooled, "counts": cells[0]})
    return {"titles": [one.title for one in members], "pooled": ranked.title, "rows": rows}


def family_tables(experiment: Experiment, dataset: str) -> list[dict[str, Any]]:
    """Of each family of metrics that is not shown above: its means over classes, and the same class by class."""
    summary, found = of_dataset(experiment, "rows", dataset), _summary(experiment, dataset)
    ranked, tables = experiment.ranked(dataset), []
    for family, members in families().items():
        computed = [one for one in members if any(metric == f"{one.name}_subject" for _, _, metric in found)]
        above = family == ranked.family and family != "objects"
        if above or not computed:
            continue
        sizes = {one.name: _tolerance(one, summary) for one in computed}
        titles, by_class = _by_class(experiment, dataset, computed, sizes)
        means = [
            {
                "heading": heading(one.title, "1", one.higher_is_better, sizes[one.name]),
                "model": model,
                **found[MEAN, model, f"{one.name}_subject"],
            }
            for one in computed
            for model in experiment.listed_models(dataset)
        ]
        behind = list(filter(None, (behind_mean(summary, one) for one in computed)))
        title = "Metrics of objects" if family == "objects" else f"{family.capitalize()} metrics"
        tables.append({"title": title, "means": means, "titles": titles, "classes": by_class, "behind": behind})
    # The ranked family first.
    return sorted(tables, key=lambda table: table["title"] != "Metrics of objects")


def _by_class(
    experiment: Experiment, dataset: str, computed: list[Quantity], sizes: Mapping[str, str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Headings and rows of a family's table of classes."""
    found, best = _summary(experiment, dataset), experiment.models(dataset)[0]
    units = {one.name: found[MEAN, best, f"{one.name}_subject"]["unit"] for one in computed}
    rows = [
        {"label": label, "model": model, "cells": [_cell(found, label, model, one, sizes) for one in computed]}
        for label, model in _labels_and_models(experiment, dataset)
    ]
    return [heading(one.title, units[one.name], tolerance=sizes[one.name]) for one in computed], rows


def _cell(
    found: Mapping[tuple[str, str, str], Row], label: str, model: str, one: Quantity, sizes: Mapping[str, str]
) -> Row | None:
    """A class's row of a metric; its tolerance under ``at`` where the heading cannot say it. None: it has no row."""
    row = found.get((label, model, f"{one.name}_subject"))
    return row and {**row, "at": shown_tolerance(row["tolerance"]) if sizes[one.name] == PER_CLASS else ""}


def of_dataset(experiment: Experiment, table: str, dataset: str) -> list[dict[str, Any]]:
    """Rows of a table of ``summary.json`` about one data set."""
    return [row for row in experiment.summary[table] if row["dataset"] == dataset]


def pairs(experiment: Experiment, dataset: str) -> dict[str, Any]:
    """Paired comparisons: all of few models; of many those of the first with each, and those among the first ones.

    Returns:
        ``rows``: in words; ``first``: the model ranked first against every other, in short, where not all are in
        ``rows``; ``total``: how many there are.
    """
    rows, drawn = of_dataset(experiment, "pairs", dataset), experiment.first_models(dataset)
    if len(experiment.models(dataset)) <= len(drawn):
        return {"rows": rows, "first": [], "total": len(rows)}
    among = [row for row in rows if row["first"] in drawn and row["second"] in drawn]
    return {"rows": among, "first": [row for row in rows if row["first"] == drawn[0]], "total": len(rows)}


def secondary(experiment: Experiment, dataset: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of each secondary family, pairs in ranked order, with the name of each row's metric in words.

    Of many models, those of pairs among the first ones.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    drawn = experiment.first_models(dataset)
    found = of_dataset(experiment, "rows", dataset)
    for row in of_dataset(experiment, "secondary", dataset):
        if row["first"] not in drawn or row["second"] not in drawn:
            continue
        one = quantity(row["metric"].removesuffix("_subject"))
        title = heading(one.mean_title, "1", tolerance=_tolerance(one, found))
        what = title if row["label"] == MEAN else f"{one.title}, {row['label']}"
        tables.setdefault(row["family"], []).append({**row, "what": what})
    return tables


def tails(experiment: Experiment, dataset: str) -> list[dict[str, Any]]:
    """How the mean of each model depends on its worst cases and on who is averaged, best model first."""
    column = experiment.ranked(dataset).column
    found = {row["model"]: row for row in of_dataset(experiment, "tails", dataset)}
    return [
        {**found[row["model"]], "by_case": row[f"{column}_case"], "pooled": row[f"{column}_pooled"]}
        for row in experiment.leaderboard
        if row["dataset"] == dataset and row["model"] in experiment.listed_models(dataset)
    ]


def _summary(experiment: Experiment, dataset: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(class, model, metric) -> row of the summary."""
    return {(r["label"], r["model"], r["metric"]): r for r in of_dataset(experiment, "rows", dataset)}


def _labels_and_models(experiment: Experiment, dataset: str) -> list[tuple[str, str]]:
    """Classes in the data set's order with the models, best first; those that were scored."""
    scored = {(r["label"], r["model"]) for r in of_dataset(experiment, "rows", dataset)}
    names = experiment.manifests[dataset].labels.target_names
    return [(label, m) for label in names for m in experiment.listed_models(dataset) if (label, m) in scored]


def _unit(one: Quantity, rows: list[dict[str, Any]]) -> str:
    """Unit of a metric in the leaderboard."""
    return next((row[f"{one.column}_unit"] for row in rows if row[f"{one.column}_unit"]), "1") if one.is_length else "1"


def _column_heading(one: Quantity, unit: str, found: list[dict[str, Any]]) -> str:
    """``mIoU``, ``HD95 (mm)``, ``NSD (2 mm)``: as on the terminal."""
    return heading(one.title if one.column == one.name else one.mean_title, unit, tolerance=_tolerance(one, found))


def _tolerance(one: Quantity, found: list[dict[str, Any]]) -> str:
    """What a heading says of the tolerance of a metric; empty for one that needs none."""
    return common_tolerance(class_tolerances(found, one))
