"""Object data through every stage, on small pictures and volumes of touching balls; one study per kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from medseg.config import load_config
from medseg.errors import CheckpointError, ConfigError, PlanError
from medseg.evaluate import run as evaluate
from medseg.files import read_json
from medseg.formats.read import read_labels
from medseg.formats.write import write_labels
from medseg.heads import HEADS
from medseg.image.geometry import Geometry
from medseg.image.labels import IGNORE
from medseg.image.objects import STEP, channels_of, encode, lost, numbers_of, of_numbers
from medseg.ingest import run as ingest
from medseg.losses.build import build_object_loss
from medseg.metrics.matching import Matching
from medseg.objects.decoding import Decoding, grid
from medseg.objects.find import find_objects, find_objects_tiled
from medseg.plan.plan import Plan, read_plan
from medseg.plan.survey import run_fingerprint
from medseg.postprocess import run as postprocess
from medseg.predict import run as predict
from medseg.preprocess import run as preprocess
from medseg.preprocess.store import open_store
from medseg.records import read_record, write_record
from medseg.train import run as train
from medseg.train.checkpoint import read_description
from medseg.train.data import augment_batch, make_batch, read_batch
from tests.plans import run_plan

UNANNOTATED = 60_000


def balls(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (S) uint8 and object numbers (S): pairs of balls that touch, numbered with gaps."""
    rng = np.random.Generator(np.random.PCG64(seed))
    place = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    numbers = np.zeros(shape, dtype=np.uint16)
    radius, count = 5 if len(shape) == 2 else 4, 0
    # Images that look alike would be taken for copies: places are shifted, and some are left empty.
    start = rng.integers(0, 2 * radius, len(shape))
    for corner in np.ndindex(*[n // (2 * radius) + 1 for n in shape]):
        centre = [begin + c * 2 * radius for begin, c in zip(start, corner, strict=True)]
        if rng.random() < 0.25:
            continue
        inside = sum((p - c) ** 2 for p, c in zip(place, centre, strict=True)) <= radius**2
        count += 3
        numbers[inside & (numbers == 0)] = count
    bright = 60 + 90 * (numbers > 0) + 8 * rng.standard_normal(shape)
    # A dark seam where two of them meet.
    seam = np.zeros(shape, dtype=bool)
    for axis in range(len(shape)):
        seam |= (np.roll(numbers, 1, axis) != numbers) & (np.roll(numbers, 1, axis) > 0) & (numbers > 0)
    return np.clip(np.where(seam, bright - 60, bright), 1, 255).astype(np.uint8), numbers


@dataclass(frozen=True)
class River:
    """A study of one data set and model, run up to its scores."""

    root: Path
    config: Any

    def __getattr__(self, name: str) -> Path:
        place = {"manifest": "ingest/manifest.tsv", "splits": "ingest/splits.json", "fingerprint": "plan/f.json"}
        place |= {"plan": "plan/m.json", "index": "store/index.json", "predictions": "predict/predictions.json"}
        return self.root / place.get(name, name)

    def inputs(self) -> train.Inputs:
        return train.Inputs(self.manifest, self.plan, self.index, self.splits, 0, 0)


def river(root: Path, axes: int, steps: int = 2, dataset: dict[str, Any] | None = None, **model: Any) -> River:
    """Write the data and run all stages."""
    data = root / "data"
    for index in range(4):
        shape = (41 + index, 36) if axes == 2 else (18, 17 + index, 16)
        image, numbers = balls(shape, index)
        numbers = numbers.astype(np.uint16)
        if dataset and "ignore" in dataset:
            numbers[:12] = UNANNOTATED
        grid_ = Geometry.from_spacing(shape, (1.0,) * axes)
        suffix = ".png" if axes == 2 else ".nii.gz"
        write_labels(data / "images" / f"c{index}{suffix}", image, grid_)
        write_labels(data / "masks" / f"c{index}{suffix}", numbers, grid_)
    stages = [[1] * axes, [2] * axes, [2] * axes]
    fixed = {"widths": [8, 16, 16], "batch": 2, "precision": "fp32", "strides": stages, "patch": [32] * axes}
    if axes == 3:
        fixed |= {"patch": [16] * 3}
    section = {"layout": "pairs", "path": ".", "labels": {"cell": 1}, "instances": True, **(dataset or {})}
    config = load_config(
        [],
        {
            "experiment": "e",
            "data_root": str(data),
            "datasets": {"cells": section},
            "models": {"m": {"network": "unet", "plan": fixed, "lr": 0.01, **model}},
            "folds": {"count": 2, "run": [0]},
            "budget": {"steps": steps},
            "threads": 1,
            "device": "cpu",
        },
    )
    made = River(root, config)
    ingest.run(config, "cells", made.manifest.parent)
    run_fingerprint(config, made.manifest, made.fingerprint, 1)
    run_plan(config, "m", made.fingerprint, made.plan)
    preprocess.run(config, "m", made.manifest, made.fingerprint, made.index.parent, "code", 1)
    train.run(made.inputs(), root / "state", root / "model", "code")
    predict.run(config, made.manifest, made.splits, 0, root / "model", made.predictions.parent)
    evaluate.run(config, made.manifest, made.predictions, root / "scores.parquet")
    return made


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> River:
    return river(tmp_path_factory.mktemp("flat"), 2, steps=150)


def plan_of(made: River) -> Plan:
    return read_plan(made.plan)


# Maps of objects and codes


def test_objects_are_numbered_in_raster_order_and_take_the_class_of_most_of_their_voxels() -> None:
    values = np.array([[0, 9, 9, 4], [7, 9, 0, 4], [7, 7, 4, 4]])
    channels = np.array([[0, 2, 1, 1], [1, 2, 0, 2], [2, 1, IGNORE, 1]], dtype=np.uint8)
    found = of_numbers(values, channels)
    assert found.numbers.tolist() == [[0, 1, 1, 2], [3, 1, 0, 2], [3, 3, 0, 2]]
    assert found.classes.tolist() == [0, 2, 1, 1], "2 of 3 voxels; 2 of 3; 2 of 3"
    assert found.channels[0, 2] == 2 and found.count == 3
    empty = of_numbers(np.zeros((2, 2), dtype=np.uint8))
    assert empty.count == 0 and empty.classes.tolist() == [0]


def test_codes_hold_number_and_class_and_survive_single_precision() -> None:
    numbers, channels = np.array([0, 1, 65_535, 0]), np.array([0, 1, 254, IGNORE])
    codes = encode(numbers, channels)
    for back in (codes, torch.from_numpy(codes).float().long()):
        assert numbers_of(back).tolist() == numbers.tolist()
        assert channels_of(back).tolist() == channels.tolist()
    large = encode(np.array([0, 70_000, 5, 70_000]), np.array([0, 1, 1, 1]))
    assert numbers_of(large).tolist() == [0, 2, 1, 2], "ranks, where numbers are too large"
    assert STEP * IGNORE < 2**24
    assert lost(np.array([0, 3, 5]), np.array([0, 5])) == [3]


# Through the stages


def test_the_plan_has_the_head_and_says_why(flat: River) -> None:
    plan = plan_of(flat)
    assert plan.network.head == "boundary" and plan.network.out_channels == 2
    assert "default for object data" in plan.reasons["head"]


def test_prepared_cases_keep_every_object(flat: River) -> None:
    for case in open_store(flat.index)[1].values():
        numbers, _ = read_labels(flat.root / "data" / "masks" / f"{case.id}.png")
        kept = case.read_objects()
        matched = Matching.of(numbers, kept)
        assert matched.at(1.0)[:3] == (len(np.unique(numbers)) - 1, 0, 0)
        assert (case.read_labels() == (kept > 0)).all()
        box = (slice(3, 20), slice(5, 18))
        assert (numbers_of(case.read_codes(box)) == kept[box]).all()


@pytest.mark.parametrize("augment", ["default", "microscopy"])
def test_augmentation_keeps_objects_whole(flat: River, augment: str) -> None:
    """Whatever is done to a batch, each object of it is an object that was read, and of the class that it had."""
    plan = plan_of(flat).changed(augment=augment)
    cases = list(open_store(flat.index)[1].values())
    for step in range(4):
        raw = read_batch(cases, plan, 0, step)
        _, codes = augment_batch(raw, plan, 0)
        assert codes.shape == (plan.training.batch, *plan.network.patch) and codes.dtype == torch.int64
        for before, after in zip(raw.labels, codes, strict=True):
            assert set(np.unique(numbers_of(after))) <= set(np.unique(numbers_of(before)))
            assert ((numbers_of(after) > 0) == (channels_of(after) == 1)).all()


def test_objects_that_touch_come_out_as_numbers_of_their_own(flat: River) -> None:
    facts = read_json(flat.predictions)
    assert facts["cases"]
    for case, entry in facts["cases"].items():
        found, _ = read_labels(flat.predictions.parent / entry["file"])
        numbers, _ = read_labels(flat.root / "data" / "masks" / f"{case}.png")
        assert found.dtype == np.uint16
        assert sorted(np.unique(found)) == list(range(found.max() + 1)), "numbered without gaps"
        tp, fp, fn = Matching.of(numbers, found).at(0.5)[:3]
        assert ndimage.label(numbers > 0)[1] < (tp + fn) / 2, "most of them touch"
        assert tp / (tp + fp + fn) > 0.7, (tp, fp, fn)
    scores = pd.read_parquet(flat.root / "scores.parquet")
    assert (scores[scores["metric"] == "ap50"]["value"] > 0.7).all()


def test_settings_are_tuned_on_training_cases_and_stand_in_the_model(flat: River) -> None:
    checkpoint, _ = read_description(flat.root / "model")
    assert checkpoint.decoding in grid("boundary", Decoding.of_sizes([81] * 10, 2)) or checkpoint.decoding is not None
    assert read_json(flat.root / "model" / "model.json")["decoding"] == checkpoint.decoding.to_json()


@pytest.mark.parametrize(
    ("value", "says"), [(None, "is missing"), ({"foreground": 2.0}, "decoding"), ({"seed": 0.5}, "found keys")]
)
def test_a_model_with_a_head_needs_its_settings(flat: River, tmp_path: Path, value: Any, says: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    facts = dict(read_record(flat.root / "model" / "model.json", ""))
    facts["decoding"] = value
    if value is None:
        del facts["decoding"]
    write_record(folder / "model.json", facts)
    with pytest.raises(CheckpointError, match=says):
        read_description(folder)


@pytest.mark.parametrize("head", ["flows", "distance", "classes"])
def test_every_head_goes_through(tmp_path: Path, head: str) -> None:
    made = river(tmp_path, 2, head=head)
    plan = plan_of(made)
    assert plan.network.head == head
    assert plan.network.out_channels == (2 if head == "classes" else len(HEADS[head].maps(2)))
    scores = pd.read_parquet(made.root / "scores.parquet")
    assert {"pq", "ap50", "dice"} <= set(scores["metric"])


def test_volumes_and_sparse_annotation(tmp_path: Path) -> None:
    made = river(tmp_path, 3, dataset={"ignore": UNANNOTATED})
    plan = plan_of(made)
    assert plan.network.dims == 3 and plan.training.ignore
    cases = list(open_store(made.index)[1].values())
    _, codes = make_batch(cases, plan.changed(augment="none"), 0, 0)
    assert (channels_of(codes) == IGNORE).any()
    assert (numbers_of(codes)[channels_of(codes) == IGNORE] == 0).all()


def test_a_flat_network_links_the_objects_of_slices(tmp_path: Path) -> None:
    plan = {
        "widths": [8, 16, 16],
        "batch": 2,
        "precision": "fp32",
        "strides": [[1, 1], [2, 2], [2, 2]],
        "patch": [16, 16],
    }
    made = river(tmp_path, 3, dims=2, plan=plan)
    assert plan_of(made).grid.slice_axis is not None
    found = [read_labels(made.predictions.parent / e["file"])[0] for e in read_json(made.predictions)["cases"].values()]
    assert all(one.ndim == 3 for one in found)


def test_rules_of_single_objects(flat: River, tmp_path: Path) -> None:
    def kept(name: str, **steps: Any) -> list[np.ndarray]:
        config = load_config([], {**flat.config.model_dump(exclude_none=True)})
        section = config.datasets["cells"].model_copy(
            update={"postprocess": type(config.datasets["cells"].postprocess)(**steps)}
        )
        config = config.model_copy(update={"datasets": {"cells": section}})
        postprocess.run(config, flat.manifest, flat.predictions, tmp_path / name)
        facts = read_json(tmp_path / name / "predictions.json")
        return [read_labels(tmp_path / name / e["file"])[0] for e in facts["cases"].values()]

    before = [
        read_labels(flat.predictions.parent / e["file"])[0] for e in read_json(flat.predictions)["cases"].values()
    ]
    inner = kept("inner", objects={"touches_border": False})
    for found, all_of_them in zip(inner, before, strict=True):
        assert not found[0].any() and not found[:, -1].any()
        assert 0 < found.max() <= all_of_them.max()
        assert sorted(np.unique(found)) == list(range(found.max() + 1))
    sizes = [np.bincount(one.ravel())[1:] for one in before]
    middle = float(np.median(np.concatenate(sizes)))
    large = kept("large", objects={"area_px2": [middle, None]})
    for found, expected in zip(large, sizes, strict=True):
        assert found.max() == (expected >= middle).sum()
    assert [one.max() for one in kept("small", min_size=int(middle))] == [one.max() for one in large]
    with pytest.raises(ConfigError, match=r"nothing measured is called.*area_px2"):
        kept("odd", objects={"aera": [0, 1]})
    with pytest.raises(ConfigError, match="works on classes, and predictions have objects"):
        kept("largest", largest_component=["cell"])


def test_heads_are_for_objects_and_networks_that_have_them(flat: River, tmp_path: Path) -> None:
    classes = {"instances": False, "allow": ["class-absent"], "labels": {f"c{v}": v for v in range(3, 120, 3)}}
    with pytest.raises(PlanError, match="'mask_rcnn' finds objects, and cells has classes"):
        river(tmp_path / "a", 2, dataset=classes, network="mask_rcnn")
    plan = plan_of(river(tmp_path / "b", 2, steps=1, dataset=classes, head="flows"))
    assert plan.network.head == "" and plan.reasons["head"] == "none: cells has classes and no objects"
    with pytest.raises(ConfigError, match="'boundary': network 'rcnn' has classes"):
        load_config(
            [],
            {
                "experiment": "e",
                "datasets": {"d": {"path": ".", "labels": {"a": 1}}},
                "models": {"m": {"network": "rcnn", "head": "boundary"}},
                "budget": {"steps": 1},
            },
        )


def test_large_maps_lie_in_a_file_and_give_the_same_objects(
    flat: River, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.predict.objects.IN_MEMORY", 1000)
    monkeypatch.setattr("medseg.objects.find.TILE", {2: 17})
    predict.run(flat.config, flat.manifest, flat.splits, 0, flat.root / "model", tmp_path / "again")
    assert read_json(tmp_path / "again" / "predictions.json")["cases"] == read_json(flat.predictions)["cases"]


@pytest.mark.parametrize("shape", [(40, 50), (14, 20, 17)])
def test_tiles_give_the_same_objects_and_classes(shape: tuple[int, ...]) -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    maps = (1024 * ndimage.gaussian_filter(rng.random((4, *shape)), (0, *[1.5] * len(shape)))).astype(np.int16)
    maps = ((maps - maps.min()) * (1024 / np.ptp(maps))).astype(np.int16)
    decoding = Decoding(foreground=0.5, seed=0.1, min_size=3.0, max_hole=5.0)
    whole = find_objects("boundary", maps, (1.0,) * len(shape), decoding)
    assert whole.count > 5 and len(np.unique(whole.classes[1:])) == 2
    tiled = find_objects_tiled("boundary", maps, (1.0,) * len(shape), decoding, tile=9)
    assert (tiled.numbers == whole.numbers).all() and (tiled.classes == whole.classes).all()


# Losses


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("head", ["boundary", "flows", "distance"])
def test_the_right_maps_have_the_least_loss_and_what_nobody_annotated_has_none(head: str, dims: int) -> None:
    from medseg.late import resolve
    from medseg.losses.build import _region_terms, _terms

    shape = (24, 24) if dims == 2 else (12, 12, 12)
    numbers = torch.from_numpy(balls(shape, 0)[1].astype(np.int64))[None]
    codes = numbers + STEP * (numbers > 0)
    targets, _ = resolve(HEADS[head].loss)(_region_terms(_terms("dice_ce")))
    wanted = targets(numbers, (1.0,) * dims)
    sure = 40 * (wanted - 0.5)
    if head == "flows":
        sure[:, 1:] = 5 * wanted[:, 1:]
    if head == "distance":
        sure[:, 1:] = torch.logit(wanted[:, 1:].clamp(1e-6, 1 - 1e-6))
    loss = build_object_loss("dice_ce", head, (1.0,) * dims, 2)
    best = loss(sure, codes)
    for other in (torch.zeros_like(sure), -sure, sure.roll(2, -1)):
        assert loss(other, codes) > best + 0.05
    unknown = codes.clone()
    unknown[..., :4] = STEP * IGNORE
    logits = sure.clone().requires_grad_()
    loss(logits, unknown).backward()
    assert (logits.grad[..., :4] == 0).all()
    assert loss(sure, torch.full_like(codes, STEP * IGNORE)) == 0
    several = [sure, sure[(..., *[slice(None, None, 2)] * dims)]]
    assert torch.isfinite(loss(several, codes))


def test_classes_are_learnt_inside_the_foreground() -> None:
    codes = torch.zeros(1, 8, 8, dtype=torch.int64)
    codes[0, 1:4, 1:4], codes[0, 4:7, 4:7] = 1 + STEP, 2 + 2 * STEP
    loss = build_object_loss("dice_ce", "boundary", (1.0, 1.0), 3)
    logits = torch.zeros(1, 4, 8, 8, requires_grad=True)
    loss(logits, codes).backward()
    gradient = logits.grad[:, 2:]
    assert (gradient[..., 7, 0] == 0).all(), "background has no class"
    assert gradient[0, 0, 2, 2] < 0 < gradient[0, 1, 2, 2]
    assert gradient[0, 1, 5, 5] < 0 < gradient[0, 0, 5, 5]
