"""What is averaged and compared: the ranking score and every metric of the table, with its range, direction and names.

Everything here follows from the rows of ``medseg.metrics.table.METRICS``; a metric that is added there needs no line in
this package, in the report or in tracking.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from medseg.metrics.row import Metric
from medseg.metrics.table import METRICS

SCORE = "score"
# Stands for the mean over classes in every table, so no class may be called that.
MEAN = "mean"
# Means over classes that the field writes in another way than "mean X": metric -> name in columns, title.
_NAMED_MEANS = {"iou": ("miou", "mIoU"), "map": ("map", "mean AP"), "map95": ("map95", "mean AP to 0.95")}


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that has a value for each class of each case.

    Attributes:
        name: ``score``, or a metric's name in the table.
        title: how people write it.
        column: what its mean over classes is called in the leaderboard and in MLflow: ``dice``, ``miou``, ``hd95``.
        mean_title: what its mean over classes is called in text: ``mean Dice``, ``mIoU``.
        family: quantities whose paired tests are corrected together.
        low, high: bounds of its values; ``high`` may be infinite.
        higher_is_better: direction.
        is_length: whether its unit is that of the grid (mm, um, px); else it has none.
        pooled: whether it is also taken of counts that are summed over cases.
        optional: whether a class, or a whole data set, may have no row of it: the configuration chooses.
        needs_tolerance: whether only classes with a tolerance have rows of it.
    """

    name: str
    title: str
    column: str
    mean_title: str
    family: str
    low: float
    high: float
    higher_is_better: bool
    is_length: bool
    pooled: bool
    optional: bool
    needs_tolerance: bool

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value, and so the smallest and largest mean."""
        return self.low, self.high

    @property
    def difference_bounds(self) -> tuple[float, float]:
        """Smallest and largest difference of two values."""
        return self.low - self.high, self.high - self.low

    def is_better(self, difference: float) -> bool:
        """Whether a value that differs from another one by ``difference`` is the better one."""
        return difference > 0 if self.higher_is_better else difference < 0


def ranking_metric(names: Iterable[str]) -> str:
    """The metric that the ranking score extends to cases whose reference lacks a class, and that cases are sorted by.

    Args:
        names: metrics that a data set has rows of; other names may be among them.
    """
    return max((name for name in names if name in METRICS), key=lambda name: METRICS[name].ranks)


# That of data sets whose labels do not number objects.
RANKED = ranking_metric(name for name, metric in METRICS.items() if "objects" not in metric.needs)


def metric_quantities() -> dict[str, Quantity]:
    """Every metric of the table, by name, in the table's order."""
    return {name: _of_metric(name, metric) for name, metric in METRICS.items()}


def quantity(name: str) -> Quantity:
    """The quantity called ``score`` or like a metric."""
    if name != SCORE:
        return _of_metric(name, METRICS[name])
    ranked = METRICS[RANKED]
    return Quantity(
        SCORE, "Score", SCORE, "mean score", ranked.family, ranked.low, ranked.high, True, False, False, False, False
    )  # fmt: skip


def families() -> dict[str, list[Quantity]]:
    """Families of metrics in the table's order: name -> its metrics."""
    found: dict[str, list[Quantity]] = {}
    for one in metric_quantities().values():
        found.setdefault(one.family, []).append(one)
    return found


def _of_metric(name: str, metric: Metric) -> Quantity:
    column, mean_title = _NAMED_MEANS.get(name, (name, f"mean {metric.title}"))
    return Quantity(
        name,
        metric.title,
        column,
        mean_title,
        metric.family,
        metric.low,
        metric.high,
        metric.better == "higher",
        metric.unit == "length",
        bool(metric.pooled),
        metric.scope != "always" or "objects" in metric.needs,
        "tolerance" in metric.needs,
    )
