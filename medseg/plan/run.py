"""The plan stage: ``medseg fingerprint`` and ``medseg plan``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medseg.config import Config
from medseg.errors import PlanError
from medseg.files import read_json, write_json
from medseg.ingest.manifest import read_manifest
from medseg.plan.budget import Candidate, Pace, fit
from medseg.plan.explain import explained
from medseg.plan.fingerprint import Fingerprint, take_fingerprint
from medseg.plan.limits import CANDIDATES, limits_of
from medseg.plan.plan import Plan
from medseg.plan.planner import plan_within_memory, this_machine
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
        say(f"plan {fingerprint.dataset}/{model}: measuring the pace of training on this machine")
        candidates = [Candidate(plan, 1)]
        if wanted.plan.widths is None:
            limits = limits_of(machine.device, plan.dims)
            candidates = [
                Candidate(
                    plan_within_memory(model, wanted, fingerprint, config, machine, replace(limits, base_width=width)),
                    enough,
                )
                for width, enough in CANDIDATES[machine.device]
            ]
        shapes = fingerprint.shapes_at(plan.spacing)
        plan = fit(candidates, config.budget.minutes, lambda plan, seconds: measure(plan, shapes, seconds))
    if out is not None:
        write_json(out, plan.to_json())
    for key in ("spacing", "patch", "batch", "widths", "strides", "steps", "precision", "lr"):
        say(f"plan {fingerprint.dataset}/{model}: {key} = {plan.to_json()[key]} ({plan.reasons[key]})")
    return plan


def explain_file(path: Path) -> str:
    """The reasons of a plan on disk, as text."""
    return explained(Plan.from_json(read_json(path)))
