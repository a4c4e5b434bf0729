"""The part of the page about objects: how many are found, counted and of which sizes, and the worst images."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medseg.compare.text import UNITS, value
from medseg.evaluate.score import FAILED, NOT_ANNOTATED
from medseg.report.chosen import case_scores, run_of_case, run_values, worst
from medseg.report.figure import Figure, figure_of
from medseg.report.figures import in_themes, model_looks
from medseg.report.filters import difference
from medseg.report.object_charts import (
    Agreement,
    Curve,
    Sizes,
    agreement_chart,
    ap_chart,
    size_chart,
)
from medseg.report.pictures import BINS_PER_DECADE, REFERENCE, Seen
from medseg.report.score_tables import of_dataset
from medseg.report.sources import COUNTED, Experiment

# Space above and below the points of a chart, as a share of their range.
_MARGIN = 0.08
_POWERS = {2: "²", 3: "³"}


@dataclass(frozen=True, slots=True)
class ObjectSection:
    """What the page shows of the objects of a data set.

    Attributes:
        rows: of the comparison, one per model and class.
        charts: curves, numbers and sizes.
        sheets: model -> pictures of its worst cases, the worst first.
    """

    rows: Sequence[Mapping[str, Any]]
    charts: Sequence[Figure]
    sheets: Mapping[str, Sequence[Figure]]

    @property
    def notes(self) -> list[str]:
        """Why there are no intervals."""
        return list(dict.fromkeys(f"No interval of AP: {row['note']}" for row in self.rows if row["note"]))

    @property
    def figures(self) -> list[Figure]:
        """All of them."""
        return [*self.charts, *(figure for sheet in self.sheets.values() for figure in sheet)]


def object_section(experiment: Experiment, dataset: str, seen: Seen) -> ObjectSection:
    """What the page shows of the objects of a data set; all numbers are those of the comparison."""
    found = of_dataset(experiment, "objects", dataset)
    place = {model: k for k, model in enumerate(experiment.models(dataset))}
    names = experiment.manifests[dataset].labels.target_names
    rows = sorted(found, key=lambda row: (names.index(row["label"]), place[row["model"]]))
    first, listed = experiment.first_models(dataset), experiment.listed_models(dataset)
    drawn = [row for row in rows if row["model"] in first]
    charts = [_curves(experiment, dataset, label, drawn) for label in names]
    charts += _agreements(experiment, dataset, drawn)
    charts.append(_sizes(experiment, dataset, seen))
    sheets = {model: _sheet(experiment, dataset, model, seen) for model in first}
    return ObjectSection([row for row in rows if row["model"] in listed], charts, sheets)


def worst_cases(experiment: Experiment, dataset: str) -> dict[str, list[str]]:
    """Case -> the models of whose worst cases it is one, of those that are drawn."""
    wanted: dict[str, list[str]] = {}
    for model in experiment.first_models(dataset):
        for case in worst(case_scores(experiment, dataset, model)):
            wanted.setdefault(case, []).append(model)
    return wanted


def _curves(experiment: Experiment, dataset: str, label: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """AP over the IoU of one class, all models that are drawn."""
    looks = model_looks(experiment.rows)
    curves, texts = [], []
    for row in (r for r in rows if r["label"] == label):
        columns = {name: [_number(point[name]) for point in row["curve"]] for name in ("iou", "ap", "low", "high")}
        curves.append(Curve(row["model"], looks[row["model"]], **columns))
        first, last = row["curve"][0], row["curve"][-1]
        texts.append(f"{row['model']} {value(first['ap'])} at 0.5, {value(last['ap'])} at 0.95")
    alt = f"AP over the IoU of objects of class {label} on {dataset}: {'; '.join(texts)}"
    place = str(experiment.manifests[dataset].labels.target_names.index(label))
    caption = f"AP over the IoU · {label}"
    return figure_of(("ap", dataset, place), caption, alt, in_themes(functools.partial(ap_chart, curves)))


def _agreements(experiment: Experiment, dataset: str, rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Numbers of objects against the reference, one chart per model and class; all on one axis of differences."""
    looks, names = model_looks(experiment.rows), experiment.manifests[dataset].labels.target_names
    counts = _counts(experiment, dataset)
    found = []
    for row in rows:
        mine = counts[(counts["model"] == row["model"]) & (counts["label"] == row["label"])]
        ends = (_number(row[name]) for name in ("bias", "limit_low", "limit_high"))
        numbers = (mine[name].to_numpy(dtype=np.float64) for name in ("n_objects_ref", "n_objects_pred"))
        found.append(Agreement(looks[row["model"]], *numbers, *ends))
    values = [v for one in found for v in (*(one.predicted - one.reference), one.low, one.high, 0.0)]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = _MARGIN * max(high - low, 1.0)
    figures = []
    for row, one in zip(rows, found, strict=True):
        drawing = functools.partial(agreement_chart, one, (low - margin, high + margin))
        limits = f"bias {_rounded(one.bias)}, 95 % limits {_rounded(one.low)} to {_rounded(one.high)}"
        alt = f"Predicted minus reference objects of {row['model']} on {dataset}, class {row['label']}: {limits}"
        caption = f"Numbers against the reference · {row['model']}" + (f" · {row['label']}" if len(names) > 1 else "")
        which = ("counts", dataset, row["model"], str(names.index(row["label"])))
        figures.append(figure_of(which, caption, alt, in_themes(drawing), row["model"]))
    return figures


def _counts(experiment: Experiment, dataset: str) -> pd.DataFrame:
    """Numbers of objects of each model, class and case (seeds averaged); without cases that failed."""
    scores = pd.concat([experiment.scores_of(dataset, m).assign(model=m) for m in experiment.models(dataset)])
    wanted = scores["metric"].isin(("n_objects_ref", "n_objects_pred"))
    mine = scores[wanted & (scores["status"] != NOT_ANNOTATED)]
    keys = ["model", "label", "case"]
    failed = mine["status"].str.startswith(FAILED).groupby([mine[key] for key in keys]).transform("any")
    return mine[~failed].pivot_table("value", keys, "metric", aggfunc="mean").reset_index()


def _sizes(experiment: Experiment, dataset: str, seen: Seen) -> Figure:
    looks, manifest = model_looks(experiment.rows), experiment.manifests[dataset]
    found = [
        Sizes(name, looks.get(name), seen.sizes[name])
        for name in (REFERENCE, *experiment.first_models(dataset))
        if name in seen.sizes
    ]
    unit = " / ".join(sorted({case.geometry.unit for case in manifest.cases}))
    what = "area" if manifest.dims == 2 else "volume"
    axis = f"{what} of an object ({UNITS.get(unit, unit)}{_POWERS[manifest.dims]})"
    drawing = functools.partial(size_chart, found, BINS_PER_DECADE, axis)
    total = ", ".join(f"{one.name or 'reference'} {sum(one.counts.values())}" for one in found)
    alt = f"How many objects have which {what} on {dataset}, all cases: {total} objects"
    return figure_of(("sizes", dataset), "Sizes of all objects", alt, in_themes(drawing))


def _sheet(experiment: Experiment, dataset: str, model: str, seen: Seen) -> list[Figure]:
    """The worst cases of a model, with what went wrong in words."""
    figures, ranked = [], experiment.ranked(dataset)
    for case in worst(case_scores(experiment, dataset, model)):
        run, picture = run_of_case(experiment, dataset, model, case), seen.small.get((case, model))
        if run is None or picture is None:
            continue
        found = run_values(experiment, run, case)
        sums = {n: sum(v for (metric, _), v in found.items() if metric == n) for n in COUNTED}
        scores = [v for (metric, _), v in found.items() if metric == ranked.name and np.isfinite(v)]
        text = (
            f"{ranked.title} {', '.join(value(score) for score in scores)}: {sums['matched_50']:.0f} of "
            f"{sums['n_objects_ref']:.0f} found, {sums['n_objects_pred'] - sums['matched_50']:.0f} wrong, "
            f"{sums['n_merged']:.0f} merged, {sums['n_split']:.0f} split"
        )
        alt = f"{model} on case {case} of {dataset}: contours of objects; {text}"
        figures.append(Figure(("worst", dataset, case, model), case, alt, picture, None, model, text))
    return figures


def _number(found: float | None) -> float:
    return float("nan") if found is None else float(found)


def _rounded(found: float) -> str:
    return difference(found) if np.isfinite(found) else "undefined"
