"""One case -> score rows: one row per class (or region) and metric; the reference decides which cases count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.evaluate.choice import DEFAULT, Choice
from medseg.image.geometry import Geometry
from medseg.image.labels import IGNORE, LabelTable
from medseg.image.objects import ObjectMap
from medseg.metrics.counts import OverlapCounts, overlap_counts
from medseg.metrics.pair import Pair, box_diagonal, pairs, value_of
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.row import Metric
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
    "diagonal",
    "prediction",
    "fingerprint",
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


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects of one case, where labels number them.

    Attributes:
        reference: none has a voxel where nobody annotated.
        prediction: on the same grid; None for a case that failed.
    """

    reference: ObjectMap
    prediction: ObjectMap | None


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
    choice: Choice = DEFAULT,
    fingerprint: str = "",
    objects: Objects | None = None,
) -> list[Mapping[str, Any]]:
    """Score one case.

    Whether a metric has a value is decided by the reference alone: if it shows the class, it has one (the worst value
    for a prediction without the class, and for a case that failed); if it does not, it has none, and the voxels that
    the prediction gave the class stand in ``fp`` and ``volume_pred``.

    Args:
        key, case, subject: what the rows are about.
        reference: label channels (S); ``IGNORE`` where nobody annotated: nothing there is counted, volumes included.
        prediction: label channels (S) on the same grid; None for a case that failed.
        table: label table.
        grid: of both.
        failure: why there is no prediction; one line.
        digest: SHA-256 of the label map that is scored, so that what is shown later is what was scored.
        choice: metrics and tolerances.
        fingerprint: of the training that predicted.
        objects: of both maps, whose classes are those of the channels; None: labels do not tell objects apart. Objects
            of a class are matched with predicted objects of that class; a predicted object with more than half of its
            voxels where nobody annotated is left out, others are cropped.

    Returns:
        Rows of ``COLUMNS``, for every region or else foreground class: the metrics, then what was counted.
    """
    annotated = bool((reference != IGNORE).any())
    failed = f"{FAILED}: {failure}" if prediction is None and annotated else ""
    predicted = np.zeros_like(reference) if prediction is None else prediction
    counts = overlap_counts(reference, predicted, table.classes, table.members)
    tolerances = [choice.tolerance.get(name) for name in table.target_names]
    numbers = None if objects is None else _numbers(objects)
    found = pairs(reference, predicted, table.members, grid.spacing, tolerances, counts, numbers)
    spacing = f"{' x '.join(f'{v:.6g}' for v in grid.spacing)} {grid.unit}"
    facts = {**asdict(key), "case": case, "subject": subject, "spacing": spacing, "prediction": digest}
    facts["fingerprint"] = fingerprint
    # What a distance of a case counts that was missed; compare needs it for cases that a training lacks.
    facts["diagonal"] = box_diagonal(grid.shape, grid.spacing)
    rows: list[Mapping[str, Any]] = []
    for label, pair in zip(table.target_names, found, strict=True):
        status = failed or _status(pair.counts, annotated)
        mine = {"label": label, "status": status, "n_ref": pair.counts.reference, "n_pred": pair.counts.predicted}
        values = [*_scores(pair, choice.of_label(label), grid.unit), *_quantities(pair.counts, grid)]
        values += [] if objects is None else _object_quantities(pair)
        for value in values:
            row = {**facts, **mine, **value}
            rows.append({column: row[column] for column in COLUMNS})
    return rows


def _scores(pair: Pair, metrics: Mapping[str, Metric], length: str) -> list[dict[str, Any]]:
    """Name, definition, value and unit of each metric of a class; a case that failed has no voxel of it, the worst."""
    return [
        {
            "metric": name,
            "definition": metric.definition_of(pair.tolerance, length),
            "value": value_of(metric, pair),
            "unit": metric.unit_of(length),
        }
        for name, metric in metrics.items()
    ]


def _quantities(counts: OverlapCounts, grid: Geometry) -> list[dict[str, Any]]:
    """Name, definition, value and unit of the counts and volumes of a class."""
    unit, factor = VOLUME_UNITS.get((grid.unit, grid.dims), (f"{grid.unit}{grid.dims}", 1.0))
    volume = grid.voxel_volume * factor
    values = {
        "tp": (counts.tp, "voxel"),
        "fp": (counts.fp, "voxel"),
        "fn": (counts.fn, "voxel"),
        "volume_ref": (counts.reference * volume, unit),
        "volume_pred": (counts.predicted * volume, unit),
    }
    return [
        {"metric": name, "definition": QUANTITIES[name].definition, "value": float(value), "unit": unit}
        for name, (value, unit) in values.items()
    ]


def _object_quantities(pair: Pair) -> list[dict[str, Any]]:
    """Name, definition, value and unit of what is counted of the objects of a class."""
    return [
        {"metric": name, "definition": QUANTITIES[name].definition, "value": value, "unit": QUANTITIES[name].unit}
        for name, value in pair.object_quantities.items()
    ]


def _numbers(objects: Objects) -> tuple[NDArray[Any], NDArray[Any]]:
    """Object numbers (S) of both maps; of a case that failed there are none."""
    reference = objects.reference.numbers
    return reference, np.zeros_like(reference) if objects.prediction is None else objects.prediction.numbers


def _status(counts: OverlapCounts, annotated: bool) -> str:
    """What a row of a case that was predicted says about its value."""
    if not annotated:
        return NOT_ANNOTATED
    if counts.reference:
        return OK if counts.predicted else MISSED
    return SPURIOUS if counts.predicted else ABSENT
