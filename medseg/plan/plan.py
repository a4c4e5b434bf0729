"""The plan: every number that preprocessing, training and prediction depend on, and why it is what it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from medseg.bounds import OutOfBounds, shortened
from medseg.errors import PlanError
from medseg.models.spec import NetworkSpec
from medseg.plan import bounds
from medseg.records import read_record, write_record

Group = TypeVar("Group")

# Cases of the validation fold that are predicted for a point of the validation curve.
VALIDATION_CASES = 8
MAKER = "medseg plan"
INSTEAD = "numbers of your own are `models.<name>.plan` of the configuration"


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid that images are brought to; models that agree on it share one store of prepared cases.

    Attributes:
        unit: unit of the spacing: mm, um or px.
        oriented: whether axes have a world orientation.
        spacing: target spacing per canonical axis, in ``unit``; 0.0 means "keep each image's own": that axis is never
            resampled (the slice axis of a 2-D model on volumes).
        normalization: name of the intensity scaling per channel, a row of ``NORMALIZATIONS``.
        statistics: foreground intensity statistics per channel (used by ``ct``).
    """

    unit: str
    oriented: bool
    spacing: tuple[float, ...]
    normalization: tuple[str, ...]
    statistics: tuple[Mapping[str, float], ...]

    @property
    def dims(self) -> int:
        """Spatial dimensions of the data; one more than the network's where a 2-D one works on slices of volumes."""
        return len(self.spacing)

    @property
    def slice_axis(self) -> int | None:
        """The axis that is never resampled, along which a 2-D model takes its slices; None: there is none."""
        return self.spacing.index(0.0) if 0.0 in self.spacing else None

    @property
    def patch_spacing(self) -> tuple[float, ...]:
        """Target spacing along the axes of the patch: all but the slice axis."""
        return tuple(s for axis, s in enumerate(self.spacing) if axis != self.slice_axis)

    @property
    def preparation(self) -> dict[str, Any]:
        """What a prepared case depends on, as plain JSON values: part of the key by which it is kept."""
        return {
            "dims": self.dims,
            "spacing": list(self.spacing),
            "normalization": list(self.normalization),
            "statistics": [dict(s) for s in self.statistics],
        }

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return _to_json(self)

    @classmethod
    def from_json(cls, value: Any) -> Grid:
        """The inverse of ``to_json``.

        Raises:
            PlanError: if a field is missing or unknown (written by another version), or a value out of bounds.
        """
        with _as_plan_error():
            grid = _from_json("grid", cls, value)
            bounds.require_grid(grid)
        return grid


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained. Fields without a line here are named as in the configuration.

    Attributes:
        batch: patches per step, of all processes together.
        steps: optimisation steps of the training.
        validate_every: steps between two points of the validation curve.
        lr: peak learning rate.
        foreground: share of a batch that is centred on foreground.
        ignore: whether labels leave voxels without annotation, on which there is no loss.
        patience: share of the steps after which a training loss that no longer falls ends the training; None: never.
    """

    loss: str
    optimizer: str
    lr: float
    weight_decay: float
    augment: str
    foreground: float
    batch: int
    steps: int
    validate_every: int
    schedule: str = "poly"
    warmup: float = 0.05
    clip: float | None = 12.0
    average: float | None = None
    freeze: tuple[str, ...] = ()
    patience: float | None = None
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    ignore: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What a training runs on, and in which arithmetic.

    Attributes:
        device: ``cpu``, ``cuda`` or ``mps``.
        precision: arithmetic of the network: fp32, tf32, bf16 or fp16.
        threads: of each process on the processor.
        processes: that share each batch, each on a GPU of its own if there are any.
        compile: whether torch.compile translates the network first.
        channels_last: memory layout of images: channels innermost or not.
    """

    device: str
    precision: str
    threads: int
    processes: int = 1
    compile: bool = False
    channels_last: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions for one model on one data set.

    A 2-D network on volumes works on slices: then ``network.patch``, ``strides`` and ``kernels`` go over the axes other
    than ``grid.slice_axis``, in their order.

    Attributes:
        model: its name in the configuration.
        grid: how images are prepared.
        network: what the network is built from.
        training: how it is trained.
        machine: on what.
        reasons: for each planned value, by its field's name, the rule that gave it.
    """

    model: str
    grid: Grid
    network: NetworkSpec
    training: Training
    machine: Machine
    reasons: Mapping[str, str]

    @property
    def window(self) -> tuple[int, ...]:
        """The patch in axes of the data: 1 along the slice axis."""
        axis, patch = self.grid.slice_axis, self.network.patch
        return patch if axis is None else (*patch[:axis], 1, *patch[axis:])

    def changed(self, **values: Any) -> Plan:
        """The plan with other values, each by its field's name, of itself or of the group that has it.

        Raises:
            TypeError: if a name is no field of the plan or of its groups.
        """
        own = {name: values.pop(name) for name in [f.name for f in fields(self) if f.name in values]}
        for group, kind in GROUPS.items():
            inside = {f.name: values.pop(f.name) for f in fields(kind) if f.name in values}
            if inside:
                own[group] = replace(own.get(group, getattr(self, group)), **inside)
        if values:
            raise TypeError(f"a plan has no {', '.join(values)}")
        return replace(self, **own)

    def value(self, name: str) -> Any:
        """The value that a group has under this name, e.g. ``lr`` or ``slice_axis``; None if no group has one."""
        groups = (getattr(self, group) for group in GROUPS)
        return next((getattr(group, name) for group in groups if hasattr(group, name)), None)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in reading order."""
        groups = {group: _to_json(getattr(self, group)) for group in GROUPS}
        return {"model": self.model, **groups, "reasons": dict(self.reasons)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The inverse of ``to_json``.

        Raises:
            PlanError: if a field is missing or unknown (a plan of another version), or a value out of bounds.
        """
        with _as_plan_error():
            _require_fields("", cls, value)
            groups: dict[str, Any] = {group: _from_json(group, kind, value[group]) for group, kind in GROUPS.items()}
            model, reasons = bounds.NAME.read("model", value["model"]), bounds.REASONS.read("reasons", value["reasons"])
            plan = cls(model=model, reasons=reasons, **groups)
            bounds.require_grid(plan.grid)
            bounds.require_network(plan.network)
            bounds.require_plan(plan)
        return plan


# Groups of a plan, in reading order. No two have a field of the same name.
GROUPS: Mapping[str, type[Any]] = {"grid": Grid, "network": NetworkSpec, "training": Training, "machine": Machine}


def flat_values(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The decisions in a plan's JSON by ``group.field``, e.g. ``training.lr``; without its name and reasons."""
    return {f"{group}.{name}": value for group in GROUPS for name, value in plan[group].items()}


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan's file.

    Raises:
        PlanError: if ``read_plan`` would refuse it: now the configuration can still be changed.
    """
    facts = plan.to_json()
    try:
        Plan.from_json(facts)
    except PlanError as error:
        raise PlanError(f"model '{plan.model}': {error}; change models.{plan.model}.plan or the budget") from None
    write_record(path, facts)


def read_plan(path: Path) -> Plan:
    """Read a plan's file.

    Raises:
        DataError: if it is missing, damaged, or edited: plans are changed by the configuration.
        PlanError: if it has other fields than this version's, or impossible values.
    """
    facts = read_record(path, MAKER, INSTEAD)
    try:
        return Plan.from_json(facts)
    except PlanError as error:
        raise PlanError(f"{path}: {error}; delete it and run `{MAKER}` again") from None


def _to_json(group: Any) -> dict[str, Any]:
    return {name: _lists(value) for name, value in asdict(group).items()}


def _from_json(name: str, kind: type[Group], value: Any) -> Group:
    _require_fields(f"{name}.", kind, value)
    return kind(**{field: bound.read(f"{name}.{field}", value[field]) for field, bound in bounds.BOUNDS[name].items()})


@contextlib.contextmanager
def _as_plan_error() -> Iterator[None]:
    try:
        yield
    except OutOfBounds as error:
        raise PlanError(str(error)) from None


def _require_fields(prefix: str, kind: Any, value: Any) -> None:
    """Raise ``PlanError`` unless ``value`` is a mapping with the fields of ``kind``, no more and no less."""
    names = {f.name for f in fields(kind)}
    found = set(value) if isinstance(value, Mapping) else set()
    if odd := sorted(f"{prefix}{name}" for name in found ^ names):
        raise PlanError(
            f"fields missing or unknown: {shortened(odd)}; expected those that this version's `{MAKER}` writes"
        )


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value
