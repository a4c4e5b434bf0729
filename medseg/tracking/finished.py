"""A finished training, or an ensemble of some, as its folder says what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.plan.plan import Plan
from medseg.records import as_written
from medseg.results.folders import ModelFolder
from medseg.results.key import RunKey
from medseg.tracking.curves import CurvePoint, points_of, renamed_in
from medseg.tracking.spec import RunSpec, Value, plan_params
from medseg.train.history import read_history, read_timing
from medseg.trained import MAKER, read_facts, read_trained

MEMBERS, BETWEEN = "medseg.members", ": "  # tag of an ensemble; what stands behind a key in it
VERSION = {"medseg": "version"}  # tag of our own version


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training.

    Attributes:
        spec: what it is.
        folder: with ``model.json`` and the weights.
        facts: ``model.json``.
        seconds: training time; None: nothing was trained.
        curve: all points of its journal.
        renamed: names of metrics in it that MLflow would not accept as they are.
        members: of an ensemble, which has no weights of its own, ``ensemble.json``; else empty.
    """

    spec: RunSpec
    folder: Path
    facts: Mapping[str, Any]
    seconds: float | None
    curve: tuple[CurvePoint, ...]
    renamed: frozenset[str]
    members: bytes = b""


def read_training(files: ModelFolder, key: RunKey, plan: Plan) -> Trained | None:
    """The training in a model folder; None if it was trained with another plan than the present one.

    Raises:
        DataError: if a file of it is missing or damaged, or says that it belongs elsewhere.
        CheckpointError: the same of ``model.json``.
    """
    facts = read_facts(files.folder)
    with as_written(files.description, MAKER):
        found = RunKey(facts["dataset"]["name"], facts["plan"]["model"], facts["fold"], facts["seed"])
        planned, provenance = dict(facts["plan"]), dict(facts["provenance"])
        weights, fingerprint = str(facts["weights_sha256"]), str(facts["fingerprint"])
    if found != key:
        raise DataError(f"{files.description}: belongs to {found.name}; was the folder copied?")
    if _decisions(planned) != _decisions(plan.to_json()):
        return None
    versions = {f"medseg.{VERSION.get(k, k)}": str(v) for k, v in provenance.items()}
    tags = {**versions, "medseg.weights_sha256": weights}
    if not files.weights.is_file():
        raise DataError(f"{files.weights}: no such file; run the same command again, or `{MAKER}`")
    spec = RunSpec(key.dataset, key.model, key.fold, key.seed, fingerprint, plan_params(planned), tags)
    timing = read_timing(files, fingerprint)
    with as_written(files.timing, MAKER):
        seconds = float(timing["seconds"])
    records = read_history(files, fingerprint)
    curve = tuple(point for record in records for point in points_of(record))
    return Trained(spec, files.folder, facts, seconds, curve, frozenset().union(*map(renamed_in, records)))


def read_ensemble(files: ModelFolder, key: RunKey) -> Trained:
    """The ensemble that a folder describes: its run has the members as a parameter, and no weights.

    Raises:
        DataError: if the description is damaged or belongs elsewhere, or a member is another training now.
        CheckpointError: the same of the ``model.json`` of a member.
    """
    found = read_trained(files.folder)
    if found.key != key:
        raise DataError(f"{files.members}: belongs to {found.key.name}; was the folder copied?")
    params: dict[str, Value] = {
        "network": "ensemble",
        "members": ", ".join(dict.fromkeys(one.key.model for one in found.members)),
    }
    # Keys of their runs, each with the digest of its weights.
    tags = {
        MEMBERS: "\n".join(f"{_run_of(one.key)}{BETWEEN}{one.weights_sha256}" for one in found.members),
        "medseg.weights_sha256": found.weights_sha256,
    }
    spec = RunSpec(key.dataset, key.model, key.fold, key.seed, found.fingerprint, params, tags)
    facts = {"plan": params, "weights_sha256": found.weights_sha256}
    return Trained(spec, files.folder, facts, None, (), frozenset(), files.members.read_bytes())


def _run_of(key: RunKey) -> str:
    return RunSpec(key.dataset, key.model, key.fold, key.seed, "", {}).key


def _decisions(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan without its words: the reasons of its numbers train nothing."""
    return {name: value for name, value in plan.items() if name != "reasons"}
