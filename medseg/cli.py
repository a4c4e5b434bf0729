"""The command line: one thin subcommand per stage. Stages are imported inside their command, so ``--help`` is quick."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from medseg.errors import DatasetFaults, MedsegError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Segmentation studies in medical imaging. `snakemake --cores all` runs all stages; each can be run by hand.",
)
track_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Experiment tracking in MLflow.")
app.add_typer(track_app, name="track")

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration: YAML, or results/<experiment>/config.json")]
Dataset = Annotated[str, typer.Option("--dataset", help="name of a data set in the configuration")]
ModelName = Annotated[str, typer.Option("--model", help="name of a model in the configuration")]
Out = Annotated[Path, typer.Option("--out", "-o", help="where the results go")]
ManifestFile = Annotated[Path, typer.Option("--manifest", help="manifest.tsv of the ingest stage")]
FingerprintFile = Annotated[Path, typer.Option("--fingerprint", help="fingerprint.json of the plan stage")]
SplitsFile = Annotated[Path, typer.Option("--splits", help="splits.json of the ingest stage")]
Predictions = Annotated[Path, typer.Option("--predictions", help="predictions.json of predict or postprocess")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="cases handled side by side")]
Code = Annotated[str | None, typer.Option("--code", help="digest of the stage's code; none: computed")]


@app.command()
def phantoms(config: ConfigFile, dataset: Dataset) -> None:
    """Generate a data set that the configuration describes (cells or organs)."""
    from medseg.config import load_config
    from medseg.ingest.run import run_phantoms

    run_phantoms(load_config([config]), dataset)


@app.command()
def download(
    config: ConfigFile,
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="file that says what the folder came from")] = None,
) -> None:
    """Fetch and unpack a data set's archive, unless its folder is there; a transfer that broke off is gone on with."""
    from medseg.config import load_config
    from medseg.files import write_json
    from medseg.ingest.download import run_download

    record = run_download(load_config([config]), dataset)
    if out is not None:
        write_json(out, record)


@app.command()
def ingest(
    config: ConfigFile,
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for manifest and folds")] = None,
    check: Annotated[bool, typer.Option("--check", help="only check, write nothing")] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="cases read side by side; none: one per processor")
    ] = None,
    propose_subjects: Annotated[
        Path | None,
        typer.Option("--propose-subjects", help="only write FILE.csv (case,subject): cases of one origin, one subject"),
    ] = None,
) -> None:
    """Check every file of a data set, in one pass; write its manifest and folds."""
    from medseg.config import load_config
    from medseg.ingest import run as stage

    workers = workers or os.cpu_count() or 1
    if propose_subjects is not None:
        if check or out is not None:
            raise typer.BadParameter("stands alone: give neither --check nor --out", param_hint="--propose-subjects")
        for line in stage.propose_subjects(load_config([config]), dataset, propose_subjects, workers):
            print(line)
    elif check:
        stage.check(load_config([config]), dataset, workers)
    elif out is None:
        raise typer.BadParameter("needed unless --check is given", param_hint="--out")
    else:
        stage.run(load_config([config]), dataset, out, workers)


@app.command()
def fingerprint(config: ConfigFile, manifest: ManifestFile, out: Out, workers: Workers = 1) -> None:
    """Summarise a data set in the numbers that planning needs."""
    from medseg.config import load_config
    from medseg.plan.run import run_fingerprint

    run_fingerprint(load_config([config]), manifest, out, workers)


@app.command()
def plan(
    config: Annotated[
        Path | None, typer.Option("--config", help="configuration: YAML, or results/…/config.json")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="name of a model in the configuration")] = None,
    fingerprint: Annotated[Path | None, typer.Option("--fingerprint", help="fingerprint.json of the data set")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="where the plan goes")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="print each decision with its rule and numbers")] = False,
    existing: Annotated[Path | None, typer.Option("--plan", help="explain this plan instead of making one")] = None,
) -> None:
    """Plan one model: spacing, patch, batch, network, steps, each with its reason."""
    from medseg.config import load_config
    from medseg.plan import run as stage

    if existing is not None and explain:
        print(stage.explain_file(existing))
    elif config is None or model is None or fingerprint is None or (out is None and not explain):
        raise typer.BadParameter("give --config, --model, --fingerprint and --out (or --explain), or --explain --plan")
    else:
        from medseg.train.pace import measure

        made = stage.run(load_config([config]), model, fingerprint, out, measure)
        if explain:
            print(stage.explained(made))


@app.command()
def preprocess(
    config: ConfigFile,
    model: ModelName,
    manifest: ManifestFile,
    fingerprint: FingerprintFile,
    out: Out,
    code: Code = None,
    workers: Workers = 1,
    shard: Annotated[
        str | None, typer.Option("--shard", help="i/n: prepare cases i, i + n, … only; without it, all, and the index")
    ] = None,
) -> None:
    """Bring every case to the grid of a model: orient, crop, normalise, resample, store."""
    from medseg.config import load_config
    from medseg.preprocess import run as stage
    from medseg.provenance import code_digest

    part = stage.Shard.parse(shard) if shard else None
    code = code or code_digest("preprocess")
    stage.run(load_config([config]), model, manifest, fingerprint, out, code, workers, part)


@app.command()
def train(
    manifest: ManifestFile,
    plan: Annotated[Path, typer.Option("--plan", help="plan of the model")],
    index: Annotated[Path, typer.Option("--index", help="index.json of the preprocess stage")],
    splits: SplitsFile,
    fold: Annotated[int, typer.Option("--fold", min=0)],
    seed: Annotated[int, typer.Option("--seed", min=0)],
    state: Annotated[Path, typer.Option("--state", help="folder for the state of unfinished trainings")],
    out: Out,
    code: Code = None,
    start: Annotated[
        str | None, typer.Option("--start", help="model to start from: its folder, or an MLflow run (see predict)")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", help="start-overlap or start-unrecorded: what may be wrong with --start"),
    ] = None,
    track: Annotated[Path | None, typer.Option("--track", help="store.json: mirror the curves to MLflow")] = None,
    workers: Annotated[int, typer.Option("--workers", min=0, help="processes that read batches ahead")] = 0,
    worker_timeout: Annotated[float, typer.Option("--worker-timeout", help="seconds a batch may take them")] = 300.0,
    profile: Annotated[bool, typer.Option("--profile", help="write OUT/trace.json, a trace of some steps")] = False,
) -> None:
    """Train one model on one fold with one seed; started again after a kill, it goes on and ends with the same bits."""
    import contextlib

    from medseg.train.launch import launch, leads

    launch(plan)
    from medseg.gpu import one_gpu

    one_gpu()
    from medseg.engine.step import flush_subnormals
    from medseg.provenance import code_digest
    from medseg.train import run as stage
    from medseg.train.loop import Means

    flush_subnormals()
    code = code or code_digest("train")
    trace = out / "trace.json" if profile and leads() else None
    means = Means(workers, worker_timeout, trace=trace)
    weights = None
    if start is not None:
        from medseg.tracking import read_store, resolve_model

        weights = resolve_model(start, read_store(track).uri if track else None)
    inputs = stage.Inputs(manifest, plan, index, splits, fold, seed, weights, tuple(allow or ()))
    with contextlib.ExitStack() as stack:
        if track is not None and leads():
            from medseg.tracking import Mirror, training_spec

            key = stage.fingerprint_of(inputs, state, code)
            spec = training_spec(manifest, plan, fold, seed, key)
            stack.enter_context(Mirror(track, spec, stage.journal_path(state, key)))
        stage.run(inputs, state, out, code, means)


@app.command()
def predict(
    model: Annotated[str, typer.Option("--model", help="model folder, or an MLflow run id, runs:/… or models:/…")],
    out: Out,
    images: Annotated[list[Path] | None, typer.Argument(help="image files, or folders of DICOM slices")] = None,
    spacing: Annotated[
        list[float] | None, typer.Option("--spacing", help="pixel size in micrometres, once per axis")
    ] = None,
    series: Annotated[str, typer.Option("--series", help="DICOM series, if several: its UID or number")] = "",
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; none: as planned")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; none: as planned")] = None,
    mirror: Annotated[
        bool | None, typer.Option("--mirror/--no-mirror", help="average over mirror images; none: as trained")
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store of a run id")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="predict a fold: the configuration")] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="predict a fold: its manifest")] = None,
    splits: Annotated[Path | None, typer.Option("--splits", help="predict a fold: its splits")] = None,
    fold: Annotated[int | None, typer.Option("--fold", min=0, help="predict a fold: which")] = None,
) -> None:
    """Predict IMAGES with a trained model, or (as the workflow does) the validation cases of a fold."""
    from medseg.gpu import one_gpu

    one_gpu()
    from medseg.predict import run as stage

    if images:
        from medseg.tracking import resolve_model

        for path in stage.predict_files(
            images,
            resolve_model(model, tracking_uri),
            out,
            spacing=spacing,
            series=series,
            device=device,
            threads=threads,
            mirror=mirror,
        ):
            print(path)
    elif config is not None and manifest is not None and splits is not None and fold is not None:
        from medseg.config import load_config

        stage.run(load_config([config]), manifest, splits, fold, Path(model), out)
    else:
        raise typer.BadParameter("give image files, or --config, --manifest, --splits and --fold")


@app.command()
def postprocess(
    config: ConfigFile, manifest: ManifestFile, predictions: Predictions, out: Out, code: Code = None
) -> None:
    """Apply the operations that the data set's configuration names to predictions."""
    from medseg.config import load_config
    from medseg.postprocess import run as stage
    from medseg.provenance import code_digest

    stage.run(load_config([config]), manifest, predictions, out, code or code_digest("postprocess"))


@app.command()
def evaluate(config: ConfigFile, manifest: ManifestFile, predictions: Predictions, out: Out) -> None:
    """Score predicted label maps against the references: one table, a row per case, class and metric."""
    from medseg.config import load_config
    from medseg.evaluate import run as stage

    stage.run(load_config([config]), manifest, predictions, out)


@app.command()
def compare(
    scores: Annotated[list[Path], typer.Argument(help="tables of the evaluate stage")],
    out: Out,
    margin: Annotated[
        float | None, typer.Option("--margin", help="difference in mean score that does not matter; none: not tested")
    ] = None,
) -> None:
    """Compare models: leaderboard with intervals over subjects, paired differences."""
    from medseg.compare import run as stage

    stage.run(scores, out, margin)


@app.command()
def report(
    results: Annotated[Path, typer.Option("--results", help="results/<experiment>")],
    config: ConfigFile,
    out: Out,
) -> None:
    """Write the HTML report of an experiment."""
    from medseg.config import load_config
    from medseg.report import run as stage

    stage.run(results, config, Path(load_config([config]).data_root), out)


@app.command()
def leaderboard(compare: Annotated[Path, typer.Argument(help="results/<experiment>/compare")]) -> None:
    """Print the leaderboard of an experiment, and what its reader must know before believing it."""
    from medseg.compare.terminal import terminal_leaderboard
    from medseg.report.statements import terminal_statements

    print(terminal_leaderboard(compare))
    told = terminal_statements(compare.parent)
    if told:
        print(f"\n{told}")


@app.command("test")
def open_test_set(
    results: Annotated[Path, typer.Option("--results", help="results/<experiment>")],
    config: ConfigFile,
    dataset: Annotated[
        list[str] | None, typer.Option("--dataset", help="name of a data set; none: all that declare a test set")
    ] = None,
    model: Annotated[list[str] | None, typer.Option("--model", help="name of a model; none: all")] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="trainings tested side by side")] = 1,
) -> None:
    """Open the test set: score it with every finished training, and leave a record of it (test/opened.json)."""
    from medseg.gpu import one_gpu

    one_gpu()
    from medseg.compare.terminal import terminal_leaderboard
    from medseg.config import load_config
    from medseg.provenance import code_digest
    from medseg.testset import run as stage
    from medseg.testset.openings import RECORD, read_openings, times_opened

    loaded = load_config([config])
    compared = stage.run(results, loaded, dataset or (), model or (), workers, code_digest("postprocess"))
    print(terminal_leaderboard(compared))
    openings = read_openings(results)
    for name in openings[-1].datasets:
        print(f"test set of {name}: {times_opened(openings, name)} (record: {compared.parent / RECORD})")


@track_app.command("init")
def track_init(config: ConfigFile, out: Out) -> None:
    """Create the tracking store and the experiment, once, before anything writes."""
    from medseg.config import load_config
    from medseg.tracking import init_store

    loaded = load_config([config])
    init_store(loaded.tracking.uri, loaded.experiment, out)


@track_app.command("sync")
def track_sync(
    results: Annotated[Path, typer.Argument(help="results/<experiment>")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="file that says what was synchronised")] = None,
) -> None:
    """Replay everything under RESULTS into MLflow; repeating it adds nothing twice."""
    from medseg.files import write_text
    from medseg.tracking import sync

    summary = sync(results)
    print(summary)
    if out is not None:
        write_text(out, summary + "\n")


@app.command()
def ui(
    uri: Annotated[str | None, typer.Option("--uri", help="tracking store; none: mlflow.db in this folder")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on this machine (loopback only)."""
    from medseg.tracking import serve_ui

    serve_ui(uri, port)


@app.command()
def models(name: Annotated[str | None, typer.Argument(help="a row of the table: its options, too")] = None) -> None:
    """The table of networks: what `models.<name>.network` and its `options` can be."""
    from medseg.errors import ConfigError
    from medseg.networks import NETWORKS

    if name is None:
        for row, network in NETWORKS.items():
            typer.echo(f"{row:16}{'/'.join(f'{d}-D' for d in network.dims):9}{network.paper}")
        return
    if name not in NETWORKS:
        raise ConfigError(f"no network '{name}'; there are: {', '.join(NETWORKS)}")
    typer.echo(f"{name}: {NETWORKS[name].paper}")
    for option, field in NETWORKS[name].options.model_fields.items():
        typer.echo(f"  {option} (default {json.dumps(field.default)}): {field.description}")


@app.command()
def schema() -> None:
    """Print the JSON schema of the configuration."""
    from medseg.config import config_schema

    print(json.dumps(config_schema(), indent=2))


@app.command()
def version() -> None:
    """Print the version."""
    from medseg import __version__

    print(__version__)


def main() -> None:
    """Run the command line; a user's error is printed without a traceback (unless ``--debug``) and exits with 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except MedsegError as error:
        if debug:
            raise
        told = str(error)
        if isinstance(error, DatasetFaults):
            from medseg.ingest.fault_list import fault_list

            told = fault_list(error)
        sys.stderr.write(f"{told}\n")
        sys.exit(2)
