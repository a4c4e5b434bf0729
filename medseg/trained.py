"""Which training a model folder holds, as its ``model.json`` says; read without torch.

A training is known by its fingerprint: the digest of all that its weights depend on. Predictions, scores and their
comparison carry it on, so that each stage can tell whether its input comes from the training that is there now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.bounds import OutOfBounds, shortened
from medseg.description import require_description
from medseg.errors import CheckpointError, DataError
from medseg.limits import MAX_DESCRIPTION_BYTES
from medseg.records import read_record
from medseg.results.folders import ModelFolder
from medseg.results.key import VALIDATION, RunKey

FORMAT = "medseg-model-1"
MAKER = "medseg train"
# Digits of a fingerprint in messages.
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training.

    Attributes:
        folder: its model folder.
        key: data set, model, fold and seed.
        fingerprint: digest of all that its weights depend on.
        inputs: the parts of the fingerprint, each a digest (``train.identity.digests_of``).
        weights_sha256: digest of its weights.
    """

    folder: Path
    key: RunKey
    fingerprint: str
    inputs: Mapping[str, str]
    weights_sha256: str


def read_facts(folder: Path) -> dict[str, Any]:
    """``model.json`` as it was written; its digest and its format are checked.

    Raises:
        CheckpointError: if there is none, or it is another one than was written.
    """
    path = ModelFolder(folder).description
    if not path.is_file():
        others = sorted(p.name for p in folder.iterdir())[:5] if folder.is_dir() else "nothing (no such folder)"
        raise CheckpointError(f"{folder}: found {others}; expected model.json and model.safetensors")
    if (size := path.stat().st_size) > MAX_DESCRIPTION_BYTES:
        raise CheckpointError(f"{path}: {size:,} bytes; expected at most {MAX_DESCRIPTION_BYTES:,}")
    try:
        facts = read_record(path, MAKER)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if facts.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {shortened(facts.get('format'))}; expected {FORMAT!r}")
    try:
        require_description(facts)
    except OutOfBounds as error:
        raise CheckpointError(f"{path}: {error}") from None
    return facts


def read_trained(folder: Path) -> Trained:
    """The training that a model folder holds; its weights are not read.

    Raises:
        CheckpointError: as ``read_facts``.
    """
    facts = read_facts(folder)
    try:
        key = RunKey(facts["dataset"]["name"], facts["plan"]["model"], facts["fold"], facts["seed"])
        inputs = {str(name): str(value) for name, value in facts["inputs"].items()}
        return Trained(folder, key, str(facts["fingerprint"]), inputs, str(facts["weights_sha256"]))
    except (KeyError, TypeError, AttributeError) as error:
        path = ModelFolder(folder).description
        raise CheckpointError(f"{path}: of another version ({error!r}); run `{MAKER}` again") from None


def require_training(folder: Path, key: RunKey, fingerprint: str, found: Path, makers: str) -> Trained:
    """The training in a model folder, if it is the one that a file of results comes from.

    Args:
        folder: the model folder.
        key: data set, model, fold and seed of the results, of whichever split.
        fingerprint: of the training that they come from.
        found: the file, for the error message.
        makers: commands that make it again, from predict on.

    Raises:
        DataError: if the results come from another training than the one that is there now.
        CheckpointError: as ``read_facts``.
    """
    trained = read_trained(folder)
    if trained.key != replace(key, split=VALIDATION):
        raise DataError(
            f"{folder}: holds the training {trained.key.name}, where that of {found}, {key.name}, is expected (was the "
            f"folder copied?); delete it and run `{MAKER}` for {key.name} again"
        )
    if trained.fingerprint != fingerprint:
        raise DataError(
            f"{found}: comes from another training of {key.name} (fingerprint {short(fingerprint)}) than the one in "
            f"{folder} now ({short(trained.fingerprint)}); delete {found.name} there and run {makers} again"
        )
    return trained


def short(fingerprint: str) -> str:
    """A fingerprint as messages show it."""
    return fingerprint[:SHOWN] or "none"
