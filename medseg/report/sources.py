"""What the report is made of, read from the results folder of an experiment."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.compare.run import read_leaderboard, read_summary
from medseg.config import Config, load_config
from medseg.errors import DataError
from medseg.files import read_json, sha256_file
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.report.statements import dataset_statements


@dataclass(frozen=True, slots=True)
class Run:
    """One training that was evaluated.

    Attributes:
        dataset, model, fold, seed: which.
        facts: ``model.json``.
        history: records of ``history.jsonl``, in order of their step.
        timing: ``timing.json``.
        folder: where its label maps lie.
        cases: case id -> file and digest of its label map.
        mirror: whether predictions are means over mirror images; None: not recorded.
    """

    dataset: str
    model: str
    fold: int
    seed: int
    facts: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    timing: Mapping[str, Any]
    folder: Path
    cases: Mapping[str, Mapping[str, str]]
    mirror: bool | None


@dataclass(frozen=True, slots=True)
class Job:
    """A ``benchmark:`` table of the workflow; seconds and megabytes are None where it holds no number."""

    dataset: str
    stage: str
    seconds: float | None
    peak_mb: float | None


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment with its results, data sets and models in the order of the configuration.

    Attributes:
        config: the configuration.
        manifests: per data set.
        splits: ``splits.json`` per data set.
        plans: (data set, model) -> plan.
        runs: all evaluated runs.
        missing: runs that the configuration asks for and nobody has evaluated, as text.
        scores: the score rows of all runs.
        summary: ``summary.json`` of compare.
        leaderboard: rows of ``leaderboard.csv``.
        jobs: benchmark tables, if the workflow left any.
        digests: name of a result -> SHA-256.
        statements: data set -> what its reader must know before believing the numbers.
    """

    config: Config
    manifests: Mapping[str, Manifest]
    splits: Mapping[str, Mapping[str, Any]]
    plans: Mapping[tuple[str, str], Mapping[str, Any]]
    runs: tuple[Run, ...]
    missing: tuple[str, ...]
    scores: pd.DataFrame
    summary: Mapping[str, Any]
    leaderboard: Sequence[Mapping[str, str]]
    jobs: tuple[Job, ...]
    digests: Mapping[str, str]
    statements: Mapping[str, Sequence[tuple[str, str]]]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Data sets with results."""
        return tuple(self.manifests)

    def models(self, dataset: str) -> list[str]:
        """Models evaluated on a data set, best first."""
        return [row["model"] for row in self.leaderboard if row["dataset"] == dataset]

    def runs_of(self, dataset: str, model: str) -> list[Run]:
        """The evaluated runs of a model on a data set."""
        return [run for run in self.runs if (run.dataset, run.model) == (dataset, model)]


def read_study(results: Path, config_json: Path) -> Study:
    """Read everything the page shows, except images.

    Raises:
        ConfigError: if the configuration is not a valid one.
        DataError: if a result that the compared scores rest on is missing or damaged.
    """
    config = load_config([config_json])
    compare = results / "compare"
    leaderboard = read_leaderboard(compare)
    try:
        scores = pd.read_parquet(compare / "scores.parquet")
    except (OSError, ValueError) as error:
        raise DataError(f"{compare / 'scores.parquet'}: {error}; run `medseg compare` again") from error
    keys = [
        (str(d), str(m), int(f), int(s))
        for d, m, f, s in scores[["dataset", "model", "fold", "seed"]].drop_duplicates().itertuples(index=False)
    ]
    order = {name: place for place, name in enumerate([*config.datasets, *config.models])}
    keys.sort(key=lambda k: (order.get(k[0], len(order)), order.get(k[1], len(order)), k))
    names = list(dict.fromkeys(k[0] for k in keys))
    wanted = config.runs()
    manifests = {d: read_manifest(results / d / "ingest" / "manifest.tsv") for d in names}
    runs = tuple(_read_run(results, *key, _scored(scores, key)) for key in keys)
    return Study(
        config,
        manifests,
        {d: read_json(results / d / "ingest" / "splits.json") for d in names},
        {(d, m): read_json(results / d / "plan" / f"{m}.json") for d, m in dict.fromkeys(k[:2] for k in keys)},
        runs,
        tuple(f"{d} / {m} / fold {f} / seed {s}" for d, m, f, s in wanted if (d, m, f, s) not in set(keys)),
        scores,
        read_summary(compare),
        leaderboard,
        _read_jobs(results / "benchmarks"),
        {f"compare/{n}": sha256_file(compare / n) for n in ("scores.parquet", "leaderboard.csv", "summary.json")},
        {
            d: dataset_statements(results, config, manifests[d], [r.facts for r in runs if r.dataset == d])
            for d in names
        },
    )


def _scored(scores: pd.DataFrame, key: tuple[str, str, int, int]) -> dict[str, str]:
    """Case -> digest of the label map that was scored, of one training."""
    mine = scores[(scores[["dataset", "model", "fold", "seed"]] == list(key)).all(axis=1)]
    mine = mine[mine["prediction"] != ""]
    return dict(zip(mine["case"], mine["prediction"], strict=True))


def _read_run(results: Path, dataset: str, model: str, fold: int, seed: int, scored: Mapping[str, str]) -> Run:
    name = f"fold{fold}-seed{seed}"
    train = results / dataset / "train" / model / name
    folder, predictions = _scored_predictions(results / dataset, f"{model}/{name}", scored)
    return Run(
        dataset,
        model,
        fold,
        seed,
        read_json(train / "model.json"),
        _read_history(train / "history.jsonl"),
        read_json(train / "timing.json"),
        folder,
        {case: entry for case, entry in predictions["cases"].items() if "file" in entry},
        predictions.get("mirror"),
    )


def _scored_predictions(base: Path, run: str, scored: Mapping[str, str]) -> tuple[Path, Mapping[str, Any]]:
    """The folder whose label maps are those that were scored, and its ``predictions.json``.

    After a change of the configuration, predictions of the stage before or after lie there as well.

    Args:
        base: results of the data set.
        run: ``model/fold…-seed…``.
        scored: case -> SHA-256 of the label map that was scored; cases that failed are not in it.

    Raises:
        DataError: if no folder holds them.
    """
    for stage in ("postprocess", "predict"):
        folder = base / stage / run
        if (folder / "predictions.json").is_file():
            predictions = read_json(folder / "predictions.json")
            if all(predictions["cases"].get(case, {}).get("sha256") == digest for case, digest in scored.items()):
                return folder, predictions
    raise DataError(
        f"{base}: no predictions of {run} are those that were scored; run `medseg evaluate` and `medseg compare` again"
    )


def _read_history(path: Path) -> list[dict[str, Any]]:
    """Records by step; of several with one step (a resumed training writes them again) the last counts."""
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        merged: dict[int, dict[str, Any]] = {}
        for record in records:
            merged.setdefault(int(record["step"]), {}).update(record["metrics"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `medseg train` first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a training journal ({error}); run `medseg train` again") from error
    return [{"step": step, **merged[step]} for step in sorted(merged)]


def _read_jobs(folder: Path) -> tuple[Job, ...]:
    """Benchmark tables ``{dataset}/{stage}.tsv`` and ``{dataset}/{stage}/*.tsv``; Snakemake writes them."""
    jobs = []
    for path in sorted([*folder.glob("*/*.tsv"), *folder.glob("*/*/*.tsv")]):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        for row in rows or [{}]:
            seconds, peak = _number(row.get("s")), _number(row.get("max_rss"))
            dataset, stage = path.relative_to(folder).with_suffix("").parts[:2]
            jobs.append(Job(dataset, stage, seconds, peak))
    return tuple(jobs)


def _number(text: str | None) -> float | None:
    """A plain decimal number, or None (short jobs have ``NA`` or ``-``)."""
    return float(text) if text and re.fullmatch(r"\d+(\.\d+)?", text) else None
