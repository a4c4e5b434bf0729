"""``medseg measure`` pairs images with masks from anywhere, and refuses what is none; ``medseg predict`` measures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from roifile import roiread
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.errors import DataError, GeometryError, MedsegError
from medseg.formats.read import open_image
from medseg.formats.table import class_map
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.measure.files import OBJECT_FILES
from medseg.measure.pairing import SUFFIXES, find_pairs
from medseg.measure.predicted import PredictedObjects
from medseg.measure.run import run
from medseg.measure.scenes import Reading, components_of, read_classes
from medseg.train.checkpoint import Checkpoint
from tests.plans import tiny_plan

TABLES = ("csv", "parquet")


def numbers(shape: tuple[int, ...] = (24, 32)) -> NDArray[np.uint16]:
    made = np.zeros(shape, dtype=np.uint16)
    made[..., 2:8, 3:9], made[..., 2:8, 9:14], made[..., 14:20, 20:32] = 1, 2, 7
    return made


def put(path: Path, array: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(array))
    else:
        tifffile.imwrite(path, array, metadata={"axes": "CYX"[-array.ndim :]})
    return path


def picture(shape: tuple[int, ...] = (24, 32)) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)


def medseg(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


# Pairing


@pytest.mark.parametrize("suffix", ["", *SUFFIXES])
def test_masks_are_found_by_name_with_the_suffixes_of_other_programs(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b.c"):
        put(tmp_path / "images" / f"{name}.tif", picture())
        put(tmp_path / "masks" / f"{name}{suffix}.png", numbers())
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert [(pair.name, pair.image.name, pair.mask.name) for pair in pairs] == [
        (name, f"{name}.tif", f"{name}{suffix}.png") for name in ("a", "b.c")
    ]
    said = capsys.readouterr().err
    assert (suffix in said and "paired" in said) if suffix else not said
    # One of the images, beside the folder of all masks.
    (pair,) = find_pairs(tmp_path / "images" / "a.tif", tmp_path / "masks")
    assert pair.mask.name == f"a{suffix}.png"


def test_the_folder_of_cellpose_holds_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.tif", "b.tif", "a_cp_masks.png", "b_cp_masks.png", "a_flows.tif", "lonely.tif"):
        put(tmp_path / name, numbers() if "masks" in name else picture())
    (tmp_path / "a_seg.npy").write_bytes(b"")
    (tmp_path / "a_cp_outlines.txt").write_text("1,2")
    assert [(p.image.name, p.mask.name) for p in find_pairs(tmp_path, tmp_path)] == [
        ("a.tif", "a_cp_masks.png"),
        ("b.tif", "b_cp_masks.png"),
    ]
    said = capsys.readouterr().err
    assert "left out, since no mask is called like them: a_flows, lonely" in said and "_cp_masks" in said


def test_files_that_were_written_for_objects_are_no_masks(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", picture())
    for row in OBJECT_FILES.values():
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / f"a{row.suffix}").write_bytes(b"x")
    put(tmp_path / "masks" / "a.classes.png", numbers())
    put(tmp_path / "masks" / "a.png", numbers())
    (tmp_path / "masks" / "predictions.json").write_text("{}")
    (pair,) = find_pairs(tmp_path / "images", tmp_path / "masks")
    assert pair.mask.name == "a.png"


def test_two_files_are_a_pair_whatever_they_are_called(tmp_path: Path) -> None:
    image, mask = put(tmp_path / "x.tif", picture()), put(tmp_path / "y.png", numbers())
    (pair,) = find_pairs(image, mask)
    assert (pair.name, pair.image, pair.mask) == ("x", image, mask)


UNPAIRED: dict[str, tuple[list[str], list[str], str]] = {
    "no mask": (["a.png", "b.png"], ["a.png"], r"b\.png: no mask; expected .*masks/b\.\*"),
    "no image": (["a.png"], ["a.png", "b.png"], r"masks/b\.png: no image of this name"),
    "two masks": (["a.png"], ["a.png", "a_mask.png"], r"several masks, a\.png and a_mask\.png"),
    "two formats": (["a.png"], ["a.png", "a.tif"], r"a\.png and a\.tif have one name"),
    "nothing": ([], [], r"no images"),
}


@pytest.mark.parametrize("name", UNPAIRED)
def test_what_has_no_partner_is_said(name: str, tmp_path: Path) -> None:
    images, masks, message = UNPAIRED[name]
    for folder, names in (("images", images), ("masks", masks)):
        (tmp_path / folder).mkdir()
        for one in names:
            put(tmp_path / folder / one, numbers())
    with pytest.raises(DataError, match=message):
        find_pairs(tmp_path / "images", tmp_path / "masks")


def test_missing_folders_and_a_folder_without_masks(tmp_path: Path) -> None:
    put(tmp_path / "a.png", picture())
    with pytest.raises(DataError, match="no such file or folder"):
        find_pairs(tmp_path, tmp_path / "none")
    with pytest.raises(DataError, match="_cp_masks"):
        find_pairs(tmp_path, tmp_path)


# Reading


def folders(root: Path, mask: NDArray[Any], image: NDArray[Any] | None = None) -> tuple[Path, Path]:
    put(root / "images" / "a.tif", picture() if image is None else image)
    put(root / "masks" / "a.tif", mask)
    return root / "images", root / "masks"


REFUSED: dict[str, tuple[Callable[[], NDArray[Any]], str]] = {
    "another size": (lambda: numbers((24, 33)), r"shape \(24, 33\), its image a\.tif has \(24, 32\)"),
    "fractions": (lambda: numbers().astype(np.float32) + 0.5, r"not.*integer|integer"),
    "binary": (lambda: (numbers() > 0).astype(np.uint8), r"number 1, in 2 separate parts.*--components"),
    "binary 255": (lambda: ((numbers() == 1) * 255).astype(np.uint8), r"number 255, in 1 .*binary mask"),
    "negative": (lambda: numbers().astype(np.int16) - 1, r"object number -1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_masks_that_are_no_object_numbers_are_refused(name: str, tmp_path: Path) -> None:
    made, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        run(*folders(tmp_path, made()), tmp_path / "out", TABLES, Reading())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("made", [lambda: (numbers() == 7).astype(np.uint8), lambda: np.zeros((24, 32), np.uint8)])
def test_one_object_or_none_is_no_binary_mask(made: Callable[[], NDArray[Any]], tmp_path: Path) -> None:
    run(*folders(tmp_path, made()), tmp_path / "out", TABLES, Reading())
    assert len(pd.read_csv(tmp_path / "out" / "a.objects.csv")) == made().max()


def test_connected_parts_are_objects_on_request(tmp_path: Path) -> None:
    run(*folders(tmp_path, (numbers() > 0).astype(np.uint8) * 255), tmp_path / "out", TABLES, Reading(components=True))
    table = pd.read_csv(tmp_path / "out" / "a.objects.csv")
    assert table["area_px2"].tolist() == [66, 72]
    # Parts meet by faces, and different values are apart.
    np.testing.assert_array_equal(components_of(np.array([[5, 0], [0, 5]])), [[1, 0], [0, 2]])
    assert components_of(numbers()).max() == 3


def test_floating_point_that_holds_integers_will_do(tmp_path: Path) -> None:
    run(*folders(tmp_path, numbers().astype(np.float32)), tmp_path / "out", TABLES, Reading())
    assert pd.read_parquet(tmp_path / "out" / "a.objects.parquet")["id"].tolist() == [1, 2, 7]


def test_the_grid_is_that_of_the_image_where_masks_have_none(tmp_path: Path) -> None:
    mask = put(tmp_path / "masks" / "a.png", numbers())
    write_labels(tmp_path / "a.ome.tif", picture(), Geometry.from_spacing((24, 32), (0.5, 0.25), "um"))
    run(tmp_path / "a.ome.tif", mask, tmp_path / "out", TABLES, Reading())
    table = pd.read_parquet(tmp_path / "out" / "a.objects.parquet")
    assert table["area_um2"].tolist() == [36 / 8, 30 / 8, 72 / 8]
    assert table["centroid_y_um"][0] == 4.5 * 0.5 and table["centroid_x_um"][0] == 5.5 * 0.25
    assert table["image"].unique().tolist() == ["a.ome.tif"]
    found = pd.read_csv(tmp_path / "out" / "summary.csv").iloc[0]
    assert found["image"] == "a.ome.tif" and found["count"] == 3
    assert found["density_per_mm2"] == pytest.approx(3 / (24 * 32 / 8 * 1e-6))
    # Sizes that contradict one another are an error.
    write_labels(tmp_path / "b.ome.tif", numbers(), Geometry.from_spacing((24, 32), (0.5, 0.5), "um"))
    with pytest.raises(GeometryError):
        run(tmp_path / "a.ome.tif", tmp_path / "b.ome.tif", tmp_path / "out", TABLES, Reading())


def test_volumes_of_the_medical_formats_have_their_axes_and_millilitres(tmp_path: Path) -> None:
    volume = np.zeros((9, 8, 7), dtype=np.int16)
    volume[1:4, 2:6, 3] = 5
    for name, voxels in (("a.nii.gz", volume.astype(np.float32)), ("b.nii.gz", volume)):
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / name)
    run(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "out", list(OBJECT_FILES), Reading())
    row = pd.read_parquet(tmp_path / "out" / "a.objects.parquet").iloc[0]
    assert row["volume_ml"] == pytest.approx(12 * 20 / 1000)
    assert (row["centroid_x_px"], row["centroid_y_px"], row["centroid_z_px"]) == (2, 3.5, 3)
    assert row["centroid_z_mm"] == 15
    region = roiread(tmp_path / "out" / "a.rois.zip")[0]
    # Columns are x, rows are y, slices z.
    assert region.position == 4 and region.coordinates().tolist() == [[1, 2], [4, 2], [4, 6], [1, 6]]


# Classes


def test_classes_come_from_a_table(tmp_path: Path) -> None:
    images, masks = folders(tmp_path, numbers())
    put(images / "b.tif", picture())
    put(masks / "b.tif", (numbers() == 1).astype(np.uint8))
    table = tmp_path / "classes.csv"
    table.write_text("image,id,class\na.tif,1,tumour\na,2,stroma\na,7,tumour\nb,1,stroma\n")
    run(images, masks, tmp_path / "out", [*TABLES, "geojson"], Reading(classes=read_classes(table)))
    assert pd.read_csv(tmp_path / "out" / "a.objects.csv")["class"].tolist() == ["tumour", "stroma", "tumour"]
    assert pd.read_csv(tmp_path / "out" / "b.objects.csv")["class"].tolist() == ["stroma"]
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary[["count", "count_stroma", "count_tumour"]].to_numpy().tolist() == [[3, 1, 2], [1, 1, 0]]
    first = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"][0]
    assert first["properties"]["classification"]["name"] == "tumour"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,kind\n1,a\n", "no column class"),
        ("id,class\n1,a\n1,b\n", "object 1 is listed twice"),
        ("id,class\n1,\n", "without a class"),
        ("id,class\nx,a\n", "id 'x'"),
        ("id,class\n1,a\n2,a\n", r"no class for objects \[7\]"),
        ("image,id,class\nother,1,a\n", r"no class for objects \[1, 2, 7\]"),
    ],
)
def test_tables_of_classes_that_do_not_fit(text: str, message: str, tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    table.write_text(text)
    images, masks = folders(tmp_path, numbers())
    with pytest.raises(DataError, match=message):
        run(images, masks, tmp_path / "out", TABLES, Reading(classes=read_classes(table)))


def test_a_table_of_classes_for_several_images_names_them(tmp_path: Path) -> None:
    images, masks = folders(tmp_path, numbers())
    put(images / "b.tif", picture())
    put(masks / "b.tif", numbers())
    table = tmp_path / "classes.csv"
    table.write_text("id,class\n1,a\n2,a\n7,a\n")
    with pytest.raises(DataError, match="no column image"):
        run(images, masks, tmp_path / "out", TABLES, Reading(classes=read_classes(table)))
    with pytest.raises(DataError, match="no such file"):
        read_classes(tmp_path / "none.csv")


# The command


def test_the_command_writes_tables_unless_told_otherwise(tmp_path: Path) -> None:
    images, masks = folders(tmp_path, numbers(), np.stack([picture(), picture()]))
    done = medseg("measure", images, masks, "-o", tmp_path / "o", "--channel", "DAPI", "--channel", "actin")
    assert done.exit_code == 0, done.output
    names = ["a.objects.csv", "a.objects.parquet", "summary.csv"]
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == names
    assert [Path(line).name for line in done.stdout.splitlines()] == names
    assert "intensity_actin_median" in pd.read_csv(tmp_path / "o" / "a.objects.csv").columns
    done = medseg("measure", images, masks, "-o", tmp_path / "p", "--rois", "--geojson", "--overlays")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["a.geojson", "a.overlay.png", "a.rois.zip"]


def test_a_pixel_size_is_given_in_micrometres(tmp_path: Path) -> None:
    images, masks = folders(tmp_path, numbers())
    words = ("--spacing", "0.5", "--spacing", "0.5")
    assert medseg("measure", images, masks, "-o", tmp_path / "o", *words).exit_code == 0
    assert pd.read_csv(tmp_path / "o" / "a.objects.csv")["area_um2"].tolist() == [9, 7.5, 18]


def test_no_input_is_replaced(tmp_path: Path) -> None:
    image = put(tmp_path / "a.overlay.png", picture())
    shutil.copy(image, tmp_path / "a.png")
    mask = put(tmp_path / "m.png", numbers())
    with pytest.raises(DataError, match="is an input and would be replaced"):
        run(tmp_path / "a.png", tmp_path / "a.overlay.png", tmp_path, ["overlay"], Reading(components=True))
    run(tmp_path / "a.png", mask, tmp_path / "o", ["overlay"], Reading())


# Predictions


@pytest.fixture
def predicting(monkeypatch: pytest.MonkeyPatch) -> Callable[[LabelTable, NDArray[Any]], None]:
    """Let every model be one with this label table that predicts this label map."""

    def install(table: LabelTable, labels: NDArray[Any]) -> None:
        class Fake:
            def __init__(self, *_: object) -> None:
                pass

            def predict(self, source: Any, name: str, sinks: Any) -> None:
                write_labels(sinks[0].path, labels, source.geometry)

        checkpoint = Checkpoint("d", ("DAPI",), table, tiny_plan("unet", 2), 0, 0, "f", {})
        monkeypatch.setattr("medseg.tracking.resolve_models", lambda model, _: [Path(model)])
        monkeypatch.setattr("medseg.predict.ensemble.Predictor", Fake)
        monkeypatch.setattr("medseg.predict.trainings.read_description", lambda folder: (checkpoint, ""))
        monkeypatch.setattr("medseg.predict.code.code_of", lambda folders: "")
        monkeypatch.setattr("medseg.postprocess.of_model.steps_of_models", lambda named, folders: (None, ""))
        monkeypatch.setattr("medseg.predict.quality.read_quality", lambda model: None)

    return install


def shown_in(folder: Path) -> list[str]:
    """Names of the visible files: hidden ones say what predictions were made from."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_predicted_objects_are_written_on_request(predicting: Any, tmp_path: Path) -> None:
    predicting(LabelTable.create({"cell": 1}, instances=True), numbers())
    images = [put(tmp_path / name, picture()) for name in ("a.png", "b.tif")]
    words = ("predict", *images, "--model", "m", "-o", tmp_path / "o")
    plain = medseg(*words)
    assert plain.exit_code == 0 and len(shown_in(tmp_path / "o")) == 2
    done = medseg(*words, "--tables", "--rois", "--geojson", "--overlays")
    assert done.exit_code == 0, done.output
    kinds = [f"{name}{row.suffix}" for name in "ab" for row in OBJECT_FILES.values()]
    written = shown_in(tmp_path / "o")
    assert written == sorted([*kinds, "a.png", "b.tif", "summary.csv"])
    assert sorted(Path(line).name for line in done.stdout.splitlines()) == written
    table = pd.read_csv(tmp_path / "o" / "a.objects.csv")
    assert table["id"].tolist() == [1, 2, 7] and set(table["class"]) == {"cell"}
    image = picture()
    assert table["intensity_DAPI_mean"][2] == pytest.approx(image[14:20, 20:32].mean())
    assert len(roiread(tmp_path / "o" / "b.rois.zip")) == 3
    assert pd.read_csv(tmp_path / "o" / "summary.csv")["image"].tolist() == ["a.png", "b.tif"]


def test_models_of_classes_have_overlays_and_nothing_else(predicting: Any, tmp_path: Path) -> None:
    predicting(LabelTable.create({"ball": 1, "rod": 3}), np.where(numbers() == 7, 3, numbers() > 0).astype(np.uint8))
    image = put(tmp_path / "a.png", picture())
    words = ("predict", image, "--model", "m", "-o", tmp_path / "o")
    done = medseg(*words, "--tables", "--rois", "--overlays")
    assert done.exit_code != 0 and not (tmp_path / "o").exists()
    assert isinstance(done.exception, MedsegError)
    assert "--rois, --tables: the model predicts classes (ball, rod), not objects" in str(done.exception)
    assert medseg(*words, "--overlays").exit_code == 0
    assert shown_in(tmp_path / "o") == ["a.overlay.png", "a.png"]


def test_images_of_one_name_cannot_have_tables_in_one_folder(predicting: Any, tmp_path: Path) -> None:
    predicting(LabelTable.create({"cell": 1}, instances=True), numbers())
    images = [put(tmp_path / name, picture()) for name in ("a.png", "a.tif")]
    done = medseg("predict", *images, "--model", "m", "-o", tmp_path / "o", "--tables")
    assert "several images would be written to" in str(done.exception) and not (tmp_path / "o").exists()


def test_classes_of_predicted_objects_are_read_from_the_map_beside(tmp_path: Path) -> None:
    image = put(tmp_path / "a.png", picture())
    labels = put(tmp_path / "o" / "a.png", numbers())
    put(class_map(labels), np.where(numbers() == 2, 3, numbers() > 0).astype(np.uint8))
    table = SimpleNamespace(instances=True, class_names=("tumour", "stroma"), values=(1, 3))
    objects = PredictedObjects.create(tmp_path / "o", TABLES, table, ("a", "a"))  # type: ignore[arg-type]
    objects.write(image, open_image(image), labels)
    found = pd.read_csv(tmp_path / "o" / "a.objects.csv")
    assert found["class"].tolist() == ["tumour", "stroma", "tumour"] and "intensity_mean" in found


@pytest.mark.parametrize("option", ["--tables", "--rois", "--geojson", "--overlays"])
def test_files_of_objects_belong_to_images(option: str) -> None:
    fold = ("--config", "c", "--manifest", "m", "--splits", "s", "--fold", "0")
    done = CliRunner().invoke(app, ["predict", *fold, "--model", "m", "-o", "o", option], env={"COLUMNS": "300"})
    assert done.exit_code == 2 and f"{option}: for image files" in done.output
