"""The test stage: open test sets, once for all trained models, and leave a record of it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from medseg.compare import run as compare
from medseg.config import Config
from medseg.evaluate import run as evaluate
from medseg.files import digest_of, sha256_file, writer_lock
from medseg.postprocess import run as postprocess
from medseg.postprocess.operations import possible, wants_probabilities
from medseg.predict import run as predict
from medseg.predict import together
from medseg.predict.code import code_of
from medseg.progress import say
from medseg.results.key import ALL, TEST, RunKey
from medseg.results.paths import Results
from medseg.stages import stage_digest
from medseg.testset.checks import TestedEnsemble, TestSet, chosen_sets, ensembles_of, finished, refuse_seen
from medseg.testset.openings import OpenedSet, Opening, append_opening, read_openings, times_opened
from medseg.trained import Trained, read_trained, write_ensemble


def run(
    results: Path,
    config: Config,
    datasets: Sequence[str] = (),
    models: Sequence[str] = (),
    workers: int = 1,
) -> Path:
    """Predict, post-process, score and compare the test cases with every finished training, and with every ensemble.

    The opening is on record, in ``test/opened.json``, before the first case is predicted. Predictions of an earlier
    opening by the same model and code are kept.

    Args:
        results: ``results/<experiment>``.
        config: the experiment.
        datasets: names of data sets; none: all that declare a test set.
        models: names of models and ensembles; none: all.
        workers: trainings that are tested at the same time, each in a process of its own.

    Returns:
        The folder of the comparison.

    Raises:
        ConfigError: if no test set is declared.
        DataError: if ingest has not run with this configuration, no training is finished, or one has seen a subject
            of the test set; then nothing is opened.
        CheckpointError: if a model folder is damaged.
    """
    sets = chosen_sets(results, config, datasets)
    trainings, unfinished = finished(results, config, list(sets), models)
    sets = {name: sets[name] for name in sets if any(t.dataset == name for t in trainings)}
    unrecorded = refuse_seen(results, sets, trainings)
    ensembles, incomplete = ensembles_of(config, trainings, models)
    if models:
        # Others are there as members of ensembles.
        trainings = [training for training in trainings if training.model in models]
    place = Results(results).test
    with writer_lock(place.folder):
        before = read_openings(results)
        described = [_describe(results, one) for one in ensembles]
        weights = {one.name: one.weights_sha256 for one in trainings}
        weights |= {one.key.name: one.weights_sha256 for one in described}
        opening = _opening(config, sets, weights, [*unfinished, *incomplete], unrecorded)
        append_opening(results, opening)
        _announce(opening, before)
        if ALL in config.folds.run and config.folds.validated:
            say(
                "test: networks trained on all cases are left out, since those of the folds are repetitions of another "
                "method; a study of its own with `folds: all` scores them"
            )
        task = partial(_score, config=config, results=results)
        judged = [_Judged(training.key, training.folder) for training in trainings]
        judged += [_Judged(one.key, one.folder, True) for one in described]
        scores = _each(task, [(one, sets[one.key.dataset]) for one in judged], workers)
        compare.run(scores, place.compare.folder, config.compare.margin, [one.folder for one in judged])
    return place.compare.folder


class _Judged(NamedTuple):
    """A training or an ensemble that predicts test cases, and the folder that describes it."""

    key: RunKey
    folder: Path
    together: bool = False


def _describe(results: Path, ensemble: TestedEnsemble) -> Trained:
    """Write down which trainings an ensemble is of."""
    folder = Results(results).tested_ensemble(ensemble.key).folder
    write_ensemble(folder, ensemble.key, [read_trained(one.folder) for one in ensemble.members])
    return read_trained(folder)


def _opening(
    config: Config,
    sets: dict[str, TestSet],
    weights: dict[str, str],
    unfinished: Sequence[str],
    unrecorded: Sequence[str],
) -> Opening:
    """The record of this opening."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    opened = {
        name: OpenedSet(
            len(test.manifest.cases),
            len({case.subject for case in test.manifest.cases}),
            sha256_file(test.table),
            digest_of(config.dataset(name).postprocess.model_dump()),
        )
        for name, test in sets.items()
    }
    digest = digest_of(config.model_dump(mode="json"))
    return Opening(now, digest, opened, weights, tuple(unfinished), tuple(unrecorded))


def _announce(opening: Opening, before: list[Opening]) -> None:
    """Print what is opened, how often it was, and what is missing."""
    for name, found in opening.datasets.items():
        count = sum(training.startswith(f"{name}/") for training in opening.weights)
        earlier = f" (before: {times_opened(before, name)})" if before else ""
        say(f"test {name}: {found.cases} cases of {found.subjects} subjects, {count} trainings{earlier}")
    if any(opening.repeats(one) for one in before):
        say("test: the same as at an earlier opening; it counts as another opening")
    if opening.unfinished:
        say(f"test: not finished, left out: {', '.join(opening.unfinished)}")
    if opening.unrecorded:
        named = ", ".join(opening.unrecorded)
        say(f"test: no complete record of the subjects that these have seen, checked by the manifest alone: {named}")


def _each(
    task: Callable[[tuple[_Judged, TestSet]], Path],
    work: Sequence[tuple[_Judged, TestSet]],
    workers: int,
) -> list[Path]:
    """The results of a task, in order; several at a time, each in a process (threads would share torch's settings)."""
    if workers == 1 or len(work) == 1:
        return [task(one) for one in work]
    with ProcessPoolExecutor(min(workers, len(work)), mp_context=get_context("spawn")) as pool:
        return list(pool.map(task, work))


def _score(work: tuple[_Judged, TestSet], *, config: Config, results: Path) -> Path:
    """Predict, post-process and score the test cases of one training or ensemble; its score file."""
    training, test = work
    layout, key = Results(results), replace(training.key, split=TEST)
    predictions = layout.predict(key)
    case_ids = [case.id for case in test.manifest.cases]
    steps = config.dataset(key.dataset).postprocess
    members = [member.folder for member in read_trained(training.folder).members] or [training.folder]
    by = together.predict_cases if training.together else predict.predict_cases
    by(
        config,
        test.table,
        case_ids,
        training.folder,
        predictions.folder,
        code_of(members),
        split=TEST,
        fold=key.fold,
        probabilities=wants_probabilities(steps),
    )
    if steps.applies:
        processed = layout.postprocess(key)
        code = stage_digest("postprocess", {"OPERATIONS": possible(steps)})
        postprocess.run(config, test.table, predictions.record, processed.folder, code, training.folder)
        predictions = processed
    out = layout.scores(key)
    evaluate.run(config, test.table, predictions.record, out, model=training.folder)
    return out
