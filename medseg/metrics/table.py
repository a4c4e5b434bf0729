"""The table of metrics: what a score is called, how it is defined, which values are possible and which is worst."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of one class of one case.

    Attributes:
        title: how people write it.
        definition: id of the formula and its rules; stands in every score row, so that numbers of other definitions
            are never mixed with these.
        formula: the definition in one line.
        paper: where it comes from.
        low, high: bounds of its values.
        worst: the value of a case that was missed or failed.
    """

    title: str
    definition: str
    formula: str
    paper: str
    low: float = 0.0
    high: float = 1.0
    worst: float = 0.0


METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", "dice/voxels-v1", "2 TP / (2 TP + FP + FN)", "Dice 1945"),
    "iou": Metric("IoU", "iou/voxels-v1", "TP / (TP + FP + FN)", "Jaccard 1912"),
}
# Rows that are counted or measured, from which pooled scores and volumes are taken; they are no scores.
QUANTITIES: dict[str, str] = {
    "tp": "count/voxels-v1",
    "fp": "count/voxels-v1",
    "fn": "count/voxels-v1",
    "volume_ref": "volume/voxels-v1",
    "volume_pred": "volume/voxels-v1",
}
