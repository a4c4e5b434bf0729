"""The plan stage: ``medseg fingerprint`` and ``medseg plan``."""

from __future__ import annotations

import math
from pathlib import Path

from medseg.config import Config
from medseg.files import read_json, write_json
from medseg.ingest.manifest import read_manifest
from medseg.patches.tiling import window_starts
from medseg.plan.fingerprint import Fingerprint, take_fingerprint
from medseg.plan.plan import Plan
from medseg.plan.planner import VALIDATIONS, fit_to_minutes, make_plan, this_machine
from medseg.progress import say

# Cases of the validation fold that are predicted during training, for the curves.
VALIDATION_CASES = 8
START_S = 15.0


def run_fingerprint(config: Config, manifest_path: Path, out: Path, workers: int) -> None:
    """Write ``fingerprint.json`` of a data set."""
    manifest = read_manifest(manifest_path)
    dataset = config.dataset(manifest.dataset)
    folder = Path(config.data_root) / dataset.path
    write_json(out, take_fingerprint(manifest, folder, workers).to_json())


def run(config: Config, model: str, fingerprint_path: Path, out: Path) -> None:
    """Write the plan of one model on one data set; a budget in minutes is measured here and stored as steps."""
    wanted = config.model(model)
    fingerprint = Fingerprint.from_json(read_json(fingerprint_path))
    plan = make_plan(model, wanted, fingerprint, config, this_machine(config))
    minutes = config.budget.minutes
    if minutes is not None and wanted.plan.steps is None:
        from medseg.plan.measure import step_seconds

        say(f"plan {fingerprint.dataset}/{model}: measuring the pace of a training step on this machine")
        step_s, forward_s = step_seconds(plan)
        validation_s = VALIDATIONS * VALIDATION_CASES * _windows(plan, fingerprint) * forward_s
        plan = fit_to_minutes(plan, minutes, step_s, START_S + validation_s)
    write_json(out, plan.to_json())
    for key in ("spacing", "patch", "batch", "widths", "strides", "steps", "precision", "lr"):
        say(f"plan {fingerprint.dataset}/{model}: {key} = {plan.to_json()[key]} ({plan.reasons[key]})")


def _windows(plan: Plan, fingerprint: Fingerprint) -> int:
    """Sliding windows of a median image."""
    facts = zip(fingerprint.median_extent, plan.spacing, fingerprint.median_shape, strict=True)
    shape = [round(e / s if s else n) for e, s, n in facts]
    return math.prod(len(window_starts(n, w)) for n, w in zip(shape, plan.window, strict=True))
