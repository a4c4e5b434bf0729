"""What an experiment's results hold for tracking: trainings, their scores, and the comparison."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import DataError
from medseg.files import read_json
from medseg.results.folders import ModelFolder
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.tracking.runs import RunSpec, plan_params

if TYPE_CHECKING:
    import pandas as pd

RUN_FOLDER = re.compile(r"fold(\d+)-seed(\d+)")
MEAN = "mean"  # how the comparison calls the macro mean over classes
VERSION = {"medseg": "version"}  # tag of our own version
SCORE_KEYS = ["case", "subject", "label"]
# Scores of whole cases of the validation folds; ``val/…`` are the curves of the training loop.
PREFIX = "cv"
# Metrics that the note of a parent run shows.
SHOWN = ("score_subject", "dice_subject", "dice_pooled", "iou_subject")


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training.

    Attributes:
        spec: what it is.
        folder: with ``model.json`` and the weights.
        facts: ``model.json``.
        seconds: training time.
        scores: file of its score rows; may not exist.
    """

    spec: RunSpec
    folder: Path
    facts: Mapping[str, Any]
    seconds: float
    scores: Path


def find_trained(results: Path) -> list[Trained]:
    """All finished trainings under ``results/<experiment>``, by name.

    Raises:
        DataError: if a file of one is damaged, or says that it belongs elsewhere.
    """
    return [_trained(model) for model in Results(results).models()]


def _trained(files: ModelFolder) -> Trained:
    folder, facts = files.folder, read_json(files.description)
    dataset, model = folder.parents[2].name, folder.parent.name
    try:
        key = RunKey(facts["dataset"]["name"], facts["plan"]["model"], facts["fold"], facts["seed"])
        found = (key.dataset, key.model, key.run)
        if found != (dataset, model, folder.name):
            raise DataError(f"{files.description}: belongs to {'/'.join(found)}; was the folder copied?")
        versions = {f"medseg.{VERSION.get(k, k)}": str(v) for k, v in facts["provenance"].items()}
        tags = {**versions, "medseg.weights_sha256": facts["weights_sha256"]}
        params = plan_params(facts["plan"])
        spec = RunSpec(dataset, model, facts["fold"], facts["seed"], facts["fingerprint"], params, tags)
        seconds = float(read_json(files.timing)["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: not as written by `medseg train` ({error!r}); run it again") from error
    scores = Results(folder.parents[3]).scores(key)
    return Trained(spec, folder, facts, seconds, scores)


def training_scores(path: Path) -> pd.DataFrame:
    """Score rows of one training; ``DataError`` if damaged."""
    from medseg.compare.scores import read_scores

    return read_scores([path])


def training_metrics(scores: pd.DataFrame) -> dict[str, float]:
    """Means and counts of one training's scores, by the comparison's own functions; undefined ones are left out."""
    from medseg.compare.scores import blocks
    from medseg.compare.summary import counts, means

    (block,) = blocks(scores)
    found = {_name(metric, label): value for (metric, label), value in means(block).items()}
    out = {name: value for name, value in found.items() if value is not None}
    return {**out, **{f"{PREFIX}/{name}": float(n) for name, n in counts(block).items()}}


def _name(metric: str, label: str) -> str:
    """Name in MLflow of a metric of the comparison; the mean over classes of IoU is called mIoU."""
    if label == MEAN and metric.startswith("iou"):
        return f"{PREFIX}/m{metric}"
    return f"{PREFIX}/{metric}/{label}"


def case_table(scores: pd.DataFrame) -> bytes:
    """CSV with a row per case and class, a column per metric, and what its status is if not ok."""
    from medseg.evaluate.score import OK

    wide = scores.pivot(index=SCORE_KEYS, columns="metric", values="value")
    notes = scores[scores["status"] != OK].groupby(SCORE_KEYS)["status"].agg(lambda s: "; ".join(sorted(set(s))))
    wide["note"] = notes.reindex(wide.index).fillna("")
    text: str = wide.round(6).reset_index().to_csv(index=False, lineterminator="\n")
    return text.encode()


def summary_of(results: Path, dataset: str, model: str) -> list[Mapping[str, Any]]:
    """Rows of the comparison for one model on one data set; none before ``medseg compare`` ran."""
    from medseg.compare.run import read_summary

    folder = Results(results).compare
    if not folder.summary.is_file():
        return []
    try:
        rows = read_summary(folder.folder)["rows"]
        return [row for row in rows if (row["dataset"], row["model"]) == (dataset, model)]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder.summary}: not as `medseg compare` writes it ({error!r}); run it") from error


def summary_metrics(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of a parent run from the rows of the comparison; undefined ones are left out."""
    out: dict[str, float | None] = {}
    for row in rows:
        name = _name(row["metric"], row["label"])
        out[name] = row["mean"]
        if row["label"] == MEAN:
            out |= {f"{name}_low": row["low"], f"{name}_high": row["high"]}
            if row["metric"] == "dice_subject":
                out |= {f"{PREFIX}/{n}": row[n] for n in ("n_missed", "n_failed", "n_spurious", "left_empty")}
    return {name: float(value) for name, value in out.items() if value is not None and math.isfinite(value)}


def note_card(spec: RunSpec, rows: Iterable[Mapping[str, Any]], trained: Iterable[Trained]) -> str:
    """The description of a parent run, in markdown: what it is and its scores."""
    folds = ", ".join(t.folder.name for t in trained)
    params = spec.parent_params
    facts = ", ".join(f"{k} {params[k]}" for k in ("patch", "batch", "loss", "lr", "steps") if k in params)
    lines = [f"**{params.get('network', spec.model)}** on **{spec.dataset}** ({folds})", "", facts, ""]
    shown = [row for row in rows if row["metric"] in SHOWN]
    if shown:
        lines += [
            "| metric | class | mean | 95 % interval | cases | missed | failed |",
            "|---|---|---|---|---|---|---|",
        ]
    for row in shown:
        mean, low, high = ("–" if row[k] is None else f"{row[k]:.3f}" for k in ("mean", "low", "high"))
        label = str(row["label"]).replace("|", "\\|")
        counted = f"{row['n']} | {row['n_missed']} | {row['n_failed']}"
        lines.append(f"| {row['metric']} | {label} | {mean} | {low} to {high} | {counted} |")
    return "\n".join(lines).strip()


def overlays_of(results: Path, spec: RunSpec, cases: Iterable[str]) -> list[Path]:
    """The report's pictures of a model's predictions."""
    figures = Results(results).report.figures
    paths = [figures / f"overlay-{spec.dataset}-{case}-{spec.model}.png" for case in sorted(set(cases))]
    return [path for path in paths if path.is_file()]
