"""Which operations are tried: in rounds, each on top of what earlier rounds adopted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.config import CrfConfig, PostprocessConfig
from medseg.image.labels import LabelTable
from medseg.postprocess.thresholds import can_threshold

THRESHOLDS = (0.3, 0.4, 0.6, 0.7)
# Smallest volumes of a component, as shares of the median volume of its class in the references.
SHARES = (0.001, 0.01, 0.05, 0.2)


@dataclass(frozen=True, slots=True)
class Change:
    """One more operation.

    Attributes:
        operation: its key in ``PostprocessConfig``.
        value: what is added there: to a list, to a mapping; else the value itself.
        target: the class or region that it is about; empty: all.
    """

    operation: str
    value: Any
    target: str = ""

    def on(self, steps: PostprocessConfig) -> PostprocessConfig:
        """The operations with this one."""
        before = getattr(steps, self.operation)
        if isinstance(before, list):
            return steps.with_steps(**{self.operation: [*before, self.target]})
        if isinstance(before, Mapping):
            return steps.with_steps(**{self.operation: {**before, self.target: self.value}})
        return steps.with_steps(**{self.operation: self.value})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        value = self.value.model_dump() if isinstance(self.value, CrfConfig) else self.value
        return {"operation": self.operation, "target": self.target, "value": value}


# Of the changes in a group at most one is adopted; groups of a round do not touch one another's classes.
Group = Sequence[Change]
Round = Sequence[Group]


@dataclass(frozen=True, slots=True)
class Situation:
    """What candidates are made from.

    Attributes:
        section: of the configuration.
        table: label table.
        volumes: class or region -> its median volume in the references that show it, in the cube (square) of the
            data's unit; none for one that no reference shows.
    """

    section: PostprocessConfig
    table: LabelTable
    volumes: Mapping[str, float]


def _crf(given: Situation) -> list[Round]:
    taken = given.section.crf is not None or given.section.threshold
    return [] if taken else [[[Change("crf", CrfConfig())]]]


def _thresholds(given: Situation) -> list[Round]:
    if not can_threshold(given.table) or given.section.crf is not None:
        return []
    names = [name for name in given.table.target_names if name not in given.section.threshold]
    return [[[Change("threshold", value, name) for value in THRESHOLDS]] for name in names]


def _holes(given: Situation) -> list[Round]:
    return [] if given.section.fill_holes else [[[Change("fill_holes", True)]]]


def _largest(given: Situation) -> list[Round]:
    names = given.table.target_names
    foreground = [] if len(names) < 2 or given.section.largest_foreground else [[[Change("largest_foreground", True)]]]
    open_names = [name for name in names if name not in given.section.largest_component]
    return [*foreground, *_rounds([[Change("largest_component", True, name)] for name in open_names], given.table)]


def _volumes(given: Situation) -> list[Round]:
    groups = []
    for name, volume in given.volumes.items():
        if name not in given.section.min_volume:
            groups.append([Change("min_volume", float(f"{share * volume:.2g}"), name) for share in SHARES])
    return _rounds(groups, given.table)


def _rounds(groups: Round, table: LabelTable) -> list[Round]:
    """Groups of classes, which exclude one another, in one round; of regions, which overlap, one after the other."""
    if not groups:
        return []
    return [[group] for group in groups] if table.regions else [groups]


# Word of `choose` -> its rounds, in the order in which operations are applied.
ROUNDS: Mapping[str, Callable[[Situation], list[Round]]] = {
    "crf": _crf,
    "threshold": _thresholds,
    "fill_holes": _holes,
    "largest_component": _largest,
    "min_volume": _volumes,
}


def rounds(given: Situation) -> list[Round]:
    """All rounds that a configuration asks for."""
    return [found for word, make in ROUNDS.items() if word in given.section.choose for found in make(given)]
