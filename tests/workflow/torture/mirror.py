"""Does MLflow say what the study says? Read from the database itself, whoever serves it."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.config import Config, load_config
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.tracking.names import metric_name

METRIC, COLUMN = "dice", "dice_subject"
MEAN = "cv/dice_subject/mean"
CURVES = ("train/", "val/")
# Scores are rounded to six digits where they are written.
TOLERANCE = 2e-6


@dataclass
class Run:
    """A run of MLflow."""

    id: str
    status: str
    artifacts: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    points: list[tuple[str, int, float]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """Our name of it."""
        return self.tags.get("medseg.key", "")

    @property
    def current(self) -> bool:
        """Whether it is what the study has now."""
        return self.tags.get("medseg.superseded") == "false"


def read_runs(database: Path, experiment: str) -> list[Run]:
    """All runs of an experiment that are not deleted."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)
    try:
        query = (
            "select run_uuid, status, artifact_uri from runs join experiments using (experiment_id)"
            " where experiments.name = ? and runs.lifecycle_stage = 'active'"
        )
        runs = {row[0]: Run(*row) for row in connection.execute(query, (experiment,))}
        for table, what in (("tags", "tags"), ("params", "params"), ("latest_metrics", "latest")):
            for run, key, value in connection.execute(f"select run_uuid, key, value from {table}"):
                if run in runs:
                    getattr(runs[run], what)[key] = value
        for run, key, step, value in connection.execute("select run_uuid, key, step, value from metrics"):
            if run in runs:
                runs[run].points.append((key, step, value))
    finally:
        connection.close()
    return list(runs.values())


def mirror_problems(folder: Path, database: Path, artifacts: Path) -> list[str]:
    """One line per contradiction between MLflow and the study in ``folder``.

    Args:
        folder: of the study.
        database: MLflow's.
        artifacts: what addresses of artifacts are relative to.
    """
    config = load_config([folder / "config" / "config.yaml"], {})
    results = Results(folder / Results.of(config).root)
    if not database.is_file():
        return ["MLflow has no database"]
    runs = read_runs(database, config.experiment)
    lines = [f"run {run.key} is RUNNING" for run in runs if run.status == "RUNNING"]
    for run in runs:
        steps = Counter((key, step) for key, step, _ in run.points if key.startswith(CURVES))
        lines += [f"run {run.key}: {n} points of {key} at step {step}" for (key, step), n in steps.items() if n > 1][:3]
    return lines + list(_current(config, results, [run for run in runs if run.current], artifacts))


def _current(config: Config, results: Results, runs: list[Run], artifacts: Path) -> Iterator[str]:
    """Contradictions of the runs that say that they are current."""
    keys = [RunKey(*run) for run in config.runs()]
    names = {f"{k.dataset}/{k.model} fold{k.fold} seed{k.seed}": k for k in keys}
    expected = {*names, *(f"{k.dataset}/{k.model}" for k in keys)}
    found = Counter(run.key for run in runs)
    yield from (f"no current run {name}" for name in sorted(expected - found.keys()))
    yield from (
        f"{n} current runs {name}, expected {int(name in expected)}"
        for name, n in found.items()
        if n > (name in expected)
    )
    by_key = {run.key: run for run in runs}
    family = defaultdict(list)
    for name, key in names.items():
        if (run := by_key.get(name)) is None:
            continue
        family[f"{key.dataset}/{key.model}"].append(run)
        yield from _child(results, key, run)
    rows = json.loads(results.compare.summary.read_text())["rows"]
    with open(results.compare.leaderboard, encoding="utf-8") as file:
        board = {f"{row['dataset']}/{row['model']}": row for row in csv.DictReader(file)}
    for name, children in family.items():
        if (parent := by_key.get(name)) is None:
            continue
        yield from _parent(parent, children, board.get(name, {}), artifacts)
        yield from _summary(parent, [r for r in rows if f"{r['dataset']}/{r['model']}" == name])


def _child(results: Results, key: RunKey, run: Run) -> Iterator[str]:
    model = results.model(key)
    facts = json.loads(model.description.read_text())
    if run.tags.get("medseg.fingerprint") != facts["fingerprint"]:
        yield f"run {run.key}: fingerprint of another training"
    if run.params.get("steps") != str(facts["plan"]["training"]["steps"]):
        yield f"run {run.key}: {run.params.get('steps')} steps, trained {facts['plan']['training']['steps']}"
    if run.status != "FINISHED":
        yield f"run {run.key}: {run.status}"
    history = [json.loads(line) for line in model.history.read_text().splitlines()]
    curve = {(metric_name(k), line["step"]): v for line in history for k, v in line["metrics"].items()}
    sent = {(k, step): v for k, step, v in run.points if k.startswith(CURVES)}
    if sent != curve:
        yield f"run {run.key}: {len(sent)} points of curves, of which {len(sent.keys() & curve.keys())} of {len(curve)}"


def _parent(parent: Run, children: list[Run], row: dict[str, Any], artifacts: Path) -> Iterator[str]:
    if parent.status != "FINISHED":
        yield f"run {parent.key}: {parent.status}"
    orphans = [run.key for run in children if run.tags.get("mlflow.parentRunId") != parent.id]
    yield from (f"run {key} hangs below another parent" for key in orphans)
    tables = [_artifact(artifacts, run, "evaluate/cases.csv") for run in children]
    if not all(path.is_file() for path in tables):
        yield f"run {parent.key}: a training without its cases.csv"
        return
    cases = pd.concat([pd.read_csv(path) for path in tables])
    shown = {
        "MLflow": parent.latest.get(MEAN, float("nan")),
        "the mean of its trainings' cases": float(cases[METRIC].mean()),
        "the leaderboard": float(row.get(COLUMN) or "nan"),
    }
    if not max(shown.values()) - min(shown.values()) <= TOLERANCE:
        yield f"run {parent.key}: {MEAN} is {', '.join(f'{v:.6f} in {k}' for k, v in shown.items())}"
    folds = " ".join(sorted({run.params["fold"] for run in children}, key=int))
    if parent.tags.get("medseg.folds") != folds:
        yield f"run {parent.key}: folds {parent.tags.get('medseg.folds')}, expected {folds}"
    seeds = " ".join(sorted({run.params["seed"] for run in children}, key=int))
    if parent.tags.get("medseg.seeds") != seeds:
        yield f"run {parent.key}: seeds {parent.tags.get('medseg.seeds')}, expected {seeds}"
    steps = {run.params.get("steps") for run in children}
    if steps != {parent.params.get("steps")}:
        yield f"run {parent.key}: {parent.params.get('steps')} steps, its trainings {steps}"


def _summary(parent: Run, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Every score of a parent is one of the comparison."""
    for row in rows:
        name = metric_name(f"cv/{row['metric']}/{row['label']}")
        if name in parent.latest and row["mean"] is not None and abs(parent.latest[name] - row["mean"]) > TOLERANCE:
            yield f"run {parent.key}: {name} is {parent.latest[name]}, in summary.json {row['mean']}"


def _artifact(root: Path, run: Run, name: str) -> Path:
    return root / run.artifacts.removeprefix("mlflow-artifacts:/") / name
