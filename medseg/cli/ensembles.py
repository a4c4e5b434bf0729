"""The command that describes an ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import ConfigFile, OutFolder, fold_of


def ensemble(
    config: ConfigFile,
    dataset: Annotated[str, typer.Option("--dataset", help="name of the data set")],
    name: Annotated[str, typer.Option("--name", help="name of the ensemble in the configuration")],
    fold: Annotated[str, typer.Option("--fold", help="whose trainings predict together")],
    model: Annotated[list[Path], typer.Option("--model", help="model folder of a member, once per member")],
    out: OutFolder,
) -> None:
    """Write down which trainings an ensemble is of: ensemble.json, by which it is known as a training by its model."""
    from medseg.config import members_of
    from medseg.outputs import writing
    from medseg.places import read_study
    from medseg.results.folders import ModelFolder
    from medseg.results.key import RunKey
    from medseg.trained import require_members, write_ensemble

    which = fold_of(fold)
    wanted = [RunKey(*run) for run in members_of(read_study([config]), dataset, name, which)]
    members = require_members(model, wanted)
    with writing(ModelFolder(out).members):
        write_ensemble(out, RunKey(dataset, name, which, 0), members)
