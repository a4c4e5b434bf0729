"""What the values of a plan may be, each for itself and together; whatever reads a plan checks it by these.

Words are written out: importing the tables that they name would make those a part of the code that preparing a case
depends on. A test compares them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from medseg.bounds import (
    LARGEST,
    Bound,
    OutOfBounds,
    between,
    flag,
    number,
    perhaps,
    positive,
    several,
    shortened,
    table,
    text,
    whole,
    word,
)
from medseg.files import SAFE_NAME
from medseg.heads import HEADS
from medseg.limits import (
    MAX_BATCH,
    MAX_CHANNELS,
    MAX_CLASSES,
    MAX_PATCH_AXIS,
    MAX_PATCH_VOXELS,
    MAX_PROCESSES,
    MAX_RATE,
    MAX_SPACING,
    MAX_STAGES,
    MAX_STEPS,
    MAX_STRIDE,
    MAX_THREADS,
    MAX_WIDTH,
)
from medseg.models.spec import NetworkSpec, total_stride
from medseg.networks import NETWORKS, options_of

UNITS = ("mm", "um", "px")
NORMALIZATIONS = ("zscore", "zscore_nonzero", "ct", "percentile", "rescale", "rgb", "none")
# Of the statistics of a channel, those that the normalization "ct" computes with.
CT_STATISTICS = ("mean", "std", "p00_5", "p99_5")
OPTIMIZERS = ("adamw", "sgd")
AUGMENTATIONS = ("default", "nnunet", "microscopy", "none")
ROWS = (
    *("rotation", "scaling", "elastic", "bias_field", "stain", "colour", "noise", "blur", "brightness", "contrast"),
    *("low_resolution", "gamma_inverted", "gamma", "mirror", "quarter_turn"),
)
SCHEDULES = ("poly", "cosine", "constant")
DEVICES = ("cpu", "cuda", "mps")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

_RANGE = several(number(-1000, 1000), 2, 2)
_CHANGE = Bound(
    "a probability and a range",
    lambda v: (
        isinstance(v, Mapping)
        and v.keys() <= {"probability", "range"}
        and number(0, 1).fits(v.get("probability", 0))
        and _RANGE.fits(v.get("range", (0, 0)))
    ),
)

GRID: Mapping[str, Bound] = {
    "unit": word(*UNITS),
    "oriented": flag(),
    "spacing": several(number(0, MAX_SPACING), 2, 3),
    "normalization": several(word(*NORMALIZATIONS), 1, MAX_CHANNELS),
    "statistics": several(table(number(-LARGEST, LARGEST), 50), 1, MAX_CHANNELS),
}
_AXES = several(whole(1, MAX_STRIDE), 2, 3)
NETWORK: Mapping[str, Bound] = {
    "dims": whole(2, 3),
    "in_channels": whole(1, MAX_CHANNELS),
    "classes": whole(2, MAX_CLASSES),
    "widths": several(whole(1, MAX_WIDTH), 1, MAX_STAGES),
    "strides": several(_AXES, 1, MAX_STAGES),
    "kernels": several(_AXES, 1, MAX_STAGES),
    "patch": several(whole(1, MAX_PATCH_AXIS), 2, 3),
    # Compared with the row's own options below.
    "options": Bound("the options of the network's row", lambda v: isinstance(v, Mapping)),
    "regions": several(several(whole(1, MAX_CLASSES - 1), 1, MAX_CLASSES - 1), 0, MAX_CLASSES - 1),
    "name": word(*NETWORKS),
    "head": word("", *HEADS),
}
TRAINING: Mapping[str, Bound] = {
    # What builds the loss knows its table: a model is used whatever it was trained with.
    "loss": text(64, re.compile(r"\w+")),
    "optimizer": word(*OPTIMIZERS),
    "lr": positive(MAX_RATE),
    "weight_decay": number(0, MAX_RATE),
    "augment": word(*AUGMENTATIONS),
    "foreground": number(0, 1),
    "batch": whole(1, MAX_BATCH),
    "steps": whole(1, MAX_STEPS),
    "validate_every": whole(1, MAX_STEPS),
    "schedule": word(*SCHEDULES),
    "warmup": number(0, 1),
    "clip": perhaps(positive(LARGEST)),
    "average": perhaps(between(0, 1)),
    "freeze": several(text(200), 0, 1000),
    "patience": perhaps(between(0, 1)),
    "augmentation": table(_CHANGE, len(ROWS), keys=word(*ROWS)),
    "ignore": flag(),
}
MACHINE: Mapping[str, Bound] = {
    "device": word(*DEVICES),
    "precision": word(*PRECISIONS),
    "threads": whole(1, MAX_THREADS),
    "processes": whole(1, MAX_PROCESSES),
    "compile": flag(),
    "channels_last": flag(),
}
# By group of the plan. A plan's other fields:
BOUNDS: Mapping[str, Mapping[str, Bound]] = {
    "grid": GRID,
    "network": NETWORK,
    "training": TRAINING,
    "machine": MACHINE,
}
NAME = text(64, SAFE_NAME)
REASONS = table(text(10_000), 500)


def require_grid(grid: Any) -> None:
    """Raise ``OutOfBounds`` unless the values of a ``Grid`` fit one another."""
    if grid.spacing.count(0) > (1 if grid.dims == 3 else 0):
        raise OutOfBounds(
            f"grid.spacing: found {shortened(grid.spacing)}; expected numbers above 0, but for one axis of three"
        )
    if len(grid.statistics) != len(grid.normalization):
        raise OutOfBounds(
            f"grid.statistics: found {len(grid.statistics)}; expected one for each of the {len(grid.normalization)} "
            "channels in grid.normalization"
        )
    for name, statistics in zip(grid.normalization, grid.statistics, strict=True):
        if name == "ct" and not set(CT_STATISTICS) <= statistics.keys():
            raise OutOfBounds(
                f"grid.statistics: found {shortened(sorted(statistics))}; expected {', '.join(CT_STATISTICS)} for ct"
            )


def require_network(spec: NetworkSpec) -> None:
    """Raise ``OutOfBounds`` unless the values of a network fit one another, and its options are those of its row."""
    stages = len(spec.widths)
    if spec.dims not in NETWORKS[spec.name].dims:
        raise OutOfBounds(f"network.dims: found {spec.dims}; '{spec.name}' exists in {NETWORKS[spec.name].dims}")
    for field in ("strides", "kernels"):
        rows = getattr(spec, field)
        if len(rows) != stages or any(len(row) != spec.dims for row in rows):
            raise OutOfBounds(
                f"network.{field}: found {shortened(rows)}; expected {spec.dims} numbers for each of the {stages} "
                "stages in network.widths"
            )
    if any(n % 2 == 0 for row in spec.kernels for n in row):
        raise OutOfBounds(f"network.kernels: found {shortened(spec.kernels)}; expected odd numbers")
    total = total_stride(spec.strides)
    if len(spec.patch) != spec.dims or any(n < s for n, s in zip(spec.patch, total, strict=True)):
        raise OutOfBounds(
            f"network.patch: found {shortened(spec.patch)}; expected {spec.dims} numbers, none below the product of "
            f"the axis' strides {total}"
        )
    if math.prod(spec.patch) > MAX_PATCH_VOXELS:
        raise OutOfBounds(
            f"network.patch: found {shortened(spec.patch)}; expected at most {MAX_PATCH_VOXELS:,} voxels in all"
        )
    if any(value >= spec.classes for region in spec.regions for value in region):
        raise OutOfBounds(
            f"network.regions: found {shortened(spec.regions)}; expected classes from 1 to {spec.classes - 1}"
        )
    if spec.head and spec.head not in NETWORKS[spec.name].heads:
        raise OutOfBounds(f"network.head: found {spec.head}; '{spec.name}' has {', '.join(NETWORKS[spec.name].heads)}")
    try:
        options_of(spec.name, spec.options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in ("network.options", *first["loc"]))
        raise OutOfBounds(f"{where}: found {shortened(first['input'])}; {first['msg']}") from None


def require_plan(plan: Any) -> None:
    """Raise ``OutOfBounds`` unless the groups of a ``Plan`` fit one another."""
    grid, network = plan.grid, plan.network
    axes = grid.dims - (grid.slice_axis is not None)
    if network.dims != axes:
        raise OutOfBounds(f"network.dims: found {network.dims}; grid.spacing {shortened(grid.spacing)} is for {axes}")
    if network.in_channels != len(grid.normalization):
        raise OutOfBounds(
            f"network.in_channels: found {network.in_channels}; grid.normalization is for {len(grid.normalization)}"
        )
    if plan.training.batch % plan.machine.processes:
        raise OutOfBounds(
            f"training.batch: found {plan.training.batch}; expected a multiple of {plan.machine.processes} processes"
        )
