"""The table of metrics: names, definitions, bounds and directions; free of numpy, functions are named late.

Evaluate computes a row where its needs are met; compare, report, tracking and docs take title, unit, direction, bounds,
definition and family from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Need = Literal["labels", "spacing", "tolerance"]
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
        needs: what the function reads of a ``Pair``; without a tolerance a class has no rows of those that need one.
        scope: ``always``: every table of scores has it; ``default``: unless the configuration names others; ``named``:
            only where the configuration names it.
        unit: ``"1"``, or ``"length"`` for the unit of the grid's axes (mm, um, px).
        better: which values are better.
        low, high: bounds of its values; ``high`` may be infinite.
        worst: the value of a case that was missed or failed; ``"diagonal"``: of the box of the reference's grid. Where
            the reference lacks the class, no metric has a value.
        pooled: ``module:name`` of the function ``(OverlapCounts) -> float`` of counts summed over cases; empty: only a
            mean over cases is taken.
        oracle: what its tests compare it with.
    """

    title: str
    definition: str
    formula: str
    paper: str
    function: str
    family: Literal["overlap", "surface"] = "overlap"
    needs: tuple[Need, ...] = ("labels",)
    scope: Literal["always", "default", "named"] = "default"
    unit: Literal["1", "length"] = "1"
    better: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 1.0
    worst: float | Literal["diagonal"] = 0.0
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

    def definition_of(self, tolerance: float | None, length: str) -> str:
        """What a score row says: the definition id, with the tolerance in the unit ``length`` where it needs one."""
        if "tolerance" not in self.needs:
            return self.definition
        return f"{self.definition}{TOLERANCE_MARK}{tolerance:g} {length}"

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
        scope="always",
        pooled="medseg.metrics.counts:dice_of_counts",
        oracle="counts of a loop over voxels",
    ),
    "iou": Metric(
        title="IoU",
        definition="iou/voxels-v1",
        formula="TP / (TP + FP + FN)",
        paper="Jaccard 1912",
        function="medseg.metrics.overlap:iou",
        scope="always",
        pooled="medseg.metrics.overlap:iou_of_counts",
        oracle="counts of a loop over voxels",
    ),
    "hd": Metric(
        title="HD",
        definition="hd/max-directed/erosion-face-v1",
        formula="largest distance from a boundary voxel of either mask to the other boundary",
        paper="Huttenlocher 1993",
        function="medseg.metrics.surface:hd",
        family="surface",
        needs=("labels", "spacing"),
        unit="length",
        better="lower",
        high=math.inf,
        worst="diagonal",
        oracle="all pairs of boundary voxels; MONAI; boxes",
    ),
    "hd95": Metric(
        title="HD95",
        definition="hd95/max-directed-linear/erosion-face-v1",
        formula="larger of the two directed 95th percentiles, interpolated linearly, of the distances from the "
        "boundary voxels of a mask to the other boundary",
        paper="Huttenlocher 1993",
        function="medseg.metrics.surface:hd95",
        family="surface",
        needs=("labels", "spacing"),
        unit="length",
        better="lower",
        high=math.inf,
        worst="diagonal",
        oracle="all pairs of boundary voxels; MONAI; boxes",
    ),
    "assd": Metric(
        title="ASSD",
        definition="assd/pooled-mean/erosion-face-v1",
        formula="sum of the distances from the boundary voxels of both masks / their number",
        paper="Heimann 2009",
        function="medseg.metrics.surface:assd",
        family="surface",
        needs=("labels", "spacing"),
        unit="length",
        better="lower",
        high=math.inf,
        worst="diagonal",
        oracle="all pairs of boundary voxels; MONAI; boxes",
    ),
    "masd": Metric(
        title="MASD",
        definition="masd/mean-of-directed-means/erosion-face-v1",
        formula="mean of the two mean distances from the boundary voxels of a mask to the other boundary",
        paper="Maier-Hein 2024",
        function="medseg.metrics.surface:masd",
        family="surface",
        needs=("labels", "spacing"),
        unit="length",
        better="lower",
        high=math.inf,
        worst="diagonal",
        oracle="all pairs of boundary voxels; boxes",
    ),
    "nsd": Metric(
        title="NSD",
        definition="nsd/share-within-tau/erosion-face-v1",
        formula="share of the boundary voxels of both masks within the tolerance of the other boundary",
        paper="Nikolov 2021",
        function="medseg.metrics.surface:nsd",
        family="surface",
        needs=("labels", "spacing", "tolerance"),
        oracle="all pairs of boundary voxels; MONAI; boxes",
    ),
    "assd_faces": Metric(
        title="ASSD of faces",
        definition="assd/area-weighted/faces-v1",
        formula="integral over the voxel faces of both masks of the distance to the other one's faces / their area",
        paper="Heimann 2009",
        function="medseg.metrics.surface:assd_faces",
        family="surface",
        needs=("labels", "spacing"),
        scope="named",
        unit="length",
        better="lower",
        high=math.inf,
        worst="diagonal",
        oracle="closed forms of boxes; points sampled on the faces",
    ),
    "nsd_faces": Metric(
        title="NSD of faces",
        definition="nsd/area-within-tau/faces-v1",
        formula="share of the area of the voxel faces of both masks within the tolerance of the other one's faces",
        paper="Nikolov 2021",
        function="medseg.metrics.surface:nsd_faces",
        family="surface",
        needs=("labels", "spacing", "tolerance"),
        scope="named",
        oracle="closed forms of boxes; points sampled on the faces",
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
