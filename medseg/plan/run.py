"""The plan stage: ``medseg plan``; ``medseg fingerprint`` is in ``medseg.plan.survey``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.config import Config, ModelConfig
from medseg.errors import PlanError
from medseg.outputs import writing
from medseg.plan.budget import Pace, Stopwatch, WidthCandidate, fastest_variant, plan_within_minutes
from medseg.plan.explain import explain_recipe, explanation, shown_value
from medseg.plan.fingerprint import read_fingerprint
from medseg.plan.limits import base_widths_of
from medseg.plan.plan import Plan, read_plan, write_plan
from medseg.plan.planner import PlanRequest, StepBytes, plan_within_memory
from medseg.plan.resources import Resources
from medseg.progress import say

__all__ = ["explain_file", "explanation", "run"]


# (plan, voxels of the prepared images, seconds to spend) -> pace of training on this machine. It times the training
# loop's own parts, which lie downstream, so the command line passes it in.
Measure = Callable[[Plan, Sequence[tuple[int, ...]], float], Pace]

# Planned values that are printed.
PRINTED = ("spacing", "patch", "batch", "widths", "strides", "steps", "precision", "lr")


def run(
    config: Config,
    model: str,
    fingerprint_path: Path,
    out: Path | None,
    resources: Resources,
    step_bytes: StepBytes,
    measure: Measure | None = None,
    step_work: Callable[[Plan], float] | None = None,
) -> Plan:
    """Plan one model on one data set, write the plan if ``out`` says where, and return it.

    A budget in minutes is measured here, once, and stored as steps.

    Args:
        config: the experiment.
        model: name of the model.
        fingerprint_path: ``fingerprint.json`` of the data set.
        out: file for the plan; None: none is written.
        resources: what a training may use.
        step_bytes: memory that a training step of a plan needs.
        measure: pace of training; needed for a budget in minutes.
        step_work: arithmetic operations of a training step of a plan, from which a cluster's time limits follow
            (``medseg.jobs``); None: the plan does not say.

    Raises:
        ConfigError: if the configuration has no such model.
        PlanError: if no plan fits the data, the resources and the budget.
    """
    wanted = config.model(model)
    fingerprint = read_fingerprint(fingerprint_path)
    request = PlanRequest.of(config, model, fingerprint, resources)
    plan = plan_within_memory(request, step_bytes)
    minutes = request.budget.minutes
    if minutes is not None and wanted.plan.steps is None:
        if measure is None:
            raise PlanError("budget.minutes is measured, and no stopwatch was given (see medseg/train/pace.py)")
        shapes = fingerprint.shapes_at(plan.grid.spacing)
        say(f"plan {fingerprint.dataset}/{model}: measuring the pace of training on this machine")
        plan = _plan_for_minutes(request, plan, minutes, step_bytes, lambda plan, s: measure(plan, shapes, s))
    if step_work is not None:
        work = f"{step_work(plan) / 1e9:.6f} GFLOP for a training step, counted by going through one without computing"
        plan = replace(plan, reasons={**plan.reasons, "work": work})
    if out is not None:
        with writing(out):
            write_plan(out, plan)
    for key in PRINTED:
        say(f"plan {fingerprint.dataset}/{model}: {key} = {shown_value(key, plan.value(key))} ({plan.reasons[key]})")
    return plan


def explain_file(path: Path) -> str:
    """Text with the decisions of a plan on disk and their reasons."""
    return explanation(read_plan(path))


def _plan_for_minutes(
    request: PlanRequest, plan: Plan, minutes: float, step_bytes: StepBytes, stopwatch: Stopwatch
) -> Plan:
    """The plan with the arithmetic, layout, width and steps that a budget in minutes is best spent on."""
    request, reasons = _with_fastest_variant(request, plan, stopwatch)
    best = plan_within_minutes(_width_candidates(request, step_bytes), minutes, stopwatch)
    settled = request.model.settled(best.training.steps)
    reasons["recipe"] = explain_recipe(request.model, best.training.steps)
    if request.model.recipe == "auto" and settled.recipe != "short":
        # Candidates are measured as ``short``. Steps of the other recipe may take longer; if fewer of them fit, the
        # recipe still does not change back, or the choice might never end.
        reasons["widths"] = best.reasons["widths"]
        same_width = _of_width(replace(request, model=settled), best.network.widths[0], step_bytes)
        best = plan_within_minutes([WidthCandidate(same_width, 1)], minutes, stopwatch)
        steps = f"{best.training.steps:,}"
        reasons["recipe"] += f", measured as short; with {settled.recipe} they are {steps}, and it stays"
    return replace(best, reasons={**best.reasons, **reasons})


def _with_fastest_variant(request: PlanRequest, plan: Plan, stopwatch: Stopwatch) -> tuple[PlanRequest, dict[str, str]]:
    """The request with the arithmetic and memory layout that are fastest here, and the reasons of both."""
    variants = _variants(plan, request.model)
    if len(variants) == 1:
        return request, {}
    best, measured = fastest_variant(variants, stopwatch)
    layout = request.model.plan.model_copy(update={"channels_last": best.machine.channels_last})
    request = replace(
        request,
        model=request.model.model_copy(update={"plan": layout}),
        resources=replace(request.resources, precision=best.machine.precision),
    )
    return request, {"precision": measured, "channels_last": measured}


def _variants(plan: Plan, model: ModelConfig) -> list[Plan]:
    """The plan in every arithmetic and memory layout that may be faster; what the configuration fixes stays."""
    layouts = [True, False] if model.plan.channels_last is None else [plan.machine.channels_last]
    variants = [plan.changed(channels_last=layout) for layout in layouts]
    if model.plan.precision is None and plan.machine.device == "cpu" and plan.machine.precision != "fp32":
        variants.append(variants[0].changed(precision="fp32"))
    return variants


def _width_candidates(request: PlanRequest, step_bytes: StepBytes) -> list[WidthCandidate]:
    """A plan for each base width that the budget may choose; one plan where the configuration fixes the widths."""
    if request.model.plan.widths is None:
        widths = base_widths_of(request.resources.device)
    else:
        widths = ((request.limits.base_width, 1),)
    return [WidthCandidate(_of_width(request, width, step_bytes), least) for width, least in widths]


def _of_width(request: PlanRequest, base_width: int, step_bytes: StepBytes) -> Plan:
    limits = replace(request.limits, base_width=base_width)
    return plan_within_memory(replace(request, limits=limits), step_bytes)
