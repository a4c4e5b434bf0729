"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.shards import Shard

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration: YAML, or results/<experiment>/config.json")]
Dataset = Annotated[str, typer.Option("--dataset", help="name of a data set in the configuration")]
ModelName = Annotated[str, typer.Option("--model", help="name of a model in the configuration")]
Out = Annotated[Path, typer.Option("--out", "-o", help="where the results go")]
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
Code = Annotated[str | None, typer.Option("--code", help="digest of the stage's code; none: computed")]


def part_of(shard: str | None, join: int | None) -> Shard | None:
    """The part of the cases that ``--shard`` asks for; None: all of them."""
    if shard is not None and join is not None:
        raise typer.BadParameter("give either --shard or --join", param_hint="--join")
    return Shard.parse(shard) if shard is not None else None
