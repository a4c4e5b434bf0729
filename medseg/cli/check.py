"""The command that looks whether a study is whole."""

from __future__ import annotations

from typing import Annotated

import typer

from medseg.cli.options import ConfigFile
from medseg.errors import DataError


def check(
    config: ConfigFile,
    verify: Annotated[
        bool, typer.Option("--verify", help="read every file, and not only those whose size or time differ")
    ] = False,
) -> None:
    """Look whether all that the workflow made is there as it was made; what is not, `snakemake` makes again."""
    from medseg.places import read_study
    from medseg.results.paths import Results
    from medseg.takeover import count_again, hold_results, made_by

    study = read_study([config])
    root = Results.of(study).root
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; `snakemake --cores all` runs the study")
    hold_results(root)
    found = count_again(study, verify=verify).found
    unfinished = [path for path in made_by(study) if not path.exists() and path not in found]
    print(f"{root}: {len(found)} results were deleted or changed, {len(unfinished)} are not made yet")
    if found or unfinished:
        raise DataError(f"{root}: not whole; `snakemake --cores all` makes what is missing and leaves the rest")
