"""Which training a model folder holds, or which trainings predict together; read without torch.

A training is known by its fingerprint: the digest of all that its weights depend on. Predictions, scores and their
comparison carry it on, so that each stage can tell whether its input comes from the training that is there now.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.bounds import OutOfBounds, shortened
from medseg.description import require_description
from medseg.errors import CheckpointError, DataError
from medseg.files import digest_of
from medseg.limits import MAX_DESCRIPTION_BYTES
from medseg.records import as_written, read_record, write_record
from medseg.results.folders import ModelFolder
from medseg.results.key import VALIDATION, RunKey

FORMAT = "medseg-model-1"
ENSEMBLE = "medseg-ensemble-1"
MAKER = "medseg train"
# Digits of a fingerprint in messages.
SHOWN = 12


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training; or an ensemble of some, which is known by the digests of its members'.

    Attributes:
        folder: its model folder.
        key: data set, model, fold and seed.
        fingerprint: digest of all that its weights depend on.
        inputs: the parts of the fingerprint, each a digest (``train.identity.digests_of``).
        weights_sha256: digest of its weights.
        members: of an ensemble, the trainings that predict together; else empty.
    """

    folder: Path
    key: RunKey
    fingerprint: str
    inputs: Mapping[str, str]
    weights_sha256: str
    members: tuple[Trained, ...] = ()


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
    """The training that a model folder holds, or the ensemble that it describes; no weights are read.

    Raises:
        CheckpointError: as ``read_facts``, of the members, too.
        DataError: if the description of an ensemble is damaged, or a member is another training now.
    """
    if ModelFolder(folder).members.is_file():
        return _read_ensemble(folder)
    facts = read_facts(folder)
    try:
        key = RunKey(facts["dataset"]["name"], facts["plan"]["model"], facts["fold"], facts["seed"])
        inputs = {str(name): str(value) for name, value in facts["inputs"].items()}
        return Trained(folder, key, str(facts["fingerprint"]), inputs, str(facts["weights_sha256"]))
    except (KeyError, TypeError, AttributeError) as error:
        path = ModelFolder(folder).description
        raise CheckpointError(f"{path}: of another version ({error!r}); run `{MAKER}` again") from None


def write_ensemble(folder: Path, key: RunKey, members: Sequence[Trained]) -> None:
    """Write ``ensemble.json`` into a folder: which trainings predict together, and in what state they were.

    Args:
        folder: in place of a model folder.
        key: what the ensemble is called.
        members: trainings in model folders.
    """
    listed = [
        {
            "folder": Path(os.path.relpath(one.folder, folder)).as_posix(),
            "name": one.key.name,
            "fingerprint": one.fingerprint,
            "weights_sha256": one.weights_sha256,
        }
        for one in members
    ]
    about = {"dataset": key.dataset, "model": key.model, "fold": key.fold, "seed": key.seed}
    write_record(ModelFolder(folder).members, {"format": ENSEMBLE, **about, "members": listed})


def require_members(folders: Sequence[Path], wanted: Sequence[RunKey]) -> list[Trained]:
    """The trainings in model folders, in the order of ``wanted``; raise ``DataError`` unless they are just these."""
    found = {one.key: one for one in map(read_trained, folders)}
    if found.keys() != set(wanted):
        names = [", ".join(sorted(key.name for key in keys)) or "none" for keys in (found, wanted)]
        raise DataError(
            f"members of an ensemble: found {names[0]}; expected {names[1]}; give a --model for each of them"
        )
    return [found[key] for key in wanted]


def _read_ensemble(folder: Path) -> Trained:
    path = ModelFolder(folder).members
    facts = read_record(path, "medseg ensemble")
    with as_written(path, "medseg ensemble"):
        form, key = facts["format"], RunKey(facts["dataset"], facts["model"], facts["fold"], facts["seed"])
        listed = [(str(one["folder"]), one["name"], one["fingerprint"]) for one in facts["members"]]
    if form != ENSEMBLE:
        raise DataError(f"{path}: format {shortened(form)}; expected {ENSEMBLE!r}")
    members = []
    for place, name, fingerprint in listed:
        member = read_trained(Path(os.path.normpath(folder / place)))
        if (member.key.name, member.fingerprint) != (name, fingerprint):
            raise DataError(
                f"{path}: its member {name} (fingerprint {short(fingerprint)}) is {member.key.name} "
                f"({short(member.fingerprint)}) now; delete {path.name} and run `medseg ensemble` again"
            )
        members.append(member)
    prints, weights = sorted(one.fingerprint for one in members), sorted(one.weights_sha256 for one in members)
    return Trained(folder, key, digest_of(prints), {}, digest_of(weights), tuple(members))


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
