"""The table of metrics: names, definitions, bounds and directions; free of numpy, functions are named late.

Evaluate computes a row where its needs are met; compare, report, tracking and docs take title, unit, direction, bounds,
definition and family from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Need = Literal["labels", "spacing", "tolerance", "probabilities", "objects"]
# Stands between a definition id and its tolerance in a score row: ``nsd/share-within-tau/erosion-face-v1@2 mm``.
TOLERANCE_MARK = "@"


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of one class of one case.

    Attributes:
        title: how people write it.
        definition: id of the formula and its rules; stands in every score row, so that numbers of other definitions
            are never mixed with these (see ``matches``).
        formula: the definition in one line.
        paper: where it comes from.
        function: ``module:name`` of the function ``(Pair) -> float``; for two masks that both show the class.
        family: metrics of one kind; they are corrected for multiple tests together.
        needs: what the function reads of a ``Pair``; a row whose needs are not met has no score rows.
        unit: ``"1"``, or ``"length"`` for the unit of the grid's axes (mm, um, px).
        better: which values are better.
        low, high: bounds of its values; ``high`` may be infinite.
        both_empty: value if neither mask shows the class; None: not applicable.
        one_empty: what a case gets whose prediction lacks the class: ``"worst"``.
        worst: the value of a case that was missed or failed; ``"diagonal"``: of the box of the reference's grid.
        aggregate: ``case``: a mean over cases only; ``pooled``: only from counts summed over cases; ``both``.
        pooled: how the pooled value follows from summed counts; empty where there is none.
        oracle: what its tests compare it with.
    """

    title: str
    definition: str
    formula: str
    paper: str
    function: str
    family: Literal["overlap", "surface"] = "overlap"
    needs: tuple[Need, ...] = ("labels",)
    unit: Literal["1", "length"] = "1"
    better: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 1.0
    both_empty: float | None = None
    one_empty: Literal["worst"] = "worst"
    worst: float | Literal["diagonal"] = 0.0
    aggregate: Literal["case", "pooled", "both"] = "case"
    pooled: str = ""
    oracle: str = ""

    def worst_of(self, diagonal: float) -> float:
        """The value of a case that was missed or failed.

        Args:
            diagonal: length of the diagonal of the reference grid's box, in the unit of its axes.
        """
        return diagonal if self.worst == "diagonal" else float(self.worst)

    def unit_of(self, length: str) -> str:
        """Unit of its values on a grid whose axes are in ``length`` (mm, um, px)."""
        return length if self.unit == "length" else self.unit

    def matches(self, definition: str) -> bool:
        """Whether a score row's definition is this one; a tolerance may follow it (``…@2 mm``)."""
        name, mark, _ = definition.partition(TOLERANCE_MARK)
        return name == self.definition and bool(mark) == ("tolerance" in self.needs)


METRICS: dict[str, Metric] = {
    "dice": Metric(
        title="Dice",
        definition="dice/voxels-v1",
        formula="2 TP / (2 TP + FP + FN)",
        paper="Dice 1945",
        function="medseg.metrics.overlap:dice",
        aggregate="both",
        pooled="the formula of TP, FP and FN summed over cases",
        oracle="counts of a loop over voxels",
    ),
    "iou": Metric(
        title="IoU",
        definition="iou/voxels-v1",
        formula="TP / (TP + FP + FN)",
        paper="Jaccard 1912",
        function="medseg.metrics.overlap:iou",
        aggregate="both",
        pooled="the formula of TP, FP and FN summed over cases",
        oracle="counts of a loop over voxels",
    ),
}
# Rows that are counted or measured, from which pooled scores and volumes are taken; they are no scores.
QUANTITIES: dict[str, str] = {
    "tp": "count/voxels-v1",
    "fp": "count/voxels-v1",
    "fn": "count/voxels-v1",
    "volume_ref": "volume/voxels-v1",
    "volume_pred": "volume/voxels-v1",
}
