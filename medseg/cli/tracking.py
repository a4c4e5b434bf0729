"""Commands of experiment tracking in MLflow."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import ConfigFile, OutFile, as_file


def track_init(config: ConfigFile, out: OutFile) -> None:
    """Create the tracking store and the experiment, once, before anything writes."""
    from medseg.outputs import listing
    from medseg.places import read_study
    from medseg.tracking import init_store

    loaded = read_study([config])
    with listing(out, out):
        init_store(loaded.tracking.uri, loaded.experiment, out)


def track_sync(
    results: Annotated[Path, typer.Argument(help="results/<experiment>")],
    config: Annotated[Path | None, typer.Option("--config", help="configuration; none: RESULTS/config.json")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="file that says what was synchronised", callback=as_file)
    ] = None,
    defer: Annotated[
        bool, typer.Option("--defer", help="a store that is away is no error: --out says what is unsent")
    ] = False,
) -> None:
    """Replay the study under RESULTS into MLflow; repeating it adds nothing twice."""
    from medseg.outputs import listing
    from medseg.tracking import sync, sync_or_note

    if defer and out is None:
        raise typer.BadParameter("--defer: give --out, too: what is unsent is noted there")
    with contextlib.nullcontext() if out is None else listing(out, out):
        print(sync_or_note(results, config, out) if defer and out is not None else sync(results, config, out))


def ui(
    uri: Annotated[str | None, typer.Option("--uri", help="tracking store; none: mlflow.db in this folder")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on this machine (loopback only)."""
    from medseg.tracking import serve_ui

    serve_ui(uri, port)
