"""Options that several commands share."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Annotated

import typer

from medseg.results.key import Fold, read_fold
from medseg.shards import Shard


def as_folder(path: Path | None) -> Path | None:
    """The path of a folder to write into; raise ``NotADirectoryError`` if it, or a part of it, is a file.

    Before the work, not after: a training takes days.
    """
    nearest = next((one for one in (path, *path.parents) if os.path.lexists(one)), None) if path is not None else None
    if nearest is not None and not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    return path


def as_file(path: Path | None) -> Path | None:
    """The path of a file to write; raise ``IsADirectoryError`` if it is a folder, else as ``as_folder``."""
    if path is not None and path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    as_folder(None if path is None else path.parent)
    return path


ConfigFile = Annotated[Path, typer.Option("--config", help="configuration: YAML, or results/<experiment>/config.json")]
Dataset = Annotated[str, typer.Option("--dataset", help="name of a data set in the configuration")]
ModelName = Annotated[str, typer.Option("--model", help="name of a model in the configuration")]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="folder that the results go into", callback=as_folder)]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="file that the result goes to", callback=as_file)]
ManifestFile = Annotated[Path, typer.Option("--manifest", help="manifest.tsv of the ingest stage")]
FingerprintFile = Annotated[Path, typer.Option("--fingerprint", help="fingerprint.json of the plan stage")]
SplitsFile = Annotated[Path, typer.Option("--splits", help="splits.json of the ingest stage")]
Predictions = Annotated[Path, typer.Option("--predictions", help="predictions.json of predict or postprocess")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="cases handled side by side")]
ShardOf = Annotated[
    str | None,
    typer.Option("--shard", help="i/n: only the cases i, i + n, …; leaves a file shard-i-of-n, to be joined"),
]
Join = Annotated[int | None, typer.Option("--join", min=1, help="n: join the results of n shards")]
ModelFolders = Annotated[
    list[Path] | None, typer.Option("--model", help="model folders: results of other trainings are refused")
]
OfModel = Annotated[
    Path | None, typer.Option("--model", help="model folder: predictions of another training are refused")
]
Code = Annotated[str | None, typer.Option("--code", help="digest of the stage's code; none: computed")]


def part_of(shard: str | None, join: int | None) -> Shard | None:
    """The part of the cases that ``--shard`` asks for; None: all of them."""
    if shard is not None and join is not None:
        raise typer.BadParameter("give either --shard or --join", param_hint="--join")
    return Shard.parse(shard) if shard is not None else None


def fold_of(text: str) -> Fold:
    """The fold that ``--fold`` names: a number, or ``all``."""
    try:
        return read_fold(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--fold") from None
