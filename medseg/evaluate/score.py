"""One case -> score rows: one row per class (or region) and metric; the reference decides which cases count."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import Geometry
from medseg.image.labels import IGNORE, LabelTable
from medseg.metrics.overlap import OverlapCounts, dice, iou, overlap_counts
from medseg.metrics.table import METRICS, QUANTITIES
from medseg.results.key import RunKey

COLUMNS = (
    "dataset",
    "split",
    "model",
    "fold",
    "seed",
    "case",
    "subject",
    "label",
    "metric",
    "definition",
    "value",
    "unit",
    "status",
    "n_ref",
    "n_pred",
    "spacing",
    "prediction",
)
# Status of a row. The first two have a value, so has ``failed`` where the reference shows the class; the others have
# none, because the reference does not show the class.
OK = "ok"
MISSED = "missed: the reference has the class, the prediction has none of it"
ABSENT = "absent: the reference lacks the class, and so does the prediction"
SPURIOUS = "spurious: the reference lacks the class, the prediction has it"
NOT_ANNOTATED = "not annotated: no voxel of the reference is"
FAILED = "failed"
# A cubic millimetre is a thousandth of a millilitre; areas and cubic pixels keep their unit.
VOLUME_UNITS = {
    ("mm", 3): ("ml", 1e-3),
    ("um", 3): ("um3", 1.0),
    ("um", 2): ("um2", 1.0),
    ("px", 2): ("px2", 1.0),
}


def score_case(
    key: RunKey,
    case: str,
    subject: str,
    reference: NDArray[Any],
    prediction: NDArray[Any] | None,
    table: LabelTable,
    grid: Geometry,
    failure: str = "",
    digest: str = "",
) -> list[Mapping[str, Any]]:
    """Score one case.

    Whether Dice and IoU have a value is decided by the reference alone: if it shows the class, they have one (0 for a
    prediction without it, the worst value for a case that failed); if it does not, they have none, and the voxels that
    the prediction gave it stand in ``fp`` and ``volume_pred``.

    Args:
        key, case, subject: what the rows are about.
        reference: label channels (S); ``IGNORE`` where nobody annotated: nothing there is counted, volumes included.
        prediction: label channels (S) on the same grid; None for a case that failed.
        table: label table.
        grid: of both.
        failure: why there is no prediction; one line.
        digest: SHA-256 of the label map that is scored, so that what is shown later is what was scored.

    Returns:
        Rows of ``COLUMNS``, for every region or else foreground class: dice, iou, tp, fp, fn, volume_ref, volume_pred.
    """
    volume_unit, factor = VOLUME_UNITS.get((grid.unit, grid.dims), (f"{grid.unit}{grid.dims}", 1.0))
    volume = grid.voxel_volume * factor
    spacing = f"{' x '.join(f'{v:.6g}' for v in grid.spacing)} {grid.unit}"
    annotated = bool((reference != IGNORE).any())
    failed = prediction is None
    predicted = np.zeros_like(reference) if prediction is None else prediction
    found = overlap_counts(reference, predicted, table.classes, table.members)
    rows: list[Mapping[str, Any]] = []
    for name, counts in zip(table.target_names, found, strict=True):
        status = f"{FAILED}: {failure}" if failed and annotated else _status(counts, annotated)
        scores = {"dice": (dice(counts), "1"), "iou": (iou(counts), "1")}
        if not counts.reference:
            scores = dict.fromkeys(scores, (math.nan, "1"))
        elif failed:
            scores = {metric: (METRICS[metric].worst, "1") for metric in scores}
        quantities = {
            "tp": (counts.tp, "voxel"),
            "fp": (counts.fp, "voxel"),
            "fn": (counts.fn, "voxel"),
            "volume_ref": (counts.reference * volume, volume_unit),
            "volume_pred": (counts.predicted * volume, volume_unit),
        }
        for metric, (value, unit) in {**scores, **quantities}.items():
            definition = METRICS[metric].definition if metric in METRICS else QUANTITIES[metric]
            facts: dict[str, Any] = {
                "case": case,
                "subject": subject,
                "label": name,
                "metric": metric,
                "definition": definition,
            }
            facts |= {"value": float(value), "unit": unit, "status": status}
            facts |= {"n_ref": counts.reference, "n_pred": counts.predicted, "spacing": spacing}
            facts["prediction"] = digest
            row = {**asdict(key), **facts}
            rows.append({column: row[column] for column in COLUMNS})
    return rows


def _status(counts: OverlapCounts, annotated: bool) -> str:
    """What a row of a case that was predicted says about its value."""
    if not annotated:
        return NOT_ANNOTATED
    if counts.reference:
        return OK if counts.predicted else MISSED
    return SPURIOUS if counts.predicted else ABSENT
