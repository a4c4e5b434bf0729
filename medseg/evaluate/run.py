"""The evaluate stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from numpy.typing import NDArray

from medseg.config import Config
from medseg.evaluate.score import COLUMNS, score_case
from medseg.files import read_json, write_with
from medseg.formats.table import read_labels, read_recorded
from medseg.image.geometry import require_same_grid
from medseg.image.labels import LabelTable
from medseg.ingest.cases import read_case_labels
from medseg.ingest.manifest import Case, read_manifest
from medseg.results.key import RunKey


def run(config: Config, manifest_path: Path, predictions: Path, out: Path) -> None:
    """Score every case of ``predictions`` (a ``predictions.json``) against its reference into the parquet file ``out``.

    A case that is recorded there as failed gets the worst value and its reason; it is never left out.

    Raises:
        DataError: if a prediction changed since it was written, a case has no reference, or a value is no class.
        GeometryError: if a prediction is not on its reference's grid.
    """
    manifest = read_manifest(manifest_path)
    dataset = config.dataset(manifest.dataset)
    folder = Path(config.data_root) / dataset.path
    facts = read_json(predictions)
    key = RunKey(facts["dataset"], facts["model"], facts["fold"], facts["seed"], facts.get("split", "val"))
    rows: list[Mapping[str, Any]] = []
    for case_id, entry in facts["cases"].items():
        case = manifest.case(case_id)
        reference, grid = manifest.labels.to_channels(read_case_labels(case, folder)), case.geometry
        failure = entry.get("failed", "")
        predicted = None if failure else _read_prediction(predictions.parent, case, entry, manifest.labels)
        digest = "" if failure else entry["sha256"]
        rows += score_case(key, case.id, case.subject, reference, predicted, manifest.labels, grid, failure, digest)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_with(out, lambda path: table.to_parquet(path, index=False))


def _read_prediction(folder: Path, case: Case, entry: Mapping[str, str], labels: LabelTable) -> NDArray[Any]:
    """Label channels (S) of a prediction, on the grid of its case."""
    path = folder / entry["file"]
    written = read_recorded(path, entry["sha256"], "medseg predict")
    predicted, grid = read_labels(path, written, spacing=case.pixel_size)
    require_same_grid(grid, case.geometry, f"prediction of case '{case.id}' ({path.name})")
    # "Not annotated" is no prediction.
    return replace(labels, ignore=None).to_channels(predicted)
