"""Commands that hand models on: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import as_folder


def export(
    model: Annotated[
        str | None, typer.Argument(help="model folder, MLflow run id, runs:/… or models:/…", show_default=False)
    ] = None,
    to: Annotated[str | None, typer.Option("--to", help="the form: a row of --list")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder that is made; it is not overwritten", callback=as_folder)
    ] = None,
    name: Annotated[str, typer.Option("--name", help="what the model is called; none: data set, model, fold")] = "",
    licence: Annotated[str, typer.Option("--licence", help="licence of the weights, an SPDX identifier")] = "",
    author: Annotated[list[str] | None, typer.Option("--author", help="who made it, once per author")] = None,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow store of a run id")] = None,
    listed: Annotated[bool, typer.Option("--list", help="the forms, who reads them, what they cannot hold")] = False,
) -> None:
    """Write a trained MODEL in the form that another program reads."""
    from medseg.export.table import EXPORTS

    if listed:
        for form, row in EXPORTS.items():
            typer.echo(f"{form:12}{row.about}\n{'':12}read back by: {row.reader}")
            for kind, why in row.cannot.items():
                typer.echo(f"{'':12}not {kind}: {why}")
            if row.pickle:
                typer.echo(f"{'':12}pickle: {row.pickle}")
        return
    if model is None or to is None or out is None:
        raise typer.BadParameter("give MODEL, --to FORM and -o FOLDER; --list shows the forms")
    from medseg.text import escaped
    from medseg.tracking import resolve_model

    folder = resolve_model(model, tracking_uri)
    from medseg.export.run import export as write

    typer.echo(escaped(str(write(folder, to, out, name=name, licence=licence, authors=author or ()))))
