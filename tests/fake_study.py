"""Finished studies without trainings: every file as the stages write it, with made-up weights and scores.

What is there follows from a configuration: models, folds, seeds and steps. Scores follow from the training's
fingerprint, so that two trainings of one name have other scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.compare.run import run as compare
from medseg.config import load_config
from medseg.files import digest_of, sha256_file, write_json
from medseg.plan.plan import Plan, write_plan
from medseg.records import write_record
from medseg.results.key import ALL, Fold, RunKey
from medseg.results.paths import Results
from medseg.train.history import write_history
from medseg.train.journal import line_of
from medseg.trained import FORMAT, read_trained, write_ensemble
from medseg.workflow import write_config
from tests.plans import tiny_plan
from tests.score_tables import counts_of, score_rows, write_scores

START_MS = 1_700_000_000_000
Record = tuple[int, int, Mapping[str, float]]


def curve(steps: int) -> list[Record]:
    """Records of a journal: (step, unix ms, metrics)."""
    return [(step, START_MS + step, {"train/loss": 1 / (step + 1), "train/lr": 0.001}) for step in range(steps)]


def journal_of(records: Iterable[Record]) -> bytes:
    """A journal as a training writes it."""
    return "".join(line_of(*record) for record in records).encode()


def made_up_rows(key: RunKey, fingerprint: str, how: str = "") -> list[dict[str, Any]]:
    """Score rows of three cases of the fold; Dice follows from the fingerprint, and from how they were evaluated."""
    cases = {}
    for number in range(3):
        drawn = int(hashlib.sha256(f"{fingerprint} {number} {how}".encode()).hexdigest()[:4], 16) / 0xFFFF
        cases[f"case{key.fold}{number}"] = {"Anterior": counts_of(0.5 + drawn / 2), "Posterior": counts_of(drawn)}
    where: dict[str, Any] = {"dataset": key.dataset, "model": key.model, "fold": key.fold, "seed": key.seed}
    return score_rows(cases, fingerprint=fingerprint, **where)


@dataclass
class FakeStudy:
    """A study in a folder, as its configuration wants it; change the fields, then ``finish`` again.

    Attributes:
        results: ``results/{experiment}``.
        models: name -> number of steps.
        folds, seeds: those that run.
        plans: how the plan of a model is made, from its name and steps.
        rows: score rows of a training.
        records: its journal.
        salt: part of every fingerprint, as data and code are.
        ensembles: name -> models that predict together.
    """

    results: Path
    models: dict[str, int] = field(default_factory=lambda: {"unet": 6})
    folds: Sequence[Fold] = (0, 1)
    seeds: Sequence[int] = (0,)
    dataset: str = "organs"
    plans: Callable[[str, int], Plan] = lambda model, steps: tiny_plan(model=model, steps=steps)
    rows: Callable[[RunKey, str], list[dict[str, Any]]] = made_up_rows
    records: Callable[[int], list[Record]] = curve
    salt: str = ""
    ensembles: dict[str, list[str]] = field(default_factory=dict)

    @property
    def files(self) -> Results:
        return Results(self.results)

    def trainings(self) -> list[RunKey]:
        return [RunKey(self.dataset, m, f, s) for m in self.models for f in self.folds for s in self.seeds]

    def fingerprint(self, key: RunKey) -> str:
        plan = {k: v for k, v in self.plans(key.model, self.models[key.model]).to_json().items() if k != "reasons"}
        return digest_of([plan, key.dataset, key.fold, key.seed, self.salt])

    def configure(self) -> None:
        """The configuration, as the workflow leaves it."""
        given = {
            "experiment": self.results.name,
            "results": str(self.results.parent),
            "datasets": {self.dataset: {"layout": "pairs", "path": self.dataset, "labels": {"Anterior": 1}}},
            "models": {model: {"network": "unet"} for model in self.models},
            "folds": {"count": 5, "run": list(self.folds)},
            "seeds": list(self.seeds),
            "budget": {"steps": 6},
            "ensembles": {name: {"of": models} for name, models in self.ensembles.items()},
        }
        self.results.mkdir(parents=True, exist_ok=True)
        written = self.results / "config.yaml"
        write_json(written, given)
        write_config(load_config([written]), self.files.config)
        ingest = self.files.ingest(self.dataset)
        ingest.folder.mkdir(parents=True, exist_ok=True)
        ingest.manifest.write_text("case\n")
        write_record(ingest.dataset, {"dataset": self.dataset})

    def plan(self, model: str) -> None:
        write_plan(self.files.plan(self.dataset).plan(model), self.plans(model, self.models[model]))

    def train(self, key: RunKey, fingerprint: str | None = None) -> Path:
        """A model folder, and the score table of its validation cases."""
        fingerprint = fingerprint or self.fingerprint(key)
        files, weights = self.files.model(key), f"weights {key.name} {fingerprint}".encode()
        files.folder.mkdir(parents=True, exist_ok=True)
        files.weights.write_bytes(weights)
        records = self.records(self.models[key.model])
        write_history(
            files,
            journal_of(records),
            fingerprint,
            {"seconds": 100.0 + (9 if key.fold == ALL else key.fold), "steps": 30},
        )
        plan = self.plans(key.model, self.models[key.model])
        about = {"name": key.dataset, "dims": plan.grid.dims, "channels": ["CT"], "labels": {"names": {}}}
        run = {"fold": key.fold, "seed": key.seed, "fingerprint": fingerprint, "inputs": {}, "parameters": 1234}
        made = {"medseg": "0.1.0", "git": "0123abc", "torch": "2.6.0", "build": "/srv/secret/place"}
        digest = {"weights_sha256": hashlib.sha256(weights).hexdigest(), "allowed": [], "provenance": made}
        write_record(files.description, {"format": FORMAT, "dataset": about, "plan": plan.to_json(), **run, **digest})
        if key.validates:
            self.evaluate(key, fingerprint)
        return files.folder

    def evaluate(self, key: RunKey, fingerprint: str | None = None) -> None:
        """The score table of a training's validation cases."""
        write_scores(self.files.scores(key), self.rows(key, fingerprint or self.fingerprint(key)))

    def together(self) -> list[RunKey]:
        """Ensembles, described, with the score tables of their validation cases."""
        keys = [RunKey(self.dataset, name, fold, 0) for name in self.ensembles for fold in self.folds if fold != ALL]
        for key in keys:
            members = [
                one for one in self.trainings() if one.model in self.ensembles[key.model] and one.fold == key.fold
            ]
            folder = self.files.model(key).folder
            write_ensemble(folder, key, [read_trained(self.files.model(one).folder) for one in members])
            self.evaluate(key, read_trained(folder).fingerprint)
        return keys

    def is_trained(self, key: RunKey) -> bool:
        """Whether the training of the present configuration is there."""
        path = self.files.model(key).description
        return path.is_file() and self.fingerprint(key) in path.read_text()

    def compare(self) -> None:
        if scored := [self.files.scores(key) for key in [*self.trainings(), *self.together()] if key.validates]:
            compare(scored, self.files.compare.folder)

    def report(self) -> None:
        self.files.report.folder.mkdir(parents=True, exist_ok=True)
        self.files.report.page.write_text(f"<html>{sha256_file(self.files.compare.summary)}</html>")

    def finish(self) -> FakeStudy:
        """All that the workflow makes, of what is not there."""
        self.configure()
        for model in self.models:
            self.plan(model)
        for key in self.trainings():
            if not self.is_trained(key):
                self.train(key)
        self.compare()
        # Where nothing is validated, there is neither a comparison nor a report.
        if any(key.validates for key in self.trainings()):
            self.report()
        return self

    def scores(self, key: RunKey) -> pd.DataFrame:
        return pd.DataFrame(self.rows(key, self.fingerprint(key)))
