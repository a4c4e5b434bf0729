"""Fingerprint + configuration + budgets -> plan."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

from medseg.config import BudgetConfig, Config, ModelConfig
from medseg.errors import PlanError
from medseg.plan import rules
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import plan_grid
from medseg.plan.plan import GridPlan, Plan

LEARNING_RATES = {"adamw": 2e-3, "sgd": 1e-2}
# The validation curve has this many points, but none closer together than ``CURVE_STEPS``.
VALIDATIONS = 10
CURVE_STEPS = 25


@dataclass(frozen=True, slots=True)
class Machine:
    """What planning knows about where training will run."""

    device: str
    precision: str
    memory_bytes: float
    threads: int


def this_machine(config: Config) -> Machine:
    """Device, its fast precision, and the memory a training may take (80 % of a GPU, half of the host)."""
    import torch

    from medseg.models.step import fast_precision, pick_device

    try:
        device = pick_device(config.device)
    except RuntimeError as error:
        raise PlanError(str(error)) from None
    if config.budget.memory_gb is not None:
        memory = config.budget.memory_gb * 1e9
    elif device == "cuda":
        memory = 0.8 * torch.cuda.get_device_properties(0).total_memory
    else:
        memory = 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(device, fast_precision(device), memory, config.threads)


def make_plan(name: str, model: ModelConfig, fingerprint: Fingerprint, config: Config, machine: Machine) -> Plan:
    """Plan one model; a budget in minutes leaves ``steps`` at 1 for ``fit_to_minutes`` to set.

    Raises:
        PlanError: if the data or the overrides do not fit together, or no patch fits into memory.
    """
    grid = plan_grid(fingerprint, model)
    fixed = model.plan
    reasons: dict[str, str] = {}
    shape = [e / s for e, s in zip(fingerprint.median_extent, grid.spacing, strict=True)]
    precision = _decide(
        reasons, "precision", fixed.precision, machine.precision, f"fastest in hardware on {machine.device}"
    )
    patch, strides, kernels, channels = _shape_network(reasons, model, grid, shape, machine, precision)
    per_patch = rules.memory_bytes(rules.feature_voxels(patch, strides, channels), 1, precision)
    cap = rules.CPU_BATCH[grid.dims] if machine.device == "cpu" else None
    data_voxels = fingerprint.cases * math.prod(shape)
    batch = _decide(
        reasons,
        "batch",
        fixed.batch,
        rules.batch_size(machine.memory_bytes, per_patch, patch, data_voxels, cap),
        f"{per_patch / 1e6:.0f} MB a patch of {machine.memory_bytes / 1e9:.1f} GB, at most 5 % of voxels, cap {cap}",
    )
    steps, why = _steps(config.budget, fingerprint.cases, config.folds.count, batch)
    steps = _decide(reasons, "steps", fixed.steps, steps, why)
    reasons["spacing"] = "override" if fixed.spacing else "median; 10th percentile on a badly resolved axis"
    reasons["normalization"] = "override" if fixed.normalization else f"by channel name and unit ({fingerprint.unit})"
    lr = _decide(reasons, "lr", model.lr, LEARNING_RATES[model.optimizer], f"default of {model.optimizer}")
    return Plan(
        model=name,
        network=model.network,
        dims=grid.dims,
        unit=fingerprint.unit,
        spacing=grid.spacing,
        normalization=grid.normalization,
        patch=patch,
        batch=batch,
        widths=channels,
        strides=strides,
        kernels=kernels,
        in_channels=len(fingerprint.channels),
        classes=fingerprint.classes,
        loss=model.loss,
        optimizer=model.optimizer,
        lr=lr,
        weight_decay=model.weight_decay,
        augment=model.augment,
        oriented=fingerprint.oriented,
        foreground=model.foreground,
        steps=steps,
        validate_every=validate_every(steps),
        precision=precision,
        threads=machine.threads,
        device=machine.device,
        statistics=grid.statistics,
        reasons=reasons,
    )


def validate_every(steps: int) -> int:
    """Steps between two points of the validation curve."""
    return max(1, min(steps, max(math.ceil(steps / VALIDATIONS), CURVE_STEPS)))


def fit_to_minutes(plan: Plan, minutes: float, step_s: float, fixed_s: float) -> Plan:
    """The plan with as many steps as fit into ``minutes`` at the measured pace."""
    steps = rules.minutes_to_steps(minutes, step_s, fixed_s)
    why = f"{minutes:g} min at {step_s:.3f} s a step, measured here, less {fixed_s:.0f} s for start and validation"
    return replace(plan, steps=steps, validate_every=validate_every(steps), reasons={**plan.reasons, "steps": why})


def _shape_network(
    reasons: dict[str, str],
    model: ModelConfig,
    grid: GridPlan,
    shape: list[float],
    machine: Machine,
    precision: str,
) -> tuple[rules.Axes, tuple[rules.Axes, ...], tuple[rules.Axes, ...], tuple[int, ...]]:
    """Patch, strides, kernels and widths: start large, shrink the patch until a batch of two fits into memory."""
    fixed, key = model.plan, (machine.device, grid.dims)
    start = rules.initial_patch(grid.spacing, shape, rules.START_VOXELS[key])
    patch = tuple(fixed.patch) if fixed.patch else start
    if len(patch) != grid.dims:
        raise PlanError(f"plan.patch {list(patch)}: expected {grid.dims} numbers, one per axis")
    while True:
        strides, kernels, padded = rules.topology(patch, grid.spacing)
        if fixed.strides:
            strides = tuple(tuple(s) for s in fixed.strides)
            kernels = (kernels + (kernels[-1],) * len(strides))[: len(strides)]
        channels = tuple(fixed.widths or ()) or rules.widths(
            len(strides), rules.BASE_WIDTH[machine.device], rules.WIDTH_CAP[key]
        )
        if len(channels) != len(strides) or any(len(s) != grid.dims for s in strides):
            raise PlanError(
                f"plan.widths {list(channels)} and strides {[list(s) for s in strides]}: expected one width and "
                f"{grid.dims} strides per stage"
            )
        if len(strides) < rules.MIN_STAGES:
            raise PlanError(f"plan.strides: {len(strides)} stages; the networks need at least {rules.MIN_STAGES}")
        divisor = rules.total_stride(strides)
        padded = rules.padded_patch(padded, divisor)
        needed = rules.memory_bytes(rules.feature_voxels(padded, strides, channels), 2, precision)
        smaller = rules.shrink(padded, shape, divisor)
        if needed <= machine.memory_bytes or fixed.patch:
            break
        if smaller == padded:
            raise PlanError(
                f"no patch fits: two of {list(padded)} need {needed / 1e9:.2f} GB, the budget is "
                f"{machine.memory_bytes / 1e9:.2f} GB; raise budget.memory_gb or lower plan.widths"
            )
        patch = smaller
    why = f"{rules.START_VOXELS[key]} voxels ({machine.device}), a cube in the world, within median image and memory"
    reasons["patch"] = "override, padded to the strides" if fixed.patch else why
    reasons["widths"] = "override" if fixed.widths else f"{channels[0]} doubled per stage ({machine.device})"
    reasons["strides"] = "override" if fixed.strides else "axes halved down to 4 voxels, coarse axes later"
    return padded, strides, kernels, channels


def _steps(budget: BudgetConfig, cases: int, folds: int, batch: int) -> tuple[int, str]:
    if budget.steps is not None:
        return budget.steps, "budget.steps"
    if budget.epochs is not None:
        return rules.epochs_to_steps(budget.epochs, cases, folds, batch), f"{budget.epochs} epochs of a fold"
    return 1, "not measured yet"


def _decide(reasons: dict[str, str], key: str, override: Any, planned: Any, why: str) -> Any:
    reasons[key] = "override" if override is not None else why
    return planned if override is None else override
