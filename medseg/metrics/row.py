"""What a row of the table of metrics says, and one of the table of quantities; free of numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Need = Literal["labels", "spacing", "tolerance", "objects"]
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
        needs: what the function reads of a ``Pair``; without a tolerance a class has no rows of those that need one;
            a data set has rows of those that need objects if its labels number objects.
        scope: ``always``: every table of scores has it; ``default``: unless the configuration names others; ``named``:
            only where the configuration names it.
        ranks: models are ranked by the metric with the largest one, of those that their data set has; 0: never by it.
        unit: ``"1"``, ``"bit"``, or ``"length"`` for the unit of the grid's axes (mm, um, px).
        better: which values are better.
        low, high: bounds of its values; ``high`` may be infinite.
        worst: the value of a case that was missed or failed; ``"diagonal"``: of the box of the reference's grid;
            ``"bits"``: log2(1 + voxels of the reference), more than any entropy of them. Where the reference lacks the
            class, no metric has a value.
        pooled: ``module:name`` of the function ``(Mapping[str, float]) -> float`` of quantities (rows of
            ``QUANTITIES``, by name) that are summed over cases; empty: only a mean over cases is taken.
        oracle: what its tests compare it with.
    """

    title: str
    definition: str
    formula: str
    paper: str
    function: str
    family: Literal["overlap", "surface", "objects"] = "overlap"
    needs: tuple[Need, ...] = ("labels",)
    scope: Literal["always", "default", "named"] = "default"
    ranks: int = 0
    unit: Literal["1", "bit", "length"] = "1"
    better: Literal["higher", "lower"] = "higher"
    low: float = 0.0
    high: float = 1.0
    worst: float | Literal["diagonal", "bits"] = 0.0
    pooled: str = ""
    oracle: str = ""

    def worst_of(self, diagonal: float, voxels: int) -> float:
        """The value of a case that was missed or failed.

        Args:
            diagonal: length of the diagonal of the reference grid's box, in the unit of its axes.
            voxels: of the class in the reference.
        """
        if self.worst == "bits":
            return math.log2(1 + voxels)
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


@dataclass(frozen=True, slots=True)
class Count:
    """Something counted or measured of one class of one case, from which pooled scores and volumes are taken.

    Attributes:
        definition: id, as of a metric.
        unit: ``volume`` for the unit of volumes on the grid (ml, um2, ...).
        needs: as of a metric.
        failed: value of a case that failed: ``none``: 0; ``missed``: the reference's voxels; ``same``: that of every
            other prediction, since it is of the reference alone.
    """

    definition: str
    unit: str
    needs: tuple[Need, ...] = ("labels",)
    failed: Literal["none", "missed", "same"] = "none"

    def failed_value(self, known: float, voxels: int) -> float:
        """Value of a case that failed.

        Args:
            known: of another prediction of the case.
            voxels: of the class in the reference.
        """
        return {"none": 0.0, "missed": float(voxels), "same": known}[self.failed]


def met(needs: tuple[Need, ...], *, objects: bool, tolerance: bool = True) -> bool:
    """Whether a class has what a row of a table needs: numbered objects, a tolerance."""
    return (objects or "objects" not in needs) and (tolerance or "tolerance" not in needs)
