"""Reasons of planned values: the rule, and the numbers of this data set and machine that led to the value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medseg.config import ModelConfig
from medseg.models.spec import total_stride
from medseg.plan import rules
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import full_spacing, low_spacing
from medseg.plan.limits import Limits
from medseg.plan.plan import Grid, Plan
from medseg.plan.resources import Resources
from medseg.plan.topology import (
    MIN_FEATURES,
    MIN_STAGES,
    SIMILAR,
    PlanningInput,
    Topology,
    initial_patch,
    max_stages,
)
from medseg.recipes import NNUNET_FROM, recipe_for

OVERRIDE = "override in the configuration"


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was planned, and what it was planned from: everything that the reasons refer to.

    Attributes:
        fingerprint, model, resources, limits: what planning started from.
        grid: planned grid of the prepared images.
        target: what the network was planned for.
        topology: planned stages and patch.
        voxel_budget: feature-map voxels of a batch that the memory holds.
        batch_growth: how many times as large the batch is as that of one process.
    """

    fingerprint: Fingerprint
    model: ModelConfig
    resources: Resources
    limits: Limits
    grid: Grid
    target: PlanningInput
    topology: Topology
    voxel_budget: float
    batch_growth: float


def explain(made: Decisions) -> dict[str, str]:
    """The reason of every planned value by its name, in the order in which the values follow from one another."""
    fixed = made.model.plan
    reasons = {
        "resolution": _resolution(made),
        "spacing": OVERRIDE if fixed.spacing else _spacing(made),
        "slice_axis": _slice_axis(made),
        "crop": _crop(made.fingerprint),
        "normalization": OVERRIDE if fixed.normalization else _normalization(made.fingerprint, made.grid),
        "channels_last": _channels_last(fixed.channels_last),
        "precision": OVERRIDE if fixed.precision else f"fastest in the hardware of this {made.resources.device}",
        "patch": f"{OVERRIDE}, padded to the strides" if fixed.patch else _patch(made),
        "strides": OVERRIDE if fixed.strides else _strides(made),
        "kernels": _kernels(made.target),
        "widths": OVERRIDE if fixed.widths else _widths(made.limits, made.resources),
        "batch": OVERRIDE if fixed.batch else _batch(made),
        "lr": OVERRIDE if made.model.lr else _lr(made),
    }
    return {name: why for name, why in reasons.items() if why}


def explain_recipe(model: ModelConfig, steps: int) -> str:
    """The recipe that a model is trained with in ``steps`` steps, and why."""
    if model.recipe != "auto":
        return f"{model.recipe}: {OVERRIDE}"
    bound = f"{NNUNET_FROM:,} or more" if steps >= NNUNET_FROM else f"fewer than {NNUNET_FROM:,}"
    return f"{recipe_for(steps)}: {steps:,} steps are {bound}"


def explanation(plan: Plan) -> str:
    """Text with every decision of a plan: its value and, below it, the rule with the numbers that led to it."""
    lines = [
        f"{plan.model}: {plan.network.name}, {plan.network.dims}-D on {plan.grid.dims}-D data, on {plan.machine.device}"
    ]
    for name, why in plan.reasons.items():
        value = plan.value(name)
        shown = "" if value is None else f" = {shown_value(name, value)}"
        lines += [f"{name}{shown}", f"    {why}"]
    return "\n".join(lines)


def shown_value(name: str, value: Any) -> str:
    """A planned value as text: numbers per axis are joined by crosses, lists of them by commas."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ", ".join(shown_value(name, row) for row in value)
    if isinstance(value, tuple):
        return (", " if name in ("widths", "normalization") else " x ").join(map(str, value))
    return str(value)


def numbers(values: Sequence[float]) -> str:
    """Numbers as text, e.g. ``40 x 56 x 40``."""
    return " x ".join(f"{v:.6g}" for v in values)


def _resolution(made: Decisions) -> str:
    data = made.fingerprint
    low = low_spacing(data)
    if data.dims == 2:
        return "pictures have no low-resolution model"
    full = full_spacing(data)
    shape = data.median_shape_at(full)
    if low is None:
        return (
            f"full alone: nnU-Net's patch for 8 GB covers {rules.COVERED:.0%} or more of the median image "
            f"({numbers(shape)}), or a grid coarse enough for that would not halve it"
        )
    return (
        f"a low-resolution model exists too (plan.resolution: low), at {numbers(low)} {data.unit}: nnU-Net's patch "
        f"for 8 GB covers less than {rules.COVERED:.0%} of the median image ({numbers(shape)})"
    )


def _spacing(made: Decisions) -> str:
    data = made.fingerprint
    if made.model.plan.resolution == "low":
        return (
            f"grown from {numbers(full_spacing(data))} {data.unit} by {rules.LOWRES_STEP - 1:.0%} steps until the "
            f"patch covers {rules.COVERED:.0%} of the median image"
        )
    median, shape = data.median_spacing, data.median_shape
    text = f"median of {data.cases} cases {numbers(median)} {data.unit}"
    bad = rules.badly_resolved_axis(median, shape)
    worst = max(range(data.dims), key=lambda a: median[a])
    others = max(s for a, s in enumerate(median) if a != worst)
    thin = min(n for a, n in enumerate(shape) if a != worst)
    if bad is not None:
        text += (
            f"; axis {bad} is more than {rules.ANISOTROPY:g} x coarser than the others ({others:.6g}) and shorter than "
            f"a third ({shape[bad]:g} of {thin:g} voxels): its 10th percentile {data.p10_spacing[bad]:.6g}"
        )
    elif median[worst] <= rules.ANISOTROPY * others:
        text += (
            f"; the worst axis ({median[worst]:.6g}) is not more than {rules.ANISOTROPY:g} x the others ({others:.6g})"
        )
    else:
        text += f"; axis {worst} is coarse, but not shorter than a third of the others ({shape[worst]:g} of {thin:g})"
    axis = made.grid.slice_axis
    return text if axis is None else f"{text}; slices along axis {axis} keep their own distance (0)"


def _slice_axis(made: Decisions) -> str:
    """The reason of the slice axis; empty where there are no slices."""
    if made.grid.slice_axis is None:
        return ""
    return f"the coarsest of {numbers(full_spacing(made.fingerprint))} {made.fingerprint.unit}, the last of equals"


def _crop(data: Fingerprint) -> str:
    return (
        f"to the box of voxels that are not 0 in some channel: keeps {data.median_relative_size:.1%} of the median case"
    )


def _normalization(data: Fingerprint, grid: Grid) -> str:
    parts = []
    for channel, name in zip(data.channels, grid.normalization, strict=True):
        why = f"channel '{channel}': {name}, "
        if channel.strip().casefold() in rules.BY_NAME:
            why += "by its name"
        elif data.unit != "mm":
            why += f"a picture (unit {data.unit})"
        else:
            why += "a volume that is not CT"
        if name == "zscore_nonzero":
            why += f", and cropping keeps less than {rules.MASKED_BELOW:.0%}"
        parts.append(why)
    return "; ".join(parts)


def _patch(made: Decisions) -> str:
    target, limits, topology = made.target, made.limits, made.topology
    fixed = made.model.plan
    start = initial_patch(target.spacing, target.shape, limits.voxels, limits.refill)
    shrunk = "" if start == topology.patch else f", then {numbers(topology.patch)} to suit strides and memory"
    if fixed.strides:
        shrunk += " (strides are fixed)"
    return (
        f"{limits.voxels} voxels as a cube in world units within the median image {numbers(target.shape)}: "
        f"{numbers(start)}{shrunk}; two patches have {2 * topology.voxels / 1e6:.1f} M feature-map voxels, "
        f"{made.resources.memory_bytes / 1e9:.2f} GB are estimated to hold {made.voxel_budget / 1e6:.1f} M"
    )


def _strides(made: Decisions) -> str:
    target, limits, topology = made.target, made.limits, made.topology
    most = max_stages(target, limits)
    size = numbers([p // d for p, d in zip(topology.patch, total_stride(topology.strides), strict=True)])
    why = ""
    if most != limits.max_stages:
        why = (
            f": halved while {limits.object_voxels:g} voxels fit across the median object "
            f"({target.object_diameter:.3g} {made.fingerprint.unit}), {MIN_STAGES} stages at least"
        )
    return (
        f"axes are halved while {MIN_FEATURES} voxels remain ({size} at the bottom), axes "
        f"{SIMILAR:g} x coarser than the finest later{f'; at most {most} stages' if most else ''}{why}"
    )


def _kernels(target: PlanningInput) -> str:
    return (
        f"3, but 1 along an axis {SIMILAR:g} x coarser than the finest at its stage; spacing {numbers(target.spacing)}"
    )


def _channels_last(fixed: bool | None) -> str:
    if fixed is not None:
        return OVERRIDE
    return "convolutions are mostly faster with it; measured where the budget is in minutes"


def _widths(limits: Limits, resources: Resources) -> str:
    return f"{limits.base_width} doubled per stage up to {limits.width_cap} ({resources.device})"


def _batch(made: Decisions) -> str:
    patch = math.prod(made.topology.patch)
    share = round(made.target.data_voxels * rules.DATA_SHARE / patch)
    cap = made.limits.max_batch
    bound = f"; at most {cap} on this {made.resources.device}" if cap else ""
    shared = f"; the next multiple of {made.resources.processes} processes" if made.batch_growth > 1 else ""
    return (
        f"memory is estimated to hold {round(made.voxel_budget / made.topology.voxels)} patches, "
        f"{rules.DATA_SHARE:.0%} of all voxels are {share}{bound}; at least {rules.MIN_BATCH}{shared}"
    )


def _lr(made: Decisions) -> str:
    optimizer = made.model.training.optimizer
    if made.batch_growth == 1:
        return f"default of {optimizer}"
    return f"default of {optimizer} x {rules.lr_factor(optimizer, made.batch_growth):.4g}, for the larger batch"
