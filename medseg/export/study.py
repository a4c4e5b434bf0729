"""The study that a model folder lies in, for what it knows beyond the model: its cohort, and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from medseg.compare.run import read_summary
from medseg.results.folders import CompareFolder, ModelFolder
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.train.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Study:
    """Results of a study.

    Attributes:
        results: its folder.
    """

    results: Results

    @classmethod
    def around(cls, folder: Path, made: Checkpoint) -> Self | None:
        """The study in whose results a model folder lies, at the place that a study gives it; None: in none."""
        here = folder.absolute()
        if len(here.parents) < 4:
            return None
        study = cls(Results(here.parents[3]))
        key = RunKey(made.dataset, made.plan.model, made.fold, made.seed)
        return study if study.results.model(key) == ModelFolder(here) else None

    def manifest(self, made: Checkpoint) -> Path:
        """The manifest of the model's data set."""
        return self.results.ingest(made.dataset).manifest

    def scores(self, made: Checkpoint) -> list[dict[str, Any]]:
        """Scores of the model, and of the test set if it was opened; of other trainings of it, too, if they are in.

        Scores count only where this training is among those that were compared.

        Raises:
            DataError: if a summary is damaged, or of another version.
        """
        found = []
        for compare in (self.results.compare, self.results.test.compare):
            found += _of_model(compare, made)
        return found


def _of_model(compare: CompareFolder, made: Checkpoint) -> list[dict[str, Any]]:
    if not compare.summary.is_file():
        return []
    summary = read_summary(compare.folder)
    mine = [t for t in summary["trainings"] if (t["dataset"], t["model"]) == (made.dataset, made.plan.model)]
    if made.fingerprint not in {training["fingerprint"] for training in mine}:
        return []
    return [_score(row, len(mine)) for row in summary["rows"] if _is_shown(row, made)]


def _is_shown(row: Mapping[str, Any], made: Checkpoint) -> bool:
    mine = (row["dataset"], row["model"]) == (made.dataset, made.plan.model)
    return mine and row["metric"].endswith("_subject") and row["mean"] is not None


def _score(row: Mapping[str, Any], trainings: int) -> dict[str, Any]:
    names = ("split", "metric", "label", "unit", "mean", "low", "high", "n_subjects", "n", "n_failed", "note")
    return {**{name: row[name] for name in names}, "trainings": trainings}
