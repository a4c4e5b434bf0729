"""What makes a training the one that it is: its inputs, the digest of them all, and whether a model is that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import CheckpointError
from medseg.files import digest_of
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.recorded import read_dataset
from medseg.ingest.splits import read_split
from medseg.plan.plan import Grid, Plan, flat_values, read_plan
from medseg.preprocess.store import PreparedCase, open_store
from medseg.results.key import ALL, Fold
from medseg.train.checkpoint import Checkpoint
from medseg.train.start import Start

# What messages say of a part of a fingerprint that differs.
NAMES = {
    "plan": "another plan",
    "data": "other prepared data",
    "split": "other cases in the fold",
    "code": "other code of training",
    "encoder": "other weights of the encoder",
    "model": "another model that it started from",
}
# Values of a plan shown in one message.
VALUES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that one training reads, and which training it is.

    Attributes:
        manifest, plan, index, splits: results of the stages before.
        fold, seed: which training; of the fold ``all``, ``splits`` is not read.
        start: folder of the trained model that it starts from.
        allow: what is allowed to be wrong with that model (``models.<name>.allow``).
        weights: record of the encoder's trained weights, from the weights stage; needed where the plan names weights.
    """

    manifest: Path
    plan: Path
    index: Path
    splits: Path
    fold: Fold
    seed: int
    start: Path | None = None
    allow: tuple[str, ...] = ()
    weights: Path | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """What the files of a training say, read once: of ten thousand cases, that takes a second.

    Attributes:
        inputs: the files.
        plan, manifest: what those of these names say.
        grid: that the cases were prepared on.
        cases: prepared ones by id.
        data: digests of the arrays of each of them.
    """

    inputs: Inputs
    plan: Plan
    manifest: Manifest
    grid: Grid
    cases: Mapping[str, PreparedCase]
    data: Mapping[str, Any]

    @classmethod
    def of(cls, inputs: Inputs) -> Opened:
        """Read the files.

        Raises:
            DataError, PlanError: for one that is missing, or not as it was written.
        """
        plan = read_plan(inputs.plan)
        return cls(inputs, plan, read_manifest(inputs.manifest), *open_store(inputs.index))


def cases_of(inputs: Inputs, data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Ids of the training and of the validation cases of a training; of the fold ``all``, all cases and none.

    Args:
        inputs: the files of the training.
        data: all prepared cases by id.
    """
    if inputs.fold == ALL:
        return sorted(data), []
    return read_split(inputs.splits, inputs.fold)


def facts_of(plan: Plan, inputs: Inputs, data: Mapping[str, Any], start: Start, code: str) -> dict[str, Any]:
    """Everything the weights depend on: plan, prepared data, fold, seed, first weights and code.

    The number of steps is part of it, since the learning rate at every step depends on it: state of a shorter run,
    continued, would give weights that no undisturbed run gives.
    """
    decisions = {k: v for k, v in plan.to_json().items() if k not in ("model", "reasons")}
    train, val = cases_of(inputs, data)
    facts = {"plan": decisions, "data": data, "train": train, "val": val, "code": code}
    return {**facts, "fold": inputs.fold, "seed": inputs.seed, "start": start.digests()}


def fingerprint(opened: Opened, start: Start, code: str) -> str:
    """Digest of everything the weights depend on (``facts_of``)."""
    return digest_of(facts_of(opened.plan, opened.inputs, opened.data, start, code))


def digests_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """The parts of ``facts_of``, each as a digest, by which ``model.json`` says what a training was made from.

    Fold and seed stand beside them. ``encoder`` and ``model``, weights that it started from, only where there are any.
    """
    split = [facts["train"], facts["val"]]
    parts = {"plan": digest_of(facts["plan"]), "data": digest_of(facts["data"]), "split": digest_of(split)}
    return {**parts, "code": facts["code"], **facts["start"]}


def start_of(plan: Plan, inputs: Inputs) -> Start:
    """What a training starts from; errors as ``Start.of``."""
    return Start.of(plan.network.options, inputs.start, inputs.weights)


def fingerprint_of(opened: Opened, code: str) -> str:
    """``fingerprint`` of a training that starts from what its inputs name."""
    return fingerprint(opened, start_of(opened.plan, opened.inputs), code)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The training whose model is wanted.

    Attributes:
        inputs: as it is trained now.
        code: digest of the code that trains; None: whichever.
        any_start: whether it may have started from any model, since that is no folder (a run of MLflow never changes).
    """

    inputs: Inputs
    code: str | None = None
    any_start: bool = False


def require_wanted(folder: Path, found: Checkpoint, wanted: Wanted) -> None:
    """Raise ``CheckpointError`` unless a model folder holds the training that is wanted; it says what differs.

    Args:
        folder: the model folder.
        found: what its ``model.json`` says.
        wanted: the training.
    """
    inputs, plan = wanted.inputs, read_plan(wanted.inputs.plan)
    dataset = read_dataset(inputs.manifest)["dataset"]
    names = {
        "data set": (found.dataset, dataset),
        "model": (found.plan.model, plan.model),
        "fold": (found.fold, inputs.fold),
        "seed": (found.seed, inputs.seed),
    }
    different = [f"{name} {a!r} instead of {b!r}" for name, (a, b) in names.items() if a != b]
    _, _, data = open_store(inputs.index)
    expected = digests_of(facts_of(plan, inputs, data, start_of(plan, inputs), wanted.code or ""))
    unasked = {name for name, ask in (("code", wanted.code is not None), ("model", not wanted.any_start)) if not ask}
    for name in NAMES.keys() - unasked if not different else ():
        if found.inputs.get(name) != expected.get(name):
            different.append(f"{NAMES[name]}{_values(found.plan, plan) if name == 'plan' else ''}")
    if different:
        raise CheckpointError(
            f"{folder}: holds another training than the one that is wanted here: {', '.join(sorted(different))}; "
            "delete this folder and run `medseg train` again (in a study, the same command as before does it)"
        )


def _values(found: Plan, wanted: Plan) -> str:
    """The values in which two plans differ."""
    have, want = flat_values(found.to_json()), flat_values(wanted.to_json())
    names = [name for name in want if have[name] != want[name]]
    shown = [f"{name} {have[name]!r} instead of {want[name]!r}" for name in names[:VALUES_SHOWN]]
    return f" ({', '.join(shown)}{', …' if len(names) > VALUES_SHOWN else ''})" if shown else ""
