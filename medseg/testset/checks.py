"""What must hold before a test set is opened: it is declared, trainings are finished, none has seen a subject of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.config import Config, ensemble_runs, is_elsewhere, members_of
from medseg.config.grids import grid_name
from medseg.errors import CheckpointError, ConfigError, DataError
from medseg.files import sha256_file
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.recorded import read_test
from medseg.results.folders import ModelFolder
from medseg.results.key import ALL, Fold, RunKey
from medseg.results.paths import Results
from medseg.train.checkpoint import Checkpoint, read_description
from medseg.train.identity import Inputs, Wanted, require_wanted

# Subjects shown in one message; there can be thousands.
SUBJECTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TestSet:
    """The test set of a data set.

    Attributes:
        table: ``test.tsv``.
        manifest: its cases.
    """

    __test__ = False  # pytest takes classes of this name for tests

    table: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class FinishedTraining:
    """A finished training.

    Attributes:
        dataset, model, fold, seed: which.
        folder: its model folder.
        checkpoint: what ``model.json`` says.
        weights_sha256: digest of its weights.
    """

    dataset: str
    model: str
    fold: Fold
    seed: int
    folder: Path
    checkpoint: Checkpoint
    weights_sha256: str

    @property
    def key(self) -> RunKey:
        """Which training, as results are found by."""
        return RunKey(self.dataset, self.model, self.fold, self.seed)

    @property
    def name(self) -> str:
        """How records and messages call it."""
        return self.key.name


def chosen_sets(results: Path, config: Config, datasets: Sequence[str]) -> dict[str, TestSet]:
    """The test sets of the named data sets, or of all that declare one.

    Raises:
        ConfigError: if a data set declares none.
        DataError: if ingest has not run with this configuration.
    """
    names = list(dict.fromkeys(datasets)) or [name for name, section in config.datasets.items() if section.test]
    if not names:
        raise ConfigError(
            "no data set of the configuration declares a test set; write `test: [ID, …]` under datasets.<name> "
            "(docs/data.md), and train without those cases"
        )
    return {name: _test_set(results, config, name) for name in names}


def _test_set(results: Path, config: Config, dataset: str) -> TestSet:
    section = config.dataset(dataset)
    if section.test is None:
        raise ConfigError(
            f"datasets.{dataset}: no test set is declared; write `test: [ID, …]` (docs/data.md), and train without "
            "those cases"
        )
    files = Results(results).ingest(dataset)
    if read_test(files.test_manifest)["declared"] != section.test.declaration:
        raise DataError(
            f"{files.test_declaration}: `test` of datasets.{dataset} was different when the data set was checked; run "
            "the workflow with this configuration first, which trains without the cases of the test set"
        )
    found = TestSet(files.test_manifest, read_manifest(files.test_manifest))
    if not found.manifest.cases:
        raise DataError(f"{found.table}: holds no case; run `medseg ingest` with this configuration again")
    return found


def finished(
    results: Path, config: Config, datasets: Sequence[str], models: Sequence[str]
) -> tuple[list[FinishedTraining], list[str]]:
    """All finished trainings of the configuration on these data sets, and the names of those that are not.

    Networks that were trained on all cases are among them only where all are: else they are another method than those
    of the folds, which are repetitions of one.

    Args:
        results: ``results/<experiment>``.
        config: the experiment.
        datasets: names of data sets.
        models: names of models; none: all.

    Raises:
        ConfigError: if there is no such model.
        CheckpointError: if a model folder is damaged, or holds another training than plan, data and folds of the
            study ask for.
        DataError: if no training is finished.
    """
    for model in models:
        if model not in config.ensembles:
            config.model(model)
    # Members of an ensemble that is named are looked at as well.
    wanted = {one for name in models for one in ([*config.ensembles[name].of] if name in config.ensembles else [name])}
    done, lacking = [], []
    for dataset, model, fold, seed in config.runs():
        if dataset not in datasets or (models and model not in wanted):
            continue
        if fold == ALL and config.folds.validated:
            continue
        key = RunKey(dataset, model, fold, seed)
        files = Results(results).model(key)
        if files.description.is_file():
            done.append(_training(files.folder, key, _wanted(results, config, key)))
        else:
            lacking.append(key.name)
    if not done:
        raise DataError(f"{results}: no finished training of {', '.join(lacking) or 'these models'}; run the workflow")
    return done, lacking


@dataclass(frozen=True, slots=True)
class TestedEnsemble:
    """An ensemble that predicts test cases: of its models, the trainings of all folds and seeds.

    Attributes:
        key: its name, with ``all`` for a fold.
        members: the trainings.
    """

    key: RunKey
    members: tuple[FinishedTraining, ...]


def ensembles_of(
    config: Config, trainings: Sequence[FinishedTraining], models: Sequence[str]
) -> tuple[list[TestedEnsemble], list[str]]:
    """The ensembles all of whose trainings are finished, and the names of the others.

    No training of any fold has seen a test case, so that all of them may predict it together.

    Args:
        config: the experiment.
        trainings: that are finished.
        models: names of models and ensembles; none: all.
    """
    found, lacking = [], []
    there = {training.key: training for training in trainings}
    for dataset, name in dict.fromkeys(run[:2] for run in ensemble_runs(config)):
        if (models and name not in models) or all(training.dataset != dataset for training in trainings):
            continue
        runs = [run for fold in config.folds.validated for run in members_of(config, dataset, name, fold)]
        keys, key = [RunKey(*run) for run in runs], RunKey(dataset, name, ALL, 0)
        if all(one in there for one in keys):
            found.append(TestedEnsemble(key, tuple(there[one] for one in keys)))
        else:
            lacking.append(key.name)
    return found, lacking


def _wanted(results: Path, config: Config, key: RunKey) -> Wanted:
    """The training of a configuration; which code trained it is not asked."""
    layout, start = Results(results), config.model(key.model).start
    ingest = layout.ingest(key.dataset)
    folder = None
    if start is not None:
        folder = Path(start) if is_elsewhere(start) else layout.model(replace(key, model=start)).folder
        folder = folder if ModelFolder(folder).weights.is_file() else None
    inputs = Inputs(
        ingest.manifest,
        layout.plan(key.dataset).plan(key.model),
        layout.store(key.dataset, grid_name(config, key.model)).index,
        ingest.splits,
        key.fold,
        key.seed,
        folder,
        weights=layout.weights(key.model) if config.model(key.model).options.get("weights") else None,
    )
    return Wanted(inputs, any_start=start is not None and folder is None)


def _training(folder: Path, key: RunKey, wanted: Wanted) -> FinishedTraining:
    checkpoint, recorded = read_description(folder)
    require_wanted(folder, checkpoint, wanted)
    path = ModelFolder(folder).weights
    if not path.is_file() or sha256_file(path) != recorded:
        raise CheckpointError(f"{path}: missing or damaged (SHA-256 differs from the one recorded beside it)")
    return FinishedTraining(key.dataset, key.model, key.fold, key.seed, folder, checkpoint, recorded)


def refuse_seen(results: Path, sets: dict[str, TestSet], trainings: Sequence[FinishedTraining]) -> list[str]:
    """Refuse trainings whose weights have seen a subject of the test set.

    Returns:
        Names of trainings without a complete record of the subjects that their weights have seen; those are checked
        by the manifest alone, whose other cases they were trained on.

    Raises:
        DataError: naming trainings, subjects and the evidence.
    """
    causes = []
    for dataset, test in sets.items():
        others = read_manifest(Results(results).ingest(dataset).manifest)
        shared = {c.subject for c in others.cases} & {c.subject for c in test.manifest.cases}
        if shared:
            causes.append(f"data set {dataset}: subjects {_some(sorted(shared))} are in the manifest of its folds, too")
    unrecorded = []
    for training in trainings:
        seen = training.checkpoint.trained_on
        if seen is None or not seen.complete:
            unrecorded.append(training.name)
        met = seen.meets(training.dataset, sets[training.dataset].manifest.cases) if seen else {}
        if met:
            causes.append(f"{training.name}: {_some([f'{name}: {why}' for name, why in met.items()])}")
    if causes:
        raise DataError(
            "the test set was not opened: models have seen subjects of it, so its scores would not be those of "
            f"new subjects: {'; '.join(causes)}. Run the workflow again, which trains without them, or "
            "take them out of `test`"
        )
    return unrecorded


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - SUBJECTS_SHOWN} more" if len(words) > SUBJECTS_SHOWN else ""
    return f"{', '.join(words[:SUBJECTS_SHOWN])}{more}"
