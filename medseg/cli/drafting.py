"""The command that writes a first configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import OutFile
from medseg.machine import processors


def new(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder with images and their label maps")],
    out: OutFile = Path("my.yaml"),
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="how long files may be read; what was not read is said")
    ] = 120.0,
) -> None:
    """Look at a folder of images and write a commented configuration that passes the checks, or say what is open."""
    from medseg.draft.run import run
    from medseg.machine import gpus

    for line in run(folder, out, processors(), seconds, bool(gpus())):
        print(line)
