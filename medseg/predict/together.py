"""predict, of an ensemble: the validation cases of a fold, or those of the test set, by several trainings together.

Reads what ``medseg ensemble`` wrote, the model folders that it names, and raw images; writes what ``medseg predict``
writes of one training. Members predict again, case by case, in place of reading probabilities that they would have had
to leave: those of a CT of 300 slices and 3 classes are 0.5 GB for each member, and prediction is a small part of what
training takes.
Guarantees: of a validation case, no member has seen the subject; see ``medseg.predict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medseg.config import Config
from medseg.errors import DataError
from medseg.ingest.manifest import read_manifest
from medseg.predict.cases import Task
from medseg.predict.ensemble import Ensemble
from medseg.predict.predictor import is_mirrored
from medseg.predict.run import join_task, predict_task, require_unseen, validation_cases
from medseg.predict.trainings import read_trainings
from medseg.results.key import VALIDATION, Fold, RunKey
from medseg.shards import Shard
from medseg.trained import read_trained


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
) -> None:
    """Predict the validation cases of a fold into ``out``; arguments as for ``medseg.predict.run.run``.

    Args:
        model: folder with ``ensemble.json``.
    """
    predict_task(_validation(config, manifest_path, splits, fold, model, code, probabilities), out, shard)


def join(
    config: Config, manifest_path: Path, splits: Path, fold: Fold, model: Path, out: Path, count: int, code: str = ""
) -> None:
    """Join shards; as ``medseg.predict.run.join``."""
    join_task(_validation(config, manifest_path, splits, fold, model, code, False), out, count)


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
    """Predict cases of a manifest; as ``medseg.predict.run.predict_cases``."""
    predict_task(task_of(config, manifest_path, case_ids, model, code, split, fold, probabilities), out)


def _validation(
    config: Config, manifest_path: Path, splits: Path, fold: Fold, model: Path, code: str, probabilities: bool
) -> Task:
    case_ids = validation_cases(splits, fold)
    task = task_of(config, manifest_path, case_ids, model, code, VALIDATION, fold, probabilities)
    if (task.key.dataset, task.key.fold) != (task.manifest.dataset, fold):
        raise DataError(
            f"{model}: an ensemble of data set '{task.key.dataset}', fold {task.key.fold}; expected one of "
            f"'{task.manifest.dataset}', fold {fold}, whose validation cases are predicted"
        )
    for training in task.trainings:
        require_unseen(training, task.manifest, case_ids, fold)
    return task


def task_of(
    config: Config,
    manifest_path: Path,
    case_ids: Sequence[str],
    model: Path,
    code: str,
    split: str,
    fold: Fold,
    probabilities: bool,
) -> Task:
    """The task of an ensemble; arguments as for ``predict_cases``."""
    manifest, described = read_manifest(manifest_path), read_trained(model)
    trainings = read_trainings([member.folder for member in described.members])
    wish = config.predict.mirror
    mirrored = {is_mirrored(one.checkpoint.plan, wish) for one in trainings}
    key = described.key
    return Task(
        RunKey(key.dataset, key.model, fold, key.seed, split),
        manifest,
        tuple(case_ids),
        config.folder_of(manifest.dataset),
        trainings,
        described.fingerprint,
        described.weights_sha256,
        lambda: Ensemble(trainings, mirror=wish),
        mirrored.pop() if len(mirrored) == 1 else None,
        probabilities,
        code,
        config.predict.references,
        {member.key.name: member.fingerprint for member in described.members},
    )
