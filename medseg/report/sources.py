"""Reads everything that the report shows from the results folder of an experiment."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.compare.quantity import Quantity
from medseg.compare.run import ComparedScores, read_leaderboard, read_summary
from medseg.compare.terminal import ranked_by
from medseg.config import Config, ensemble_runs, load_config
from medseg.errors import DataError
from medseg.evaluate.choice import require_chosen
from medseg.files import sha256_file
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.splits import read_folds
from medseg.metrics.table import METRICS
from medseg.plan.plan import read_plan
from medseg.predict.record import PredictedCase, find_scored, require_made_as
from medseg.report.chosen_steps import ChosenSteps, read_chosen
from medseg.report.statements import dataset_statements
from medseg.results.key import Fold, RunKey
from medseg.results.paths import Results
from medseg.train.history import read_history, read_timing
from medseg.train.journal import Record
from medseg.trained import Trained, read_facts, require_training

# Of many models, the first so many are drawn on the page, and the first so many have rows in every table.
DRAWN, LISTED = 8, 24
KEY = ("dataset", "model", "fold", "seed")
Key = tuple[str, str, Fold, int]
# What is shown of single cases: the metrics that models are ranked by, and what is counted of their objects.
COUNTED = ("matched_50", "n_objects_ref", "n_objects_pred", "n_merged", "n_split")
SHOWN = (*(name for name, metric in METRICS.items() if metric.ranks), *COUNTED)


@dataclass(frozen=True, slots=True)
class Run:
    """One training, or an ensemble of some, that was evaluated.

    Attributes:
        dataset, model, fold, seed: which.
        facts: ``model.json``; of an ensemble its digests alone.
        history: records of ``history.jsonl``, in order of their step; of an ensemble none.
        timing: ``timing.json``; of an ensemble empty.
        folder: where its label maps lie.
        cases: case id -> file and digest of its label map.
        mirror: whether predictions are means over mirror images; None: not recorded.
        members: of an ensemble, the trainings that predicted together.
        chosen: how its post-processing was chosen; None: it was not.
    """

    dataset: str
    model: str
    fold: Fold
    seed: int
    facts: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    timing: Mapping[str, Any]
    folder: Path
    cases: Mapping[str, PredictedCase]
    mirror: bool | None
    members: tuple[RunKey, ...] = ()
    chosen: ChosenSteps | None = None

    @property
    def key(self) -> Key:
        """Which, as a key."""
        return self.dataset, self.model, self.fold, self.seed


@dataclass(frozen=True, slots=True)
class WorkflowJob:
    """A ``benchmark:`` table of the workflow; seconds and megabytes are None where it holds no number."""

    dataset: str
    stage: str
    seconds: float | None
    peak_mb: float | None


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment with its results, data sets and models in the order of the configuration.

    Attributes:
        config: the configuration.
        manifests: per data set.
        splits: ``splits.json`` per data set.
        plans: (data set, model) -> plan; ensembles have none.
        runs: all evaluated runs.
        missing: runs that the configuration asks for and nobody has evaluated, as text.
        scores: (data set, model, fold, seed) -> case, label, metric, value and status of the score rows of ``SHOWN``.
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
    scores: Mapping[Key, pd.DataFrame]
    summary: Mapping[str, Any]
    leaderboard: Sequence[Mapping[str, str]]
    jobs: tuple[WorkflowJob, ...]
    digests: Mapping[str, str]
    statements: Mapping[str, Sequence[tuple[str, str]]]

    @property
    def rows(self) -> list[str]:
        """Models and ensembles in the order of the configuration."""
        return [*self.config.models, *self.config.ensembles]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Data sets with results."""
        return tuple(self.manifests)

    def models(self, dataset: str) -> list[str]:
        """Models evaluated on a data set, best first."""
        return [row["model"] for row in self.leaderboard if row["dataset"] == dataset]

    def first_models(self, dataset: str) -> list[str]:
        """Those of them that are drawn on the page; of the others, pictures lie beside it."""
        return self.models(dataset)[:DRAWN]

    def listed_models(self, dataset: str) -> list[str]:
        """Those of them that have rows in long tables."""
        return self.models(dataset)[:LISTED]

    def ranked(self, dataset: str) -> Quantity:
        """The metric that the models of a data set are ranked by: PQ where objects were scored, else Dice."""
        return ranked_by([row for row in self.leaderboard if row["dataset"] == dataset])

    def counts_objects(self, dataset: str) -> bool:
        """Whether single objects of a data set were scored."""
        return self.ranked(dataset).family == "objects"

    def scores_of(self, dataset: str, model: str) -> pd.DataFrame:
        """Score rows of all runs of a model on a data set."""
        return pd.concat([self.scores[run.key] for run in self.runs_of(dataset, model)], ignore_index=True)

    def runs_of(self, dataset: str, model: str) -> list[Run]:
        """The evaluated runs of a model on a data set."""
        return [run for run in self.runs if (run.dataset, run.model) == (dataset, model)]


def read_experiment(results: Path, config_json: Path) -> Experiment:
    """Read everything the page shows, except images.

    Raises:
        ConfigError: if the configuration is not a valid one.
        DataError: if a result that the compared scores rest on is missing or damaged, or of another training than the
            one that is there now.
    """
    config = load_config([config_json])
    config.folds.require_validation("report")
    layout = Results(results)
    compare = layout.compare
    summary, leaderboard = read_summary(compare.folder), read_leaderboard(compare.folder)
    compared = ComparedScores(compare.folder, summary)
    places = {_key(training): place for place, training in enumerate(compared.trainings)}
    keys = list(places)
    order = {name: place for place, name in enumerate([*config.datasets, *config.models, *config.ensembles])}
    keys.sort(key=lambda k: (order.get(k[0], len(order)), order.get(k[1], len(order)), k))
    names = list(dict.fromkeys(k[0] for k in keys))
    # Trainings on all cases have none to be evaluated on; the statements name them.
    wanted = [run for run in [*config.runs(), *ensemble_runs(config)] if RunKey(*run).validates]
    manifests = {d: read_manifest(layout.ingest(d).manifest) for d in names}
    for name, manifest in manifests.items():
        require_chosen(config, name, manifest.labels.target_names, _definitions(compared, name))
    fingerprints = {_key(training): str(training["fingerprint"]) for training in compared.trainings}
    runs = tuple(
        _read_run(config, layout, RunKey(*key), fingerprints[key], _scored(compared, places[key])) for key in keys
    )
    return Experiment(
        config,
        manifests,
        {d: read_folds(layout.ingest(d).splits) for d in names},
        {
            (d, m): read_plan(layout.plan(d).plan(m)).to_json()
            for d, m in dict.fromkeys(run.key[:2] for run in runs if not run.members)
        },
        runs,
        tuple(f"{d} / {m} / fold {f} / seed {s}" for d, m, f, s in wanted if (d, m, f, s) not in set(keys)),
        {key: _shown(compared, place) for key, place in places.items()},
        summary,
        leaderboard,
        _read_jobs(layout.benchmarks, config.datasets),
        {f"compare/{p.name}": sha256_file(p) for p in (compare.scores, compare.leaderboard, compare.summary)},
        {
            d: dataset_statements(
                results, config, manifests[d], [r.facts for r in runs if r.dataset == d and not r.members]
            )
            for d in names
        },
    )


def _key(training: Mapping[str, Any]) -> Key:
    return str(training["dataset"]), str(training["model"]), training["fold"], int(training["seed"])


def _definitions(compared: ComparedScores, dataset: str) -> pd.DataFrame:
    """What the score rows of a data set are of: class, metric, definition and spacing, each combination once."""
    columns = ["label", "metric", "definition", "spacing"]
    places = [k for k, training in enumerate(compared.trainings) if training["dataset"] == dataset]
    found = [compared.frame(place, columns, distinct=True) for place in places]
    return pd.concat(found, ignore_index=True).drop_duplicates(ignore_index=True)


def _scored(compared: ComparedScores, place: int) -> dict[str, str]:
    """Case -> digest of the label map that was scored, of one training."""
    mine = compared.frame(place, ["case", "prediction"], distinct=True)
    mine = mine[mine["prediction"] != ""]
    return dict(zip(mine["case"], mine["prediction"], strict=True))


def _shown(compared: ComparedScores, place: int) -> pd.DataFrame:
    """What is shown of the cases of one training."""
    mine = compared.frame(place, ["case", "label", "metric", "value", "status"])
    return mine[mine["metric"].isin(SHOWN)].reset_index(drop=True)


def _read_run(config: Config, layout: Results, key: RunKey, fingerprint: str, scored: Mapping[str, str]) -> Run:
    """A training that was compared, if it is the one that is there now."""
    model = layout.model(key)
    makers = "`medseg predict`, `medseg evaluate` and `medseg compare`"
    trained = require_training(model.folder, key, fingerprint, layout.compare.summary, makers)
    # Those of an earlier configuration may lie beside them, and be equal where operations changed nothing.
    folders = [layout.predict(key), layout.postprocess(key)]
    if config.dataset(key.dataset).postprocess.applies:
        folders.reverse()
    predictions = find_scored(folders, scored)
    require_made_as(config, predictions, model.folder)
    return Run(
        key.dataset,
        key.model,
        key.fold,
        key.seed,
        _digests(trained) if trained.members else read_facts(model.folder),
        [] if trained.members else _by_step(read_history(model, fingerprint)),
        {} if trained.members else read_timing(model, fingerprint),
        predictions.folder,
        {case: entry for case, entry in predictions.cases.items() if not entry.failed},
        predictions.mirror,
        tuple(member.key for member in trained.members),
        read_chosen(config, layout, key, fingerprint),
    )


def _digests(trained: Trained) -> dict[str, Any]:
    return {"fingerprint": trained.fingerprint, "weights_sha256": trained.weights_sha256}


def _by_step(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Records by step; of several with one step (a resumed training writes them again) the last counts."""
    merged: dict[int, dict[str, Any]] = {}
    for record in records:
        merged.setdefault(record.step, {}).update(record.metrics)
    return [{"step": step, **merged[step]} for step in sorted(merged)]


def _read_jobs(folder: Path, datasets: Collection[str]) -> tuple[WorkflowJob, ...]:
    """Benchmark tables ``{dataset}/{stage}.tsv`` and ``{dataset}/{stage}/*.tsv``; Snakemake writes them.

    Those of jobs that are about no data set (``weights/{model}.tsv``) are left out.
    """
    jobs = []
    for path in sorted([*folder.glob("*/*.tsv"), *folder.glob("*/*/*.tsv")]):
        dataset, stage = path.relative_to(folder).with_suffix("").parts[:2]
        if dataset not in datasets:
            continue
        try:
            rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""), delimiter="\t"))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{path}: damaged, no table of Snakemake's ({error}); delete it, and this job's time is left out"
            ) from None
        for row in rows or [{}]:
            seconds, peak = _number(row.get("s")), _number(row.get("max_rss"))
            jobs.append(WorkflowJob(dataset, stage, seconds, peak))
    return tuple(jobs)


def _number(text: str | None) -> float | None:
    """A plain decimal number, or None (short jobs have ``NA`` or ``-``)."""
    return float(text) if text and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text) else None
