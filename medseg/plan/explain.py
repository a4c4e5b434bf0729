"""The reason of every planned value: the rule, and the numbers of this data set and machine that led to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medseg.config import ModelConfig
from medseg.plan import rules, topology
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import full_spacing, low_spacing
from medseg.plan.limits import Limits
from medseg.plan.machine import Resources
from medseg.plan.plan import Grid, Plan
from medseg.plan.topology import Scene, Shape
from medseg.recipes import NNUNET_FROM, recipe_for

OVERRIDE = "override in the configuration"


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the reasons speak of."""

    fingerprint: Fingerprint
    model: ModelConfig
    machine: Resources
    limits: Limits
    grid: Grid
    scene: Scene
    shape: Shape
    room: float


def explain(facts: Facts) -> dict[str, str]:
    """Reason by name of the planned value, in the order in which the values follow from one another."""
    fixed = facts.model.plan
    reasons = {
        "resolution": _resolution(facts),
        "spacing": OVERRIDE if fixed.spacing else _spacing(facts),
        "slice_axis": _slice_axis(facts),
        "crop": _crop(facts.fingerprint),
        "normalization": OVERRIDE if fixed.normalization else _normalization(facts.fingerprint, facts.grid),
        "channels_last": OVERRIDE
        if fixed.channels_last is not None
        else "convolutions mostly prefer it; measured where the budget is in minutes",
        "precision": OVERRIDE if fixed.precision else f"fastest in the hardware of this {facts.machine.device}",
        "patch": f"{OVERRIDE}, padded to the strides" if fixed.patch else _patch(facts),
        "strides": OVERRIDE if fixed.strides else _strides(facts),
        "kernels": _kernels(facts.scene),
        "widths": OVERRIDE if fixed.widths else _widths(facts.limits, facts.machine),
        "batch": OVERRIDE if fixed.batch else _batch(facts),
        "lr": OVERRIDE if facts.model.lr else f"default of {facts.model.training.optimizer}",
    }
    return {name: why for name, why in reasons.items() if why}


def explain_recipe(model: ModelConfig, steps: int) -> str:
    """Which recipe the model trains by in so many steps, and why."""
    if model.recipe != "auto":
        return f"{model.recipe}: {OVERRIDE}"
    bound = f"{NNUNET_FROM:,} or more" if steps >= NNUNET_FROM else f"fewer than {NNUNET_FROM:,}"
    return f"{recipe_for(steps)}: {steps:,} steps are {bound}"


def explained(plan: Plan) -> str:
    """Every decision of a plan, the value and below it the rule with the numbers that led to it, as text."""
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
    """``40 x 56 x 40``."""
    return " x ".join(f"{v:.6g}" for v in values)


def _resolution(facts: Facts) -> str:
    data = facts.fingerprint
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


def _spacing(facts: Facts) -> str:
    data = facts.fingerprint
    if facts.model.plan.resolution == "low":
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
    axis = facts.grid.slice_axis
    return text if axis is None else f"{text}; slices along axis {axis} keep their own distance (0)"


def _slice_axis(facts: Facts) -> str:
    """Empty where there are no slices."""
    if facts.grid.slice_axis is None:
        return ""
    return f"the coarsest of {numbers(full_spacing(facts.fingerprint))} {facts.fingerprint.unit}, the last of equals"


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


def _patch(facts: Facts) -> str:
    scene, limits, shape = facts.scene, facts.limits, facts.shape
    fixed = facts.model.plan
    start = topology.initial_patch(scene.spacing, scene.shape, limits.voxels, limits.refill)
    shrunk = "" if start == shape.patch else f", then {numbers(shape.patch)} to suit strides and memory"
    if fixed.strides:
        shrunk += " (strides are fixed)"
    return (
        f"{limits.voxels} voxels as a cube in the world within the median image {numbers(scene.shape)}: "
        f"{numbers(start)}{shrunk}; two patches have {2 * shape.voxels / 1e6:.1f} M feature-map voxels, "
        f"{facts.machine.memory_bytes / 1e9:.2f} GB are taken to hold {facts.room / 1e6:.1f} M"
    )


def _strides(facts: Facts) -> str:
    scene, limits = facts.scene, facts.limits
    most = topology.most_stages(scene, limits)
    size = numbers([p // d for p, d in zip(facts.shape.patch, topology.total_stride(facts.shape.strides), strict=True)])
    why = ""
    if most != limits.max_stages:
        why = (
            f": halved while {limits.object_voxels:g} voxels fit across the median object "
            f"({scene.object_diameter:.3g} {facts.fingerprint.unit}), {topology.MIN_STAGES} stages at least"
        )
    return (
        f"axes are halved while {topology.MIN_FEATURES} voxels remain ({size} at the bottom), axes "
        f"{topology.SIMILAR:g} x coarser than the finest later{f'; at most {most} stages' if most else ''}{why}"
    )


def _kernels(scene: Scene) -> str:
    return (
        f"3, but 1 along an axis {topology.SIMILAR:g} x coarser than the finest at its stage; "
        f"spacing {numbers(scene.spacing)}"
    )


def _widths(limits: Limits, machine: Resources) -> str:
    return f"{limits.base_width} doubled per stage up to {limits.width_cap} ({machine.device})"


def _batch(facts: Facts) -> str:
    patch = math.prod(facts.shape.patch)
    share = round(facts.scene.data_voxels * rules.DATA_SHARE / patch)
    cap = facts.limits.max_batch
    bound = f"; at most {cap} on this {facts.machine.device}" if cap else ""
    return (
        f"memory is taken to hold {round(facts.room / facts.shape.voxels)} patches, {rules.DATA_SHARE:.0%} of all "
        f"voxels are {share}{bound}; at least {rules.MIN_BATCH}"
    )
