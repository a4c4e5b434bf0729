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
from medseg.tracking.runs import RunSpec, plan_params

if TYPE_CHECKING:
    import pandas as pd

RUN_FOLDER = re.compile(r"fold(\d+)-seed(\d+)")
MEAN = "mean"  # how the comparison calls the macro mean over classes
VERSION = {"medseg": "version"}  # tag of our own version
SCORE_KEYS = ["case", "subject", "label"]


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
    return [_trained(path.parent) for path in sorted(results.glob("*/train/*/*/model.json"))]


def _trained(folder: Path) -> Trained:
    facts = read_json(folder / "model.json")
    dataset, model = folder.parents[2].name, folder.parent.name
    try:
        found = (facts["dataset"]["name"], facts["plan"]["model"], f"fold{facts['fold']}-seed{facts['seed']}")
        if found != (dataset, model, folder.name):
            raise DataError(f"{folder / 'model.json'}: belongs to {'/'.join(found)}; was the folder copied?")
        versions = {f"medseg.{VERSION.get(k, k)}": str(v) for k, v in facts["provenance"].items()}
        tags = {**versions, "medseg.weights_sha256": facts["weights_sha256"]}
        params = plan_params(facts["plan"])
        spec = RunSpec(dataset, model, facts["fold"], facts["seed"], facts["fingerprint"], params, tags)
        seconds = float(read_json(folder / "timing.json")["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: not as written by `medseg train` ({error!r}); run it again") from error
    scores = folder.parents[2] / "evaluate" / model / f"{folder.name}.parquet"
    return Trained(spec, folder, facts, seconds, scores)


def read_scores(path: Path) -> pd.DataFrame:
    """Score rows of one training; ``DataError`` if damaged."""
    import pandas

    try:
        table = pandas.read_parquet(path)
        return table[[*SCORE_KEYS, "metric", "value", "status"]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a score table ({error}); run `medseg evaluate` again") from error


def test_metrics(scores: pd.DataFrame) -> dict[str, float]:
    """Means of one training's scores, defined as in the comparison.

    Per class, the mean over the cases where the score is defined; then the mean over classes. Background
    never counts. ``test/n_valid`` and ``test/n_undefined`` count Dice values.
    """
    out: dict[str, float] = {}
    for metric, mean_name in (("dice", "test/dice/mean"), ("iou", "test/miou")):
        rows = scores[scores["metric"] == metric]
        valid = rows[rows["status"] == "ok"]
        means = valid.groupby("label")["value"].mean()
        out |= {f"test/{metric}/{label}": float(value) for label, value in means.items()}
        if len(means):
            out[mean_name] = float(means.mean())
        if metric == "dice":
            out |= {"test/n_valid": float(len(valid)), "test/n_undefined": float(len(rows) - len(valid))}
    return out


def case_table(scores: pd.DataFrame) -> bytes:
    """CSV with a row per case and class, a column per metric, and why a score is undefined."""
    wide = scores.pivot(index=SCORE_KEYS, columns="metric", values="value")
    notes = scores[scores["status"] != "ok"].groupby(SCORE_KEYS)["status"].agg(lambda s: "; ".join(sorted(set(s))))
    wide["note"] = notes.reindex(wide.index).fillna("")
    text: str = wide.round(6).reset_index().to_csv(index=False, lineterminator="\n")
    return text.encode()


def summary_of(results: Path, dataset: str, model: str) -> list[Mapping[str, Any]]:
    """Rows of the comparison for one model on one data set; none before ``medseg compare`` ran."""
    path = results / "compare" / "summary.json"
    if not path.is_file():
        return []
    try:
        rows = read_json(path)["rows"]
        return [row for row in rows if (row["dataset"], row["model"]) == (dataset, model)]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not as written by `medseg compare` ({error!r}); run it again") from error


def summary_metrics(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of a parent run from the rows of the comparison; undefined ones are left out."""
    out: dict[str, float | None] = {}
    for row in rows:
        if row["metric"] == "dice":
            name = f"test/dice/{row['label']}"
            out[name] = row["mean"]
            if row["label"] == MEAN:
                out |= {f"{name}_low": row["low"], f"{name}_high": row["high"]}
                out |= {"test/n_cases": row["n"], "test/n_undefined": row["n_undefined"]}
        elif row["metric"] == "iou":
            out["test/miou" if row["label"] == MEAN else f"test/iou/{row['label']}"] = row["mean"]
    return {name: float(value) for name, value in out.items() if value is not None and math.isfinite(value)}


def note_card(spec: RunSpec, rows: Iterable[Mapping[str, Any]], trained: Iterable[Trained]) -> str:
    """The description of a parent run, in markdown: what it is and its scores."""
    folds = ", ".join(t.folder.name for t in trained)
    params = spec.parent_params
    facts = ", ".join(f"{k} {params[k]}" for k in ("patch", "batch", "loss", "lr", "steps") if k in params)
    lines = [f"**{params.get('network', spec.model)}** on **{spec.dataset}** ({folds})", "", facts, ""]
    overlaps = [row for row in rows if row["metric"] in {"dice", "iou"}]
    if overlaps:
        lines += [
            "| metric | class | mean | 95 % interval | cases | undefined |",
            "|---|---|---|---|---|---|",
        ]
    for row in overlaps:
        mean, low, high = ("–" if row[k] is None else f"{row[k]:.3f}" for k in ("mean", "low", "high"))
        label = str(row["label"]).replace("|", "\\|")
        lines.append(f"| {row['metric']} | {label} | {mean} | {low} to {high} | {row['n']} | {row['n_undefined']} |")
    return "\n".join(lines).strip()


def overlays_of(results: Path, spec: RunSpec, cases: Iterable[str]) -> list[Path]:
    """The report's pictures of a model's predictions."""
    figures = results / "report" / "figures"
    paths = [figures / f"overlay-{spec.dataset}-{case}-{spec.model}.png" for case in sorted(set(cases))]
    return [path for path in paths if path.is_file()]
