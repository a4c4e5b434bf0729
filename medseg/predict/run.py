"""The predict stage: the validation cases of a fold, or those of the test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.config import Config
from medseg.errors import CheckpointError, ConfigError, DataError
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.splits import read_split
from medseg.outputs import writing
from medseg.predict.cases import Task, predict_task_cases
from medseg.predict.predictor import Predictor, is_mirrored
from medseg.predict.record import PredictedCase, write_predictions
from medseg.predict.trainings import Training, read_trainings
from medseg.results.folders import PredictionFolder
from medseg.results.key import ALL, VALIDATION, Fold, RunKey
from medseg.shards import Shard, read_shards
from medseg.train.checkpoint import Checkpoint
from medseg.train.identity import Wanted, require_wanted
from medseg.train.lineage import OVERLAP


def run(
    config: Config,
    manifest_path: Path,
    splits: Path,
    fold: Fold,
    model: Path,
    out: Path,
    code: str = "",
    *,
    probabilities: bool = False,
    shard: Shard | None = None,
    wanted: Wanted | None = None,
) -> None:
    """Predict the validation cases of a fold into ``out``; see ``predict_cases``.

    Args:
        config: the experiment.
        manifest_path, splits: the data set's ``manifest.tsv`` and ``splits.json``.
        fold: whose validation cases.
        model: model folder.
        out: folder for label maps.
        code: digest of the code that predicts.
        probabilities: write them beside the label maps (see ``postprocess.operations.wants_probabilities``).
        shard: predict this part only and write ``shard-i-of-n.json`` instead of the record; shards may run at the same
            time on different machines.
        wanted: the training that the model must be; none: any of this data set and fold.
    """
    predict_task(_validation(config, manifest_path, splits, fold, model, code, probabilities, wanted), out, shard)


def predict_task(task: Task, out: Path, shard: Shard | None = None) -> None:
    """Predict the cases of a task and write the record, or those of a shard and say that they are done."""
    if shard is None:
        with writing(PredictionFolder(out).record, out, whole=True):
            write_predictions(task.record(out, predict_task_cases(task, task.cases, out, task.label)))
        return
    with shard.writing(shard.record(out), out):
        entries = predict_task_cases(task, shard.of(task.cases), out, f"{task.label} {shard.index}/{shard.count}")
        shard.write(out, {"task": task.digest, "cases": {case: entry.to_json() for case, entry in entries.items()}})


def join(
    config: Config,
    manifest_path: Path,
    splits: Path,
    fold: Fold,
    model: Path,
    out: Path,
    count: int,
    code: str = "",
    wanted: Wanted | None = None,
) -> None:
    """Join ``count`` shards in ``out``: write the ``predictions.json`` that ``run`` without shards would have written.

    No network is built for this.

    Raises:
        DataError: if a shard is not done, or was predicted by another model, from other cases or in another way.
    """
    join_task(_validation(config, manifest_path, splits, fold, model, code, False, wanted), out, count)


def join_task(task: Task, out: Path, count: int) -> None:
    """As ``join``, of a task."""
    entries: dict[str, PredictedCase] = {}
    for index, done in enumerate(read_shards(out, count, "predict")):
        if done.get("task") != task.digest:
            shard = f"{index}/{count}"
            raise DataError(
                f"{out}: shard {shard} was made from other cases, images, weights or code than are wanted now; run "
                f"`medseg predict --shard {shard}` again"
            )
        entries |= {case: PredictedCase.from_json(entry) for case, entry in done["cases"].items()}
    with writing(PredictionFolder(out).record, out):
        write_predictions(task.record(out, entries))


def predict_cases(
    config: Config,
    manifest_path: Path,
    case_ids: Sequence[str],
    model: Path,
    out: Path,
    code: str = "",
    *,
    split: str,
    fold: Fold,
    probabilities: bool = False,
) -> None:
    """Predict cases of a manifest with the model folder ``model`` into ``out``.

    ``predictions.json`` comes last. A prediction that is already there, of the same image (read in the same way) by
    the same model and code, is kept. A case for which the network gives no usable output is recorded as failed, with
    the reason.

    Args:
        config: the experiment.
        manifest_path: ``manifest.tsv``, or ``test.tsv`` of the test set.
        case_ids: which of its cases.
        model: model folder.
        out: folder for label maps.
        code: digest of the code that predicts.
        split: ``val`` or ``test``: what the scores of these cases are scores of.
        fold: that of the training.
        probabilities: write them beside the label maps.
    """
    predict_task(_task(config, manifest_path, case_ids, model, code, split, fold, probabilities), out)


def _validation(
    config: Config,
    manifest_path: Path,
    splits: Path,
    fold: Fold,
    model: Path,
    code: str,
    probabilities: bool,
    wanted: Wanted | None = None,
) -> Task:
    """The task of predicting the validation cases of a fold, none of whose subjects the model has seen."""
    case_ids = validation_cases(splits, fold)
    task = _task(config, manifest_path, case_ids, model, code, VALIDATION, fold, probabilities)
    (training,) = task.trainings
    if wanted is not None:
        require_wanted(model, training.checkpoint, wanted)
    require_unseen(training, task.manifest, case_ids, fold)
    return task


def validation_cases(splits: Path, fold: Fold) -> tuple[str, ...]:
    """The validation cases of a fold; ``ConfigError`` where there can be none."""
    if fold == ALL:
        raise ConfigError(
            f"--fold {ALL}: its training is on all cases and leaves none to validate on; predict a numbered fold, or "
            "new images: medseg predict IMAGES --model FOLDER -o OUT"
        )
    return tuple(read_split(splits, fold)[1])


def require_unseen(training: Training, manifest: Manifest, case_ids: Sequence[str], fold: Fold) -> None:
    """Raise an error if a training has seen a subject of the validation cases of a fold, or is of another fold."""
    model, made = training.folder, training.checkpoint
    _refuse_seen(made, manifest, case_ids, fold, model)
    if (made.dataset, made.fold) != (manifest.dataset, fold):
        raise CheckpointError(
            f"{model}: a model of data set '{made.dataset}', fold {made.fold}; expected one of "
            f"'{manifest.dataset}', fold {fold}, whose validation cases are predicted; predict its own fold, or "
            "new images as files"
        )


def _task(
    config: Config,
    manifest_path: Path,
    case_ids: Sequence[str],
    model: Path,
    code: str,
    split: str,
    fold: Fold,
    probabilities: bool,
) -> Task:
    """Read what is needed to know which cases are predicted how; arguments as for ``predict_cases``."""
    manifest = read_manifest(manifest_path)
    (training,) = read_trainings([model])
    made = training.checkpoint
    mirror = is_mirrored(made.plan, config.predict.mirror)
    return Task(
        RunKey(manifest.dataset, made.plan.model, fold, made.seed, split),
        manifest,
        tuple(case_ids),
        config.folder_of(manifest.dataset),
        (training,),
        made.fingerprint,
        training.weights_sha256,
        lambda: Predictor(model, mirror=mirror),
        mirror,
        probabilities,
        code,
        config.predict.references,
    )


def _refuse_seen(checkpoint: Checkpoint, manifest: Manifest, case_ids: Sequence[str], fold: Fold, model: Path) -> None:
    """Raise ``DataError`` if a model has seen a subject of these validation cases, unless its start was allowed to."""
    if checkpoint.trained_on is None or any(line.startswith(OVERLAP) for line in checkpoint.allowed):
        return
    seen = checkpoint.trained_on.meets(manifest.dataset, [manifest.case(case) for case in case_ids])
    if seen:
        subject, evidence = next(iter(seen.items()))
        raise DataError(
            f"{model}: a model of fold {checkpoint.fold} was trained on {len(seen)} subjects of the validation cases "
            f"of fold {fold}, first {subject} ({evidence}); predict its own fold, or new images as files"
        )
