"""The command that trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import Code, ManifestFile, OutFolder, SplitsFile, as_folder, fold_of


def train(
    manifest: ManifestFile,
    plan: Annotated[Path, typer.Option("--plan", help="plan of the model")],
    index: Annotated[Path, typer.Option("--index", help="index.json of the preprocess stage")],
    splits: SplitsFile,
    fold: Annotated[str, typer.Option("--fold", help="number, or all: on all cases, with none to validate on")],
    seed: Annotated[int, typer.Option("--seed", min=0)],
    state: Annotated[
        Path, typer.Option("--state", help="folder for the state of unfinished trainings", callback=as_folder)
    ],
    out: OutFolder,
    code: Code = None,
    start: Annotated[
        str | None, typer.Option("--start", help="model to start from: its folder, or an MLflow run (see predict)")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="start-overlap or start-unrecorded: what may be wrong with --start"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="record of `medseg weights`; needed with options.weights")
    ] = None,
    track: Annotated[Path | None, typer.Option("--track", help="store.json: mirror the curves to MLflow")] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="processes that read batches ahead")] = 0,
    worker_timeout: Annotated[float, typer.Option("--worker-timeout", help="seconds a batch may take them")] = 300.0,
    profile: Annotated[bool, typer.Option("--profile", help="write OUT/trace.json, a trace of some steps")] = False,
) -> None:
    """Train one model on one fold with one seed; run again after a kill, it resumes and ends with the same bits."""
    import contextlib

    which = fold_of(fold)
    from medseg.train.launch import launch, leads

    launch(plan)
    from medseg.machine import reserve_gpu

    reserve_gpu()
    from medseg.plan.plan import read_plan
    from medseg.stages import rows_of_plan, stage_digest
    from medseg.train import run as stage
    from medseg.train.state import RunOptions

    code = code or stage_digest("train", rows_of_plan(read_plan(plan).to_json()))
    trace = out / "trace.json" if profile and leads() else None
    options = RunOptions(workers, worker_timeout, trace=trace)
    model = None
    if start is not None:
        from medseg.tracking import read_store, resolve_model

        model = resolve_model(start, read_store(track).uri if track else None)
    inputs = stage.Inputs(manifest, plan, index, splits, which, seed, model, tuple(allow or ()), weights)
    opened = stage.Opened.of(inputs)
    with contextlib.ExitStack() as stack:
        if track is not None and leads():
            from medseg.tracking import LiveTracking, training_spec

            key = stage.fingerprint_of(opened, code)
            spec = training_spec(manifest, plan, which, seed, key)
            stack.enter_context(LiveTracking(track, spec, stage.journal_path(state, key)))
        stage.run(opened, state, out, code, options)
