"""From fingerprint and configuration to a plan: what is decided, what is overridden, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medseg.config import Config, load_config
from medseg.engine.memory import estimate_memory
from medseg.engine.resources import available_resources
from medseg.errors import DataError, MachineError, PlanError
from medseg.ingest.manifest import read_manifest
from medseg.models.spec import total_stride
from medseg.plan.budget import Pace, steps_in, validate_every
from medseg.plan.explain import explanation
from medseg.plan.fingerprint import Fingerprint, read_fingerprint
from medseg.plan.grid import plan_grid
from medseg.plan.limits import limits_of
from medseg.plan.plan import Grid, Plan, flat_values, read_plan
from medseg.plan.planner import PlanRequest, make_plan, plan_within_memory, unet_step_bytes
from medseg.plan.resources import Resources
from medseg.plan.survey import take_fingerprint
from medseg.recipes import LEARNING_RATES
from tests.choices import few
from tests.plans import run_plan

CPU = Resources("cpu", "fp32", 8e9, 2)
GPU = Resources("cuda", "bf16", 8e9, 8)
STATISTICS = {"mean": 1.0, "std": 1.0, "p00_5": 0.0, "p99_5": 2.0, "min": 0.0, "max": 3.0}
HIPPOCAMPUS = Fingerprint(
    dataset="hippocampus",
    dims=3,
    channels=("MRI",),
    classes=3,
    subjects=260,
    unit="mm",
    oriented=True,
    shapes=((36, 50, 35),) * 260,
    spacings=((1.0, 1.0, 1.0),) * 260,
    median_relative_size=1.0,
    intensities=(STATISTICS,),
)


def fingerprint_of(
    shape: tuple[int, ...], spacing: tuple[float, ...] | None = None, cases: int = 260, **changes: Any
) -> Fingerprint:
    facts = {
        "dims": len(shape),
        "unit": "mm" if len(shape) == 3 else "px",
        "oriented": len(shape) == 3,
        "shapes": (shape,) * cases,
        "spacings": (spacing or (1.0,) * len(shape),) * cases,
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


def planned(fingerprint: Fingerprint, machine: Resources = CPU, config: Config | None = None) -> Plan:
    config = config or config_of()
    return make_plan(PlanRequest.of(config, "m", fingerprint, machine))


def flat(plan: Plan) -> dict[str, Any]:
    """The values of a plan, as in its file, by their names."""
    return {name.split(".")[1]: value for name, value in flat_values(plan.to_json()).items()}


@pytest.mark.parametrize("machine", [CPU, GPU], ids=lambda m: m.device)
def test_hippocampus_gets_the_published_plan(machine: Resources) -> None:
    plan = planned(HIPPOCAMPUS, machine)
    assert plan.network.patch == (40, 56, 40)
    assert plan.network.strides == ((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3)
    assert plan.network.kernels == ((3,) * 3,) * 4
    assert plan.grid.spacing == (1.0, 1.0, 1.0)
    assert plan.grid.normalization == ("zscore",)
    assert plan.grid.oriented
    base = limits_of(machine.device, 3).base_width
    assert plan.network.widths == (base, 2 * base, 4 * base, 8 * base)
    assert (plan.machine.precision, plan.machine.device, plan.machine.threads) == (
        machine.precision,
        machine.device,
        machine.threads,
    )


OVERRIDES = [
    ("spacing", [2.0, 1.5, 1.0]),
    ("normalization", "percentile"),
    ("patch", [16, 24, 32]),
    ("batch", 7),
    ("widths", [9, 10, 11, 12]),
    ("strides", [[1, 1, 1], [2, 2, 1], [2, 2, 2]]),
    ("precision", "fp16"),
    ("channels_last", False),
    ("steps", 77),
]


@pytest.mark.parametrize(("name", "value"), OVERRIDES, ids=[n for n, _ in OVERRIDES])
def test_overrides_are_kept_and_said(name: str, value: Any) -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"plan": {name: value}}))
    found = flat(plan)[name]
    assert (found[0] if name == "normalization" else found) == value
    assert plan.reasons[name].startswith("override")
    assert not planned(HIPPOCAMPUS).reasons[name].startswith("override")
    assert len(plan.network.widths) == len(plan.network.strides) == len(plan.network.kernels)


def test_all_overrides_are_tested() -> None:
    from medseg.config import PlanOverrides

    assert {name for name, _ in OVERRIDES} | {"resolution"} == set(PlanOverrides.model_fields)


def test_values_of_the_model_section_reach_the_plan() -> None:
    section: dict[str, Any] = {
        "loss": "ce",
        "optimizer": "sgd",
        "weight_decay": 0.5,
        "augment": "none",
        "foreground": 0.7,
    }
    plan = flat(planned(HIPPOCAMPUS, CPU, config_of(section)))
    assert {k: plan[k] for k in section} == section
    assert plan["lr"] == LEARNING_RATES["sgd"]
    more = {"schedule": "cosine", "warmup": 0.1, "clip": 1.0, "average": 0.99, "freeze": ["encoder"], "compile": True}
    plan = flat(planned(HIPPOCAMPUS, CPU, config_of(more)))
    assert {k: plan[k] for k in more} == more
    nnunet = planned(HIPPOCAMPUS, CPU, config_of({"recipe": "nnunet"}))
    assert (
        nnunet.training.optimizer,
        nnunet.training.lr,
        nnunet.training.augment,
        nnunet.network.options["deep_supervision"],
    ) == (
        "sgd",
        0.01,
        "nnunet",
        True,
    )
    assert nnunet.reasons["recipe"] == "nnunet: override in the configuration"
    assert planned(HIPPOCAMPUS, CPU, config_of({"lr": 0.25})).training.lr == 0.25


def test_a_patch_that_the_user_fixed_is_not_shrunk_for_memory() -> None:
    plan = planned(HIPPOCAMPUS, replace(CPU, memory_bytes=3e7), config_of({"plan": {"patch": [64, 64, 64]}}))
    assert plan.network.patch == (64, 64, 64)
    assert plan.training.batch == 2


def test_a_patch_that_strides_do_not_divide_is_padded() -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"plan": {"patch": [17, 24, 9]}}))
    divisor = total_stride(plan.network.strides)
    assert all(p % d == 0 for p, d in zip(plan.network.patch, divisor, strict=True))
    assert all(0 <= p - w < d for p, w, d in zip(plan.network.patch, (17, 24, 9), divisor, strict=True))


@pytest.mark.parametrize(
    ("section", "cause"),
    [
        ({"dims": 2, "plan": {"spacing": [1.0, 1.0, 1.0]}}, r"expected 2 numbers.*slice \(all but axis 2\)"),
        ({"plan": {"resolution": "low"}}, "needs no low-resolution model"),
        ({"plan": {"resolution": "low", "spacing": [1.0, 1.0, 1.0]}}, "without an override of plan.spacing"),
        ({"dims": 2, "plan": {"resolution": "low"}}, "only for 3-D models"),
        ({"plan": {"spacing": [1.0, 1.0]}}, "expected 3 numbers"),
        ({"plan": {"patch": [16, 16]}}, "expected 3 numbers"),
        ({"plan": {"widths": [8, 16]}}, "one width"),
        ({"plan": {"strides": [[1, 1], [2, 2]]}}, "strides per stage"),
        ({"plan": {"precision": "bf16"}}, "wrong or slow on this processor"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(section: dict[str, Any], cause: str) -> None:
    with pytest.raises(PlanError, match=cause):
        planned(HIPPOCAMPUS, CPU, config_of(section))


def test_dims_beyond_those_of_the_data_are_refused() -> None:
    with pytest.raises(PlanError, match="2 dimensions, the model asks for 3"):
        planned(fingerprint_of((64, 64)), CPU, config_of({"dims": 3}))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_too_little_memory_shrinks_the_patch_and_then_is_an_error(device: str) -> None:
    machine = replace(CPU, device=device)
    data = fingerprint_of((200, 220, 180))
    roomy = planned(data, replace(machine, memory_bytes=1e12))
    needed = unet_step_bytes(roomy.changed(batch=2))
    tight = planned(data, replace(machine, memory_bytes=needed / 6))
    assert math.prod(tight.network.patch) < math.prod(roomy.network.patch)
    assert needed / 30 < unet_step_bytes(tight) <= needed / 6
    with pytest.raises(PlanError, match=r"no patch fits.*memory_gb"):
        planned(data, replace(machine, memory_bytes=1e5))


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    dims = draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(1, 500)] * dims))
    spacing = draw(st.tuples(*[st.floats(0.3, 8.0)] * dims))
    cases = draw(st.integers(2, 500))
    diameter = draw(st.sampled_from([0.0, 2.0, 40.0]))
    return fingerprint_of(shape, spacing, cases=cases, object_diameter=diameter)


@settings(max_examples=60)
@given(fingerprints(), st.floats(3e6, 5e10), st.sampled_from([CPU, GPU]))
def test_any_data_get_a_plan_within_memory_or_an_error(data: Fingerprint, memory: float, machine: Resources) -> None:
    try:
        plan = planned(data, replace(machine, memory_bytes=memory))
    except PlanError as error:
        assert "no patch fits" in str(error)
        return
    divisor = total_stride(plan.network.strides)
    assert all(p % d == 0 for p, d in zip(plan.network.patch, divisor, strict=True))
    # The batch is rounded, as nnU-Net does.
    assert unet_step_bytes(plan) <= memory * plan.training.batch / (plan.training.batch - 0.5) * (1 + 1e-9)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(("diameter", "stages"), [(19.1, 4), (3.0, 3)])
def test_the_reason_of_fewer_stages_names_the_objects(diameter: float, stages: int) -> None:
    plan = planned(fingerprint_of((256, 256), object_diameter=diameter))
    assert len(plan.network.strides) == stages
    why = f"at most {stages} stages: halved while 2 voxels fit across the median object ({diameter:g} px), 3 stages"
    assert why in plan.reasons["strides"]
    assert "object" not in planned(fingerprint_of((256, 256))).reasons["strides"]


@settings(max_examples=30)
@given(fingerprints(), st.sampled_from([CPU, GPU]))
def test_every_decision_has_a_reason(data: Fingerprint, machine: Resources) -> None:
    plan = planned(data, replace(machine, memory_bytes=1e12))
    told = {"spacing", "crop", "normalization", "patch", "strides", "kernels", "widths", "batch", "precision", "lr"}
    assert {*told, "resolution", "steps"} <= set(plan.reasons)
    text = explanation(plan)
    assert all(why in text for why in plan.reasons.values())


# 2-D networks on slices of volumes


@pytest.mark.parametrize(
    ("spacing", "axis"), [((1.0, 1.0, 1.0), 2), ((5.0, 1.0, 1.0), 0), ((1.0, 4.0, 1.5), 1), ((1.0, 2.0, 2.0), 2)]
)
def test_a_2d_model_on_volumes_takes_slices_along_the_coarsest_axis(spacing: tuple[float, ...], axis: int) -> None:
    shape = (100, 120, 90)
    plan = planned(fingerprint_of(shape, spacing), GPU, config_of({"dims": 2}))
    rest = [a for a in range(3) if a != axis]
    assert (plan.network.dims, plan.grid.dims, plan.grid.slice_axis) == (2, 3, axis)
    assert plan.grid.spacing == tuple(0.0 if a == axis else s for a, s in enumerate(spacing))
    assert plan.grid.patch_spacing == tuple(spacing[a] for a in rest)
    assert plan.window == tuple(1 if a == axis else plan.network.patch[rest.index(a)] for a in range(3))
    assert len(plan.network.patch) == len(plan.network.strides[0]) == 2
    # As pictures of that size would be planned, but for the share of the data that a batch covers.
    flat = fingerprint_of(tuple(shape[a] for a in rest), tuple(spacing[a] for a in rest))
    picture = planned(flat, GPU)
    same = ("patch", "strides", "kernels", "widths")
    assert [plan.value(k) for k in same] == [picture.value(k) for k in same]
    assert picture.grid.slice_axis is None
    assert picture.window == picture.network.patch


def test_spacing_within_slices_can_be_fixed() -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"dims": 2, "plan": {"spacing": [2.0, 1.5]}}))
    assert plan.grid.spacing == (2.0, 1.5, 0.0)


def test_median_shape_at_a_spacing_keeps_the_slice_axis() -> None:
    data = fingerprint_of((10, 20, 30), shapes=((10, 20, 30), (12, 20, 40), (14, 20, 50)))
    data = replace(data, spacings=((1.0, 1.0, 5.0), (1.0, 1.0, 4.0), (1.0, 1.0, 2.0)))
    assert data.median_shape_at((2.0, 0.5, 0.0)) == (6.0, 40.0, 40.0)
    assert data.median_shape_at((1.0, 1.0, 5.0)) == (12.0, 20.0, 30.0)


# Low resolution


def test_low_resolution_can_be_chosen_where_nnunet_plans_one() -> None:
    data = fingerprint_of((512, 512, 187), (0.8, 0.8, 1.6), cases=41)
    full, low = planned(data, GPU), planned(data, GPU, config_of({"plan": {"resolution": "low"}}))
    assert all(a < b for a, b in zip(full.grid.spacing, low.grid.spacing, strict=True))
    assert "plan.resolution: low" in full.reasons["resolution"]
    voxels = math.prod(data.median_shape_at(low.grid.spacing))
    assert 0.24 < math.prod(low.network.patch) / voxels < 0.35
    # The grid is the same wherever it is planned.
    assert planned(data, CPU, config_of({"plan": {"resolution": "low"}})).grid == low.grid


# Limits


def test_limits_are_what_differs_between_candidates() -> None:
    from medseg.plan.limits import Limits

    config = config_of()
    small = Limits(voxels=24**3, base_width=8, width_cap=32, max_batch=2, max_stages=3)
    request = PlanRequest.of(config, "m", fingerprint_of((200, 200, 200)), CPU)
    plan = make_plan(replace(request, limits=small))
    assert plan.network.patch == (24, 24, 24)
    assert plan.network.widths == (8, 16, 32)
    assert plan.training.batch == 2
    assert "8 doubled per stage up to 32" in plan.reasons["widths"]


@pytest.mark.parametrize(
    ("data", "patch", "widths", "batch"),
    [
        (HIPPOCAMPUS, (40, 56, 40), (16, 32, 64, 128), 4),
        (fingerprint_of((256, 256), cases=500), (256, 256), (16, 32, 64, 128, 256, 256), 8),
        (fingerprint_of((520, 696), cases=500), (256, 256), (16, 32, 64, 128, 256, 256), 8),
        (fingerprint_of((256, 256), cases=500, object_diameter=19.1), (256, 256), (16, 32, 64, 128), 8),
    ],
    ids=["hippocampus", "pictures", "larger pictures", "nuclei"],
)
def test_plans_of_a_processor_stay(data: Fingerprint, patch: tuple, widths: tuple, batch: int) -> None:
    plan = planned(data, CPU)
    assert (plan.network.patch, plan.network.widths, plan.training.batch) == (patch, widths, batch)


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
        net = build_model(network, plan.network)
        assert net(torch.zeros(2, 1, *plan.network.patch)).shape == (2, plan.network.classes, *plan.network.patch)


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
        net = build_model(network, plan.network)
        assert net(torch.zeros(2, 1, *plan.network.patch)).shape == (2, plan.network.classes, *plan.network.patch)


@pytest.mark.parametrize(
    ("budget", "steps"), [({"steps": 55}, 55), ({"epochs": 3}, math.ceil(3 * 260 * 4 / 5 / 4)), ({"minutes": 2.0}, 1)]
)
def test_budgets_become_steps(budget: dict[str, Any], steps: int) -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"plan": {"batch": 4}}, budget=budget))
    assert plan.training.steps == steps
    assert plan.training.validate_every == validate_every(steps)


SHORT: tuple[Any, ...] = ("adamw", 2e-3, 1e-4, 0.05, "default", {})
NNUNET: tuple[Any, ...] = ("sgd", 1e-2, 3e-5, 0.0, "nnunet", {"deep_supervision": True})


def recipe_of(plan: Plan) -> tuple[Any, ...]:
    """What a recipe says, from the plan."""
    return (
        plan.training.optimizer,
        plan.training.lr,
        plan.training.weight_decay,
        plan.training.warmup,
        plan.training.augment,
        plan.network.options,
    )


@pytest.mark.parametrize(
    ("budget", "fixed", "steps", "recipe", "why"),
    [
        ({"steps": 9_999}, {}, 9_999, SHORT, "short: 9,999 steps are fewer than 10,000"),
        ({"steps": 10_000}, {}, 10_000, NNUNET, "nnunet: 10,000 steps are 10,000 or more"),
        # An epoch of 208 cases has 52 batches of 4, or 104 of 2.
        ({"epochs": 192}, {"batch": 4}, 9_984, SHORT, "short: 9,984 steps are fewer than 10,000"),
        ({"epochs": 193}, {"batch": 4}, 10_036, NNUNET, "nnunet: 10,036 steps are 10,000 or more"),
        ({"epochs": 192}, {"batch": 2}, 19_968, NNUNET, "nnunet: 19,968 steps are 10,000 or more"),
        # Steps that the user fixed count, whatever the budget.
        ({"steps": 10_000}, {"steps": 100}, 100, SHORT, "short: 100 steps are fewer than 10,000"),
        ({"minutes": 1.0}, {"steps": 12_000}, 12_000, NNUNET, "nnunet: 12,000 steps are 10,000 or more"),
    ],
)
def test_the_steps_settle_the_recipe(
    budget: dict[str, Any], fixed: dict[str, Any], steps: int, recipe: tuple[Any, ...], why: str
) -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"plan": fixed}, budget=budget))
    assert plan.training.steps == steps
    assert recipe_of(plan) == recipe
    assert plan.reasons["recipe"] == why
    assert plan.reasons["lr"] == f"default of {plan.training.optimizer}"
    assert f"recipe\n    {why}" in explanation(plan)


@pytest.mark.parametrize("steps", [1, 9_999, 10_000, 250_000])
@pytest.mark.parametrize(("name", "recipe"), [("short", SHORT), ("nnunet", NNUNET)])
def test_a_recipe_that_is_named_stays_at_any_steps(steps: int, name: str, recipe: tuple[Any, ...]) -> None:
    plan = planned(HIPPOCAMPUS, CPU, config_of({"recipe": name}, budget={"steps": steps}))
    assert recipe_of(plan) == recipe
    assert plan.reasons["recipe"] == f"{name}: override in the configuration"


def test_what_a_model_says_itself_wins_over_the_recipe_of_auto() -> None:
    own = {"optimizer": "adamw", "augment": "microscopy", "options": {"deep_supervision": False}}
    plan = planned(HIPPOCAMPUS, CPU, config_of(own, budget={"steps": 10_000}))
    assert recipe_of(plan) == ("adamw", 2e-3, 3e-5, 0.0, "microscopy", {"deep_supervision": False})
    # A network without deep supervision takes the rest of the recipe.
    plan = planned(HIPPOCAMPUS, CPU, config_of({"network": "vnet"}, budget={"steps": 10_000}))
    assert recipe_of(plan) == (*NNUNET[:-1], {})


def test_what_the_recipe_of_auto_takes_is_counted_as_memory() -> None:
    """Losses at every resolution take more than the one of ``short``: here with memory between the two."""
    few = {"patch": [64, 64], "widths": [8, 8, 8, 8], "strides": [[1, 1], [2, 2], [2, 2], [2, 2]]}
    data = fingerprint_of((64, 64))

    def within(memory: float, steps: int, **fixed: Any) -> Plan:
        config = config_of({"optimizer": "sgd", "plan": {**few, **fixed}}, budget={"steps": steps})
        request = PlanRequest.of(config, "m", data, replace(CPU, memory_bytes=memory))
        return plan_within_memory(request, estimate_memory)

    less, more = (estimate_memory(within(1e12, steps, batch=8)) for steps in (9_999, 10_000))
    assert less < more
    between = (less + more) / 2
    assert "at most" in within(between, 9_999, batch=8).reasons["memory"]
    assert "though more than" in within(between, 10_000, batch=8).reasons["memory"]
    # What is not fixed shrinks.
    plan = within(more / 2, 10_000)
    assert recipe_of(plan) == NNUNET
    assert estimate_memory(plan) <= more / 2


def test_plan_json_round_trip_and_other_versions() -> None:
    plan = planned(HIPPOCAMPUS)
    value = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(value) == plan
    assert Grid.from_json(json.loads(json.dumps(plan.grid.to_json()))) == plan.grid
    with pytest.raises(PlanError, match="colour"):
        Plan.from_json({**value, "colour": 1})
    with pytest.raises(PlanError, match=r"training\.colour"):
        Plan.from_json({**value, "training": {**value["training"], "colour": 1}})
    with pytest.raises(PlanError, match=r"machine\.device.*medseg plan"):
        Plan.from_json({**value, "machine": "cpu"})
    del value["network"]["kernels"]
    with pytest.raises(PlanError, match=r"network\.kernels.*medseg plan"):
        Plan.from_json(value)


def test_fields_of_a_plan_are_changed_by_their_names() -> None:
    plan = planned(HIPPOCAMPUS)
    other = plan.changed(lr=0.5, batch=3, threads=7, patch=(8, 8, 8), model="other")
    assert (other.training.lr, other.training.batch, other.machine.threads) == (0.5, 3, 7)
    assert (other.network.patch, other.model, other.grid) == ((8, 8, 8), "other", plan.grid)
    assert (
        other.changed(**{k: flat(plan)[k] for k in ("lr", "batch", "threads")}, patch=(40, 56, 40), model="m") == plan
    )
    with pytest.raises(TypeError, match="colour"):
        plan.changed(colour=1)


def test_no_two_groups_of_a_plan_have_a_field_of_one_name() -> None:
    names = [name.split(".")[1] for name in flat_values(planned(HIPPOCAMPUS).to_json())]
    assert len(names) == len(set(names)) == 39


def test_models_with_one_grid_share_it() -> None:
    models = [config_of(s).models["m"] for s in ({}, {"network": "deeplabv3plus"}, {"plan": {"batch": 9}})]
    assert len({json.dumps(plan_grid(HIPPOCAMPUS, m.dims, m.plan).to_json()) for m in models}) == 1


def test_resources_are_those_of_this_machine_or_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from medseg.engine import resources

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match="cuda"):
        available_resources("cuda", None, 1, 1)
    fixed = available_resources("auto", 3.0, 5, 2)
    assert (fixed.device, fixed.memory_bytes, fixed.threads, fixed.processes) == ("cpu", 3e9, 2, 2)
    monkeypatch.setattr(resources, "host_memory", lambda: 8_000)
    assert available_resources("cpu", None, 1, 1).memory_bytes == 4_000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(resources, "device_memory", lambda: 10_000)
    monkeypatch.setattr(resources, "fast_precision", lambda device: "bf16")
    found = available_resources("auto", None, 4, 1)
    assert (found.device, found.precision, found.memory_bytes, found.threads) == ("cuda", "bf16", 8_000, 4)


def test_planning_imports_no_torch() -> None:
    import subprocess
    import sys

    script = "import sys, medseg.plan.run, medseg.engine.resources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# Fingerprints


def test_fingerprint_of_known_data(study: Any) -> None:
    for name in study.config.datasets:
        manifest = read_manifest(study.manifest(name))
        facts = read_fingerprint(study.fingerprint(name))
        shapes = [c.geometry.reoriented(*_canonical(c.geometry)).shape for c in manifest.cases]
        np.testing.assert_allclose(facts.median_shape, np.median(shapes, axis=0))
        assert (facts.cases, facts.classes, facts.dims) == (4, 3, manifest.dims)
        assert facts.oriented == (name == "solid")
        assert facts.shapes == tuple(shapes)
        assert facts.median_relative_size == 1.0
        assert Fingerprint.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_a_fingerprint_of_another_version_is_refused() -> None:
    value = HIPPOCAMPUS.to_json()
    with pytest.raises(PlanError, match=r"colour.*medseg fingerprint"):
        Fingerprint.from_json({**value, "colour": 1})
    del value["shapes"]
    with pytest.raises(PlanError, match="shapes"):
        Fingerprint.from_json(value)


def _canonical(geometry: Any) -> Any:
    from medseg.image.geometry import canonical_axes

    return canonical_axes(geometry)


def test_objects_are_measured_in_the_unit_of_the_data(tmp_path: Path) -> None:
    """Squares of 3, 4 and 5 pixels in two pictures; where nobody annotated is no object."""
    from medseg.formats.write import write_labels
    from medseg.image.geometry import Geometry
    from medseg.ingest import run as ingest

    objects = np.zeros((2, 20, 24), dtype=np.uint8)
    objects[0, 1:4, 1:4], objects[0, 8:12, 8:12], objects[1, 2:7, 2:7] = 7, 3, 1
    objects[1, 10:, 10:] = 255
    cells = {"layout": "pairs", "path": "data", "labels": {"cell": 1}, "ignore": 255, "spacing": [0.5, 0.5]}

    def measured(reference: NDArray[np.uint8], *, instances: bool) -> float:
        for number in range(2):
            for folder, picture in (("images", reference[number] + 1), ("masks", reference[number])):
                path = tmp_path / "data" / folder / f"c{number}.png"
                write_labels(path, picture, Geometry.from_spacing(picture.shape, (1.0, 1.0)))
        data = {"d": {**cells, "instances": instances}}
        config = config_of(data_root=str(tmp_path), datasets=data, folds={"count": 2})
        ingest.run(config, "d", tmp_path / "out")
        return take_fingerprint(read_manifest(tmp_path / "out" / "manifest.tsv"), tmp_path / "data", 1).object_diameter

    assert measured(objects, instances=True) == pytest.approx(2 * math.sqrt(16 * 0.25 / math.pi), rel=1e-6)
    classes = np.where(objects == 255, objects, np.minimum(objects, 1))
    assert measured(classes, instances=False) == 0


def test_intensities_are_those_of_the_foreground(study: Any) -> None:
    """Both data sets are 1 unit brighter in the ball, 2 in the rod; scaled by 60 (+40) and by 100."""
    from medseg.formats.read import read_image, read_labels

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
    assert found["median"] == pytest.approx(np.median(pooled), rel=1e-4)
    assert found["p99_5"] == pytest.approx(np.percentile(pooled, 99.5), rel=1e-4)
    assert (found["min"], found["max"]) == (pooled.min(), pooled.max())


def test_fingerprint_does_not_depend_on_workers_or_chance(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.plan import survey

    monkeypatch.setattr(survey, "SAMPLES_PER_CASE", 40)
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


def test_stage_measures_only_a_budget_in_minutes(study: Any, tmp_path: Path) -> None:
    asked: list[tuple[Any, ...]] = []

    def measure(plan: Plan, shape: Any, seconds: float) -> Pace:
        asked.append((plan.network.widths[0], tuple(shape), seconds))
        return Pace(0.45, 0.01, 0.02)

    file = tmp_path / "plan.json"
    for budget in ({"steps": 9}, {"minutes": 3.0}):
        run_plan(config_of(budget=budget, device="cpu", threads=1), "m", study.fingerprint("flat"), file, measure)
        plan = read_plan(file)
        assert (plan.training.steps == 9) == ("steps" in budget)
    # 3 minutes hold some 350 steps: enough for the second candidate, not for the third.
    assert 320 <= plan.training.steps <= 180 / 0.45
    # Layouts (and arithmetic, where the processor has others) by the plain width first, then the candidates.
    first = [width for width, _, _ in asked if width]
    variants = len(first) - 4
    assert variants in (2, 3)
    assert first == [16] * variants + [8, 16, 32, 16]
    assert plan.network.widths[0] == 16
    assert "channels outermost" in plan.reasons["channels_last"]
    # What the user fixed is not measured against anything.
    still = {"channels_last": True, "precision": "fp32"}
    for fixed, calls in (({"steps": 8}, 0), ({"widths": [8] * len(plan.network.widths), **still}, 1), (still, 4)):
        asked.clear()
        config = config_of({"plan": fixed}, budget={"minutes": 3.0}, device="cpu")
        run_plan(config, "m", study.fingerprint("flat"), file, measure)
        assert len(asked) == calls


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [('"dims": 2', '"dims": 3', "damaged or edited"), ('"digest": ', '"other": ', "no digest; written by an earlier")],
)
def test_a_plan_that_was_edited_says_where_numbers_of_ones_own_go(
    old: str, new: str, cause: str, study: Any, tmp_path: Path
) -> None:
    path = tmp_path / "unet.json"
    path.write_text(study.plan("flat").read_text().replace(old, new))
    with pytest.raises(DataError, match=rf"{cause}.*run `medseg plan` again; .*`models\.<name>\.plan`"):
        read_plan(path)
    own = config_of({"plan": {"batch": 3}}, device="cpu")
    assert run_plan(own, "m", study.fingerprint("flat"), path).training.batch == 3


@pytest.mark.parametrize(
    ("short_s", "nnunet_s", "recipe", "why"),
    [
        (0.017, 0.014, SHORT, "short: {short:,} steps are fewer than 10,000"),
        (0.013, 0.014, NNUNET, "nnunet: {short:,} steps are 10,000 or more, measured as short; {then}"),
        # Its own steps are fewer than 10,000, and it is kept.
        (0.013, 0.03, NNUNET, "nnunet: {short:,} steps are 10,000 or more, measured as short; {then}"),
    ],
    ids=["fewer", "more", "more, but slower"],
)
def test_steps_that_were_measured_settle_the_recipe(
    short_s: float, nnunet_s: float, recipe: tuple[Any, ...], why: str, study: Any, tmp_path: Path
) -> None:
    asked: list[Plan] = []

    def measure(plan: Plan, shapes: Any, seconds: float) -> Pace:
        asked.append(plan)
        # The widest gets too few steps to be taken.
        return Pace(
            1.0 if plan.network.widths[0] == 32 else nnunet_s if plan.training.augment == "nnunet" else short_s,
            0.001,
            0.0,
        )

    config = config_of(budget={"minutes": 3.0}, device="cpu", threads=1)
    plan = run_plan(config, "m", study.fingerprint("flat"), tmp_path / "plan.json", measure)
    assert read_plan(tmp_path / "plan.json") == plan
    short, nnunet = (steps_in(3.0, Pace(seconds, 0.001, 0.0)) for seconds in (short_s, nnunet_s))
    steps = short if recipe == SHORT else nnunet
    assert (plan.training.steps, plan.training.validate_every, plan.network.widths[0]) == (
        steps,
        validate_every(steps),
        16,
    )
    assert recipe_of(plan) == recipe
    then = f"with nnunet they are {nnunet:,}, and it stays"
    assert plan.reasons["recipe"] == why.format(short=short, then=then)
    assert f"hold {steps} steps" in plan.reasons["steps"]
    # The width was chosen once, by the steps of ``short``, and how is told.
    assert f"16 gets {short} steps of 320, 32 gets " in plan.reasons["widths"]
    assert "channels outermost" in plan.reasons["channels_last"]
    again = [(p.network.widths, p.network.options) for p in asked if p.training.augment == "nnunet"]
    assert again == ([(plan.network.widths, plan.network.options)] if recipe == NNUNET else [])


@pytest.mark.parametrize(("name", "recipe"), [("short", SHORT), ("nnunet", NNUNET)])
def test_a_recipe_that_is_named_is_measured_once(name: str, recipe: tuple[Any, ...], study: Any) -> None:
    asked: list[Plan] = []

    def measure(plan: Plan, shapes: Any, seconds: float) -> Pace:
        asked.append(plan)
        # As many steps as would let ``auto`` mean the other.
        return Pace(0.013 if name == "short" else 0.03, 0.001, 0.0)

    still = {"channels_last": True, "precision": "fp32", "widths": [8] * 4}
    config = config_of({"recipe": name, "plan": still}, budget={"minutes": 3.0}, device="cpu", threads=1)
    plan = run_plan(config, "m", study.fingerprint("flat"), None, measure)
    assert (plan.training.steps >= 10_000) == (name == "short")
    assert plan.reasons["recipe"] == f"{name}: override in the configuration"
    assert [recipe_of(p) for p in asked] == [recipe] == [recipe_of(plan)]


@pytest.mark.parametrize(
    ("network", "dims"),
    few(product(("unet", "deeplabv3plus", "rcnn"), (2, 3)), lambda network, dims: network == "unet" or dims == 2),
)
def test_the_pace_is_that_of_the_training_loop(
    network: str, dims: int, tiny_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.train import pace

    steps = []
    made = pace.build_step
    monkeypatch.setattr(pace, "build_step", lambda *args: steps.append(made(*args)) or steps[-1])
    found = pace.measure(tiny_plan(network, dims), [(50,) * dims, (40,) * dims], 0.0)
    assert 0 < found.step_s < math.inf
    assert 0 < found.validation_s < math.inf
    assert 0 < found.save_share < 0.05
    # It was the plan's own network that was timed.
    assert steps[0].optimizer.state_dict()["state"]


@pytest.mark.parametrize("changes", [{"ignore": True}, {"regions": ((1, 2), (2,), (1,), (1, 2), (2,))}])
def test_the_pace_of_plans_with_regions_and_sparse_labels(changes: Any, tiny_plan: Any) -> None:
    from medseg.train import pace

    assert pace.measure(tiny_plan(**changes), [(40, 40)], 0.0).step_s > 0
