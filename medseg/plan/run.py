"""The plan stage: ``medseg fingerprint`` and ``medseg plan``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.config import Config, ModelConfig
from medseg.errors import PlanError
from medseg.files import read_json, write_json
from medseg.ingest.manifest import read_manifest
from medseg.plan.budget import Candidate, Pace, Stopwatch, fit, quickest
from medseg.plan.explain import explain_recipe, explained, shown_value
from medseg.plan.fingerprint import Fingerprint, take_fingerprint
from medseg.plan.limits import candidates_of, limits_of
from medseg.plan.machine import Resources, this_machine
from medseg.plan.plan import Plan
from medseg.plan.planner import plan_within_memory
from medseg.progress import say

__all__ = ["explain_file", "explained", "run", "run_fingerprint"]


# (plan, voxels of the prepared images, seconds to spend) -> pace of training on this machine. It times the
# training loop's own parts, which lie downstream, so the command line passes it in.
Measure = Callable[[Plan, Sequence[tuple[int, ...]], float], Pace]


def run_fingerprint(config: Config, manifest_path: Path, out: Path, workers: int) -> None:
    """Write ``fingerprint.json`` of a data set."""
    manifest = read_manifest(manifest_path)
    dataset = config.dataset(manifest.dataset)
    folder = Path(config.data_root) / dataset.path
    write_json(out, take_fingerprint(manifest, folder, workers).to_json())


def run(
    config: Config,
    model: str,
    fingerprint_path: Path,
    out: Path | None,
    measure: Measure | None = None,
) -> Plan:
    """Plan one model on one data set, write the plan if ``out`` says where, and return it.

    A budget in minutes is measured here, once, and stored as steps; for that ``measure`` is needed.
    """
    wanted = config.model(model)
    fingerprint = Fingerprint.from_json(read_json(fingerprint_path))
    machine = this_machine(config)
    plan = plan_within_memory(model, wanted, fingerprint, config, machine)
    if config.budget.minutes is not None and wanted.plan.steps is None:
        if measure is None:
            raise PlanError("budget.minutes is measured, and no stopwatch was given (see medseg/train/pace.py)")
        shapes = fingerprint.shapes_at(plan.grid.spacing)
        stopwatch: Stopwatch = lambda plan, seconds: measure(plan, shapes, seconds)  # noqa: E731
        plan = _fitted(config, config.budget.minutes, wanted, plan, fingerprint, machine, stopwatch)
    if out is not None:
        write_json(out, plan.to_json())
    for key in ("spacing", "patch", "batch", "widths", "strides", "steps", "precision", "lr"):
        say(f"plan {fingerprint.dataset}/{model}: {key} = {shown_value(key, plan.value(key))} ({plan.reasons[key]})")
    return plan


def _fitted(
    config: Config,
    minutes: float,
    wanted: ModelConfig,
    plan: Plan,
    fingerprint: Fingerprint,
    machine: Resources,
    stopwatch: Stopwatch,
) -> Plan:
    """The plan with the arithmetic, layout, width and steps that a budget in minutes is best spent on."""
    say(f"plan {fingerprint.dataset}/{plan.model}: measuring the pace of training on this machine")
    variants = _variants(plan, wanted)
    if len(variants) > 1:
        best, measured = quickest(variants, stopwatch)
        machine = replace(machine, precision=best.machine.precision)
        layout = wanted.plan.model_copy(update={"channels_last": best.machine.channels_last})
        wanted = wanted.model_copy(update={"plan": layout})
    limits = limits_of(machine.device, plan.network.dims)
    widths = candidates_of(machine.device) if wanted.plan.widths is None else ((limits.base_width, 1),)

    def planned(model: ModelConfig, width: int) -> Plan:
        within = replace(limits, base_width=width)
        return plan_within_memory(plan.model, model, fingerprint, config, machine, within)

    fitted = fit([Candidate(planned(wanted, width), enough) for width, enough in widths], minutes, stopwatch)
    reasons = {"recipe": explain_recipe(wanted, fitted.training.steps)}
    settled = wanted.settled(fitted.training.steps)
    if wanted.recipe == "auto" and settled.recipe != "short":
        # Candidates are measured as ``short``. The other recipe's steps may take longer; fewer of them do not change it
        # back, or there might be no end.
        reasons["widths"] = fitted.reasons["widths"]
        fitted = fit([Candidate(planned(settled, fitted.network.widths[0]), 1)], minutes, stopwatch)
        reasons["recipe"] += (
            f", measured as short; with {settled.recipe} they are {fitted.training.steps:,}, and it stays"
        )
    if len(variants) > 1:
        reasons |= {"precision": measured, "channels_last": measured}
    return fitted.changed(reasons={**fitted.reasons, **reasons})


def _variants(plan: Plan, wanted: ModelConfig) -> list[Plan]:
    """What may be quicker than what the hardware's flags suggest; what the user fixed stays."""
    layouts = [True, False] if wanted.plan.channels_last is None else [plan.machine.channels_last]
    variants = [plan.changed(channels_last=layout) for layout in layouts]
    if wanted.plan.precision is None and plan.machine.device == "cpu" and plan.machine.precision != "fp32":
        variants.append(variants[0].changed(precision="fp32"))
    return variants


def explain_file(path: Path) -> str:
    """The reasons of a plan on disk, as text."""
    return explained(Plan.from_json(read_json(path)))
