"""Commands that bring a data set in: generate, download, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import ConfigFile, Dataset
from medseg.machine import processors


def phantoms(config: ConfigFile, dataset: Dataset) -> None:
    """Generate a data set that the configuration describes (cells or organs)."""
    from medseg.config import load_config
    from medseg.ingest.phantoms import run_phantoms

    run_phantoms(load_config([config]), dataset)


def download(
    config: ConfigFile,
    dataset: Dataset,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="file that says what the folder came from")] = None,
) -> None:
    """Fetch and unpack a data set's archive, unless its folder is there; an interrupted download is resumed."""
    from medseg.config import load_config
    from medseg.files import write_json
    from medseg.ingest.download import run_download

    record = run_download(load_config([config]), dataset)
    if out is not None:
        write_json(out, record)


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

    workers = workers or processors()
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
