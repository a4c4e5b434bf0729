"""From fingerprint and configuration to a plan: what is decided, what is overridden, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.config import Config, load_config
from medseg.errors import DataError, PlanError
from medseg.ingest.manifest import read_manifest
from medseg.plan import planner, rules
from medseg.plan import run as stage
from medseg.plan.fingerprint import Fingerprint, take_fingerprint
from medseg.plan.plan import GridPlan, Plan
from medseg.plan.planner import Machine, fit_to_minutes, make_plan, plan_grid, this_machine, validate_every

CPU = Machine("cpu", "fp32", 8e9, 2)
GPU = Machine("cuda", "bf16", 8e9, 8)
STATISTICS = {"mean": 1.0, "std": 1.0, "p00_5": 0.0, "p99_5": 2.0, "min": 0.0, "max": 3.0}
HIPPOCAMPUS = Fingerprint(
    dataset="hippocampus",
    dims=3,
    channels=("MRI",),
    classes=3,
    cases=260,
    subjects=260,
    unit="mm",
    oriented=True,
    median_spacing=(1.0, 1.0, 1.0),
    p10_spacing=(1.0, 1.0, 1.0),
    median_shape=(36.0, 50.0, 35.0),
    median_extent=(36.0, 50.0, 35.0),
    intensities=(STATISTICS,),
)


def fingerprint_of(shape: tuple[int, ...], spacing: tuple[float, ...] | None = None, **changes: Any) -> Fingerprint:
    spacing = spacing or (1.0,) * len(shape)
    extent = tuple(n * s for n, s in zip(shape, spacing, strict=True))
    facts = {
        "dims": len(shape),
        "unit": "mm" if len(shape) == 3 else "px",
        "oriented": len(shape) == 3,
        "median_spacing": spacing,
        "p10_spacing": spacing,
        "median_shape": tuple(float(n) for n in shape),
        "median_extent": extent,
    }
    return replace(HIPPOCAMPUS, **{**facts, **changes})


def config_of(model: dict[str, Any] | None = None, **general: Any) -> Config:
    return load_config(
        [],
        {
            "experiment": "e",
            "datasets": {"d": {"layout": "pairs", "path": "p"}},
            "models": {"m": {"network": "unet", **(model or {})}},
            "budget": {"steps": 100},
            **general,
        },
    )


def planned(fingerprint: Fingerprint, machine: Machine = CPU, config: Config | None = None) -> Plan:
    config = config or config_of()
    return make_plan("m", config.models["m"], fingerprint, config, machine)


@pytest.mark.parametrize("machine", [CPU, GPU], ids=lambda m: m.device)
def test_hippocampus_gets_the_published_plan(machine: Machine) -> None:
    plan = planned(HIPPOCAMPUS, machine)
    assert plan.patch == (40, 56, 40)
    assert plan.strides == ((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3)
    assert plan.kernels == ((3,) * 3,) * 4
    assert plan.spacing == (1.0, 1.0, 1.0)
    assert plan.normalization == ("zscore",)
    assert plan.oriented
    base = rules.BASE_WIDTH[machine.device]
    assert plan.widths == (base, 2 * base, 4 * base, 8 * base)
    assert (plan.precision, plan.device, plan.threads) == (machine.precision, machine.device, machine.threads)


OVERRIDES = [
    ("spacing", [2.0, 1.5, 1.0]),
    ("normalization", "percentile"),
    ("patch", [16, 24, 32]),
    ("batch", 7),
    ("widths", [5, 6, 7, 8]),
    ("strides", [[1, 1, 1], [2, 2, 1], [2, 2, 2]]),
    ("precision", "fp16"),
    ("steps", 77),
]


@pytest.mark.parametrize(("name", "value"), OVERRIDES, ids=[n for n, _ in OVERRIDES])
def test_overrides_are_kept_and_said(name: str, value: Any) -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"plan": {name: value}}))
    found = plan.to_json()[name]
    assert (found[0] if name == "normalization" else found) == value
    assert plan.reasons[name].startswith("override")
    assert not planned(HIPPOCAMPUS).reasons[name].startswith("override")
    assert len(plan.widths) == len(plan.strides) == len(plan.kernels)


def test_all_overrides_are_tested() -> None:
    from medseg.config import PlanOverrides

    assert {name for name, _ in OVERRIDES} == set(PlanOverrides.model_fields)


def test_values_of_the_model_section_reach_the_plan() -> None:
    section = {"loss": "ce", "optimizer": "sgd", "weight_decay": 0.5, "augment": "none", "foreground": 0.7}
    plan = planned(HIPPOCAMPUS, CPU, config_of(section)).to_json()
    assert {k: plan[k] for k in section} == section
    assert plan["lr"] == planner.LEARNING_RATES["sgd"]
    assert planned(HIPPOCAMPUS, CPU, config_of({"lr": 0.25})).lr == 0.25


def test_a_patch_that_the_user_fixed_is_not_shrunk_for_memory() -> None:
    plan = planned(HIPPOCAMPUS, replace(CPU, memory_bytes=3e7), config_of({"plan": {"patch": [64, 64, 64]}}))
    assert plan.patch == (64, 64, 64)
    assert plan.batch == 2


def test_a_patch_that_strides_do_not_divide_is_padded() -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"plan": {"patch": [17, 24, 9]}}))
    divisor = rules.total_stride(plan.strides)
    assert all(p % d == 0 for p, d in zip(plan.patch, divisor, strict=True))
    assert all(0 <= p - w < d for p, w, d in zip(plan.patch, (17, 24, 9), divisor, strict=True))


@pytest.mark.parametrize(
    ("section", "cause"),
    [
        ({"dims": 2}, "3 dimensions, the model asks for 2"),
        ({"plan": {"spacing": [1.0, 1.0]}}, "expected 3 numbers"),
        ({"plan": {"patch": [16, 16]}}, "expected 3 numbers"),
        ({"plan": {"widths": [8, 16]}}, "one width"),
        ({"plan": {"strides": [[1, 1], [2, 2]]}}, "strides per stage"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(section: dict[str, Any], cause: str) -> None:
    with pytest.raises(PlanError, match=cause):
        planned(HIPPOCAMPUS, CPU, config_of(section))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_too_little_memory_shrinks_the_patch_and_then_is_an_error(device: str) -> None:
    machine = replace(CPU, device=device)
    data = fingerprint_of((200, 220, 180))
    roomy = planned(data, replace(machine, memory_bytes=1e12))
    needed = rules.memory_bytes(rules.feature_voxels(roomy.patch, roomy.strides, roomy.widths), 2, "fp32")
    tight = planned(data, replace(machine, memory_bytes=needed / 6))
    assert math.prod(tight.patch) < math.prod(roomy.patch)
    now = rules.memory_bytes(rules.feature_voxels(tight.patch, tight.strides, tight.widths), 2, "fp32")
    assert needed / 30 < now <= needed / 6
    with pytest.raises(PlanError, match=r"no patch fits.*memory_gb"):
        planned(data, replace(machine, memory_bytes=1e5))


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    dims = draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(1, 500)] * dims))
    spacing = draw(st.tuples(*[st.floats(0.3, 8.0)] * dims))
    cases = draw(st.integers(2, 500))
    return fingerprint_of(shape, spacing, cases=cases)


@settings(max_examples=60)
@given(fingerprints(), st.floats(3e6, 5e10), st.sampled_from([CPU, GPU]))
def test_any_data_get_a_plan_within_memory_or_an_error(data: Fingerprint, memory: float, machine: Machine) -> None:
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        assert len(calls) < 3000, "shrinking does not end"
        return shrink(*args)

    shrink, rules.shrink = rules.shrink, counted
    try:
        plan = planned(data, replace(machine, memory_bytes=memory))
    except PlanError as error:
        assert "no patch fits" in str(error)
        return
    finally:
        rules.shrink = shrink
    divisor = rules.total_stride(plan.strides)
    assert all(p % d == 0 for p, d in zip(plan.patch, divisor, strict=True))
    one = rules.memory_bytes(rules.feature_voxels(plan.patch, plan.strides, plan.widths), 1, plan.precision)
    assert plan.batch * one <= memory * (1 + 1e-9)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize("network", ["unet", "deeplabv3plus"])
@pytest.mark.parametrize(
    "shape", [(4, 5), (9, 9), (15, 15), (16, 90), (5, 6, 7), (9, 10, 9), (14, 14, 14), (6, 64, 64)]
)
def test_small_images_get_a_network_that_runs(network: str, shape: tuple[int, ...]) -> None:
    """Whatever was planned must be buildable: an error here is one before training, not in the middle of it."""
    import torch

    from medseg.models.zoo import build_model

    plan = planned(fingerprint_of(shape), CPU, config_of({"network": network, "plan": {"batch": 2}}))
    with torch.device("meta"):
        net = build_model(network, plan.network_spec)
        assert net(torch.zeros(2, 1, *plan.patch)).shape == (2, plan.classes, *plan.patch)


@pytest.mark.parametrize("network", ["unet", "deeplabv3plus"])
@pytest.mark.parametrize(
    "fixed", [{"patch": [4, 4, 4]}, {"strides": [[1] * 3]}, {"strides": [[1] * 3, [2] * 3]}], ids=str
)
def test_overrides_give_a_network_that_runs_or_an_error_now(network: str, fixed: dict[str, Any]) -> None:
    import torch

    from medseg.models.zoo import build_model

    try:
        plan = planned(HIPPOCAMPUS, CPU, config_of({"network": network, "plan": fixed}))
    except PlanError as error:
        assert "plan." in str(error)
        return
    with torch.device("meta"):
        net = build_model(network, plan.network_spec)
        assert net(torch.zeros(2, 1, *plan.patch)).shape == (2, plan.classes, *plan.patch)


@pytest.mark.parametrize(
    ("budget", "steps"), [({"steps": 55}, 55), ({"epochs": 3}, math.ceil(3 * 260 * 4 / 5 / 4)), ({"minutes": 2.0}, 1)]
)
def test_budgets_become_steps(budget: dict[str, Any], steps: int) -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"plan": {"batch": 4}}, budget=budget))
    assert plan.steps == steps
    assert plan.validate_every == validate_every(steps)


def test_minutes_become_steps_at_the_measured_pace() -> None:
    plan = fit_to_minutes(planned(HIPPOCAMPUS), minutes=10.0, step_s=0.5, fixed_s=100.0)
    assert plan.steps == int(500 * 0.97 / 0.5)
    assert "0.500 s a step" in plan.reasons["steps"]
    assert plan.validate_every == validate_every(plan.steps)
    assert replace(plan, steps=1, validate_every=1, reasons={}) == replace(
        planned(HIPPOCAMPUS), steps=1, validate_every=1, reasons={}
    )


@given(st.integers(1, 10**6))
def test_validation_points(steps: int) -> None:
    every = validate_every(steps)
    assert 1 <= every <= steps
    assert steps / every <= 2 * planner.VALIDATIONS or steps <= planner.CURVE_STEPS


def test_plan_json_round_trip_and_other_versions() -> None:
    plan = planned(HIPPOCAMPUS)
    value = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(value) == plan
    assert GridPlan.from_json(json.loads(json.dumps(plan.grid.to_json()))) == plan.grid
    with pytest.raises(PlanError, match="colour"):
        Plan.from_json({**value, "colour": 1})
    del value["kernels"]
    with pytest.raises(PlanError, match=r"kernels.*medseg plan"):
        Plan.from_json(value)


def test_models_with_one_grid_share_it() -> None:
    models = [config_of(s).models["m"] for s in ({}, {"network": "deeplabv3plus"}, {"plan": {"batch": 9}})]
    assert len({json.dumps(plan_grid(HIPPOCAMPUS, m).to_json()) for m in models}) == 1


def test_a_missing_device_is_a_plan_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlanError, match="cuda"):
        this_machine(config_of(device="cuda"))
    machine = this_machine(config_of(budget={"steps": 1, "memory_gb": 3.0}, threads=5))
    assert (machine.device, machine.memory_bytes, machine.threads) == ("cpu", 3e9, 5)


# Fingerprints


def test_fingerprint_of_known_data(study: Any) -> None:
    for name in study.config.datasets:
        manifest = read_manifest(study.manifest(name))
        facts = Fingerprint.from_json(json.loads(study.fingerprint(name).read_text()))
        shapes = [c.geometry.reoriented(*_canonical(c.geometry)).shape for c in manifest.cases]
        np.testing.assert_allclose(facts.median_shape, np.median(shapes, axis=0))
        assert (facts.cases, facts.classes, facts.dims) == (4, 3, manifest.dims)
        assert facts.oriented == (name == "solid")
        extent = np.array(facts.median_shape) * facts.median_spacing
        np.testing.assert_allclose(facts.median_extent, extent, rtol=1e-4)


def _canonical(geometry: Any) -> Any:
    from medseg.image.geometry import canonical_axes

    return canonical_axes(geometry)


def test_intensities_are_those_of_the_foreground(study: Any) -> None:
    """Both data sets are 1 unit brighter in the ball, 2 in the rod; scaled by 60 (+40) and by 100."""
    from medseg.image.formats import read_image, read_labels

    manifest = read_manifest(study.manifest("solid"))
    values = []
    for case in manifest.cases:
        image, _ = read_image(study.folder("solid") / case.images[0])
        labels, _ = read_labels(study.folder("solid") / case.labels[0])
        values.append(image[0][labels > 0])
    pooled = np.concatenate(values).astype(np.float64)
    (found,) = json.loads(study.fingerprint("solid").read_text())["intensities"]
    assert found["mean"] == pytest.approx(pooled.mean(), rel=1e-4)
    assert found["std"] == pytest.approx(pooled.std(), rel=1e-4)
    assert found["p99_5"] == pytest.approx(np.percentile(pooled, 99.5), rel=1e-4)
    assert (found["min"], found["max"]) == (pooled.min(), pooled.max())


def test_fingerprint_does_not_depend_on_workers_or_chance(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.plan import fingerprint

    monkeypatch.setattr(fingerprint, "SAMPLES_PER_CASE", 40)
    manifest = read_manifest(study.manifest("solid"))
    facts = [take_fingerprint(manifest, study.folder("solid"), workers) for workers in (1, 3)]
    assert facts[0] == facts[1]


def test_a_file_changed_since_ingest_is_refused(study: Any, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "flat"
    shutil.copytree(study.folder("flat"), folder)
    path = folder / "images" / "f2.png"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"f2\.png.*changed"):
        take_fingerprint(read_manifest(study.manifest("flat")), folder, 1)


# The stage


def test_stage_measures_only_a_budget_in_minutes(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.plan import measure

    asked = []
    monkeypatch.setattr(measure, "step_seconds", lambda plan: asked.append(plan) or (0.5, 0.01))
    for budget in ({"steps": 9}, {"minutes": 3.0}, {"minutes": 3.0}):
        config = config_of(budget=budget, device="cpu", threads=1)
        stage.run(config, "m", study.fingerprint("flat"), tmp_path / "plan.json")
        plan = Plan.from_json(json.loads((tmp_path / "plan.json").read_text()))
        assert (plan.steps == 9) == ("steps" in budget)
    assert len(asked) == 2
    assert 250 < plan.steps <= (180 - stage.START_S) / 0.5
    # An override of the steps needs no measurement.
    config = config_of({"plan": {"steps": 8}}, budget={"minutes": 3.0}, device="cpu")
    stage.run(config, "m", study.fingerprint("flat"), tmp_path / "plan.json")
    assert len(asked) == 2
    assert json.loads((tmp_path / "plan.json").read_text())["steps"] == 8


def test_measuring_runs_the_plans_own_step(tiny_plan: Any) -> None:
    from medseg.plan.measure import step_seconds

    assert all(0 < seconds < math.inf for seconds in step_seconds(tiny_plan()))
