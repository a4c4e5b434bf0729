"""The command that looks whether a study is whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import ConfigFile
from medseg.errors import DataError
from medseg.progress import say


def check(
    config: ConfigFile,
    verify: Annotated[
        bool, typer.Option("--verify", help="read every file, and not only those whose size or time differ")
    ] = False,
) -> None:
    """Look whether all that the workflow made is there as it was made; what is not, `medseg run` makes again."""
    from medseg.outputs import list_of
    from medseg.places import read_study
    from medseg.results.paths import Results
    from medseg.takeover import hold_results
    from medseg.whole import look, made_by

    study = read_study([config])
    root = Results.of(study).root
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; `medseg run {config}` runs the study")
    hold_results(root)
    found = look(study, verify=verify)
    for damage in found.values():
        say(damage.why)
    results = [path for path in made_by(study) if path not in found]
    absent = [path for path in results if not path.exists()]
    unlisted = [path for path in results if path.exists() and not list_of(root, path).is_file()]
    print(f"{root}: {len(results) - len(absent) - len(unlisted)} results are there as they were made")
    if unlisted:
        print(f"{len(unlisted)} were not made by the workflow, so that nothing can be said of them: {_some(unlisted)}")
    if absent:
        print(f"{len(absent)} are not made yet: {_some(absent)}")
    if found or absent:
        again = " --config verify=true" if verify else ""
        raise DataError(f"{root}: not whole; `medseg run {config}{again}` makes what is missing and leaves the rest")


def _some(paths: Sequence[Path]) -> str:
    """The first of some paths."""
    return ", ".join(str(path) for path in paths[:3]) + (", …" if len(paths) > 3 else "")
