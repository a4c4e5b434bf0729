"""Regions, voxels without annotation, and 2-D models on slices: through every stage, on the organs phantom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import ndimage

from medseg.config import Config, load_config
from medseg.errors import ConfigError, DataError
from medseg.evaluate import run as evaluate
from medseg.files import read_json, sha256_file
from medseg.formats.read import read_image, read_labels
from medseg.formats.source import Source
from medseg.formats.write import write_labels
from medseg.image.labels import IGNORE
from medseg.ingest import run as ingest
from medseg.ingest.manifest import read_manifest
from medseg.ingest.phantoms import generate
from medseg.patches.tiling import predict_tiled
from medseg.plan.plan import Plan, read_plan
from medseg.plan.survey import run_fingerprint
from medseg.postprocess import run as postprocess
from medseg.predict import run as predict
from medseg.predict.files import predict_files
from medseg.predict.predictor import Predictor
from medseg.preprocess import run as preprocess
from medseg.preprocess.prepare import prepare_image
from medseg.preprocess.store import open_store
from medseg.records import read_record, write_record
from medseg.train import run as train
from medseg.train.data import _centres, make_batch
from tests.plans import run_plan

UNANNOTATED = 255
MODELS = ("volumes", "slices")


@dataclass(frozen=True)
class River:
    """A study of the organs phantom, run up to its scores."""

    config: Config
    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "ingest" / "manifest.tsv"

    @property
    def splits(self) -> Path:
        return self.root / "ingest" / "splits.json"

    def plan(self, model: str) -> Plan:
        return read_plan(self.root / "plan" / f"{model}.json")

    def index(self, model: str) -> Path:
        return self.root / "preprocess" / model / "index.json"

    def model(self, model: str) -> Path:
        return self.root / "train" / model

    def predictions(self, model: str) -> Path:
        return self.root / "predict" / model / "predictions.json"

    def scores(self, model: str) -> pd.DataFrame:
        return pd.read_parquet(self.root / "evaluate" / f"{model}.parquet")


def hide(folder: Path) -> None:
    """Take the annotation off every other slice along the axis of the fewest voxels."""
    for path in (folder / "labelsTr").iterdir():
        labels, geometry = read_labels(path)
        axis = int(np.argmin(labels.shape))
        hidden = np.moveaxis(labels.copy(), axis, 0)
        hidden[::2] = UNANNOTATED
        write_labels(path, np.moveaxis(hidden, 0, axis), geometry)


@pytest.fixture(scope="module")
def river(tmp_path_factory: pytest.TempPathFactory) -> River:
    root = tmp_path_factory.mktemp("river")
    generate("organs", 4, 0, root / "data" / "organs")
    hide(root / "data" / "organs")
    fixed = {"widths": [8, 16, 16], "batch": 2, "precision": "fp32"}
    config = load_config(
        [],
        {
            "experiment": "tiny",
            "data_root": str(root / "data"),
            "datasets": {
                "organs": {
                    "layout": "decathlon",
                    "path": "organs",
                    "regions": {"organs": ["liver", "kidney"], "kidneys": ["kidney"]},
                    "ignore": UNANNOTATED,
                }
            },
            "models": {
                "volumes": {
                    "network": "unet",
                    "plan": {**fixed, "patch": [24, 24, 8], "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]]},
                },
                "slices": {
                    "network": "unet",
                    "dims": 2,
                    "plan": {**fixed, "patch": [32, 24], "strides": [[1, 1], [2, 2], [2, 2]]},
                },
            },
            "folds": {"count": 2, "run": [0]},
            "budget": {"steps": 4},
            "threads": 1,
            "device": "cpu",
        },
    )
    made = River(config, root)
    ingest.run(config, "organs", made.manifest.parent)
    fingerprint = root / "plan" / "fingerprint.json"
    run_fingerprint(config, made.manifest, fingerprint, 1)
    for name in MODELS:
        plan_path = root / "plan" / f"{name}.json"
        run_plan(config, name, fingerprint, plan_path)
        preprocess.run(config, name, made.manifest, fingerprint, made.index(name).parent, "code", 1)
        inputs = train.Inputs(made.manifest, plan_path, made.index(name), made.splits, 0, 0)
        train.run(inputs, root / ".state" / name, made.model(name), "code")
        predict.run(config, made.manifest, made.splits, 0, made.model(name), made.predictions(name).parent)
        evaluate.run(config, made.manifest, made.predictions(name), root / "evaluate" / f"{name}.parquet")
    return made


def truth(river: River, case: str) -> np.ndarray:
    return read_labels(Path(river.config.data_root) / "organs" / "labelsTr" / f"{case}.nii.gz")[0]


def test_the_plan_knows_regions_slices_and_gaps_in_the_annotation(river: River) -> None:
    volumes, slices = river.plan("volumes"), river.plan("slices")
    for plan in (volumes, slices):
        assert plan.network.regions == ((1, 2), (2,))
        assert plan.training.ignore
        assert (plan.network.classes, plan.network.out_channels) == (3, 2)
    assert (volumes.grid.slice_axis, volumes.network.dims, volumes.grid.dims) == (None, 3, 3)
    assert (slices.grid.slice_axis, slices.network.dims, slices.grid.dims) == (2, 2, 3)
    assert slices.window == (32, 24, 1)


@pytest.mark.parametrize("name", MODELS)
def test_gaps_in_the_annotation_stay_gaps_in_the_store(river: River, name: str) -> None:
    _, cases, _ = open_store(river.index(name))
    for case in cases.values():
        labels, rows = case.read_labels(), case.read_locations()
        assert set(np.unique(labels)) == {0, 1, 2, IGNORE}
        assert 0.3 < (labels == IGNORE).mean() < 0.7
        found = labels[tuple(rows[:, 1:].T)]
        assert set(np.unique(rows[:, 0])) == {0, 1, 2}
        np.testing.assert_array_equal(found[rows[:, 0] > 0], rows[rows[:, 0] > 0, 0])
        # Those of class 0 are annotated voxels of any class, in the classes' proportions.
        anywhere = found[rows[:, 0] == 0]
        assert IGNORE not in anywhere
        assert abs((anywhere == 0).mean() - (labels == 0).sum() / (labels != IGNORE).sum()) < 0.05


def test_a_slice_is_read_without_its_neighbours(river: River) -> None:
    _, cases, _ = open_store(river.index("slices"))
    for case in cases.values():
        image, labels = (blosc2.open(str(case.path), offset=case.parts[name].start) for name in ("image", "labels"))
        assert (image.chunks, labels.chunks) == ((1, *case.shape[:2], 1), (*case.shape[:2], 1))


@pytest.mark.parametrize("name", MODELS)
def test_patches_are_taken_where_annotation_is(river: River, name: str) -> None:
    _, cases, _ = open_store(river.index(name))
    plan = river.plan(name)
    some = list(cases.values())
    for step in range(12):
        x, y = make_batch(some, plan, 0, step)
        assert x.shape == (plan.training.batch, 1, *plan.network.patch)
        assert y.shape == (plan.training.batch, *plan.network.patch)
        assert set(y.unique().tolist()) <= {0, 1, 2, IGNORE}
        assert (y != IGNORE).flatten(1).any(dim=1).all()
    plain, forced = _centres(some[0], plan, 0), _centres(some[0], plan, plan.training.batch - 1)
    assert plain is not None
    assert forced is not None
    assert set(plain[:, 0]) == {0}
    assert set(forced[:, 0]) == {1, 2}


@pytest.mark.parametrize("name", MODELS)
def test_curves_and_scores_are_those_of_regions(river: River, name: str) -> None:
    scores = river.scores(name)
    assert set(scores["label"]) == {"organs", "kidneys"}
    last = [r for r in (river.model(name) / "history.jsonl").read_text().splitlines() if "val/dice" in r][-1]
    assert "val/dice/organs" in last
    assert "liver" not in last
    manifest = read_manifest(river.manifest)
    for case, entry in read_json(river.predictions(name))["cases"].items():
        reference = truth(river, case)
        predicted, _ = read_labels(river.predictions(name).parent / entry["file"])
        known = reference != UNANNOTATED
        for label, values in (("organs", (1, 2)), ("kidneys", (2,))):
            r, p = np.isin(reference[known], values), np.isin(predicted[known], values)
            mine = scores[(scores["case"] == case) & (scores["label"] == label)].set_index("metric")["value"]
            assert (mine["tp"], mine["fp"], mine["fn"]) == ((r & p).sum(), (~r & p).sum(), (r & ~p).sum())
            expected = 2 * (r & p).sum() / (r.sum() + p.sum())
            assert mine["dice"] == pytest.approx(expected)
            volume = manifest.case(case).geometry.voxel_volume
            assert mine["volume_pred"] == pytest.approx(p.sum() * volume / 1000)


@pytest.mark.parametrize("name", MODELS)
def test_predictions_lie_on_the_images_grid_and_never_say_not_annotated(
    river: River, name: str, tmp_path: Path
) -> None:
    case = next(iter(read_json(river.predictions(name))["cases"]))
    source = Path(river.config.data_root) / "organs" / "imagesTr" / f"{case}.nii.gz"
    (target,) = predict_files([source], river.model(name), tmp_path)
    before, after = nibabel.load(source), nibabel.load(target)
    assert after.shape == before.shape
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
    assert set(np.unique(np.asanyarray(after.dataobj))) <= {0, 1, 2}
    assert read_json(river.model(name) / "model.json")["dataset"]["dims"] == 3


def test_a_volume_predicted_in_slices_is_the_stack_of_its_slices(river: River) -> None:
    """The stage's own prediction against each prepared slice predicted alone and stacked by hand."""
    predictor = Predictor(river.model("slices"))
    plan, labels = predictor.plan, predictor.checkpoint.labels
    manifest = read_manifest(river.manifest)
    case = manifest.cases[0]
    image, geometry = read_image(Path(river.config.data_root) / "organs" / case.images[0])
    prepared, record = prepare_image(image, geometry, plan.grid)
    assert record.prepared_shape[2] == record.shape[2], "the slice axis keeps its voxels"
    with torch.inference_mode():
        slices = [
            predict_tiled(predictor.members[0], s, plan.network.patch, batch=1)
            for s in torch.from_numpy(prepared).unbind(3)
        ]
    logits = torch.stack(slices, dim=3).numpy()
    factors = [n / m for n, m in zip(record.shape, record.prepared_shape, strict=True)]
    fine = np.stack([ndimage.zoom(v, factors, order=1, mode="nearest", grid_mode=True) for v in logits])
    expected = np.zeros(record.shape, dtype=np.uint8)
    for logit, value in zip(fine, labels.order, strict=True):
        expected[logit > 0] = value
    found = predictor.label_map(Source.from_array(image, geometry), "case")
    turned = np.flip(found.transpose(record.axes), [a for a, flip in enumerate(record.flips) if flip])
    box = tuple(slice(s, s + n) for s, n in zip(record.start, record.shape, strict=True))
    sure = (np.abs(fine) > 1e-4).all(axis=0)
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(turned[box][sure], expected[sure])


def test_a_prediction_that_says_not_annotated_is_refused(river: River, tmp_path: Path) -> None:
    facts = read_record(river.predictions("volumes"), "")
    case, entry = next(iter(facts["cases"].items()))
    labels, geometry = read_labels(river.predictions("volumes").parent / entry["file"])
    write_labels(tmp_path / entry["file"], np.full_like(labels, UNANNOTATED), geometry)
    cases = {case: {"file": entry["file"], "sha256": sha256_file(tmp_path / entry["file"])}}
    write_record(tmp_path / "predictions.json", {**facts, "cases": cases})
    with pytest.raises(DataError, match="255"):
        evaluate.run(river.config, river.manifest, tmp_path / "predictions.json", tmp_path / "x.parquet")


def test_regions_and_classes_are_postprocessed_by_name(river: River, tmp_path: Path) -> None:
    def run(**steps: Any) -> None:
        dataset = river.config.datasets["organs"]
        changed = dataset.postprocess.model_copy(update=steps)
        config = river.config.model_copy(
            update={"datasets": {"organs": dataset.model_copy(update={"postprocess": changed})}}
        )
        postprocess.run(config, river.manifest, river.predictions("volumes"), tmp_path / "out")

    with pytest.raises(ConfigError, match=r"no class \['spleen'\].*a class that no region paints is never predicted"):
        run(largest_component=["spleen"])
    run(largest_component=["kidneys"])
    kidneys = list(dict(river.config.datasets["organs"].regions or {})["kidneys"])
    values = [river.config.datasets["organs"].class_values[name] for name in kidneys]
    for entry in read_json(tmp_path / "out" / "predictions.json")["cases"].values():
        labels = read_labels(tmp_path / "out" / entry["file"])[0]
        assert ndimage.label(np.isin(labels, values))[1] <= 1
    run(largest_component=["liver"], fill_holes=True, min_size=3)
    for entry in read_json(tmp_path / "out" / "predictions.json")["cases"].values():
        assert ndimage.label(read_labels(tmp_path / "out" / entry["file"])[0] == 1)[1] <= 1
