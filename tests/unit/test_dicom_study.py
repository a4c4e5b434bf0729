"""DICOM from end to end: folders, archives and segmentations are checked, and predictions come back as DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.main import get_command

from medseg.cli.commands import app
from medseg.config import Config
from medseg.errors import DataError, DatasetFaults
from medseg.formats.read import open_image, read_image, read_labels
from medseg.formats.source import Source
from medseg.formats.table import label_suffix
from medseg.formats.world import About
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest import run as ingest
from medseg.ingest.cases import open_case_image, read_case_image, read_case_labels
from medseg.ingest.manifest import read_manifest
from medseg.ingest.phantoms import DRAW
from medseg.predict import files as predict
from medseg.predict.sinks import LabelFile
from medseg.train.checkpoint import Checkpoint
from tests import dicom_phantom as phantom
from tests.plans import tiny_plan
from tests.stand_in import sink_labels

CASES = 4
CLASSES = {"liver": 1, "kidney": 2}


def organs(case: int) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """A phantom of organs; a mirrored grid is turned, since DICOM slices ascend along their normal."""
    image, labels, grid = DRAW["organs"](np.random.default_rng(case), case)
    if np.linalg.det(grid.affine[:3, :3]) < 0:
        grid = grid.reoriented((0, 1, 2), (False, False, True))
        image, labels = image[:, :, ::-1], labels[:, :, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(labels), grid


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Folders and one archive as images; NIfTI files and segmentations as labels."""
    root = tmp_path / "data/organs"
    (root / "masks").mkdir(parents=True)
    for case in range(CASES):
        image, labels, grid = organs(case)
        files, name = phantom.image_series(image, grid), f"case.{case}"
        if case:
            phantom.write_folder(root / "images" / name, files)
        else:
            phantom.write_folder(root / "images", {f"{name}.zip": phantom.zipped(files)})
        write_labels(root / "masks" / (f"{name}.dcm" if case % 2 else f"{name}.nii.gz"), labels, grid)
    return root


def config(root: Path, **changes: Any) -> Config:
    section = {"layout": "pairs", "path": "organs", "labels": CLASSES, **changes}
    return Config.model_validate(
        {
            "experiment": "test",
            "data_root": str(root.parent),
            "datasets": {"organs": section},
            "models": {"unet": {"network": "unet"}},
            "folds": {"count": 2},
            "budget": {"steps": 1},
        }
    )


def test_a_data_set_of_series_is_ingested_without_faults(study: Path, tmp_path: Path) -> None:
    ingest.check(config(study), "organs")
    ingest.run(config(study), "organs", tmp_path / "out", workers=2)
    manifest = read_manifest(tmp_path / "out/manifest.tsv")
    assert [case.id for case in manifest.cases] == [f"case.{k}" for k in range(CASES)]
    for number, case in enumerate(manifest.cases):
        image, labels, grid = organs(number)
        np.testing.assert_array_equal(read_case_image(case, study)[0], image)
        np.testing.assert_array_equal(read_case_labels(case, study), labels)
        assert case.geometry.corner_distance_voxels(grid) < 1e-6
    told = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert [canary for canary in phantom.CANARIES if canary.lower().encode() in told.lower()] == []


def test_a_slice_that_changed_since_it_was_checked_is_found(study: Path, tmp_path: Path) -> None:
    ingest.run(config(study), "organs", tmp_path / "out")
    case = read_manifest(tmp_path / "out/manifest.tsv").cases[1]
    file = sorted((study / case.images[0]).iterdir())[3]
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match="changed since"):
        read_case_image(case, study)


def test_faults_of_several_series_come_in_one_list(study: Path) -> None:
    sorted((study / "images/case.1").iterdir())[5].unlink()
    (study / "images/case.2/readme.txt").write_text("CANARY")
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(config(study), "organs")
    assert [(f.code, f.case) for f in caught.value.faults] == [("slice-gap", "case.1"), ("unreadable", "case.2")]


BRIGHT = LabelTable.create({"bright": 1, "brighter": 2})


class Threshold:
    """Stands in for a predictor: what is bright is class 1, what is brighter class 2."""

    def __init__(self, *args: object) -> None:
        pass

    def predict(self, source: Source, name: str, sinks: Sequence[LabelFile]) -> None:
        sink_labels(source, bright(source.image()), BRIGHT, sinks)


def bright(image: np.ndarray) -> np.ndarray:
    return (image[0] > 90).astype(np.uint8) + (image[0] > 170)


def test_predictions_of_folders_are_segmentations_on_their_grid(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.predict.ensemble.Predictor", Threshold)
    described = Checkpoint("d", ("CT",), BRIGHT, tiny_plan("unet", 3, unit="mm"), 0, 0, "f", {})
    monkeypatch.setattr("medseg.predict.trainings.read_description", lambda folder: (described, ""))
    images = [study / "images/case.0.zip", study / "images/case.1", study / "images/case.2"]
    written = predict.predict_files(images, tmp_path, tmp_path / "out")
    assert [path.name for path in written] == ["case.0.zip", "case.1.dcm", "case.2.dcm"]
    assert [label_suffix(path) for path in images] == [".zip", ".dcm", ".dcm"]
    for path, target in zip(images, written, strict=True):
        image, grid = read_image(path)
        labels, found = read_labels(target)
        np.testing.assert_array_equal(labels, bright(image))
        assert labels.any() and found.shape == grid.shape and found.corner_distance_voxels(grid) < 1e-6
        assert b"canary" not in target.read_bytes().lower()


def test_references_are_an_option(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.predict.ensemble.Predictor", Threshold)
    described = Checkpoint("d", ("CT",), BRIGHT, tiny_plan("unet", 3, unit="mm"), 0, 0, "f", {})
    monkeypatch.setattr("medseg.predict.trainings.read_description", lambda folder: (described, ""))
    image, uid = study / "images/case.1", phantom.IDENTITY["StudyInstanceUID"].encode()
    (target,) = predict.predict_files([image], tmp_path, tmp_path / "out")
    assert uid in target.read_bytes() and phantom.SERIES.encode() in target.read_bytes()
    # It is made again, not kept.
    predict.predict_files([image], tmp_path, tmp_path / "out", predict.How(references=False))
    assert uid not in target.read_bytes() and phantom.SERIES.encode() not in target.read_bytes()
    (command,) = [c for c in get_command(app).commands.values() if c.name == "predict"]  # type: ignore[attr-defined]
    assert "--no-references" in [word for option in command.params for word in option.secondary_opts]


def test_a_study_says_whether_its_segmentations_refer(study: Path, tmp_path: Path) -> None:
    """Prediction and post-processing of a case of the manifest."""
    ingest.run(config(study), "organs", tmp_path / "out", workers=1)
    case = read_manifest(tmp_path / "out/manifest.tsv").case("case.1")
    uid = phantom.IDENTITY["StudyInstanceUID"].encode()
    for references in (True, False):
        source, path = open_case_image(case, study), tmp_path / f"{references}.dcm"
        sink_labels(source, bright(source.image()), BRIGHT, [LabelFile(path, None, references)])
        made = tmp_path / f"post/{references}.dcm"
        write_labels(made, bright(source.image()), case.geometry, About(open_image(path).world))
        assert [uid in file.read_bytes() for file in (path, made)] == [references] * 2
    whole = config(study).model_dump() | {"predict": {"references": False}}
    assert not Config.model_validate(whole).predict.references


def test_the_series_to_predict_is_named(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.predict.ensemble.Predictor", Threshold)
    described = Checkpoint("d", ("CT",), BRIGHT, tiny_plan("unet", 3, unit="mm"), 0, 0, "f", {})
    monkeypatch.setattr("medseg.predict.trainings.read_description", lambda folder: (described, ""))
    folder = study / "images/case.1"
    phantom.write_folder(folder, {f"other{n}": d for n, d in phantom.series(SeriesInstanceUID="2.25.8").items()})
    with pytest.raises(DataError, match="2 series"):
        predict.predict_files([folder], tmp_path, tmp_path / "out")
    written = predict.predict_files([folder], tmp_path, tmp_path / "out", predict.How(series="2.25.8"))
    assert read_labels(written[0])[0].shape == phantom.VOXELS.shape
    with pytest.raises(DataError, match="no such image"):
        predict.predict_files([study / "images/none"], tmp_path, tmp_path / "out")
