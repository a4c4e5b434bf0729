"""Fingerprint + configuration + budgets -> plan."""

from __future__ import annotations

import math
from dataclasses import replace

from medseg.config import BudgetConfig, Config, ModelConfig
from medseg.errors import PlanError
from medseg.models.spec import NetworkSpec
from medseg.plan import rules
from medseg.plan.budget import validate_every
from medseg.plan.explain import OVERRIDE, Facts, explain, explain_recipe
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import full_spacing, plan_grid
from medseg.plan.limits import Limits, limits_of
from medseg.plan.machine import Resources, this_machine
from medseg.plan.plan import Machine, Plan, Training
from medseg.plan.topology import Scene, configure, feature_voxels, room

__all__ = ["Resources", "make_plan", "plan_within_memory", "this_machine"]


def make_plan(
    name: str,
    model: ModelConfig,
    fingerprint: Fingerprint,
    config: Config,
    machine: Resources,
    limits: Limits | None = None,
) -> Plan:
    """Plan one model by rules alone; a budget in minutes leaves ``steps`` at 1 for ``medseg.plan.budget.fit`` to set.

    By the steps, ``recipe: auto`` is settled; with a budget in minutes, that leaves ``short`` until they are measured.

    Args:
        name: of the model in the configuration.
        model: its section.
        fingerprint: the data.
        config: budgets and folds.
        machine: where training runs.
        limits: bounds to plan within; none: those of the machine's device.

    Raises:
        PlanError: if the data or the overrides do not fit together, or no patch fits into memory.
    """
    grid, fixed = plan_grid(fingerprint, model), model.plan
    # Slices, too, are counted at full resolution where a batch must not cover too much of the data (nnU-Net).
    volume = fingerprint.median_shape_at([s or f for s, f in zip(grid.spacing, full_spacing(fingerprint), strict=True)])
    axes = [a for a in range(grid.dims) if a != grid.slice_axis]
    dims = len(axes)
    limits = limits or limits_of(machine.device, dims)
    scene = Scene(
        spacing=tuple(grid.spacing[a] for a in axes),
        shape=tuple(volume[a] for a in axes),
        classes=len(fingerprint.regions) or fingerprint.classes,
        data_voxels=fingerprint.cases * math.prod(volume),
        object_diameter=fingerprint.object_diameter,
    )
    if fixed.patch and len(fixed.patch) != dims:
        raise PlanError(f"plan.patch {fixed.patch}: expected {dims} numbers, one per axis")
    precision = fixed.precision or machine.precision
    if machine.device == "cpu" and precision == "bf16" and machine.precision != "bf16":
        raise PlanError(
            f"models.{name}.plan.precision is bf16, but gradients in bf16 are wrong or slow on this processor, which has "
            "no AMX; leave it out, or set fp32"
        )
    memory = room(machine.memory_bytes, dims, precision)
    shape, batch = configure(
        scene,
        limits,
        memory,
        patch=fixed.patch,
        strides=tuple(tuple(s) for s in fixed.strides) if fixed.strides else None,
        widths=tuple(fixed.widths) if fixed.widths else None,
    )
    batch = fixed.batch or batch
    if batch % machine.processes:
        raise PlanError(
            f"batch: {batch} samples cannot be shared equally by {machine.processes} processes; set "
            f"models.{name}.plan.batch to a multiple of it, or processes"
        )
    steps, steps_why = _steps(config.budget, fingerprint.cases, config.folds.count, batch)
    steps = fixed.steps or steps
    recipe_why, model = explain_recipe(model, steps), model.settled(steps)
    training = model.training
    reasons = explain(Facts(fingerprint, model, machine, limits, grid, scene, shape, memory))
    return Plan(
        model=name,
        grid=grid,
        network=NetworkSpec(
            dims=dims,
            in_channels=len(fingerprint.channels),
            classes=fingerprint.classes,
            widths=shape.widths,
            strides=shape.strides,
            kernels=shape.kernels,
            patch=shape.patch,
            options=model.network_options,
            regions=fingerprint.regions,
            name=model.network,
        ),
        training=Training(
            loss=model.loss,
            optimizer=training.optimizer,
            lr=model.peak_lr,
            weight_decay=training.weight_decay,
            augment=training.augment,
            foreground=model.foreground,
            batch=batch,
            steps=steps,
            validate_every=validate_every(steps),
            schedule=training.schedule,
            warmup=training.warmup,
            clip=model.clip,
            average=model.average,
            freeze=tuple(model.freeze),
            patience=config.budget.patience,
            augmentation={name: row.model_dump(exclude_none=True) for name, row in model.augmentation.items()},
            ignore=fingerprint.ignore,
        ),
        machine=Machine(
            device=machine.device,
            precision=precision,
            threads=machine.threads,
            processes=machine.processes,
            compile=model.compile,
            channels_last=fixed.channels_last is not False,
        ),
        reasons={**reasons, "steps": OVERRIDE if fixed.steps else steps_why, "recipe": recipe_why},
    )


def plan_within_memory(
    name: str,
    model: ModelConfig,
    fingerprint: Fingerprint,
    config: Config,
    machine: Resources,
    limits: Limits | None = None,
) -> Plan:
    """As ``make_plan``, and smaller until the estimate of its own training step fits into the machine's memory.

    nnU-Net's proxy knows its own network only. Where the plan's network takes more than that, the proxy is given less
    memory: first the batch becomes smaller, then the patch. What the user fixed stays, and the reason says so.

    Raises:
        PlanError: as ``make_plan``.
    """
    from medseg.engine.memory import estimate_memory

    plan = make_plan(name, model, fingerprint, config, machine, limits)
    needed, taken, budget = estimate_memory(plan), proxy_bytes(plan), machine
    while needed > machine.memory_bytes:
        less = min(budget.memory_bytes, taken) * min(machine.memory_bytes / needed, 0.97)
        budget = replace(budget, memory_bytes=less)
        smaller = make_plan(name, model, fingerprint, config, budget, limits)
        if proxy_bytes(smaller) < taken:
            plan, needed, taken = smaller, estimate_memory(smaller), proxy_bytes(smaller)
        elif less < taken / 2:
            break  # the configuration fixes patch and batch
    why = f"{needed / 1e9:.2f} GB for a training step, counted by going through one without computing"
    bound = "at most" if needed <= machine.memory_bytes else "fixed by the configuration, though more than"
    why = f"{why}; {bound} {machine.memory_bytes / 1e9:.2f} GB"
    return plan.changed(reasons={**plan.reasons, "memory": why})


def proxy_bytes(plan: Plan) -> float:
    """Memory that nnU-Net's proxy says a plan's batch takes."""
    voxels = feature_voxels(plan.network.patch, plan.network.strides, plan.network.widths, plan.network.out_channels)
    return plan.training.batch * voxels / room(1.0, plan.network.dims, plan.machine.precision)


def _steps(budget: BudgetConfig, cases: int, folds: int, batch: int) -> tuple[int, str]:
    if budget.steps is not None:
        return budget.steps, "budget.steps"
    if budget.epochs is not None:
        return rules.epochs_to_steps(budget.epochs, cases, folds, batch), f"{budget.epochs} epochs of a fold"
    return 1, "not measured yet"
