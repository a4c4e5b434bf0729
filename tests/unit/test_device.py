"""A training on a GPU, where torch sees one, beside a processor; what is exact or learns does so on both."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.augment.policy import AUGMENTATIONS, Setting
from medseg.augment.tables import TABLES
from medseg.engine.build import build_placed, build_step
from medseg.errors import TrainingError
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.machine import fast_precision
from medseg.networks import NETWORKS
from medseg.predict.predictor import Predictor
from medseg.train import advance
from medseg.train.checkpoint import Checkpoint, network_tensors, pack_tensors, write_checkpoint
from medseg.train.loop import train
from medseg.train.state import FoldCases, RunOptions

GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
LABELS = LabelTable.create({"ball": 1, "rod": 3})
SHAPES = {"slices": (40, 40), "volumes": (20, 24, 22), "anisotropic": (6, 32, 32)}


def keyed(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(network: torch.nn.Module) -> str:
    return hashlib.sha256(pack_tensors(network_tensors(network))).hexdigest()


def losses(state: Path) -> list[float]:
    records = [json.loads(line)["metrics"] for line in (state / "journal.jsonl").read_text().splitlines()]
    return [m["train/loss"] for m in records if "train/loss" in m]


@needs_gpu
@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_recipes_make_what_they_make_on_a_processor(name: str, kind: str, channels: int) -> None:
    shape = SHAPES[kind]
    images = torch.randn(6, channels, *shape, generator=keyed(1))
    labels = torch.randint(0, 9, (6, *shape), generator=keyed(2), dtype=torch.uint8)
    often = {row: {"probability": 0.5} for row in TABLES.get(name, {})}
    setting = Setting((4.0, 1.0, 1.0) if kind == "anisotropic" else (1.0,) * len(shape), False, None, often)
    x, y = AUGMENTATIONS[name](images, labels, keyed(3), setting)
    there_x, there_y = AUGMENTATIONS[name](images.to("cuda"), labels.to("cuda"), keyed(3), setting)
    assert there_x.device.type == there_y.device.type == "cuda"
    torch.testing.assert_close(there_x.cpu(), x, atol=1e-3, rtol=1e-3)
    assert (there_y.cpu() == y).float().mean() > 0.998


@needs_gpu
@pytest.mark.parametrize("dims", [2, 3])
def test_first_losses_are_those_of_a_processor(dims: int, tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    plan = tiny_plan(dims=dims, optimizer="sgd", lr=0.01, augment="nnunet", validate_every=6)
    fold = FoldCases(tiny_cases(dims), [], LABELS)
    for where in ("cpu", "cuda"):
        train(plan.changed(device=where), fold, 0, tmp_path / where, where)
    np.testing.assert_allclose(losses(tmp_path / "cuda"), losses(tmp_path / "cpu"), rtol=2e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_continued_is_undisturbed(
    workers: int,
    device: str,
    tiny_cases: Any,
    tiny_plan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, cases = tiny_plan(device=device, augment="nnunet", options={"deep_supervision": True}), tiny_cases(2)
    fold, made = FoldCases(cases, cases[:1], LABELS), advance.augment_batch
    whole = train(plan, fold, 0, tmp_path / "whole", "whole")

    def stopping(raw: Any, *rest: Any) -> Any:
        if raw.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return made(raw, *rest)

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="SIGTERM after step 3"):
        patch.setattr(advance, "augment_batch", stopping)
        train(plan, fold, 0, tmp_path / "stopped", "stopped", options=RunOptions(workers=workers))
    ended = train(plan, fold, 0, tmp_path / "stopped", "stopped", options=RunOptions(workers=workers))
    assert bits(ended) == bits(whole)


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16"),
        *[pytest.param("cuda", precision, marks=needs_gpu) for precision in ("bf16", "fp16", "tf32")],
    ],
)
@pytest.mark.parametrize("dims", [2, 3])
def test_reduced_precisions_learn(
    dims: int, device: str, precision: str, tiny_cases: Any, tiny_plan: Any, tmp_path: Path
) -> None:
    plan = tiny_plan(dims=dims, device=device, precision=precision, steps=20, validate_every=20)
    network = train(plan, FoldCases(tiny_cases(dims), [], LABELS), 0, tmp_path, "low")
    found = losses(tmp_path)
    assert np.mean(found[-3:]) < 0.9 * np.mean(found[:3])
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@needs_gpu
@pytest.mark.parametrize("dims", [2, 3])
def test_predictions_are_those_of_a_processor(
    dims: int, tiny_cases: Any, tiny_plan: Any, draw_scene: Any, tmp_path: Path
) -> None:
    plan = tiny_plan(dims=dims, device="cuda", lr=0.02, steps=30, validate_every=30)
    network = train(plan, FoldCases(tiny_cases(dims), [], LABELS), 0, tmp_path / "state", "some").cpu()
    write_checkpoint(tmp_path / "model", Checkpoint("d", ("MRI",), LABELS, plan, 0, 0, "f", {}), network)
    shape = (44, 37) if dims == 2 else (22, 17, 19)
    image, geometry = draw_scene(shape, 5)[0][None], Geometry.from_spacing(shape, (1.0,) * dims, plan.grid.unit)
    source = Source.from_array(image, geometry)
    there, here = (Predictor(tmp_path / "model", device=d).label_map(source, "image") for d in ("cuda", "cpu"))
    assert len(np.unique(here)) > 1
    assert (there == here).mean() > 0.999


# Where only a GPU can tell


@needs_gpu
@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize("name", [f"{network}-{dims}d" for network, row in NETWORKS.items() for dims in row.dims])
def test_every_network_takes_a_step(name: str, tiny_plan: Any) -> None:
    network, dims = name[:-3], int(name[-2])
    plan = tiny_plan(network, dims, device="cuda", precision=fast_precision("cuda"), optimizer="sgd")
    torch.manual_seed(0)
    placed = build_placed(plan)
    before = {k: v.detach().clone() for k, v in placed.named_parameters()}
    images = torch.randn(2, 1, *plan.network.patch, generator=keyed(1)).to("cuda")
    labels = torch.randint(0, 3, (2, *plan.network.patch), generator=keyed(2)).to("cuda")
    assert np.isfinite(build_step(placed, plan)(images, labels))
    assert any(not torch.equal(before[k], v) for k, v in placed.named_parameters())


@needs_gpu
def test_out_of_memory_halves_what_goes_through_at_once(tiny_plan: Any) -> None:
    plan = tiny_plan(device="cuda", widths=(64, 64, 64), optimizer="sgd")
    images = torch.randn(16, 1, 512, 512, generator=keyed(1)).to("cuda")
    labels = torch.randint(0, 3, (16, 512, 512), generator=keyed(2)).to("cuda")

    def step() -> tuple[float, int | None]:
        torch.manual_seed(0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        once = build_step(build_placed(plan), plan)
        return once(images, labels), once.at_once

    whole, together = step()
    assert together is None
    needed = torch.cuda.max_memory_allocated()
    try:
        torch.cuda.set_per_process_memory_fraction(0.7 * needed / torch.cuda.get_device_properties(0).total_memory)
        parted, together = step()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert together in (8, 4)
    assert parted == pytest.approx(whole, rel=1e-4)


@needs_gpu
@pytest.mark.parametrize("dims", [2, 3])
def test_a_compiled_network_has_the_losses_of_a_plain_one(
    dims: int, tiny_cases: Any, tiny_plan: Any, tmp_path: Path
) -> None:
    fold = FoldCases(tiny_cases(dims), [], LABELS)
    for compiled in (False, True):
        plan = tiny_plan(dims=dims, device="cuda", optimizer="sgd", lr=0.01, compile=compiled)
        train(plan, fold, 0, tmp_path / str(compiled), "compiled" if compiled else "plain")
    np.testing.assert_allclose(losses(tmp_path / "True"), losses(tmp_path / "False"), rtol=2e-3)
