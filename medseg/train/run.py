"""The train stage: one model, one fold, one seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.engine.group import joined
from medseg.engine.phases import Phases
from medseg.engine.placement import flushed_subnormals
from medseg.errors import DataError, PlanError
from medseg.files import digest_of, read_json, write_bytes, write_json, writer_lock
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.splits import read_split
from medseg.machine import fast_precision
from medseg.outputs import writing
from medseg.plan.plan import VALIDATION_CASES, Plan
from medseg.preprocess.store import open_store
from medseg.progress import say
from medseg.provenance import environment
from medseg.results.folders import IngestFolder, ModelFolder
from medseg.train.checkpoint import Checkpoint, read_description, write_checkpoint
from medseg.train.journal import parse_record, read_records
from medseg.train.lineage import StartModel, TrainedOn, clear_start
from medseg.train.loop import train
from medseg.train.start import Start
from medseg.train.state import FoldCases, RunOptions


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that one training reads, and which training it is.

    Attributes:
        manifest, plan, index, splits: results of the stages before.
        fold, seed: which training.
        start: folder of the trained model that it starts from.
        allow: what is allowed to be wrong with that model (``models.<name>.allow``).
        weights: record of the encoder's trained weights, from the weights stage; needed where the plan names weights.
    """

    manifest: Path
    plan: Path
    index: Path
    splits: Path
    fold: int
    seed: int
    start: Path | None = None
    allow: tuple[str, ...] = ()
    weights: Path | None = None


def fingerprint(plan: Plan, inputs: Inputs, start: Start, code: str) -> str:
    """Digest of everything the weights depend on: plan, prepared data, fold, seed, first weights and code.

    The number of steps is part of it, since the learning rate at every step depends on it: state of a shorter run,
    continued, would give weights that no undisturbed run gives.
    """
    decisions = {k: v for k, v in plan.to_json().items() if k not in ("model", "reasons")}
    digests = {case: entry["sha256"] for case, entry in read_json(inputs.index)["cases"].items()}
    train, val = read_split(inputs.splits, inputs.fold)
    facts = {"plan": decisions, "data": digests, "train": train, "val": val, "code": code}
    return digest_of({**facts, "fold": inputs.fold, "seed": inputs.seed, "start": start.digests()})


def fingerprint_of(inputs: Inputs, code: str) -> str:
    """``fingerprint`` of the files on disk."""
    plan = Plan.from_json(read_json(inputs.plan))
    return fingerprint(plan, inputs, _start(plan, inputs), code)


def _start(plan: Plan, inputs: Inputs) -> Start:
    return Start.of(plan.network.options, inputs.start, inputs.weights)


def journal_path(state: Path, key: str) -> Path:
    """Where the training with fingerprint ``key`` keeps its journal."""
    return state / key[:16] / "journal.jsonl"


def run(inputs: Inputs, state: Path, out: Path, code: str, options: RunOptions | None = None) -> None:
    """Train and write the model folder ``out``; several processes under ``torchrun`` share the work.

    Args:
        inputs: what is read.
        state: folder for the state of unfinished trainings, kept apart from ``out``.
        out: the model folder.
        code: digest of the training code.
        options: how to run it.

    Raises:
        PlanError: if the plan's precision gives wrong gradients on this machine, or its grid is not that of the store.
        DataError: if cases of the fold are not prepared, or of the same subjects on both sides.
        CheckpointError: if the weights to start from are damaged, or are not what the plan names.
        TrainingError: if training does not come to an end.
    """
    plan = Plan.from_json(read_json(inputs.plan))
    _require_possible_precision(plan, inputs.plan)
    # Before anything starts a thread.
    with flushed_subnormals(), joined(plan.machine.device, plan.machine.processes) as group:
        _run(inputs, state, out, code, replace(options or RunOptions(), group=group))


def _require_possible_precision(plan: Plan, path: Path) -> None:
    """Refuse bf16 on a processor whose gradients in it are wrong: the plan was made on another machine."""
    if plan.machine.device == "cpu" and plan.machine.precision == "bf16" and fast_precision("cpu") != "bf16":
        raise PlanError(
            f"{path}: machine.precision is bf16, but gradients in bf16 are wrong or slow on this processor, which has "
            "no AMX; run `medseg plan` again on this machine"
        )


def _run(inputs: Inputs, state: Path, out: Path, code: str, options: RunOptions) -> None:
    begun = time.monotonic()
    manifest = read_manifest(inputs.manifest)
    plan = Plan.from_json(read_json(inputs.plan))
    grid, cases, _ = open_store(inputs.index)
    if grid != plan.grid:
        raise PlanError(
            f"{inputs.index}: prepared on another grid than {inputs.plan} asks for; run `medseg preprocess` again"
        )
    train_ids, val_ids = read_split(inputs.splits, inputs.fold)
    absent = sorted({*train_ids, *val_ids} - cases.keys())
    if absent:
        raise DataError(
            f"{inputs.splits}: cases {absent[:3]} are not prepared in {inputs.index}; run `medseg ingest` again"
        )
    trained_on, allowed = _lineage(inputs, manifest, plan.model, train_ids, val_ids)
    start = _start(plan, inputs)
    key = fingerprint(plan, inputs, start, code)
    chosen = FoldCases(
        [cases[i] for i in train_ids],
        [cases[i] for i in val_ids[:VALIDATION_CASES]],
        manifest.labels,
        inputs.fold,
    )
    label = f"train {manifest.dataset}/{plan.model} fold {inputs.fold} seed {inputs.seed}"
    folder = state / key[:16]
    phases = Phases(plan.machine.device)
    if not options.group.leads:
        train(plan, chosen, inputs.seed, folder, label, start, options, phases)
        return
    with writing(ModelFolder(out).description, out), writer_lock(folder):
        attempts = _attempts(folder)
        network = train(plan, chosen, inputs.seed, folder, label, start, options, phases)
        say(f"{label}: {phases.summary()}")
        seconds = attempts["seconds"] + time.monotonic() - begun
        history = (folder / "journal.jsonl").read_bytes()
        write_bytes(ModelFolder(out).history, history)
        steps = parse_record(history.splitlines()[-1]).step
        timing: dict[str, Any] = {"seconds": round(seconds, 1), "steps": steps, "attempts": attempts["attempts"]}
        timing |= {"device": plan.machine.device, "threads": plan.machine.threads, "processes": plan.machine.processes}
        watched = [case.id for case in chosen.watch]
        write_json(ModelFolder(out).timing, {**timing, "phases": phases.to_json(), "watched": watched})
        checkpoint = Checkpoint(
            manifest.dataset,
            manifest.channels,
            manifest.labels,
            plan,
            inputs.fold,
            inputs.seed,
            key,
            environment(),
            trained_on,
            allowed,
        )
        write_checkpoint(out, checkpoint, network)


def _lineage(
    inputs: Inputs, manifest: Manifest, model: str, train_ids: Sequence[str], val_ids: Sequence[str]
) -> tuple[TrainedOn, tuple[str, ...]]:
    """The subjects that the weights will have seen, and what was allowed; checked at every start and resume.

    Raises:
        DataError: if the start has seen a subject that the training will be scored on.
        CheckpointError: if its description is damaged.
    """
    own = TrainedOn.of(manifest, train_ids)
    both = own.meets(manifest.dataset, [manifest.case(case) for case in val_ids])
    if both:
        subject, evidence = next(iter(both.items()))
        raise DataError(
            f"{inputs.splits}: fold {inputs.fold} trains and validates on {len(both)} of the same subjects, first "
            f"{subject} ({evidence}); put all cases of a subject on one side, or let `medseg ingest` make the folds"
        )
    if inputs.start is None:
        return own, ()
    held_out = {f"the validation cases of fold {inputs.fold}": [manifest.case(case) for case in val_ids]}
    # A test set is kept apart at ingest, where there is one.
    test = IngestFolder(inputs.manifest.parent).test_manifest
    if test.is_file():
        held_out["the test set"] = list(read_manifest(test).cases)
    found, sha256 = read_description(inputs.start)
    training = f"fold {found.fold}, seed {found.seed}, weights {sha256[:12]}"
    start = StartModel(
        f"model {found.plan.model} of data set {found.dataset} ({training})", str(inputs.start), found.trained_on
    )
    allowed = clear_start(model, start, manifest.dataset, held_out, inputs.allow)
    for line in allowed:
        say(f"train {manifest.dataset}/{model}: allowed {line}")
    return own.after(found.trained_on), tuple(allowed)


def _attempts(folder: Path) -> dict[str, float]:
    """Count this attempt; time of earlier, killed ones is estimated from their journal's first and last record."""
    path = folder / "attempts.json"
    attempts = read_json(path)["attempts"] + 1 if path.is_file() else 1
    write_json(path, {"attempts": attempts})
    times = [record.time_ms for record in read_records(folder / "journal.jsonl")]
    return {"attempts": attempts, "seconds": (times[-1] - times[0]) / 1000 if times else 0.0}
