"""The report stage: gather, draw, render, write; the page last."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medseg.compare.verdict import BETTER, EQUIVALENT
from medseg.files import write_bytes, write_text
from medseg.outputs import writing
from medseg.progress import say
from medseg.report.chosen import ChosenCase, case_scores, choose, fixed, run_of_case, run_values
from medseg.report.figure import Figure, figure_of
from medseg.report.figures import (
    BoxRow,
    Line,
    box_plot,
    in_themes,
    line_chart,
    model_looks,
    score_limits,
)
from medseg.report.many_charts import strip_plot, verdict_map
from medseg.report.object_section import object_section, worst_cases
from medseg.report.page import OverlayRow, Pictures, render
from medseg.report.pictures import Seen, Wanted, see
from medseg.report.sources import Experiment, read_experiment
from medseg.results.folders import ReportFolder


def run(results: Path, config_json: Path, data_root: Path, out: Path) -> None:
    """Write ``figures/*.png`` and then ``index.html`` into ``out``.

    Args:
        results: results folder of the experiment.
        config_json: its validated configuration.
        data_root: folder that the data sets' paths are relative to.
        out: folder to write into; figures of an earlier report there are replaced.

    Raises:
        DataError: if a result is missing or damaged, or an image changed since it was recorded.
        GeometryError: if a prediction lies on another grid than its reference.
    """
    with writing(ReportFolder(out).page, out):
        _write(read_experiment(results, config_json), data_root, out)


def _write(experiment: Experiment, data_root: Path, out: Path) -> None:
    datasets = experiment.datasets
    boxes = {dataset: _boxes(experiment, dataset) for dataset in datasets}
    maps = {dataset: found for dataset in datasets if (found := _verdicts(experiment, dataset)) is not None}
    curves = {dataset: _curves(experiment, dataset) for dataset in datasets}
    chosen = {dataset: _chosen(experiment, dataset) for dataset in datasets}
    seen = {dataset: _see(experiment, data_root, dataset, chosen[dataset]) for dataset in datasets}
    overlays = {dataset: _overlays(experiment, dataset, chosen[dataset], seen[dataset]) for dataset in datasets}
    counted = [dataset for dataset in datasets if experiment.counts_objects(dataset)]
    objects = {dataset: object_section(experiment, dataset, seen[dataset]) for dataset in counted}
    page = render(experiment, Pictures(boxes, curves, overlays, objects, maps))

    figures: dict[str, bytes] = {}
    for dataset in datasets:
        drawn = [*boxes[dataset], *curves[dataset], *_tracked(experiment, dataset, seen[dataset])]
        drawn += [figure for row in overlays[dataset] for figure in row.figures]
        drawn += objects[dataset].figures if dataset in objects else []
        drawn += [maps[dataset]] if dataset in maps else []
        figures |= {name: data for figure in drawn for name, data in figure.files.items()}
    folder = ReportFolder(out).figures
    for name, data in figures.items():
        write_bytes(folder / name, data)
    for stale in folder.glob("*.png"):
        if stale.name not in figures:
            stale.unlink()
    write_text(ReportFolder(out).page, page)
    say(f"report: {len(figures)} figures -> {ReportFolder(out).page}")


def _boxes(experiment: Experiment, dataset: str) -> list[Figure]:
    """The ranked metric per case (seeds averaged): a box plot per class, and of many models all in narrow rows."""
    ranked = experiment.ranked(dataset)
    scores = pd.concat([experiment.scores_of(dataset, m).assign(model=m) for m in experiment.models(dataset)])
    mine = scores[scores["metric"] == ranked.name]
    by_case = mine.groupby(["label", "model", "case"], sort=True)["value"].mean()
    limits = score_limits(by_case.to_numpy(dtype=np.float64))
    looks, first = model_looks(experiment.rows), experiment.first_models(dataset)
    present = {(str(k[0]), str(k[1])) for k in by_case.index}
    figures = []
    many = len(experiment.models(dataset)) > len(first)
    for place, label in enumerate(experiment.manifests[dataset].labels.target_names):

        def rows_of(models: Iterable[str], label: str = label) -> list[BoxRow]:
            mine = (model for model in models if (label, model) in present)
            return [BoxRow(m, looks[m], by_case[label, m].to_numpy(dtype=np.float64)) for m in mine]

        models = first if many else experiment.rows
        axis, names = f"{ranked.title} per case", (ranked.name, dataset, str(place))
        draw = functools.partial(box_plot, rows_of(models), limits, axis)
        alt = f"Box plots of {ranked.title} per case of class {label} on {dataset}, one per model"
        figures.append(figure_of(names, label, alt, in_themes(draw)))
        if many:
            every = rows_of(experiment.models(dataset))
            alt = f"Median and quartiles of {ranked.title} per case of class {label} on {dataset}, all models by rank"
            draw = functools.partial(strip_plot, every, limits, axis)
            figures.append(figure_of((*names, "all"), f"{label}: all {len(every)} models", alt, in_themes(draw)))
    return figures


def _verdicts(experiment: Experiment, dataset: str) -> Figure | None:
    """Of many models, who was shown to be better than whom; None: nobody was, or all verdicts are there in words."""
    models = experiment.models(dataset)
    if len(models) <= len(experiment.first_models(dataset)):
        return None
    place = {model: k for k, model in enumerate(models)}
    found = {
        (place[row["first"]], place[row["second"]]): row["verdict"]
        for row in experiment.summary["pairs"]
        if row["dataset"] == dataset and row["verdict"] in (BETTER, EQUIVALENT)
    }
    if not found:
        return None
    better = sum(verdict == BETTER for verdict in found.values())
    alt = f"Verdicts on {len(models)} models of {dataset} in ranked order: {better} pairs of which the first is better"
    draw = functools.partial(verdict_map, models, found)
    return figure_of(("verdicts", dataset), "Who is better than whom", alt, in_themes(draw))


CURVES = (
    ("loss", "train/loss", "Training loss", "loss"),
    ("dice", "val/dice/mean", "Validation Dice, mean over classes", "Dice"),
)


def _curves(experiment: Experiment, dataset: str) -> list[Figure]:
    """Training loss and validation Dice over steps, a line per run, a look per model; many models' lines are grey."""
    looks, first = model_looks(experiment.rows), experiment.first_models(dataset)
    others = len(experiment.models(dataset)) - len(first)
    figures = []
    for name, key, caption, axis in CURVES:
        lines = []
        for run_ in (r for r in experiment.runs if r.dataset == dataset):
            found = [(r["step"], r.get(key)) for r in run_.history]
            points = [(step, v) for step, v in found if v is not None and np.isfinite(v)]
            if points:
                look = looks[run_.model] if run_.model in first else None
                lines.append(Line(run_.model if look else f"{others} others", look, *zip(*points, strict=True)))
        limits = None
        if axis == "Dice" and lines:
            low, high = score_limits(np.array([v for line in lines for v in line.values]))
            limits = (low, high)
        draw = functools.partial(line_chart, lines, axis, limits)
        alt = f"{caption} over training steps on {dataset}, one line per run, one colour and shape per model"
        figures.append(figure_of((f"curve-{name}", dataset), caption, alt, in_themes(draw)))
    return figures


def _chosen(experiment: Experiment, dataset: str) -> tuple[ChosenCase, ...]:
    """Worst, median and best case of the best model."""
    return tuple(choose(case_scores(experiment, dataset, experiment.models(dataset)[0])))


def _see(experiment: Experiment, data_root: Path, dataset: str, chosen: Sequence[ChosenCase]) -> Seen:
    """All pictures of cases, each case read once."""
    models = experiment.models(dataset)
    small: dict[str, list[str]] = worst_cases(experiment, dataset) if experiment.counts_objects(dataset) else {}
    for case in fixed(experiment, dataset):
        small[case] = models
    wanted = Wanted({choice.case: models for choice in chosen}, small)
    return see(experiment, data_root / experiment.config.datasets[dataset].path, dataset, wanted)


def _overlays(experiment: Experiment, dataset: str, chosen: Sequence[ChosenCase], seen: Seen) -> list[OverlayRow]:
    """Worst, median and best case of the best model, with the same case of the others beside it."""
    models = experiment.models(dataset)
    scores, rows = case_scores(experiment, dataset, models[0]), []
    for choice in chosen:
        shown = [model for model in models if (choice.case, model) in seen.large]
        figures = [_overlay(experiment, dataset, choice.case, model, seen) for model in shown]
        rows.append(OverlayRow(choice.standing, choice.case, float(scores[choice.case]), tuple(figures)))
    return rows


def _overlay(experiment: Experiment, dataset: str, case: str, model: str, seen: Seen) -> Figure:
    ranked, run_ = experiment.ranked(dataset), run_of_case(experiment, dataset, model, case)
    assert run_ is not None, "it was drawn"
    found = run_values(experiment, run_, case)
    scores = {label: found[ranked.name, label] for label in experiment.manifests[dataset].labels.target_names}
    marks = ", ".join(f"{n} {v:.3f}" if np.isfinite(v) else f"{n} not in the reference" for n, v in scores.items())
    alt = f"{model} on case {case} of {dataset}: contours of reference and prediction"
    caption = f"fold {run_.fold}, seed {run_.seed} · {ranked.title} {marks}"
    return Figure(("overlay", dataset, case, model), caption, alt, seen.large[case, model], None, model)


def _tracked(experiment: Experiment, dataset: str, seen: Seen) -> list[Figure]:
    """The pictures of the cases that are always the same, which tracking shows; they are not on the page."""
    return [
        Figure(("fixed", dataset, case, model), case, "", seen.small[case, model], None, model)
        for case in fixed(experiment, dataset)
        for model in experiment.models(dataset)
        if (case, model) in seen.small
    ]
