"""Model folders that somebody changed, digests and all: refused with field and reason, or used as they say."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.io import imsave

from medseg.engine.build import build_step
from medseg.errors import CheckpointError, MedsegError, PlanError
from medseg.image.labels import LabelTable
from medseg.models.zoo import build_model
from medseg.plan.plan import Plan, read_plan, write_plan
from medseg.records import write_record
from medseg.train.checkpoint import Checkpoint, pack_tensors, read_checkpoint, read_weights, write_checkpoint
from tests.faults import hostile_models
from tests.plans import tiny_plan

LABELS = LabelTable.create({"ball": 1, "rod": 3})
MUTATIONS = 100
# Fields that are named where another one contradicts them.
ELSEWHERE = (
    "the plan's network has",
    "grid.spacing",
    "grid.statistics",
    "network.strides",
    "labels",
    "regions: ",
    "damaged",
)
# Values of a plan that only contradict the data set, which stands beside it in model.json.
POSSIBLE_ALONE = [("plan.network.classes", 4), ("plan.network.regions", [[1], [2]])]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    plan = tiny_plan()
    torch.manual_seed(0)
    checkpoint = Checkpoint("d", ("grey",), LABELS, plan, 1, 2, "abc", {"medseg": "0"}, inputs={"plan": "1"})
    write_checkpoint(tmp_path / "model", checkpoint, build_model(plan.network.name, plan.network))
    return tmp_path / "model"


def test_no_description_escapes_the_checks(model: Path, tmp_path: Path) -> None:
    imsave(tmp_path / "image.png", np.random.default_rng(0).integers(0, 255, (40, 48), dtype=np.uint8))
    seed = int(os.environ.get("MEDSEG_SEED", random.randrange(10**6)))
    print(f"MEDSEG_SEED={seed}")
    command = [sys.executable, "-m", "tests.faults.hostile_models", model, tmp_path / "image.png", seed, MUTATIONS]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    table = list(hostile_models.variants())
    assert (done.returncode, len(results)) == (0, len(table) + MUTATIONS), (done.stderr[-2000:], results[-1:])
    assert not [result for result in results if "escaped" in result]
    assert len(table) > 150
    for (place, _), result in zip(table, results, strict=False):
        assert "refused" in result, result
        assert "model.json" in result["refused"] or place == "weights_sha256", result
        assert len(result["refused"]) < 1500, result
        # The field is named, or one that it contradicts.
        field = place.split(".")[-1]
        assert any(word in result["refused"] for word in (field, *ELSEWHERE)), result


def test_a_model_is_used_whatever_loss_it_was_trained_with_but_none_is_trained_with_an_unknown_one(model: Path) -> None:
    path = model / "model.json"
    path.write_text(json.dumps(hostile_models.changed(json.loads(path.read_text()), "plan.training.loss", "focal2")))
    checkpoint, network = read_checkpoint(model)
    with pytest.raises(PlanError, match=r"training\.loss: found 'focal2'; expected one of dice_ce, .*`medseg plan`"):
        build_step(network, checkpoint.plan)


def test_what_was_found_and_expected_is_said(model: Path) -> None:
    for place, value, said in (
        (
            "plan.network.patch",
            [100_000, -1],
            "network.patch: found [100000, -1]; expected a list of 2 to 3, each a whole",
        ),
        ("plan.machine.threads", 10**9, "machine.threads: found 1000000000; expected a whole number from 1 to 1,024"),
        ("plan.training.lr", "abc", "training.lr: found 'abc'; expected a number above 0"),
        ("fold", -1, "fold: found -1; expected a whole number from 0 to "),
        ("dataset.channels", ["a", "b"], "dataset.channels: found 2; the plan's network has 1"),
    ):
        path = model / "model.json"
        before = path.read_text()
        path.write_text(json.dumps(hostile_models.changed(json.loads(before), place, value)))
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(model)
        assert str(caught.value).startswith(f"{path}: {said}")
        path.write_text(before)


@pytest.mark.parametrize("depth", [500, 100_000])
def test_deep_nesting_is_refused(model: Path, depth: int) -> None:
    path = model / "model.json"
    path.write_text(path.read_text().replace('"allowed": []', f'"allowed": {"[" * depth}{"]" * depth}'))
    with pytest.raises(CheckpointError, match=r"model\.json"):
        read_checkpoint(model)


def test_a_description_that_is_too_long_is_not_read(model: Path) -> None:
    with open(model / "model.json", "ab") as file:
        file.truncate(1 << 34)
    with pytest.raises(CheckpointError, match="17,179,869,184 bytes; expected at most"):
        read_checkpoint(model)


# Weights


def seal(model: Path) -> None:
    path, weights = model / "model.json", model / "model.safetensors"
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    path.write_text(json.dumps(hostile_models.changed(json.loads(path.read_text()), "weights_sha256", sha256)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8])
def test_weights_of_another_type_are_refused(model: Path, dtype: torch.dtype) -> None:
    path = model / "model.safetensors"
    path.write_bytes(pack_tensors({name: tensor.to(dtype) for name, tensor in load_file(path).items()}))
    seal(model)
    for read in (read_checkpoint, read_weights):
        with pytest.raises(
            CheckpointError, match=f"of another type .* {str(dtype).removeprefix('torch.')} instead of fl"
        ):
            read(model)


def header(entries: Any, size: int = 0) -> bytes:
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size)


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, bytes] = {
    "nothing": b"",
    "short": b"\x01",
    "a length beyond the file": struct.pack("<Q", 2**60) + b"{}",
    "no JSON": header("{"),
    "nested": header('{"w": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "a list": header("[]"),
    "a number": header({"w": 5}),
    "another type": header({"w": {**ONE, "dtype": "F128"}}, 8),
    "a type that is a list": header({"w": {**ONE, "dtype": ["F32"]}}, 8),
    "a huge shape": header({"w": {**ONE, "shape": [10**12]}}, 8),
    "a shape beyond all numbers": header({"w": {**ONE, "shape": [10**30, 0]}}, 8),
    "a negative shape": header({"w": {**ONE, "shape": [-1, -2]}}, 8),
    "bytes twice": header({"w": ONE, "v": ONE}, 8),
    "a gap": header({"w": ONE, "v": {**ONE, "data_offsets": [16, 24]}}, 24),
    "too few bytes": header({"w": ONE}, 4),
    "too many bytes": header({"w": ONE}, 16),
    "backwards": header({"w": {**ONE, "data_offsets": [8, 0]}}, 8),
    "no offsets": header({"w": {"dtype": "F32", "shape": [2]}}, 8),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_of_weights_is_refused(model: Path, name: str) -> None:
    (model / "model.safetensors").write_bytes(HEADERS[name])
    seal(model)
    for read in (read_checkpoint, read_weights):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: not safetensors, or damaged") as caught:
            read(model)
        assert len(str(caught.value)) < 500


def test_weights_are_not_read_before_they_are_known_to_fit(model: Path) -> None:
    """A file of 1 TB that takes no disk: its header alone tells that it is of another network."""
    with open(model / "model.safetensors", "wb") as file:
        file.write(header({"w": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}))
        file.truncate(file.tell() + 2**40)
    for read in (read_checkpoint, read_weights):
        with pytest.raises(CheckpointError, match=r"weights of another architecture.*1 unexpected \['w'\]"):
            read(model)


def test_a_network_is_not_built_before_it_is_known_to_fit(model: Path) -> None:
    """The widest networks that a plan can describe would take hundreds of gigabytes."""
    path = model / "model.json"
    facts = json.loads(path.read_text())
    for place, value in (
        ("widths", [4096] * 16),
        ("strides", [[1, 1]] * 16),
        ("kernels", [[31, 31]] * 16),
    ):
        facts = hostile_models.changed(facts, f"plan.network.{place}", value)
    path.write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="weights of another architecture"):
        read_checkpoint(model)


# Plans


OPTIONS = [
    ("rcnn", {"crop": 10**6}),
    ("rcnn", {"regions": 10**9}),
    ("hypercolumns", {"hidden": 10**9}),
    ("fcn8s", {"width": 10**9}),
    ("fcn8s", {"width": -8}),
    ("mednext", {"size": "XXL"}),
    ("unet", {"width": 8}),
    ("unet2015", {"dropout": 1.0}),
    ("deeplabv3plus", {"weights": 5}),
]


@pytest.mark.parametrize(("network", "options"), OPTIONS)
def test_options_of_networks_have_ranges(network: str, options: dict[str, Any], tmp_path: Path) -> None:
    facts = tiny_plan(network, options=options).to_json()
    write_record(tmp_path / "plan.json", facts)
    with pytest.raises(PlanError, match=rf"plan\.json: network\.options\.{next(iter(options))}: found"):
        read_plan(tmp_path / "plan.json")


def test_a_plan_file_is_read_within_the_same_bounds(tmp_path: Path) -> None:
    facts = json.loads(json.dumps(tiny_plan().to_json()))
    path = tmp_path / "plan.json"
    for place, value in hostile_models.variants():
        if place.startswith("plan.") and (place, value) not in POSSIBLE_ALONE:
            path.write_text(json.dumps(hostile_models.changed({"plan": facts}, place, value)["plan"]))
            write_record(path, json.loads(path.read_text()))
            with pytest.raises(PlanError, match=r"plan\.json: .*medseg plan"):
                read_plan(path)
    for place, value in hostile_models.mutations(facts, 300, seed=1):
        mutant = hostile_models.changed(facts, place, value)
        write_record(path, {name: held for name, held in mutant.items() if name != "digest"})
        try:
            plan = read_plan(path)
        except MedsegError:
            continue
        write_plan(path, plan)
        assert read_plan(path) == plan


def test_networks_with_few_channels_and_patches_for_the_largest_machines_are_read(tmp_path: Path) -> None:
    path, facts = tmp_path / "plan.json", tiny_plan().to_json()
    for place, value in (("widths", [4, 8, 1]), ("patch", [16_384, 16_384])):
        write_record(path, {**facts, "network": {**facts["network"], place: value}})
        assert getattr(read_plan(path).network, place) == tuple(value)
    with pytest.raises(PlanError, match=r"network\.patch: .*1,073,741,824 voxels"):
        write_plan(path, tiny_plan(dims=3, patch=(1024, 1024, 1025)))


def test_a_plan_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"model 'tiny': training\.steps: found .*change models\.tiny\.plan"):
        write_plan(tmp_path / "plan.json", tiny_plan(steps=10**12))
    assert not list(tmp_path.iterdir())
    assert isinstance(tiny_plan(), Plan)
