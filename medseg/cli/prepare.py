"""Commands that plan and prepare: fingerprint, plan, preprocess, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import (
    Code,
    ConfigFile,
    FingerprintFile,
    Join,
    ManifestFile,
    ModelName,
    OutFile,
    OutFolder,
    ShardOf,
    Workers,
    as_file,
    part_of,
)


def fingerprint(config: ConfigFile, manifest: ManifestFile, out: OutFile, workers: Workers = 1) -> None:
    """Summarise a data set in the numbers that planning needs."""
    from medseg.places import read_study
    from medseg.plan.survey import run_fingerprint

    run_fingerprint(read_study([config]), manifest, out, workers)


def plan(
    config: Annotated[
        Path | None, typer.Option("--config", help="configuration: YAML, or results/…/config.json")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="name of a model in the configuration")] = None,
    fingerprint: Annotated[Path | None, typer.Option("--fingerprint", help="fingerprint.json of the data set")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="where the plan goes", callback=as_file)] = None,
    explain: Annotated[bool, typer.Option("--explain", help="print each decision with its rule and numbers")] = False,
    existing: Annotated[Path | None, typer.Option("--plan", help="explain this plan instead of making one")] = None,
) -> None:
    """Plan one model: spacing, patch, batch, network, steps, each with its reason."""
    from medseg.places import read_study
    from medseg.plan import run as stage

    if existing is not None and explain:
        print(stage.explain_file(existing))
    elif config is None or model is None or fingerprint is None or (out is None and not explain):
        raise typer.BadParameter("give --config, --model, --fingerprint and --out (or --explain), or --explain --plan")
    else:
        from medseg.engine.memory import estimate_memory, estimate_work
        from medseg.engine.resources import available_resources
        from medseg.train.pace import measure

        study = read_study([config])
        here = available_resources(study.device, study.budget.memory_gb, study.threads, study.processes)
        made = stage.run(study, model, fingerprint, out, here, estimate_memory, measure, estimate_work)
        if explain:
            print(stage.explanation(made))


def preprocess(
    config: ConfigFile,
    manifest: ManifestFile,
    fingerprint: FingerprintFile,
    out: OutFolder,
    model: Annotated[str | None, typer.Option("--model", help="name of a model in the configuration")] = None,
    grid: Annotated[
        str | None, typer.Option("--grid", help="or the grid: name of its folder in results/…/preprocess")
    ] = None,
    code: Code = None,
    workers: Workers = 1,
    shard: ShardOf = None,
    join: Join = None,
) -> None:
    """Bring every case to the grid of a model: orient, crop, normalise, resample, store."""
    from medseg.config.grids import grid_model
    from medseg.ingest.recorded import read_dataset
    from medseg.places import read_study
    from medseg.preprocess import run as stage
    from medseg.stages import stage_digest

    if (model is None) == (grid is None):
        raise typer.BadParameter("give either --model or --grid", param_hint="--grid")
    part = part_of(shard, join)
    study = read_study([config])
    inputs = (
        study,
        model if model is not None else grid_model(study, str(grid), read_dataset(manifest)["dataset"]),
        manifest,
        fingerprint,
        out,
        code or stage_digest("preprocess_case"),
        workers,
    )
    if join is not None:
        stage.join(*inputs, join)
    else:
        stage.run(*inputs, part)


def weights(config: ConfigFile, model: ModelName, out: OutFile) -> None:
    """Fetch the trained weights that a model's encoder starts from, and write a record of them."""
    from medseg.errors import ConfigError
    from medseg.places import read_study
    from medseg.weights import run as stage

    options = read_study([config]).model(model).options
    if not options.get("weights"):
        raise ConfigError(f"models.{model}.options has no weights; a network without them starts from random numbers")
    stage.run(options["weights"], options.get("sha256"), out.parent, out)
