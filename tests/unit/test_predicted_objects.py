"""Predictions of object data are read back as objects with their classes, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.errors import DataError, GeometryError
from medseg.evaluate.predicted import read_prediction
from medseg.files import sha256_file
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import Case
from medseg.predict.record import PredictedCase

GRID = Geometry.from_spacing((2, 5), (1.0, 1.0), "px")
NUMBERS = np.array([[4, 4, 0, 300, 300], [0, 4, 0, 300, 0]], np.uint16)
ONE = LabelTable.create({"cell": 1}, instances=True, ignore=300)
TWO = LabelTable.create({"tumour": 3, "stroma": 7}, instances=True)


def written(path: Path, values: np.ndarray, grid: Geometry = GRID) -> dict[str, str]:
    write_labels(path, values, grid)
    return {"file": path.name, "sha256": sha256_file(path)}


def read(folder: Path, labels: LabelTable, file: dict[str, str], classes: dict[str, str] | None = None) -> Any:
    case = Case("c", "s", (), (), (), (), GRID, "uint8", {})
    return read_prediction(folder, case, PredictedCase(**file, classes=classes), labels)


def test_objects_of_one_class(tmp_path: Path) -> None:
    channels, objects = read(tmp_path, ONE, written(tmp_path / "c.tif", NUMBERS))
    # A predicted number may be the value that says "not annotated" in references.
    assert objects.numbers.tolist() == [[1, 1, 0, 2, 2], [0, 1, 0, 2, 0]]
    assert objects.classes.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(channels, NUMBERS > 0)


def test_objects_of_several_classes_have_those_of_the_class_map(tmp_path: Path) -> None:
    file = written(tmp_path / "c.tif", NUMBERS)
    classes = written(tmp_path / "c.classes.tif", np.array([[7, 7, 0, 3, 3], [0, 7, 0, 3, 0]], np.uint8))
    channels, objects = read(tmp_path, TWO, file, classes)
    assert objects.classes.tolist() == [0, 2, 1]
    assert channels.tolist() == [[2, 2, 0, 1, 1], [0, 2, 0, 1, 0]]


def test_class_maps_that_are_missing_changed_or_of_other_voxels_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "c.tif", NUMBERS)
    with pytest.raises(DataError, match=r"objects of 2 classes, and no class map beside c\.tif; run `medseg predict`"):
        read(tmp_path, TWO, file)
    for values, cause in (
        (np.where(NUMBERS == 4, 7, 0), "other voxels a class than c.tif has objects in"),
        (np.where(NUMBERS > 0, 5, 0), r"label values \[5\] are no class"),
    ):
        classes = written(tmp_path / "c.classes.tif", values.astype(np.uint8))
        with pytest.raises(DataError, match=cause):
            read(tmp_path, TWO, file, classes)
    with pytest.raises(DataError, match="changed"):
        read(tmp_path, TWO, file, {**classes, "sha256": "0" * 64})
    other = Geometry.from_spacing((2, 4), (1.0, 1.0), "px")
    with pytest.raises(GeometryError, match="prediction of case 'c'"):
        read(tmp_path, TWO, file, written(tmp_path / "c.classes.tif", np.full((2, 4), 3, np.uint8), other))
