"""What the study says: the trainings that its configuration runs, and what the comparison says of just these.

Nothing is joined by name alone: a training that was made with another plan than the present one is none of the study's,
and scores are those of a training only if the comparison names its fingerprint.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.compare.run import MAKER as COMPARE
from medseg.compare.run import ComparedScores, read_summary
from medseg.config import Config, ensemble_runs, load_config
from medseg.errors import RUN_STUDY, CheckpointError, DataError
from medseg.files import digest_of
from medseg.plan.plan import read_plan
from medseg.progress import say
from medseg.records import as_written
from medseg.results.folders import CompareFolder, ModelFolder
from medseg.results.key import ALL, TEST, VALIDATION, Fold, RunKey, fold_order
from medseg.results.paths import Results
from medseg.tracking.finished import Trained, read_ensemble, read_training
from medseg.tracking.spec import RunSpec, plan_params
from medseg.trained import read_trained

if TYPE_CHECKING:
    import pandas as pd

# (data set, model) -> (fold, seed) -> fingerprint
Compared = Mapping[tuple[str, str], Mapping[tuple[Fold, int], str]]
# These, and rows of the summary.
Comparison = tuple[Compared, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class StudyModel:
    """A model of the study on one data set.

    Attributes:
        dataset, model: names.
        wanted: the trainings that the configuration runs, as the present plan has them, without fingerprints; none
            where there is no plan yet.
        trained: those that are finished.
        rows: what the comparison says of just these, less those on all cases; empty if it is of others.
        reason: why there are no rows.
        test_rows: what the comparison on the test set says of just these; empty if it was not opened with them.
    """

    dataset: str
    model: str
    wanted: tuple[RunSpec, ...]
    trained: tuple[Trained, ...]
    rows: Sequence[Mapping[str, Any]]
    reason: str
    test_rows: Sequence[Mapping[str, Any]] = ()

    @property
    def scored(self) -> str:
        """Digest of what the comparisons say."""
        return digest_of([list(self.rows), list(self.test_rows)])

    @property
    def fingerprint(self) -> str:
        """Digest of which trainings these are."""
        found = [(t.spec.fold, t.spec.seed, t.spec.fingerprint) for t in self.trained]
        return digest_of([list(one) for one in sorted(found, key=lambda one: (fold_order(one[0]), *one[1:]))])

    @property
    def has_scores(self) -> bool:
        """Whether a comparison is of just these trainings."""
        return bool(self.rows or self.test_rows)


class TrainingScores:
    """The score rows of trainings in the comparison, read when they are asked for."""

    def __init__(self, compared: ComparedScores | None, places: Mapping[str, int]) -> None:
        """Of the trainings that are known by the keys of their runs; ``places`` are those in ``compared``."""
        self._compared, self._places = compared, places
        self._reading = threading.Lock()  # several models are sent at once

    def of(self, key: str) -> pd.DataFrame | None:
        """All rows of a training; None if it was not compared."""
        if self._compared is None or key not in self._places:
            return None
        with self._reading:
            return self._compared.frame(self._places[key])

    def cases(self, key: str) -> list[str]:
        """Its cases."""
        if self._compared is None or key not in self._places:
            return []
        with self._reading:
            found = self._compared.frame(self._places[key], ["case"], distinct=True)
        return [str(case) for case in found["case"]]


@dataclass(frozen=True, slots=True)
class Study:
    """An experiment as its configuration, its models and its comparison say.

    Attributes:
        models: those that the configuration runs, by data set.
        scores: of the trainings that were compared.
    """

    models: tuple[StudyModel, ...]
    scores: TrainingScores

    def digest(self) -> str:
        """Digest of what is to be seen in the tracking store; no name of a folder or machine is in it."""
        return digest_of([[m.dataset, m.model, m.fingerprint, m.scored] for m in self.models])


def read_study(results: Path, config: Path, experiment: str) -> Study:
    """Read what ``results/<experiment>`` holds of the study that a configuration describes.

    Args:
        results: its folder.
        config: the configuration.
        experiment: the name that the configuration must have.

    Raises:
        ConfigError: if the configuration is wrong.
        DataError: if a result is damaged or contradicts another one, or the configuration is of another experiment.
    """
    if not config.is_file():
        raise DataError(f"{config}: no such file; {RUN_STUDY}, which writes it, or give a configuration with --config")
    loaded = load_config([config])
    if loaded.experiment != experiment:
        raise DataError(
            f"{config}: of experiment '{loaded.experiment}'; expected '{experiment}', which {results} was made for"
        )
    files = Results(results)
    compared, rows = _comparison(files.compare, VALIDATION)
    tested = _tested(files)
    scores = ComparedScores(files.compare.folder) if rows else None
    keys: dict[tuple[str, str], list[RunKey]] = {}
    for run in loaded.runs():
        keys.setdefault(run[:2], []).append(RunKey(*run))
    models = tuple(_model(files, mine, (compared, rows), tested) for mine in keys.values())
    models += tuple(_ensemble(files, mine, (compared, rows), tested) for mine in _ensembles(loaded).values())
    places = {}
    for place, one in enumerate(scores.trainings if scores is not None else ()):
        key = RunKey(one["dataset"], one["model"], one["fold"], one["seed"])
        places[key, one["split"], one["fingerprint"]] = place
    of_trainings = {}
    for spec in (trained.spec for model in models for trained in model.trained):
        key = RunKey(spec.dataset, spec.model, spec.fold, spec.seed)
        if (key, VALIDATION, spec.fingerprint) in places:
            of_trainings[spec.key] = places[key, VALIDATION, spec.fingerprint]
    return Study(models, TrainingScores(scores, of_trainings))


def _comparison(files: CompareFolder, split: str) -> Comparison:
    """Which trainings were compared on the cases of a split, and the rows of the summary."""
    if not files.summary.is_file():
        return {}, ()
    summary = read_summary(files.folder)
    compared: dict[tuple[str, str], dict[tuple[Fold, int], str]] = {}
    with as_written(files.summary, COMPARE):
        for one in summary["trainings"]:
            if one["split"] == split:
                runs = compared.setdefault((one["dataset"], one["model"]), {})
                runs[one["fold"], one["seed"]] = one["fingerprint"]
        return compared, [row for row in summary["rows"] if row["split"] == split]


def _tested(files: Results) -> Comparison:
    """The comparison on the test sets; one that cannot be read is left out, since to make it again is to open them."""
    try:
        return _comparison(files.test.compare, TEST)
    except DataError as error:
        say(f"tracking: no scores of test sets: {error}")
        return {}, ()


def _ensembles(config: Config) -> dict[tuple[str, str], list[RunKey]]:
    """(data set, ensemble) -> what it is scored as."""
    found: dict[tuple[str, str], list[RunKey]] = {}
    for run in ensemble_runs(config):
        found.setdefault(run[:2], []).append(RunKey(*run))
    return found


def _ensemble(files: Results, keys: Sequence[RunKey], validated: Comparison, tested: Comparison) -> StudyModel:
    """An ensemble, as a model of which each fold has one training."""
    which = keys[0].dataset, keys[0].model
    there = [key for key in keys if files.model(key).members.is_file()]
    try:
        trained = tuple(read_ensemble(files.model(key), key) for key in there)
    except (DataError, CheckpointError) as error:
        # A member that was trained again meanwhile: the ensemble is described anew when it predicts.
        say(f"tracking: {keys[0].dataset}/{keys[0].model} is left out: {error}")
        trained = ()
    present: Mapping[tuple[Fold, int], str] = {(t.spec.fold, t.spec.seed): t.spec.fingerprint for t in trained}
    reason = _difference(present, validated[0].get(which, {}))
    rows = [] if reason else _rows_of(validated, which)
    # On a test set, the trainings of all folds predict together.
    now = _fingerprint_of(files.tested_ensemble(RunKey(*which, ALL, 0)))
    same = bool(now) and not reason and tested[0].get(which, {}) == {(ALL, 0): now}
    return StudyModel(*which, (), trained, rows, reason, _rows_of(tested, which) if same else [])


def _fingerprint_of(ensemble: ModelFolder) -> str:
    """Of an ensemble that predicted test cases; empty if there is none, or its members are other trainings now."""
    try:
        return read_trained(ensemble.folder).fingerprint if ensemble.members.is_file() else ""
    except (DataError, CheckpointError):
        return ""


def _model(files: Results, keys: Sequence[RunKey], validated: Comparison, tested: Comparison) -> StudyModel:
    dataset, model = keys[0].dataset, keys[0].model
    there = [key for key in keys if files.model(key).description.is_file()]
    path = files.plan(dataset).plan(model)
    if not there and not path.is_file():
        return StudyModel(dataset, model, (), (), (), "not planned yet")
    plan = read_plan(path)
    params = plan_params(plan.to_json())
    wanted = tuple(RunSpec(key.dataset, key.model, key.fold, key.seed, "", params) for key in keys)
    found = {key: read_training(files.model(key), key, plan) for key in there}
    trained = tuple(training for training in found.values() if training is not None)
    stale = [key.run for key, training in found.items() if training is None]
    present = {(t.spec.fold, t.spec.seed): t.spec.fingerprint for t in trained}
    which = (dataset, model)
    scored: Mapping[tuple[Fold, int], str] = {
        (fold, seed): value for (fold, seed), value in present.items() if fold != ALL
    }
    validates = any(key.validates for key in keys)
    if validates:
        reason = _difference(scored, validated[0].get(which, {}))
    else:
        # What a test set says is of these.
        reason, scored = "all its trainings are on all cases, which leaves none to validate on", present
    if stale:
        reason = f"{', '.join(stale)} was trained with an earlier plan"
    mine = [] if reason else _rows_of(validated, which)
    # A test set that was opened with other trainings says nothing of these.
    same = (not reason or not validates) and not stale and tested[0].get(which, {}) == scored
    return StudyModel(dataset, model, wanted, trained, mine, reason, _rows_of(tested, which) if same else [])


def _rows_of(comparison: Comparison, which: tuple[str, str]) -> list[Mapping[str, Any]]:
    return [row for row in comparison[1] if (row["dataset"], row["model"]) == which]


def _difference(present: Mapping[tuple[Fold, int], str], compared: Mapping[tuple[Fold, int], str]) -> str:
    """How the trainings that were compared differ from those that are there; empty if they do not."""
    if not compared:
        return "it was not compared yet"
    for fold, seed in sorted({*present, *compared}, key=lambda one: (fold_order(one[0]), one[1])):
        which = f"fold {fold} seed {seed}"
        if (fold, seed) not in compared:
            return f"the comparison lacks {which}"
        if (fold, seed) not in present:
            return f"the comparison has {which}, which the study does not have"
        if present[fold, seed] != compared[fold, seed]:
            return f"{which} was trained again since the comparison"
    return ""
