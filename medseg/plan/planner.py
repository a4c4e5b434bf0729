"""Fingerprint + configuration + resources -> plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from medseg.config import BudgetConfig, Config, ModelConfig
from medseg.errors import PlanError
from medseg.heads import HEADS, SEMANTIC
from medseg.models.spec import NetworkSpec
from medseg.networks import NETWORKS
from medseg.plan import rules
from medseg.plan.budget import validate_every
from medseg.plan.explain import OVERRIDE, Decisions, explain, explain_recipe
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import full_spacing, plan_grid
from medseg.plan.limits import Limits, limits_of
from medseg.plan.plan import Grid, Machine, Plan, Training
from medseg.plan.resources import Resources
from medseg.plan.topology import PlanningInput, Topology, feature_voxel_budget, feature_voxels, plan_topology

# Plan -> bytes that a training step of it needs on its device. Only the engine can tell; the command line passes it in.
StepBytes = Callable[[Plan], int]


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Everything that a plan is made from.

    Attributes:
        name: of the model in the configuration.
        model: its section.
        fingerprint: the data.
        budget: length of a training.
        folds: number of folds that the cases are split into; 1: they are not.
        resources: where training runs.
        limits: bounds on the network.
    """

    name: str
    model: ModelConfig
    fingerprint: Fingerprint
    budget: BudgetConfig
    folds: int
    resources: Resources
    limits: Limits

    @classmethod
    def of(cls, config: Config, name: str, fingerprint: Fingerprint, resources: Resources) -> PlanRequest:
        """The request for a model of the configuration, within the limits of its device.

        Raises:
            ConfigError: if the configuration has no such model.
        """
        model = config.model(name)
        limits = limits_of(resources.device, model.dims or fingerprint.dims)
        return cls(name, model, fingerprint, config.budget, config.folds.parts, resources, limits)

    @property
    def precision(self) -> str:
        """The arithmetic of the network: the configuration's, else the fastest in hardware."""
        return self.model.plan.precision or self.resources.precision


def make_plan(request: PlanRequest) -> Plan:
    """Plan one model by rules alone; a budget in minutes leaves ``steps`` at 1 for ``medseg.plan.budget`` to set.

    The number of steps decides which recipe ``recipe: auto`` means; with a budget in minutes, that is ``short`` until
    the steps are known.

    Raises:
        PlanError: if the data or the overrides do not fit together, or no patch fits into memory.
    """
    _require_possible_precision(request)
    data = request.fingerprint
    grid = plan_grid(data, request.model.dims, request.model.plan)
    target = _planning_input(data, grid, _head(request))
    voxel_budget = feature_voxel_budget(request.resources.memory_bytes, target.dims, request.precision)
    topology, batch, alone = _topology(request, target, voxel_budget)
    steps, steps_reason = _steps(request, batch)
    recipe_reason = explain_recipe(request.model, steps)
    request = replace(request, model=request.model.settled(steps))
    decisions = Decisions(
        data, request.model, request.resources, request.limits, grid, target, topology, voxel_budget, batch / alone
    )
    return Plan(
        model=request.name,
        grid=grid,
        network=_network(request, target, topology),
        training=_training(request, batch, steps, batch / alone),
        machine=_machine(request),
        reasons={**explain(decisions), **_head_reason(request), "steps": steps_reason, "recipe": recipe_reason},
    )


def plan_within_memory(request: PlanRequest, step_bytes: StepBytes) -> Plan:
    """As ``make_plan``, and smaller until a training step of the plan fits into the memory it may use.

    nnU-Net's estimate knows its own network only. Where the plan's network needs more than that, planning is repeated
    with less memory: first the batch becomes smaller, then the patch. What the configuration fixes stays, and the
    reason says so.

    Args:
        request: what to plan.
        step_bytes: memory that a training step of a plan needs.

    Raises:
        PlanError: as ``make_plan``.
    """
    plan, allowed = make_plan(request), request.resources.memory_bytes
    needed, estimated, reduced = step_bytes(plan), unet_step_bytes(plan), allowed
    while needed > allowed:
        reduced = min(reduced, estimated) * min(allowed / needed, 0.97)
        smaller = make_plan(replace(request, resources=replace(request.resources, memory_bytes=reduced)))
        if unet_step_bytes(smaller) < estimated:
            plan, needed, estimated = smaller, step_bytes(smaller), unet_step_bytes(smaller)
        elif reduced < estimated / 2:
            break  # the configuration fixes patch and batch
    bound = "at most" if needed <= allowed else "fixed by the configuration, though more than"
    reason = (
        f"{needed / 1e9:.2f} GB for a training step, counted by going through one without computing; "
        f"{bound} {allowed / 1e9:.2f} GB"
    )
    return replace(plan, reasons={**plan.reasons, "memory": reason})


def unet_step_bytes(plan: Plan) -> float:
    """Memory that nnU-Net's estimate gives for a plan's batch, as if its network were nnU-Net's."""
    network, training = plan.network, plan.training
    voxels = feature_voxels(network.patch, network.strides, network.widths, network.out_channels)
    return training.batch * voxels / feature_voxel_budget(1.0, network.dims, plan.machine.precision)


def _require_possible_precision(request: PlanRequest) -> None:
    resources = request.resources
    if resources.device == "cpu" and request.precision == "bf16" and resources.precision != "bf16":
        raise PlanError(
            f"models.{request.name}.plan.precision is bf16, but gradients in bf16 are wrong or slow on this processor, "
            "which has no AMX; leave it out, or set fp32"
        )


def _head_reason(request: PlanRequest) -> dict[str, str]:
    if not request.fingerprint.objects:
        said = request.model.head not in (None, SEMANTIC)
        return {"head": f"none: {request.fingerprint.dataset} has classes and no objects"} if said else {}
    why = OVERRIDE if request.model.head else "default for object data"
    return {"head": f"{why}: {HEADS[_head(request)].about}"}


def _outputs(data: Fingerprint, head: str) -> int:
    """Channels of the network's output."""
    return HEADS[head].channels(data.dims, data.classes) if head else len(data.regions) or data.classes


def _planning_input(data: Fingerprint, grid: Grid, head: str) -> PlanningInput:
    """What the network is shaped to: along the axes of the patch, the median image on the grid."""
    # Slices, too, are counted at full resolution where a batch must not cover too much of the data (nnU-Net).
    spacing = [own or full for own, full in zip(grid.spacing, full_spacing(data), strict=True)]
    volume = data.median_shape_at(spacing)
    return PlanningInput(
        spacing=grid.patch_spacing,
        shape=tuple(n for axis, n in enumerate(volume) if axis != grid.slice_axis),
        classes=_outputs(data, head),
        data_voxels=data.cases * math.prod(volume),
        object_diameter=data.object_diameter,
    )


def _topology(request: PlanRequest, target: PlanningInput, voxel_budget: float) -> tuple[Topology, int, int]:
    """Network, patch and batch, as the data, the memory and the overrides want them; and the batch of one process.

    Several processes share the batch that one would have, so that the results are those of one; where their number does
    not divide it, they share the next larger one that it does.
    """
    fixed = request.model.plan
    if fixed.patch and len(fixed.patch) != target.dims:
        raise PlanError(f"plan.patch {fixed.patch}: expected {target.dims} numbers, one per axis")
    topology, batch = plan_topology(
        target,
        request.limits,
        voxel_budget,
        patch=fixed.patch,
        strides=tuple(tuple(s) for s in fixed.strides) if fixed.strides else None,
        widths=tuple(fixed.widths) if fixed.widths else None,
    )
    processes = request.resources.processes
    if fixed.batch is None:
        return topology, rules.shared_batch(batch, processes), batch
    if fixed.batch % processes:
        raise PlanError(
            f"batch: {fixed.batch} samples cannot be shared equally by {processes} processes; set "
            f"models.{request.name}.plan.batch to a multiple of it, or processes"
        )
    return topology, fixed.batch, fixed.batch


def _steps(request: PlanRequest, batch: int) -> tuple[int, str]:
    """Training steps, and why."""
    budget = request.budget
    if request.model.plan.steps:
        return request.model.plan.steps, OVERRIDE
    if budget.steps is not None:
        return budget.steps, "budget.steps"
    if budget.epochs is not None:
        steps = rules.epochs_to_steps(budget.epochs, request.fingerprint.cases, request.folds, batch)
        return steps, f"{budget.epochs} epochs of {'a fold' if request.folds > 1 else 'all cases'}"
    return 1, "not measured yet"


def _head(request: PlanRequest) -> str:
    """The head of the network: as configured, else the network's default; none where data has classes and no objects.

    A model of a study with cells and organs has a head for the cells alone.
    """
    model, heads = request.model, NETWORKS[request.model.network].heads
    if not request.fingerprint.objects:
        if SEMANTIC not in heads:
            raise PlanError(
                f"models.{request.name}: network '{model.network}' finds objects, and {request.fingerprint.dataset} "
                f"has classes; train it on data with `instances: true` only (models.{request.name}.datasets)"
            )
        return ""
    return model.head or heads[0]


def _network(request: PlanRequest, target: PlanningInput, topology: Topology) -> NetworkSpec:
    data = request.fingerprint
    return NetworkSpec(
        dims=target.dims,
        in_channels=len(data.channels),
        classes=data.classes,
        widths=topology.widths,
        strides=topology.strides,
        kernels=topology.kernels,
        patch=topology.patch,
        options=request.model.network_options,
        regions=data.regions,
        name=request.model.network,
        head=_head(request),
    )


def _training(request: PlanRequest, batch: int, steps: int, growth: float) -> Training:
    model, recipe = request.model, request.model.training
    return Training(
        loss=model.loss,
        optimizer=recipe.optimizer,
        lr=model.lr or model.peak_lr * rules.lr_factor(recipe.optimizer, growth),
        weight_decay=recipe.weight_decay,
        augment=recipe.augment,
        foreground=model.foreground,
        batch=batch,
        steps=steps,
        validate_every=validate_every(steps),
        schedule=recipe.schedule,
        warmup=recipe.warmup,
        clip=model.clip,
        average=model.average,
        freeze=tuple(model.freeze),
        patience=request.budget.patience,
        augmentation={name: row.model_dump(exclude_none=True) for name, row in model.augmentation.items()},
        ignore=request.fingerprint.ignore,
    )


def _machine(request: PlanRequest) -> Machine:
    return Machine(
        device=request.resources.device,
        precision=request.precision,
        threads=request.resources.threads,
        processes=request.resources.processes,
        compile=request.model.compile,
        channels_last=request.model.plan.channels_last is not False,
    )
