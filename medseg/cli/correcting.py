"""Options of ``medseg ingest --add``, which takes edited predictions back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from medseg.config import Config
    from medseg.ingest.adding import Added
    from medseg.ingest.run import LabelCheck

File: TypeAlias = Path | None
Text: TypeAlias = str | None

Add = Annotated[File, typer.Option("--add", help="take label maps back that were predicted and edited: their folder")]
EditedPredictions = Annotated[
    File, typer.Option("--predictions", help="… the folder they were predicted into; none: the same")
]
EditedImages = Annotated[list[Path] | None, typer.Option("--images", help="… folders or files of their images")]
By = Annotated[str, typer.Option("--by", help="… who edited them")]
Subject = Annotated[
    Text, typer.Option("--subject", help="… whose they are, as `subject` in the configuration; none: as there")
]
HINT = "--add"


def edited(folder: Path, predictions: Path | None, images: list[Path] | None, by: str, subject: str | None) -> Added:
    """What is taken back, by the options."""
    from medseg.ingest.adding import Added

    if not images or not by.strip():
        raise typer.BadParameter("needs --images FOLDER (of the images) and --by NAME (who edited)", param_hint=HINT)
    missing = [str(path) for path in (folder, predictions or folder, *images) if not path.exists()]
    if missing:
        raise typer.BadParameter(f"no such file or folder: {', '.join(missing)}", param_hint=HINT)
    return Added(folder, predictions or folder, images, by.strip(), subject)


def take_back(study: Config, dataset: str, found: Added, workers: int, label_check: LabelCheck) -> None:
    """Take edited predictions into a data set, and print what was done."""
    from medseg.ingest.adding import add
    from medseg.text import escaped

    for line in add(study, dataset, found, workers, label_check):
        print(escaped(line))


def refuse_without_add(predictions: Path | None, images: list[Path] | None, by: str, subject: str | None) -> None:
    """Raise ``BadParameter`` for options that would change nothing."""
    if predictions is not None or images or by or subject is not None:
        raise typer.BadParameter("are for --add FOLDER", param_hint="--predictions, --images, --by, --subject")
