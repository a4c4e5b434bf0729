"""One case -> score rows: one row per class (or region) and metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from numpy.typing import NDArray

from medseg.image.labels import IGNORE, LabelTable
from medseg.metrics.overlap import BOTH_EMPTY, NOT_ANNOTATED, dice, iou, overlap_counts

COLUMNS = (
    "dataset",
    "model",
    "fold",
    "seed",
    "case",
    "subject",
    "label",
    "metric",
    "value",
    "unit",
    "status",
)
# A cubic millimetre is a thousandth of a millilitre; areas and cubic pixels keep their unit.
VOLUME_UNITS = {
    ("mm", 3): ("ml", 1e-3),
    ("um", 3): ("um3", 1.0),
    ("um", 2): ("um2", 1.0),
    ("px", 2): ("px2", 1.0),
}


@dataclass(frozen=True, slots=True)
class RunKey:
    """Which training a score belongs to."""

    dataset: str
    model: str
    fold: int
    seed: int


def score_case(
    key: RunKey,
    case: str,
    subject: str,
    reference: NDArray[Any],
    prediction: NDArray[Any],
    table: LabelTable,
    voxel_volume: float,
    unit: str,
) -> list[Mapping[str, Any]]:
    """Score one case.

    Args:
        key, case, subject: what the rows are about.
        reference, prediction: label channels (S) on one grid; the reference is ``IGNORE`` where nobody annotated,
            and nothing there is counted, volumes included.
        table: label table.
        voxel_volume: in ``unit`` to the power of the dimensions.
        unit: ``mm``, ``um`` or ``px``.

    Returns:
        Rows of ``COLUMNS``, for every region or else foreground class: dice, iou, tp, fp, fn, volume_ref, volume_pred.
    """
    volume_unit, factor = VOLUME_UNITS.get((unit, reference.ndim), (f"{unit}{reference.ndim}", 1.0))
    rows: list[Mapping[str, Any]] = []
    undefined = BOTH_EMPTY if (reference != IGNORE).any() else NOT_ANNOTATED
    found = overlap_counts(reference, prediction, table.classes, table.members)
    for name, counts in zip(table.target_names, found, strict=True):
        values = {
            "dice": (dice(counts), "1"),
            "iou": (iou(counts), "1"),
            "tp": (counts.tp, "voxel"),
            "fp": (counts.fp, "voxel"),
            "fn": (counts.fn, "voxel"),
            "volume_ref": (counts.reference * voxel_volume * factor, volume_unit),
            "volume_pred": (counts.predicted * voxel_volume * factor, volume_unit),
        }
        for metric, (value, metric_unit) in values.items():
            status = undefined if math.isnan(value) else "ok"
            facts = {"case": case, "subject": subject, "label": name, "metric": metric}
            rows.append({**asdict(key), **facts, "value": float(value), "unit": metric_unit, "status": status})
    return rows
