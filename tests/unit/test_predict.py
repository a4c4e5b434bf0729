"""Prediction lands on the image's own grid, in its format; what does not fit the model is refused by name."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK
import tifffile
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.config import PostprocessConfig
from medseg.errors import BusyError, DataError, GeometryError, MachineError, PredictionError
from medseg.files import read_json, sha256_file, write_json, writer_lock
from medseg.formats.read import open_image, read_image, read_labels
from medseg.formats.source import Source
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import read_manifest, write_manifest
from medseg.ingest.splits import read_folds
from medseg.predict import files
from medseg.predict import predictor as predictor_module
from medseg.predict import run as stage
from medseg.predict.cases import Outputs
from medseg.predict.members import Member, mean_of
from medseg.predict.predictor import Predictor, is_mirrored
from medseg.predict.probabilities import ProbabilityFile
from medseg.predict.sinks import LabelMap
from medseg.records import signed, write_record
from medseg.shards import Shard
from medseg.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint

VALUES = {0, 1, 3}  # background, ball, rod
FILL = PostprocessConfig(fill_holes=True)


class Oracle(nn.Module):
    """The class is written in the image: as one of three channels, or as the intensity 0, 1 or 2 of a single one."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 3:
            return x
        return torch.cat([-((x - k) ** 2) for k in range(3)], dim=1)


@pytest.fixture
def oracle_for(tmp_path: Path, tiny_plan: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Predictor]:
    """``oracle_for(**plan changes)``: a predictor whose network reads the class off the intensities."""

    def build(**changes: Any) -> Predictor:
        plan = tiny_plan("unet", changes.pop("dims", 3), **changes)
        checkpoint = Checkpoint("d", ("MRI",), LabelTable.create({"ball": 1, "rod": 3}), plan, 0, 0, "f", {})
        monkeypatch.setattr(predictor_module, "read_checkpoint", lambda folder: (checkpoint, Oracle().eval()))
        return Predictor(tmp_path)

    return build


def label_map(predictor: Predictor, image: np.ndarray, geometry: Geometry, name: str = "case") -> np.ndarray:
    return predictor.label_map(Source.from_array(image, geometry), name)


def dice(a: np.ndarray, b: np.ndarray, k: int) -> float:
    return 2 * float(((a == k) & (b == k)).sum()) / float((a == k).sum() + (b == k).sum())


TURNS = [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 2, 0), (-1, -1, 1))]


@pytest.mark.parametrize(("axes", "signs"), TURNS)
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.5), (0.7, 1.6, 1.1)])
def test_predictions_lie_over_the_image(
    axes: tuple[int, ...], signs: tuple[int, ...], spacing: tuple | None, oracle_for: Any, draw_scene: Any, oblique: Any
) -> None:
    shape = (30, 34, 20)
    _, labels = draw_scene(shape, 0)
    affine = oblique.copy()
    affine[:3, :3] = oblique[:3, :3][:, list(axes)] * np.array(signs)
    geometry = Geometry.create(shape, affine)
    target = spacing or tuple(geometry.spacing[a] for a in _canonical(geometry)[0])
    predictor = oracle_for(spacing=target, in_channels=3, normalization=("none",) * 3, statistics=({},) * 3)
    found = label_map(predictor, np.stack([labels == k for k in range(3)]).astype(np.float32), geometry, "case")
    expected = np.array([0, 1, 3], dtype=np.uint8)[labels]
    assert found.shape == shape
    assert found.dtype == np.uint8
    if spacing is None:
        np.testing.assert_array_equal(found, expected)
    else:
        assert dice(found, expected, 1) >= 0.97
        assert dice(found, expected, 3) >= 0.9


def _canonical(geometry: Geometry) -> Any:
    from medseg.image.geometry import canonical_axes

    return canonical_axes(geometry)


def test_coming_back_from_a_coarse_grid_moves_no_border(oracle_for: Any) -> None:
    """Voxels are areas: a border between two coarse pixels is one between fine pixels, near the rim too."""
    classes = np.zeros((40, 40), dtype=np.uint8)
    classes[:, :8], classes[:, 32:] = 1, 2
    image = np.stack([classes == k for k in range(3)]).astype(np.float32)
    geometry = Geometry.from_spacing((40, 40), (1.0, 1.0))
    coarse = oracle_for(dims=2, spacing=(4.0, 4.0), in_channels=3, normalization=("none",) * 3, statistics=({},) * 3)
    np.testing.assert_array_equal(label_map(coarse, image, geometry), np.array([0, 1, 3])[classes])


def test_what_the_crop_left_out_is_background(oracle_for: Any) -> None:
    image = np.zeros((1, 20, 20, 20), np.float32)
    image[0, 4:12, 5:15, 6:10] = 2.0
    geometry = Geometry.from_spacing((20,) * 3, (1.0,) * 3, "mm")
    found = label_map(oracle_for(), image, geometry)
    np.testing.assert_array_equal(found, np.where(image[0] > 0, 3, 0))


@pytest.mark.parametrize("shape", [(3, 5), (32, 32), (33, 71), (1, 64)])
def test_pictures_of_any_size(shape: tuple[int, int], oracle_for: Any) -> None:
    labels = np.random.default_rng(0).integers(0, 3, shape)
    image = labels[None].astype(np.float32)
    image[0, 0, 0] = image[0, -1, -1] = 1.0
    found = label_map(oracle_for(dims=2), image, Geometry.from_spacing(shape, (1.0, 1.0)))
    np.testing.assert_array_equal(found, np.array([0, 1, 3])[image[0].astype(int)])


GOOD = np.ones((1, 20, 20), np.float32)


@pytest.mark.parametrize(
    ("image", "geometry", "cause"),
    [
        (np.ones((3, 20, 20)), Geometry.from_spacing((20, 20), (1, 1)), r"2-D with 3 channels.*2-D with 1 \(MRI\)"),
        (np.ones((1, 9, 9, 9)), Geometry.from_spacing((9, 9, 9), (1, 1, 1), "mm"), "3-D with 1 channels.*2-D"),
        (GOOD, Geometry.from_spacing((20, 20), (1, 1), "um"), "voxel size is in um.*trained on sizes in px.*--spacing"),
        (
            np.where(GOOD, np.nan, 0),
            Geometry.from_spacing((20, 20), (1, 1)),
            "400 voxels are NaN, Inf or beyond",
        ),
        (
            np.where(GOOD, np.inf, 0),
            Geometry.from_spacing((20, 20), (1, 1)),
            "400 voxels are NaN, Inf or beyond",
        ),
    ],
)
def test_images_that_do_not_fit_the_model_are_refused(
    image: np.ndarray, geometry: Geometry, cause: str, oracle_for: Any
) -> None:
    with pytest.raises(DataError, match=f"scan.png: .*{cause}|scan.png: {cause}"):
        label_map(oracle_for(dims=2), image, geometry, "scan.png")


def mirror_images(x: Tensor) -> list[tuple[int, ...]]:
    return [flip for n in range(x.ndim - 1) for flip in itertools.combinations(range(2, x.ndim), n)]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_mean_over_mirror_images(dims: int) -> None:
    torch.manual_seed(0)
    network = (nn.Conv2d if dims == 2 else nn.Conv3d)(2, 3, 3, padding=1)
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 2, *(5, 6, 7)[:dims])
    with torch.no_grad():
        found = Member(network, mirror=True)(x)
        assert len(calls) == 2**dims
        expected = [np.flip(network(x.flip(f)).numpy(), f) if f else network(x).numpy() for f in mirror_images(x)]
        np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-6)
        assert not torch.allclose(found, network(x), atol=1e-2)
        for flip in mirror_images(x):
            torch.testing.assert_close(Member(network, mirror=True)(x.flip(flip)), found.flip(flip))


@pytest.mark.parametrize("dims", [2, 3])
def test_vectors_of_mirror_images_point_back(dims: int) -> None:
    """A network that gives an image and its gradient gives just these for every mirror image, so for their mean."""

    def network(x: Tensor) -> Tensor:
        return torch.cat([x, *torch.gradient(x, dim=tuple(range(2, dims + 2)))], dim=1)

    x = torch.randn(2, 1, *(5, 6, 7)[:dims], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Member(network, mirror=True, vector=1)(x), network(x))
    assert not torch.allclose(Member(network, mirror=True)(x), network(x), atol=1e-2)


@pytest.mark.parametrize("count", [2, 3])
def test_members_are_averaged(count: int) -> None:
    networks = [lambda x, k=k: torch.cat([x, x.square()], dim=1) * (k + 1) for k in range(count)]
    x = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    expected = sum(network(x).double() for network in networks) / count
    found = mean_of([Member(network) for network in networks])(x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("name", ["flat", "solid"])
def test_a_member_taken_twice_gives_the_bits_of_one(name: str, mirror: bool, study: Any, tmp_path: Path) -> None:
    """Through the whole pipe, probabilities included."""
    source = open_image(next(study.folder(name).glob("image*/*1.*")))
    predictor = Predictor(study.model(name), mirror=mirror)
    labels, soft = [], []
    for _ in range(2):
        sinks = LabelMap(), ProbabilityFile(tmp_path / "x.b2nd")
        predictor.predict(source, "x", sinks)
        labels.append(sinks[0].values)
        soft.append((tmp_path / "x.b2nd").read_bytes())
        predictor.members = [*predictor.members] * 2
    np.testing.assert_array_equal(*labels)
    assert soft[0] == soft[1]
    assert len(np.unique(labels[0])) > 1


@pytest.mark.parametrize(
    ("changes", "wish", "expected"),
    [
        ({"augment": "default", "oriented": False}, None, True),
        ({"augment": "default", "oriented": True}, None, False),
        ({"augment": "nnunet", "oriented": True}, None, True),
        ({"augment": "nnunet", "augmentation": {"mirror": {"probability": 0.0}}}, None, False),
        ({"augment": "nnunet", "augmentation": {"blur": {"probability": 0.0}}}, None, True),
        ({"augment": "microscopy", "augmentation": {"mirror": {"probability": 0.1}}}, None, True),
        ({"augment": "none"}, None, False),
        ({"augment": "none"}, True, True),
        ({"augment": "nnunet"}, False, False),
    ],
)
def test_predictions_are_mirrored_where_the_training_was(
    changes: Any, wish: bool | None, expected: bool, tiny_plan: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = tiny_plan("unet", 2, **changes)
    assert is_mirrored(plan, wish) is expected
    calls: list[Tensor] = []

    class Counting(Oracle):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return super().forward(x)

    checkpoint = Checkpoint("d", ("MRI",), LabelTable.create({"ball": 1, "rod": 3}), plan, 0, 0, "f", {})
    monkeypatch.setattr(predictor_module, "read_checkpoint", lambda folder: (checkpoint, Counting().eval()))
    image = np.zeros((1, 32, 32), np.float32)
    image[0, 3:9, 4:30] = 2.0
    found = label_map(Predictor(tmp_path, mirror=wish), image, Geometry.from_spacing((32, 32), (1.0, 1.0)))
    np.testing.assert_array_equal(found, np.where(image[0] > 0, 3, 0))
    assert len(calls) == (4 if expected else 1)


@pytest.mark.parametrize(("words", "expected"), [([], None), (["--mirror"], True), (["--no-mirror"], False)])
def test_the_command_line_passes_the_wish_on(
    words: list[str], expected: bool | None, study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes: list[Any] = []
    monkeypatch.setattr(files, "predict_batch", lambda batch: wishes.append(batch.how.mirror))
    image = str(study.folder("flat") / "images" / "f0.png")
    outcome = CliRunner().invoke(app, ["predict", image, "--model", str(study.model("flat")), "--out", "o", *words])
    assert (outcome.exit_code, wishes) == (0, [expected]), outcome.output


IMAGES = ("x.png",)
FOLD = ("--config", "c", "--manifest", "m", "--splits", "s", "--fold", "0")


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ((*IMAGES, "--shard", "0/2"), "--shard"),
        ((*IMAGES, "--join", "2"), "--join"),
        ((*IMAGES, "--fold", "0"), "--fold"),
        ((*IMAGES, *FOLD), "--config, --manifest, --splits, --fold"),
        ((*FOLD, "--spacing", "1"), "--spacing"),
        ((*FOLD, "--no-mirror", "--device", "cpu"), "--device, --mirror"),
    ],
)
def test_options_that_would_change_nothing_are_refused(
    words: tuple[str, ...], given: str, study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    outcome = CliRunner().invoke(app, ["predict", *words, "--model", str(study.model("flat")), "--out", "o"])
    assert outcome.exit_code == 2
    assert f"{given}: for " in outcome.output


def test_an_output_that_is_not_finite_is_refused(oracle_for: Any) -> None:
    predictor = oracle_for(dims=2)
    predictor.members = [Member(lambda x: torch.full((len(x), 3, *x.shape[2:]), float("nan")))]
    with pytest.raises(DataError, match=r"scan\.png.*not finite"):
        label_map(predictor, GOOD, Geometry.from_spacing((20, 20), (1, 1)), "scan.png")


def test_devices(oracle_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    predictor = oracle_for(dims=2, device="cuda", precision="bf16")
    assert (predictor.device, predictor.precision) == ("cpu", "fp32")
    assert oracle_for(dims=2, precision="bf16").precision == "bf16"
    with pytest.raises(MachineError, match="cuda"):
        Predictor(tmp_path, device="cuda")


# Image files


def test_nifti_gives_nifti_on_the_same_grid(study: Any, tmp_path: Path) -> None:
    source = study.folder("solid") / "imagesTr" / "s1.nii.gz"
    (target,) = files.predict_files([source], study.model("solid"), tmp_path / "out")
    assert target == tmp_path / "out" / "s1.nii.gz"
    before, after = nibabel.load(source), nibabel.load(target)
    assert after.shape == before.shape
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-5)
    assert np.asanyarray(after.dataobj).dtype == np.uint8
    assert set(np.unique(np.asanyarray(after.dataobj))) <= VALUES
    plain = tmp_path / "plain.nii"
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(before.dataobj), before.affine), plain)
    (again,) = files.predict_files([plain], study.model("solid"), tmp_path / "out")
    assert again.name == "plain.nii"
    np.testing.assert_array_equal(read_labels(again)[0], read_labels(target)[0])


def test_a_prediction_has_the_world_of_its_image_as_it_was_written(study: Any, tmp_path: Path) -> None:
    """Neither form is set: programs follow rules of their own, and see both in one place if both are alike."""
    source = tmp_path / "scan.nii.gz"
    image: Any = nibabel.load(study.folder("solid") / "imagesTr" / "s1.nii.gz")
    plain = nibabel.Nifti1Image(np.asanyarray(image.dataobj), None)
    plain.header["pixdim"][1:4] = (1.5, 1.25, 3.0)
    plain.header["descrip"] = "of a patient"
    nibabel.save(plain, source)
    (target,) = files.predict_files(
        [source], study.model("solid"), tmp_path / "out", files.How(allow=("no-orientation",))
    )
    before, after = nibabel.load(source), nibabel.load(target)
    assert (int(after.header["sform_code"]), int(after.header["qform_code"])) == (0, 0)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.header["pixdim"], before.header["pixdim"])
    itk = [SimpleITK.ReadImage(str(path)) for path in (source, target)]
    assert itk[0].GetOrigin() == itk[1].GetOrigin()
    assert bytes(after.header["descrip"].item()) == b""


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff"])
def test_pictures_give_pictures(study: Any, tmp_path: Path, suffix: str) -> None:
    image, _ = read_image(study.folder("flat") / "images" / "f1.png")
    source = tmp_path / f"cell{suffix}"
    if suffix == ".png":
        source.write_bytes(imagecodecs.png_encode(image[0]))
    else:
        tifffile.imwrite(source, image[0])
    (target,) = files.predict_files([source], study.model("flat"), tmp_path / "out")
    labels, geometry = read_labels(target)
    assert target.name == source.name
    assert geometry == read_image(source)[1]
    assert set(np.unique(labels)) <= VALUES
    (reference,) = files.predict_files(
        [study.folder("flat") / "images" / "f1.png"], study.model("flat"), tmp_path / "ref"
    )
    np.testing.assert_array_equal(labels, read_labels(reference)[0])


def test_new_images_are_predicted_as_those_of_the_study(study: Any, tmp_path: Path) -> None:
    for name in ("flat", "solid"):
        predictions = study.predictions(name)
        for case, entry in read_json(predictions)["cases"].items():
            manifest = json.loads((study.manifest(name).parent / "splits.json").read_text())
            assert case in manifest["folds"][0]["val"]
            (source,) = study.folder(name).glob(f"image*/{case}.*")
            (target,) = files.predict_files([source], study.model(name), tmp_path / name)
            assert sha256_file(target) == entry["sha256"]


REFUSED: dict[str, tuple[Callable[[Path, Any], tuple[list[Path], Path]], str]] = {
    "missing": (lambda t, s: ([t / "none.png", t / "nor.png"], t / "o"), r"no such image: .*none\.png, .*nor\.png"),
    "two into one": (lambda t, s: ([t / "a" / "x.png", t / "b" / "x.png"], t / "o"), r"several images.*x\.png"),
    "into itself": (lambda t, s: ([t / "a" / "x.png"], t / "a"), r"would replace its input .*x\.png"),
    "by a link": (lambda t, s: ([t / "link" / "x.png"], t / "a"), r"would replace its input"),
    "over another input": (lambda t, s: ([t / "b" / "y.png", t / "a" / "x.png"], t / "a"), r"would replace its input"),
    "volume": (lambda t, s: ([s.folder("solid") / "imagesTr" / "s0.nii.gz"], t / "o"), "3-D with 1 channels"),
    "colour": (lambda t, s: ([t / "rgb.png"], t / "o"), r"rgb\.png.*3 channels"),
    "damaged": (lambda t, s: ([t / "cut.png"], t / "o"), r"cut\.png"),
    "no image": (lambda t, s: ([t / "notes.txt"], t / "o"), r"notes\.txt"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_requests_are_refused_and_change_nothing(name: str, study: Any, tmp_path: Path) -> None:
    for place in ("a/x.png", "b/x.png", "b/y.png"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(study.folder("flat") / "images" / "f0.png", tmp_path / place)
    os.symlink(tmp_path / "a", tmp_path / "link")
    (tmp_path / "rgb.png").write_bytes(imagecodecs.png_encode(np.zeros((9, 9, 3), np.uint8)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "a" / "x.png").read_bytes()[:-20])
    (tmp_path / "notes.txt").write_text("hello")
    ask, cause = REFUSED[name]
    images, out = ask(tmp_path, study)
    before = {p: sha256_file(p) for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=cause):
        files.predict_files(images, study.model("flat"), out)
    assert {p: sha256_file(p) for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(("spacing", "error"), [([0.5], DataError), ([0.5, 0.0], DataError), ([0.5, 0.5], DataError)])
def test_pixel_sizes_must_fit_the_image_and_the_model(
    spacing: list[float], error: type, study: Any, tmp_path: Path
) -> None:
    source = study.folder("flat") / "images" / "f0.png"
    with pytest.raises((error, GeometryError), match=r"f0\.png"):
        files.predict_files([source], study.model("flat"), tmp_path, files.How(spacing=spacing))
    assert list(tmp_path.iterdir()) == []


# The stage


def run_stage(study: Any, out: Path, name: str = "flat", model: Path | None = None) -> dict[str, Any]:
    stage.run(study.config, study.manifest(name), study.splits(name), 0, model or study.model(name), out)
    return read_json(out / "predictions.json")


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_stage_predicts_the_validation_fold_in_the_images_format(study: Any, name: str) -> None:
    facts = read_json(study.predictions(name))
    val = read_json(study.splits(name))["folds"][0]["val"]
    assert list(facts["cases"]) == val
    assert (facts["dataset"], facts["model"], facts["fold"], facts["seed"]) == (name, "unet", 0, 0)
    assert facts["weights_sha256"] == sha256_file(study.model(name) / "model.safetensors")
    for case, entry in facts["cases"].items():
        path = study.predictions(name).parent / entry["file"]
        assert sha256_file(path) == entry["sha256"]
        (source,) = study.folder(name).glob(f"image*/{case}.*")
        assert path.name == source.name
        labels, geometry = read_labels(path)
        assert geometry.shape == read_image(source)[1].shape
        assert geometry.corner_distance_voxels(read_image(source)[1]) < 1e-3
        assert set(np.unique(labels)) <= VALUES


def test_predictions_are_kept_unless_damaged_or_of_other_weights(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[str] = []
    plain = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda self, *rest: predicted.append(rest[1]) or plain(self, *rest))
    first = run_stage(study, tmp_path)
    cases = list(first["cases"])
    assert predicted == cases
    assert first == read_json(study.predictions("flat"))
    assert run_stage(study, tmp_path) == first
    assert predicted == cases
    path = tmp_path / first["cases"][cases[0]]["file"]
    path.write_bytes(path.read_bytes()[:-3])
    assert run_stage(study, tmp_path) == first
    assert predicted == [*cases, cases[0]]
    stamp = tmp_path / f".{cases[1]}.json"
    facts = {name: value for name, value in read_json(stamp).items() if name != "digest"}
    write_json(stamp, signed({**facts, "key": "0" * 64}))  # as made from another image
    assert run_stage(study, tmp_path) == first
    assert predicted.pop() == cases[1]
    shutil.copytree(study.model("flat"), tmp_path / "other")
    _nudge(tmp_path / "other")
    other = run_stage(study, tmp_path, model=tmp_path / "other")
    assert predicted == [*cases, cases[0], *cases]
    assert other["weights_sha256"] != first["weights_sha256"]


def test_a_class_map_that_nobody_wants_any_more_is_removed_and_the_label_map_of_another_case_is_not(
    study: Any, tmp_path: Path
) -> None:
    """An earlier configuration, of objects of several classes, left it in the same folder."""
    facts = run_stage(study, tmp_path / "out")
    case = next(iter(facts["cases"]))
    stale, other = tmp_path / f"out/{case}.classes.png", tmp_path / "out/x.classes.png"
    for path in (stale, other):
        path.write_bytes(b"of an earlier configuration")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert run_stage(study, tmp_path / "out") == facts
    assert not stale.exists()
    assert {name for name in before if not (tmp_path / "out" / name).exists()} == {stale.name}
    # A case that is called like a class map: its label map has that name.
    manifest = read_manifest(study.manifest("flat"))
    twin = replace(manifest, cases=(*manifest.cases, replace(manifest.case(case), id=f"{case}.classes")))
    config, model = study.config, study.model("flat")
    task = replace(stage._task(config, study.manifest("flat"), [case], model, "code", "val", 0, False), manifest=twin)
    stale.write_bytes(b"the label map of that case")
    assert Outputs.of(task, manifest.case(case), tmp_path / "out").unwanted(task) == []
    alone = replace(task, manifest=manifest)
    assert Outputs.of(alone, manifest.case(case), tmp_path / "out").unwanted(alone) == [stale]


def test_other_ways_to_predict_predict_anew(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted: list[str] = []
    plain = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda self, *rest: predicted.append(rest[1]) or plain(self, *rest))
    ways = {}
    for mirror in (None, False, True):
        predict = study.config.predict.model_copy(update={"mirror": mirror})
        config = study.config.model_copy(update={"predict": predict})
        stage.run(config, study.manifest("flat"), study.splits("flat"), 0, study.model("flat"), tmp_path)
        ways[mirror] = read_json(tmp_path / "predictions.json")
    assert [ways[mirror].pop("mirror") for mirror in (None, False, True)] == [True, False, True]
    assert ways[None] == ways[True] != ways[False]
    assert predicted == list(ways[None]["cases"]) * 3


def test_equal_weights_with_another_label_table_predict_anew(study: Any, tmp_path: Path) -> None:
    model, first = tmp_path / "model", run_stage(study, tmp_path / "o")
    checkpoint, network = read_checkpoint(study.model("flat"))
    write_checkpoint(model, replace(checkpoint, labels=LabelTable.create({"ball": 2, "rod": 3})), network)
    again = run_stage(study, tmp_path / "o", model=model)
    assert again["weights_sha256"] == first["weights_sha256"]
    assert again == run_stage(study, tmp_path / "fresh", model=model)
    values = {int(v) for e in again["cases"].values() for v in np.unique(read_labels(tmp_path / "o" / e["file"])[0])}
    assert 1 not in values


def test_a_label_map_is_keyed_by_everything_it_depends_on(study: Any, tmp_path: Path) -> None:
    task = stage._validation(
        study.config, study.manifest("flat"), study.splits("flat"), 0, study.model("flat"), "code", False
    )
    case, (training,) = task.manifest.case(task.cases[0]), task.trainings
    made = training.checkpoint
    table = LabelTable.create({"ball": 1, "rod": 2})

    def other(checkpoint: Checkpoint) -> Any:
        return replace(task, trainings=(replace(training, checkpoint=checkpoint),))

    def key(task: Any = task, **changes: Any) -> str:
        return Outputs.of(task, replace(case, **changes), tmp_path).key

    keys = {
        "same": key(),
        "image": key(images_sha256=("0" * 64,)),
        "geometry": key(geometry=Geometry.from_spacing(case.geometry.shape, (2.0, 2.0))),
        "fill": key(fill=-1.0),
        "orientation": key(orientation="qform"),
        "series": key(series="2"),
        "format": key(images=("f0.ome.tif",)),
        "labels": key(replace(task, manifest=replace(task.manifest, labels=table))),
        "labels of the model": key(other(replace(made, labels=table))),
        "window": key(other(replace(made, plan=made.plan.changed(patch=(16, 16))))),
        "grid": key(other(replace(made, plan=made.plan.changed(spacing=(2.0, 2.0))))),
        "weights": key(replace(task, trainings=(replace(training, weights_sha256="0" * 64),))),
        "mirror": key(replace(task, mirror=not task.mirror)),
        "code": key(replace(task, code="other")),
    }
    assert len(set(keys.values())) == len(keys)
    for change in ({"subject": "x"}, {"site": "x"}, {"images": ("moved.png",)}, {"labels_sha256": ("0" * 64,)}):
        assert key(**change) == keys["same"]
    reworded = other(replace(made, plan=replace(made.plan, reasons={}), provenance={}))
    assert key(reworded) == keys["same"]


def _nudge(folder: Path) -> None:
    checkpoint, network = read_checkpoint(folder)
    with torch.no_grad():
        next(network.parameters()).mul_(1.01)
    write_checkpoint(folder, checkpoint, network)


def test_a_changed_image_is_refused(study: Any, tmp_path: Path) -> None:
    shutil.copytree(study.folder("flat"), tmp_path / "data" / "flat")
    config = study.config.model_copy(update={"data_root": str(tmp_path / "data")})
    for path in (tmp_path / "data" / "flat" / "images").iterdir():
        image, geometry = read_labels(path)
        write_labels(path, 255 - image, geometry)
    with pytest.raises(DataError, match="changed since `medseg ingest`"):
        stage.run(config, study.manifest("flat"), study.splits("flat"), 0, study.model("flat"), tmp_path / "o")
    assert not (tmp_path / "o" / "predictions.json").exists()


def test_joined_shards_are_the_record_of_one_job(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = (study.config, study.manifest("flat"), study.splits("flat"), 0, study.model("flat"), tmp_path)
    for index in (2, 0):
        stage.run(*inputs, shard=Shard(index, 3))
    with pytest.raises(DataError, match=r"shards 1/3 are not done.*medseg predict --shard"):
        stage.join(*inputs, 3)
    stage.run(*inputs, shard=Shard(1, 3))
    assert not (tmp_path / "predictions.json").exists()
    monkeypatch.setattr("medseg.predict.run.Predictor", None)
    stage.join(*inputs, 3)
    assert (tmp_path / "predictions.json").read_bytes() == study.predictions("flat").read_bytes()
    with pytest.raises(DataError, match=r"shard 0/3 was made from other cases.*or code.*medseg predict --shard 0/3"):
        stage.join(*inputs, 3, "other code")


@pytest.mark.parametrize("change", ["cases", "order", "geometry"])
def test_shards_of_other_cases_are_not_joined(change: str, study: Any, tmp_path: Path) -> None:
    shutil.copytree(study.manifest("flat").parent, tmp_path / "ingest")
    manifest, splits = tmp_path / "ingest/manifest.tsv", tmp_path / "ingest/splits.json"
    inputs = (study.config, manifest, splits, 0, study.model("flat"), tmp_path / "o")
    for index in range(2):
        stage.run(*inputs, shard=Shard(index, 2))
    facts, found = read_folds(splits), read_manifest(manifest)
    if change == "geometry":
        grid = Geometry.from_spacing(found.cases[0].geometry.shape, (2.0, 2.0))
        write_manifest(replace(found, cases=tuple(replace(c, geometry=grid) for c in found.cases)), tmp_path / "ingest")
    elif change == "order":
        facts["folds"][0]["val"].reverse()
    else:
        facts["folds"][0]["val"].pop()
    write_record(splits, facts)
    with pytest.raises(DataError, match=r"shard 0/2 was made from other cases, images"):
        stage.join(*inputs, 2)


def test_a_failed_case_of_a_shard_is_in_the_joined_record(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise PredictionError("not finite")

    inputs = (study.config, study.manifest("flat"), study.splits("flat"), 0, study.model("flat"), tmp_path)
    stage.run(*inputs, shard=Shard(1, 2))
    monkeypatch.setattr(Predictor, "predict", fail)
    stage.run(*inputs, shard=Shard(0, 2))
    stage.join(*inputs, 2)
    cases = read_json(tmp_path / "predictions.json")["cases"]
    assert list(cases) == list(read_json(study.predictions("flat"))["cases"])
    assert ["failed" in entry for entry in cases.values()] == [k % 2 == 0 for k in range(len(cases))]


def test_two_jobs_never_write_one_folder(study: Any, tmp_path: Path) -> None:
    with writer_lock(tmp_path), pytest.raises(BusyError):
        run_stage(study, tmp_path)


def test_a_case_that_the_network_fails_on_stays_in_the_study_as_the_worst(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg.evaluate import run as evaluate
    from medseg.postprocess import run as postprocess

    plain = Predictor.predict

    def fail_once(self: Predictor, source: Source, name: str, *more: Any) -> Any:
        if name == failing:
            raise PredictionError(f"{name}: the network's output is not finite; the model or the image is damaged")
        return plain(self, source, name, *more)

    monkeypatch.setattr(Predictor, "predict", fail_once)
    cases = list(read_json(study.predictions("flat"))["cases"])
    failing = cases[0]
    stage.run(study.config, study.manifest("flat"), study.splits("flat"), 0, study.model("flat"), tmp_path / "p")
    facts = read_json(tmp_path / "p" / "predictions.json")
    assert list(facts["cases"]) == cases
    assert "not finite" in facts["cases"][failing]["failed"]
    config = study.config.model_copy(
        update={"datasets": {"flat": study.config.datasets["flat"].model_copy(update={"postprocess": FILL})}}
    )
    postprocess.run(config, study.manifest("flat"), tmp_path / "p" / "predictions.json", tmp_path / "q")
    evaluate.run(config, study.manifest("flat"), tmp_path / "q" / "predictions.json", tmp_path / "s.parquet")
    table = pd.read_parquet(tmp_path / "s.parquet")
    mine = table[(table.case == failing) & (table.metric == "dice")]
    assert set(table.case) == set(cases)
    assert all(status.startswith("failed: ") and "not finite" in status for status in mine.status)
    assert set(mine[mine.n_ref > 0].value) == {0.0}
    # The fault gone, the same command predicts it; nothing has to be deleted.
    monkeypatch.setattr(Predictor, "predict", plain)
    stage.run(study.config, study.manifest("flat"), study.splits("flat"), 0, study.model("flat"), tmp_path / "p")
    assert read_json(tmp_path / "p" / "predictions.json")["cases"] == read_json(study.predictions("flat"))["cases"]
