"""Commands of experiment tracking in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import ConfigFile, OutFile, as_file


def track_init(config: ConfigFile, out: OutFile) -> None:
    """Create the tracking store and the experiment, once, before anything writes."""
    from medseg.config import load_config
    from medseg.tracking import init_store

    loaded = load_config([config])
    init_store(loaded.tracking.uri, loaded.experiment, out)


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


def ui(
    uri: Annotated[str | None, typer.Option("--uri", help="tracking store; none: mlflow.db in this folder")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on this machine (loopback only)."""
    from medseg.tracking import serve_ui

    serve_ui(uri, port)
