"""The command ``medseg serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli import predicting as o


def serve(
    model: Annotated[
        list[str], typer.Argument(help="model folders, or MLflow run ids, runs:/… or models:/…; of several the mean")
    ],
    host: Annotated[
        str, typer.Option("--host", help="address to listen at; another than this machine's: --reachable")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free")] = 8000,
    reachable: Annotated[
        bool, typer.Option("--reachable", help="other machines may reach it, without authentication")
    ] = False,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.001, help="size of an upload, at most")] = 2048,
    queue: Annotated[int, typer.Option("--queue", min=0, max=1000, help="images that may wait beside the one")] = 4,
    keep_minutes: Annotated[
        float, typer.Option("--keep-minutes", min=0, help="for which the label map of a job is kept")
    ] = 10,
    max_gb: o.MaxGb = None,
    device: o.Device = None,
    threads: o.Threads = None,
    mirror: o.Mirror = None,
    raw: o.Raw = False,
    tracking_uri: o.TrackingUri = None,
) -> None:
    """Predict images that programs send over HTTP, on this machine: upload in, label map out."""
    from medseg.machine import reserve_gpu

    reserve_gpu()
    from medseg.tracking import resolve_models

    folders = [folder for one in model for folder in resolve_models(one, tracking_uri)]
    from medseg.cli.images import named_model
    from medseg.postprocess.of_model import steps_of_models
    from medseg.predict.batch import How
    from medseg.progress import say
    from medseg.serve.server import serve as run
    from medseg.serve.service import Limits

    finish, note = (None, "") if raw else steps_of_models(named_model(model, folders), folders)
    if note:
        say(f"serve: {note}")
    how = How(device=device, threads=threads, mirror=mirror, max_gb=max_gb, finish=finish)
    limits = Limits(int(max_mb * 1e6), queue, keep_minutes * 60)
    run(
        folders,
        how,
        lambda address: print(address, flush=True),
        host=host,
        port=port,
        limits=limits,
        reachable=reachable,
    )
