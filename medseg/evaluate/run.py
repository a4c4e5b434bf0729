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
from medseg.files import write_with
from medseg.formats.read import read_labels, read_recorded
from medseg.image.geometry import require_same_grid
from medseg.image.labels import LabelTable
from medseg.ingest.cases import read_case_labels
from medseg.ingest.manifest import Case, read_manifest
from medseg.predict.record import PredictedCase, read_predictions


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
    given = read_predictions(predictions)
    rows: list[Mapping[str, Any]] = []
    for case_id, entry in given.cases.items():
        case = manifest.case(case_id)
        reference, grid = manifest.labels.to_channels(read_case_labels(case, folder)), case.geometry
        predicted = None if entry.failed else _read_prediction(given.folder, case, entry, manifest.labels)
        made = (reference, predicted, manifest.labels, grid)
        rows += score_case(given.key, case.id, case.subject, *made, entry.failed, entry.sha256)
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_with(out, lambda path: table.to_parquet(path, index=False))


def _read_prediction(folder: Path, case: Case, entry: PredictedCase, labels: LabelTable) -> NDArray[Any]:
    """Label channels (S) of a prediction, on the grid of its case."""
    path = folder / entry.file
    written = read_recorded(path, entry.sha256, "medseg predict")
    predicted, grid = read_labels(path, written, spacing=case.pixel_size)
    require_same_grid(grid, case.geometry, f"prediction of case '{case.id}' ({path.name})")
    # "Not annotated" is no prediction.
    return replace(labels, ignore=None).to_channels(predicted)
