"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", help="configuration: YAML, or results/<experiment>/config.json")]
Dataset = Annotated[str, typer.Option("--dataset", help="name of a data set in the configuration")]
ModelName = Annotated[str, typer.Option("--model", help="name of a model in the configuration")]
Out = Annotated[Path, typer.Option("--out", "-o", help="where the results go")]
ManifestFile = Annotated[Path, typer.Option("--manifest", help="manifest.tsv of the ingest stage")]
FingerprintFile = Annotated[Path, typer.Option("--fingerprint", help="fingerprint.json of the plan stage")]
SplitsFile = Annotated[Path, typer.Option("--splits", help="splits.json of the ingest stage")]
Predictions = Annotated[Path, typer.Option("--predictions", help="predictions.json of predict or postprocess")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="cases handled side by side")]
Code = Annotated[str | None, typer.Option("--code", help="digest of the stage's code; none: computed")]
