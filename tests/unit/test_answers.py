"""What a model in MLflow is asked and answers: paths, arrays, and what JSON can carry; the rest is refused by name."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medseg.errors import DataError
from medseg.formats.read import open_image
from medseg.predict.batch import How
from medseg.predict.predictor import Predictor
from medseg.tracking.answers import Answering, encoded, image_of


def coded(array: np.ndarray) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode()
    return {"array": data, "dtype": array.dtype.str, "shape": list(array.shape)}


@pytest.mark.parametrize("dtype", ["<f4", ">i2", "u1", "<f8"])
def test_arrays_come_as_lists_and_as_bytes(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for fields in ({"array": array.tolist(), "dtype": dtype}, coded(array), {"array": array}):
        found, as_bytes = image_of(fields)
        np.testing.assert_array_equal(found, array)
        assert found.dtype.kind == array.dtype.kind
        assert as_bytes == ("shape" in fields)
    back = encoded(array)
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(back["array"]), back["dtype"]).reshape(2, 3, 4), array)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "array: missing; expected nested lists"),
        ({"array": [1], "spcaing": [1]}, r"unknown fields \['spcaing'\]; an image has array, dtype"),
        ({"array": "AAAA"}, "in base64; expected `dtype` of numbers"),
        ({"array": "AAAA", "dtype": "O", "shape": [1]}, "in base64; expected `dtype` of numbers"),
        ({"array": "AAAA", "dtype": "u1", "shape": [2]}, "no array of numbers"),
        ({"array": "A*A=", "dtype": "u1", "shape": [2]}, "no array of numbers"),
        ({"array": [[1, 2], [3]]}, "no array of numbers"),
        ({"array": "AAAA", "dtype": "what", "shape": [1]}, "no array of numbers"),
    ],
)
def test_what_is_no_image_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        image_of(fields)


@pytest.fixture(scope="module")
def answering(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Answering:
    return Answering(study.model("solid"), tmp_path_factory.mktemp("out"), How(allow=("shear",)))


def test_an_array_is_answered_as_its_file_is(answering: Answering, study: Any) -> None:
    path = study.folder("solid") / "imagesTr" / "s1.nii.gz"
    source = open_image(path)
    expected = Predictor(study.model("solid")).label_map(source, "s1")
    image, affine = source.image(), source.geometry.affine
    for asked in ({"array": image, "affine": affine}, {"array": image[0], "affine": affine.tolist(), "unit": "mm"}):
        np.testing.assert_array_equal(answering.answer(asked), expected)
    shrunk = affine.copy()
    shrunk[:3] *= 1000
    np.testing.assert_array_equal(answering.answer({"array": image, "affine": shrunk, "unit": "um"}), expected)
    one, two = answering.answer([{"array": image, "affine": affine}] * 2)
    np.testing.assert_array_equal(one, two)
    answer = answering.answer({**coded(np.ascontiguousarray(image[0])), "affine": affine})
    np.testing.assert_array_equal(image_of(answer)[0], expected)


def test_paths_are_answered_by_paths_in_any_form(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict_files(images: list[Path], model: Path, out: Path, how: How) -> list[Path]:
        return [Path("there") / image.name for image in images]

    monkeypatch.setattr("medseg.predict.files.predict_files", predict_files)
    both = ["there/a.nii", "there/b.nii"]
    for asked in (["a.nii", "b.nii"], np.array(["a.nii", "b.nii"]), pd.DataFrame({"path": ["a.nii", "b.nii"]})):
        assert answering.answer(asked) == both
    for asked in ("a.nii", Path("a.nii"), np.array("a.nii")):
        assert answering.answer(asked) == both[0]
    for nothing in ([], [1, 2], ["a", {"array": [1]}]):
        with pytest.raises(DataError, match="expected paths, or images with the fields array"):
            answering.answer(nothing)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spacing": [1, 1, 1]}, "does not say where its axes point .no-orientation"),
        ({"spacing": [1, 1], "allow": ["no-orientation"]}, "expected 3 numbers above 0"),
        ({"spacing": [1, 0, 1], "allow": ["no-orientation"]}, "expected 3 numbers above 0"),
        ({}, "give either `spacing` .3 numbers, in mm. or `affine`"),
        ({"spacing": [100, 100, 100], "allow": ["no-orientation"]}, "voxel-size"),
        ({"affine": np.eye(4).tolist(), "unit": "px"}, "its voxel size is in px"),
    ],
)
def test_an_array_is_asked_what_a_file_is_asked(fields: dict[str, Any], message: str, answering: Answering) -> None:
    image = np.random.default_rng(0).integers(0, 99, (18, 16, 12))
    with pytest.raises(DataError, match=message):
        answering.answer({"array": image, **fields})
    with pytest.raises(DataError, match="expected numbers with 3 axes"):
        answering.answer({"array": image[0], "affine": np.eye(4)})
    with pytest.raises(DataError, match="constant-image"):
        answering.answer({"array": np.ones((18, 16, 12)), "affine": np.eye(4)})


def test_a_spacing_will_do_where_that_is_allowed_and_for_pictures(answering: Answering, study: Any) -> None:
    image = np.random.default_rng(0).integers(0, 99, (18, 16, 12))
    by_spacing = answering.answer({"array": image, "spacing": [1, 1, 2], "allow": ["no-orientation"]})
    np.testing.assert_array_equal(by_spacing, answering.answer({"array": image, "affine": np.diag([1, 1, 2, 1])}))
    flat = Answering(study.model("flat"), Path("out"), How())
    assert flat.answer({"array": image[0], "spacing": [1, 1]}).shape == (16, 12)
