"""The train stage: one model, one fold, one seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.engine.group import joined
from medseg.engine.phases import Phases
from medseg.engine.placement import flushed_subnormals
from medseg.errors import DataError, PlanError
from medseg.files import digest_of, writer_lock
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.voxel_sizes import VoxelSizes
from medseg.machine import fast_precision
from medseg.outputs import writing
from medseg.patches.sampling import fold_seed
from medseg.plan.plan import VALIDATION_CASES, Plan
from medseg.progress import say
from medseg.provenance import environment
from medseg.records import read_record, write_record
from medseg.results.folders import IngestFolder, ModelFolder
from medseg.train.checkpoint import Checkpoint, read_description, write_checkpoint
from medseg.train.history import write_history
from medseg.train.identity import Inputs, Opened, cases_of, digests_of, facts_of, fingerprint_of, start_of
from medseg.train.journal import read_records
from medseg.train.lineage import StartModel, TrainedOn, clear_start
from medseg.train.loop import train
from medseg.train.resume import saved_step
from medseg.train.state import FoldCases, RunOptions
from medseg.train.tuned import tuned_decoding

__all__ = ["Inputs", "Opened", "fingerprint_of", "journal_path", "run"]


def journal_path(state: Path, key: str) -> Path:
    """Where the training with fingerprint ``key`` keeps its journal."""
    return state / key[:16] / "journal.jsonl"


def run(inputs: Inputs | Opened, state: Path, out: Path, code: str, options: RunOptions | None = None) -> None:
    """Train and write the model folder ``out``; several processes under ``torchrun`` share the work.

    Args:
        inputs: what is read, or was read already.
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
    opened = inputs if isinstance(inputs, Opened) else Opened.of(inputs)
    plan = opened.plan
    _require_possible_precision(plan, opened.inputs.plan)
    # Before anything starts a thread.
    with flushed_subnormals(), joined(plan.machine.device, plan.machine.processes) as group:
        _run(opened, state, out, code, replace(options or RunOptions(), group=group))


def _require_possible_precision(plan: Plan, path: Path) -> None:
    """Refuse bf16 on a processor whose gradients in it are wrong: the plan was made on another machine."""
    if plan.machine.device == "cpu" and plan.machine.precision == "bf16" and fast_precision("cpu") != "bf16":
        raise PlanError(
            f"{path}: machine.precision is bf16, but gradients in bf16 are wrong or slow on this processor, which has "
            "no AMX; run `medseg plan` again on this machine"
        )


def _run(opened: Opened, state: Path, out: Path, code: str, options: RunOptions) -> None:
    begun = time.monotonic()
    inputs, plan, manifest, cases = opened.inputs, opened.plan, opened.manifest, opened.cases
    if opened.grid != plan.grid:
        raise PlanError(
            f"{inputs.index}: prepared on another grid than {inputs.plan} asks for; run `medseg preprocess` again"
        )
    train_ids, val_ids = cases_of(inputs, opened.data)
    absent = sorted({*train_ids, *val_ids, *(case.id for case in manifest.cases)} - cases.keys())
    if absent:
        raise DataError(
            f"{inputs.splits}: cases {absent[:3]} are not prepared in {inputs.index}; run `medseg ingest` again"
        )
    trained_on, allowed = _lineage(inputs, manifest, plan.model, train_ids, val_ids)
    start = start_of(plan, inputs)
    facts = facts_of(plan, inputs, opened.data, start, code)
    # As by ``identity.fingerprint``.
    key = digest_of(facts)
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
        seed = fold_seed(inputs.seed, inputs.fold)
        decoding, how = tuned_decoding(network, chosen.train, plan, manifest.labels, seed)
        say(f"{label}: {how}{phases.summary()}")
        seconds = attempts["seconds"] + time.monotonic() - begun
        timing = _timing(plan, chosen, seconds, attempts["attempts"], saved_step(folder), phases)
        write_history(ModelFolder(out), (folder / "journal.jsonl").read_bytes(), key, timing)
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
            digests_of(facts),
            decoding,
            manifest.reading,
            manifest.accepts,
            VoxelSizes.of(manifest.case(case).geometry for case in train_ids),
        )
        write_checkpoint(out, checkpoint, network)


def _timing(
    plan: Plan, cases: FoldCases, seconds: float, attempts: float, steps: int, phases: Phases
) -> dict[str, Any]:
    """What ``timing.json`` says of a training."""
    timing: dict[str, Any] = {"seconds": round(seconds, 1), "steps": steps, "attempts": attempts}
    timing |= {"device": plan.machine.device, "threads": plan.machine.threads, "processes": plan.machine.processes}
    return timing | {"phases": phases.to_json(), "watched": [case.id for case in cases.watch]}


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
    attempts = 1
    if path.is_file():
        try:
            attempts += int(read_record(path, "medseg train")["attempts"])
        except (DataError, KeyError, TypeError, ValueError) as error:
            say(f"train: attempts are counted anew, since their number cannot be read ({error})")
    write_record(path, {"attempts": attempts})
    times = [record.time_ms for record in read_records(folder / "journal.jsonl")]
    return {"attempts": attempts, "seconds": (times[-1] - times[0]) / 1000 if times else 0.0}
