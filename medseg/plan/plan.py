"""The plan: every number that preprocessing, training and prediction depend on, and why it is what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from medseg.errors import PlanError
from medseg.models.spec import NetworkSpec


@dataclass(frozen=True, slots=True)
class GridPlan:
    """The grid that images are brought to; models that agree on it share one store of prepared cases.

    Attributes:
        dims: spatial dimensions of the data.
        spacing: target spacing per canonical axis, in the data's unit; 0.0 means "keep each image's own": that axis is
            never resampled (the slice axis of a 2-D model on volumes).
        normalization: name of the intensity scaling per channel, a row of ``NORMALIZATIONS``.
        statistics: foreground intensity statistics per channel (used by ``ct``).
    """

    dims: int
    spacing: tuple[float, ...]
    normalization: tuple[str, ...]
    statistics: tuple[Mapping[str, float], ...]

    @property
    def slice_axis(self) -> int | None:
        """The axis that is never resampled, along which a 2-D model takes its slices; None: there is none."""
        return self.spacing.index(0.0) if 0.0 in self.spacing else None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "dims": self.dims,
            "spacing": list(self.spacing),
            "normalization": list(self.normalization),
            "statistics": [dict(s) for s in self.statistics],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GridPlan:
        """The inverse of ``to_json``."""
        return cls(value["dims"], *[tuple(value[k]) for k in ("spacing", "normalization", "statistics")])


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions for one model on one data set.

    ``dims`` are the network's; ``spacing`` has an entry per axis of the data. A 2-D network on volumes works on slices:
    ``slice_axis`` is the canonical axis along which they are taken (its spacing is 0.0: never resampled), and
    ``patch``, ``strides`` and ``kernels`` go over the remaining axes, in their order. ``validate_every`` is in steps;
    ``foreground`` is the share of a batch centred on foreground; ``reasons`` tells for each planned value the rule that
    gave it. The other fields are named as in the configuration.
    """

    model: str
    network: str
    dims: int
    unit: str
    spacing: tuple[float, ...]
    normalization: tuple[str, ...]
    patch: tuple[int, ...]
    batch: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    in_channels: int
    classes: int
    loss: str
    optimizer: str
    lr: float
    weight_decay: float
    augment: str
    oriented: bool
    foreground: float
    steps: int
    validate_every: int
    precision: str
    threads: int
    device: str
    statistics: tuple[Mapping[str, float], ...]
    reasons: Mapping[str, str]
    slice_axis: int | None = None
    regions: tuple[tuple[int, ...], ...] = ()
    ignore: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "poly"
    warmup: float = 0.05
    clip: float | None = 12.0
    average: float | None = None
    freeze: tuple[str, ...] = ()
    patience: float | None = None
    compile: bool = False
    channels_last: bool = True
    processes: int = 1

    @property
    def data_dims(self) -> int:
        """Spatial dimensions of the data; one more than ``dims`` where a 2-D network works on slices of volumes."""
        return len(self.spacing)

    @property
    def window(self) -> tuple[int, ...]:
        """The patch in axes of the data: 1 along the slice axis."""
        if self.slice_axis is None:
            return self.patch
        return (*self.patch[: self.slice_axis], 1, *self.patch[self.slice_axis :])

    @property
    def patch_spacing(self) -> tuple[float, ...]:
        """Target spacing along the axes of the patch."""
        return tuple(s for axis, s in enumerate(self.spacing) if axis != self.slice_axis)

    @property
    def outputs(self) -> int:
        """Channels of the network's output: regions if there are any, else classes."""
        return len(self.regions) or self.classes

    @property
    def grid(self) -> GridPlan:
        """The part of the plan that preprocessing needs."""
        return GridPlan(self.data_dims, self.spacing, self.normalization, self.statistics)

    @property
    def network_spec(self) -> NetworkSpec:
        """The part of the plan that building the network needs."""
        return NetworkSpec(
            self.dims,
            self.in_channels,
            self.outputs,
            self.widths,
            self.strides,
            self.kernels,
            self.patch,
            self.options,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, in reading order."""
        return {k: _lists(v) for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The inverse of ``to_json``.

        Raises:
            PlanError: if a field is missing or unknown (a plan of another version).
        """
        names = {f.name for f in fields(cls)}
        if set(value) != names:
            odd = sorted(set(value) ^ names)
            raise PlanError(f"plan has other fields than this version of medseg: {odd}; run `medseg plan` again")
        return cls(**{k: _tuples(v) for k, v in value.items()})


def _lists(value: Any) -> Any:
    return [_lists(v) for v in value] if isinstance(value, list | tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
