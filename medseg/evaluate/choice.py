"""Which metrics a data set is scored by, and with which tolerances."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from medseg.config import Config
from medseg.config.metrics import MetricsConfig
from medseg.errors import ConfigError, DataError
from medseg.image.labels import LabelTable
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.row import Metric, met
from medseg.metrics.table import METRICS
from medseg.metrics.tolerance import widened

if TYPE_CHECKING:
    import pandas as pd

# A tolerance below this many in-plane voxels measures the voxels, not the border.
_VOXELS = 1.5


@dataclass(frozen=True, slots=True)
class Choice:
    """What is computed.

    Attributes:
        metrics: rows of the table, in its order; those that need objects only where objects are numbered.
        tolerance: class or region -> tolerance in the unit of the grid; metrics that need one are computed for these.
    """

    metrics: Mapping[str, Metric]
    tolerance: Mapping[str, float] = field(default_factory=dict)

    def of_label(self, label: str) -> dict[str, Metric]:
        """The metrics that a class or region is scored by: those that need no tolerance, or for which it has one."""
        given = label in self.tolerance
        return {
            name: metric for name, metric in self.metrics.items() if met(metric.needs, objects=True, tolerance=given)
        }


def choose(section: MetricsConfig, where: str, objects: bool | None = False) -> Choice:
    """The metrics that a configuration asks for, and those that every table of scores has.

    Args:
        section: of a data set.
        where: the section's place in the configuration, for messages.
        objects: whether the data set's labels number objects; None: not known yet, nothing is refused for it.

    Raises:
        ConfigError: for a name that is no metric, for a metric that needs a tolerance where there is none, and for one
            that needs objects where there are classes alone.
    """
    named = section.names or []
    for name in named:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(METRICS)}"
            raise ConfigError(f"{where}.names: no metric '{name}'; {hint}")
        if "tolerance" in METRICS[name].needs and not section.tolerance:
            raise ConfigError(
                f"{where}.names: '{name}' needs a tolerance, which has no default; give one per class, e.g. "
                f"tolerance: {{CLASS: 2.0}}"
            )
        if objects is False and "objects" in METRICS[name].needs:
            raise ConfigError(
                f"{where}.names: '{name}' is a score of single objects, and the labels of this data set tell classes "
                "apart, not objects; leave it out, or set `instances: true` if its label files number objects"
            )
    scopes = ("always", "default") if section.names is None else ("always",)
    metrics = {
        name: metric
        for name, metric in METRICS.items()
        if (metric.scope in scopes or name in named) and met(metric.needs, objects=objects is not False)
    }
    if section.tolerance and not any("tolerance" in metric.needs for metric in metrics.values()):
        raise ConfigError(f"{where}.tolerance: none of the metrics named uses it; add nsd to names, or leave names out")
    return Choice(metrics, dict(section.tolerance))


def check_choices(config: Config) -> None:
    """Raise ``ConfigError`` where a data set asks for a metric that there is not, or that lacks what it needs."""
    for name, dataset in config.datasets.items():
        # Some layouts number objects whatever the configuration says; ingest knows.
        choose(dataset.metrics, f"datasets.{name}.metrics", objects=dataset.instances or None)


def choice_of(config: Config, dataset: str, labels: LabelTable) -> Choice:
    """What is computed for a data set with these labels.

    Raises:
        ConfigError: as ``choose``, and for a tolerance of something that is not scored.
    """
    return _choice(config, dataset, labels.target_names, labels.instances)


def _choice(config: Config, dataset: str, labels: Sequence[str], objects: bool) -> Choice:
    """What is computed for a data set whose classes (or regions) are ``labels``."""
    where = f"datasets.{dataset}.metrics"
    choice = choose(config.dataset(dataset).metrics, where, objects)
    for name in choice.tolerance:
        if name not in labels:
            raise ConfigError(f"{where}.tolerance: no class or region '{name}'; there are: {', '.join(labels)}")
    return choice


def require_chosen(config: Config, dataset: str, labels: Sequence[str], scores: pd.DataFrame) -> None:
    """Raise ``DataError`` unless the score rows of a data set are those that its configuration asks for.

    Args:
        config: the experiment.
        dataset: of them.
        labels: its classes or regions.
        scores: rows of ``evaluate.score.COLUMNS``.
    """
    if scores.empty:
        return
    of_objects = [name for name, one in QUANTITIES.items() if "objects" in one.needs]
    choice = _choice(config, dataset, labels, bool(scores["metric"].isin(of_objects).any()))
    length = str(scores["spacing"].iloc[0]).rpartition(" ")[2]
    wanted = {
        (label, name): metric.definition_of(choice.tolerance.get(label), length)
        for label in labels
        for name, metric in choice.of_label(label).items()
    }
    rows = scores[scores["metric"].isin(METRICS)][["label", "metric", "definition"]].drop_duplicates()
    found = {(label, metric): definition for label, metric, definition in rows.itertuples(index=False)}
    for label, name in sorted(wanted.keys() | found.keys()):
        have, want = found.get((label, name)), wanted.get((label, name))
        if have != want:
            raise DataError(
                f"scores of {dataset}: {name} of '{label}' is {have or 'not there'}, and datasets.{dataset}.metrics "
                f"asks for {want or 'none of it'}; run `medseg evaluate` and `medseg compare` again"
            )


def coarse_tolerances(choice: Choice, spacings: Sequence[Sequence[float]], unit: str) -> list[str]:
    """One line for each tolerance that is too small for the voxels of some case.

    Args:
        choice: what is computed.
        spacings: of the cases, per axis.
        unit: of spacings and tolerances.
    """
    # The axis with the largest spacing is the one across the slices of a volume.
    in_plane = max((sorted(spacing)[:2][-1] for spacing in spacings), default=0.0)
    return [
        f"warning: the tolerance {tolerance:g} {unit} of '{label}' is less than {_VOXELS} times the in-plane spacing "
        f"of {in_plane:g} {unit}; NSD then measures how the border falls on the voxels"
        for label, tolerance in choice.tolerance.items()
        if widened(tolerance) < _VOXELS * in_plane
    ]


DEFAULT = choose(MetricsConfig(), "metrics")
