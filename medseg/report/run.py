"""The report stage: gather, draw, render, write; the page last."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medseg.compare.quantity import RANKED, quantity
from medseg.files import write_bytes, write_text
from medseg.outputs import writing
from medseg.progress import Progress, say
from medseg.report.figures import BoxRow, Line, box_plot, in_themes, line_chart, model_colours, score_limits
from medseg.report.overlays import case_scores, choose, draw_case, run_of_case, run_scores
from medseg.report.page import Figure, OverlayRow, render
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
    boxes = {dataset: _boxes(experiment, dataset) for dataset in experiment.datasets}
    curves = {dataset: _curves(experiment, dataset) for dataset in experiment.datasets}
    overlays = {dataset: _overlays(experiment, data_root, dataset) for dataset in experiment.datasets}
    page = render(experiment, boxes, curves, overlays)

    figures: dict[str, bytes] = {}
    for dataset in experiment.datasets:
        drawn = [*boxes[dataset], *curves[dataset]]
        drawn += [figure for row in overlays[dataset] for figure in row.figures]
        figures |= {name: data for figure in drawn for name, data in figure.files.items()}
    folder = ReportFolder(out).figures
    for name, data in figures.items():
        write_bytes(folder / name, data)
    for stale in folder.glob("*.png"):
        if stale.name not in figures:
            stale.unlink()
    write_text(ReportFolder(out).page, page)
    say(f"report: {len(figures)} figures -> {ReportFolder(out).page}")


def _figure(names: tuple[str, ...], caption: str, alt: str, images: Mapping[str, bytes]) -> Figure:
    dark = images.get("dark")
    return Figure(names, caption, alt, images["light"], dark)


def _boxes(experiment: Experiment, dataset: str) -> list[Figure]:
    """One box plot per class, all models, the ranked metric per case (seeds averaged)."""
    scores, title = experiment.scores, quantity(RANKED).title
    mine = scores[(scores["dataset"] == dataset) & (scores["metric"] == RANKED)]
    by_case = mine.groupby(["label", "model", "case"], sort=True)["value"].mean()
    limits = score_limits(by_case.to_numpy(dtype=np.float64))
    colours = model_colours(list(experiment.config.models))
    present = {(str(k[0]), str(k[1])) for k in by_case.index}
    figures = []
    for place, label in enumerate(experiment.manifests[dataset].labels.target_names):
        rows = [
            BoxRow(model, colours[model], by_case[label, model].to_numpy(dtype=np.float64))
            for model in experiment.config.models
            if (label, model) in present
        ]
        draw = functools.partial(box_plot, rows, limits, f"{title} per case")
        alt = f"Box plots of {title} per case of class {label} on {dataset}, one per model"
        figures.append(_figure((RANKED, dataset, str(place)), label, alt, in_themes(draw)))
    return figures


CURVES = (
    ("loss", "train/loss", "Training loss", "loss"),
    ("dice", "val/dice/mean", "Validation Dice, mean over classes", "Dice"),
)


def _curves(experiment: Experiment, dataset: str) -> list[Figure]:
    """Training loss and validation Dice over steps, a line per run, a colour per model."""
    colours = model_colours(list(experiment.config.models))
    figures = []
    for name, key, caption, axis in CURVES:
        lines = []
        for run_ in (r for r in experiment.runs if r.dataset == dataset):
            found = [(r["step"], r.get(key)) for r in run_.history]
            points = [(step, v) for step, v in found if v is not None and np.isfinite(v)]
            if points:
                lines.append(Line(run_.model, colours[run_.model], *zip(*points, strict=True)))
        limits = None
        if axis == "Dice" and lines:
            low, high = score_limits(np.array([v for line in lines for v in line.values]))
            limits = (low, high)
        draw = functools.partial(line_chart, lines, axis, limits)
        alt = f"{caption} over training steps on {dataset}, one line per run, one colour per model"
        figures.append(_figure((f"curve-{name}", dataset), caption, alt, in_themes(draw)))
    return figures


def _overlays(experiment: Experiment, data_root: Path, dataset: str) -> list[OverlayRow]:
    """Worst, median and best case of the best model, with the same case of the others beside it."""
    models = experiment.models(dataset)
    scores = case_scores(experiment.scores, dataset, models[0])
    # A case that failed has a score, but nothing to show.
    scores = scores[[run_of_case(experiment, dataset, models[0], str(case)) is not None for case in scores.index]]
    chosen = choose(scores)
    root = data_root / experiment.config.datasets[dataset].path
    progress = Progress(f"overlays {dataset}", len(chosen))
    rows = []
    for number, choice in enumerate(chosen, start=1):
        figures = []
        for model, image in draw_case(experiment, root, dataset, choice.case).items():
            shown = run_of_case(experiment, dataset, model, choice.case)
            if shown is None:
                continue
            found = run_scores(experiment.scores, shown, choice.case)
            marks = ", ".join(
                f"{label} {found[label]:.3f}" if np.isfinite(found[label]) else f"{label} not in the reference"
                for label in experiment.manifests[dataset].labels.target_names
            )
            alt = f"{model} on case {choice.case} of {dataset}: contours of reference and prediction"
            names = ("overlay", dataset, choice.case, model)
            caption = f"fold {shown.fold}, seed {shown.seed} · {quantity(RANKED).title} {marks}"
            figures.append(Figure(names, caption, alt, image, None, model))
        rows.append(OverlayRow(choice.standing, choice.case, float(scores[choice.case]), tuple(figures)))
        progress.update(number)
    return rows
