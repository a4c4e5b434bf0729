"""What people name is what is predicted; all is checked first, what fails is named, and what is done is kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from medseg.cli import PARTLY_DONE, USERS_ERROR, _said
from medseg.errors import ConfigError, DataError, ImagesFailed
from medseg.files import sha256_file
from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_labels
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.voxel_sizes import VoxelSizes
from medseg.models.zoo import build_model
from medseg.predict import ensemble, files
from medseg.predict.files import How, predict_files
from medseg.predict.input import Input
from medseg.predict.inputs import find_inputs
from medseg.predict.memory import image_bytes, network_bytes
from medseg.predict.predictor import Predictor
from medseg.reading import AS_STORED, Reading
from medseg.records import read_record, write_record
from medseg.train.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests import dicom_phantom as phantom
from tests.plans import tiny_plan

OUT = Path("nowhere")
ONE, TWO = ("grey",), ("T1", "T2")


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found(words: list[Path], channels: tuple[str, ...] = ONE, **how: Any) -> dict[str, list[str]]:
    """Name of the prediction -> names of the files."""
    return {one.name: [file.name for file in one.files] for one in find_inputs(words, channels, OUT, **how)}


# What people name


def test_folders_are_searched_and_their_sub_folders_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(*(tmp_path / name for name in ("P1/ct.nii.gz", "P2/ct.nii.gz", "P2/deep/mr.mhd", "P2/deep/mr.raw", "top.png")))
    put(tmp_path / ".hidden/x.png", tmp_path / "P1/.x.png", tmp_path / "notes.txt", tmp_path / "Thumbs.db")
    expected = {
        "top": ["top.png"],
        "P1/ct": ["ct.nii.gz"],
        "P2/ct": ["ct.nii.gz"],
        "P2/deep/mr": ["mr.mhd"],
    }
    assert found([tmp_path]) == expected
    assert "notes.txt (a table or text): no format of images is called so" in capsys.readouterr().err
    for pattern in ("P*/ct.nii.gz", "**/ct*"):
        assert found([tmp_path / pattern]) == {"P1/ct": ["ct.nii.gz"], "P2/ct": ["ct.nii.gz"]}
    assert found([tmp_path / "P1/ct.nii.gz", tmp_path / "top.png"]) == {"ct": ["ct.nii.gz"], "top": ["top.png"]}


def test_folders_of_a_format_are_one_image(tmp_path: Path) -> None:
    put(
        tmp_path / "new/a.zarr/0/0",
        tmp_path / "new/a.zarr/.zattrs",
        tmp_path / "new/plate/zarr.json",
        tmp_path / "new/b.png",
    )
    assert found([tmp_path / "new"]) == {"a": ["a.zarr"], "b": ["b.png"], "plate": ["plate"]}
    assert found([tmp_path / "new/plate"]) == {"plate": ["plate"]}


def test_several_folders_keep_their_names(tmp_path: Path) -> None:
    put(tmp_path / "A/ct.nii", tmp_path / "B/ct.nii", tmp_path / "B/deep/mr.nii", tmp_path / "x.nii")
    words = [tmp_path / "A", tmp_path / "B", tmp_path / "x.nii"]
    assert list(found(words)) == ["A/ct", "B/ct", "B/deep/mr", "x"]
    phantom.write_folder(tmp_path / "P1", phantom.series())
    phantom.write_folder(tmp_path / "P2", phantom.series())
    assert list(found([tmp_path / "P1", tmp_path / "P2"])) == ["P1", "P2"]


def test_predictions_of_an_earlier_call_are_no_images(tmp_path: Path) -> None:
    put(tmp_path / "a.png", tmp_path / "out/a.png")
    names = [one.name for one in find_inputs([tmp_path], ONE, tmp_path / "out")]
    assert names == ["a"]
    names = [one.name for one in find_inputs([tmp_path / "**/*.png"], ONE, tmp_path / "out")]
    assert names == ["a"]


@pytest.mark.parametrize("masks", ["masks/a.png", "labels/a.png", "images/a_mask.png", "images/a_seg.png"])
def test_label_maps_beside_images_are_left_out_and_named(
    masks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "images/a.png", tmp_path / masks)
    assert found([tmp_path]) == {"images/a": ["a.png"]}
    assert f"{masks}: called like label maps" in capsys.readouterr().err
    # Whoever names them means them.
    assert len(found([(tmp_path / masks).parent])) >= 1
    assert found([tmp_path / masks]) == {Path(masks).stem: [Path(masks).name]}


def test_folders_of_dicom_slices_are_images(tmp_path: Path) -> None:
    one = phantom.series()
    other = phantom.series(SeriesInstanceUID="2.25.8")
    for name, series in (("P1/CT", one), ("P2/CT", other)):
        phantom.write_folder(tmp_path / "study" / name, series)
    assert found([tmp_path / "study"]) == {"P1/CT": ["CT"], "P2/CT": ["CT"]}
    assert found([tmp_path / "study/P1"]) == {"P1": ["P1"]}
    assert found([tmp_path / "study/*"]) == {"P1": ["P1"], "P2": ["P2"]}
    # One that was named finds its own files, wherever they lie.
    assert found([tmp_path / "study"], series="2.25.8") == {"study": ["study"]}


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere/a.png", tmp_path / "new/b.png")
    (tmp_path / "new/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "new/round").symlink_to(tmp_path / "new")
    (tmp_path / "new/c.png").symlink_to(tmp_path / "elsewhere/a.png")
    assert found([tmp_path / "new"]) == {"b": ["b.png"], "c": ["c.png"], "more/a": ["a.png"]}


def test_one_series_in_several_folders_is_one_image(tmp_path: Path) -> None:
    slices = sorted(phantom.series().items())
    phantom.write_folder(tmp_path / "scan/1", dict(slices[::2]))
    phantom.write_folder(tmp_path / "scan/2", dict(slices[1::2]))
    assert found([tmp_path / "scan"]) == {"scan": ["scan"]}
    assert open_image(tmp_path / "scan").shape[1:] == phantom.VOXELS.shape


def test_files_of_one_channel_each_are_one_image_where_all_are_there(tmp_path: Path) -> None:
    put(*(tmp_path / f"p{k}_000{c}.nii.gz" for k in (1, 2) for c in (0, 1)))
    pairs = {f"p{k}": [f"p{k}_0000.nii.gz", f"p{k}_0001.nii.gz"] for k in (1, 2)}
    listed = sorted(tmp_path.iterdir())
    assert found([tmp_path], TWO) == found(listed, TWO) == found([tmp_path / "*.nii.gz"], TWO) == pairs
    assert found(listed[::-1], TWO) == dict(reversed(pairs.items()))
    assert list(found([tmp_path], ONE)) == ["p1_0000", "p1_0001", "p2_0000", "p2_0001"]
    assert list(found(listed[1:], TWO)) == ["p1_0001", "p2"]
    put(tmp_path / "b/x_t1.nii", tmp_path / "b/x_T2.nii")
    assert found([tmp_path / "b"], TWO) == {"x": ["x_t1.nii", "x_T2.nii"]}


def test_layouts(tmp_path: Path) -> None:
    nnunet = tmp_path / "Dataset001"
    put(*(nnunet / f"imagesTs/a_000{c}.nii.gz" for c in (0, 1)), nnunet / "imagesTr/b_0000.nii.gz")
    assert found([nnunet], TWO, layout="nnunet") == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    assert found([nnunet / "imagesTr"], ONE, layout="nnunet") == {"b": ["b_0000.nii.gz"]}
    listed = sorted((nnunet / "imagesTs").iterdir())
    assert found(listed, TWO, layout="nnunet") == {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}
    put(tmp_path / "task/imagesTs/c.nii.gz", tmp_path / "task/labelsTr/d.nii.gz")
    with pytest.raises(DataError, match=r"no image in imagesTs/ there; correct the folder or --layout"):
        found([tmp_path], layout="decathlon")
    phantom.write_folder(tmp_path / "scans/CT", phantom.series())
    assert found([tmp_path / "scans"], layout="pairs") == {"CT": ["CT"]}
    assert found([tmp_path / "task"], layout="decathlon") == {"c": ["c.nii.gz"]}
    put(tmp_path / "pairs/images/e.png", tmp_path / "pairs/masks/e.png")
    assert found([tmp_path / "pairs"], layout="pairs") == {"e": ["e.png"]}
    put(tmp_path / "dsb/k1/images/k1.png", tmp_path / "dsb/k1/masks/0.png")
    assert found([tmp_path / "dsb"], layout="dsb2018") == {"k1": ["k1.png"]}
    put(*(tmp_path / f"bids/sub-1/anat/sub-1_{kind}.nii.gz" for kind in (*TWO, "dseg")))
    assert found([tmp_path / "bids"], TWO, layout="bids") == {"sub-1": ["sub-1_T1.nii.gz", "sub-1_T2.nii.gz"]}


def test_a_table_lists_images(tmp_path: Path) -> None:
    put(tmp_path / "x/1.nii.gz", tmp_path / "x/2.nii.gz")
    table = tmp_path / "cases.csv"
    table.write_text("case,image_T1,image_T2,series,spacing\nanna,x/1.nii.gz,x/2.nii.gz,7,0.5 0.5\n")
    (one,) = find_inputs([table], TWO, OUT)
    files_of = (tmp_path / "x/1.nii.gz", tmp_path / "x/2.nii.gz")
    assert one == Input(files_of, "anna", "7", (0.5, 0.5))
    assert find_inputs([table], TWO, OUT, layout="table") == [one]
    table.write_text("case;image\nberta;x/1.nii.gz\n")
    assert found([table]) == {"berta": ["1.nii.gz"]}


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pattern": (lambda t: found([t / "*.tif"]), r"\*\.tif matches nothing"),
    "empty": (lambda t: found([t / "empty"]), "empty: no image in it or below it, but no files"),
    "other": (lambda t: found([t / "other"]), r"no image in it or below it, but 1 other files \(\.abc\)"),
    "foreign": (lambda t: found([t / "slides"]), r"1 other files; x\.czi is a Zeiss CZI file: "),
    "layout": (lambda t: found([t], layout="nnU-Net"), "--layout nnU-Net: there is no such layout; there are nnunet"),
    "channel": (
        lambda t: found([t / "part"], TWO, layout="nnunet"),
        r"a has no _0001 \(T2\); c has _0002, beyond the model's 2 channels",
    ),
    "number": (lambda t: found([t / "plain"], layout="nnunet"), "a.nii has no number of a channel at its end"),
    "bids": (lambda t: found([t / "part"], layout="bids"), "no image in sub-…/.*_grey"),
    "table": (lambda t: found([t / "bad.csv"]), "no column 'image', nor one per channel"),
    "twice": (lambda t: found([t / "twice.csv"]), "case 'a' is there twice"),
    "absent": (lambda t: found([t / "absent.csv"]), r"lists files that are not there: .*none\.png"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "other/x.abc", tmp_path / "plain/a.nii", tmp_path / "slides/x.czi")
    put(*(tmp_path / f"part/{stem}.nii" for stem in ("a_0000", "b_0000", "b_0001", "c_0000", "c_0001", "c_0002")))
    (tmp_path / "bad.csv").write_text("case,picture\na,b\n")
    (tmp_path / "twice.csv").write_text("case,image\na,bad.csv\na,bad.csv\n")
    (tmp_path / "absent.csv").write_text("case,image\na,none.png\n")
    ask, cause = REFUSED[name]
    with pytest.raises((DataError, ConfigError), match=cause):
        ask(tmp_path)


# All is checked first, what fails is named, the rest is done


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that a network has seen."""
    names: list[str] = []
    plain = Predictor.predict
    note = lambda self, source, name, sinks: names.append(Path(name).name) or plain(self, source, name, sinks)  # noqa: E731
    monkeypatch.setattr(Predictor, "predict", note)
    return names


@pytest.fixture
def pictures(study: Any, tmp_path: Path) -> Path:
    """Three sound pictures and a cut one."""
    (tmp_path / "new").mkdir()
    for name in ("f0", "f1", "f2"):
        shutil.copy(study.folder("flat") / "images" / f"{name}.png", tmp_path / "new" / f"{name}.png")
    (tmp_path / "new/f1_cut.png").write_bytes((tmp_path / "new/f1.png").read_bytes()[:-20])
    return tmp_path / "new"


def test_a_failed_image_is_named_and_the_rest_goes_on(
    pictures: Path, study: Any, tmp_path: Path, predicted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ImagesFailed, match=r"1 of 4 was not predicted, 3 were\n.*f1_cut\.png: ") as e:
        predict_files([pictures], study.model("flat"), tmp_path / "out")
    assert [path.name for path in e.value.written] == ["f0.png", "f1.png", "f2.png"]
    assert predicted == ["f0.png", "f1.png", "f2.png"]
    said = capsys.readouterr().err
    # Before the first is predicted.
    assert said.index("f1_cut.png") < said.index("predict ")
    assert _said(e.value)[0] == PARTLY_DONE == 3
    for path in e.value.written:
        (reference,) = predict_files([pictures / path.name], study.model("flat"), tmp_path / "ref")
        assert sha256_file(path) == sha256_file(reference)


def test_what_only_voxels_show_fails_while_reading(study: Any, tmp_path: Path, predicted: list[str]) -> None:
    sound = study.folder("solid") / "imagesTr" / "s0.nii.gz"
    image = nibabel.load(sound)
    values = np.asanyarray(image.dataobj).astype(np.float32)
    values[1, 2, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), tmp_path / "nan.nii.gz")
    words = [tmp_path / "nan.nii.gz", sound]
    with pytest.raises(
        ImagesFailed, match=r"nan\.nii\.gz: 1 NaN and 0 Inf voxels.*--allow nonfinite --fill NUMBER"
    ) as e:
        predict_files(words, study.model("solid"), tmp_path / "o")
    assert predicted == ["s0.nii.gz"] and len(e.value.written) == 1
    how = How(allow=("nonfinite",), fill=0.0)
    assert len(predict_files(words, study.model("solid"), tmp_path / "o", how)) == 2
    with pytest.raises(ConfigError, match="--allow nonfinite and --fill NUMBER go together"):
        predict_files(words, study.model("solid"), tmp_path / "o", How(fill=0.0))


def test_if_no_image_can_be_predicted_it_is_an_error_of_the_user(pictures: Path, study: Any, tmp_path: Path) -> None:
    for words in ([pictures / "f1_cut.png"], [pictures / "f1_cut.png"] * 1 + [pictures / "../notes.txt"]):
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(ImagesFailed, match=r"f1_cut\.png: ") as caught:
            predict_files(words, study.model("flat"), tmp_path / "out")
        assert _said(caught.value)[0] == USERS_ERROR
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_kept_until_something_differs(
    pictures: Path, study: Any, tmp_path: Path, predicted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "f1_cut.png").unlink()
    model, out = study.model("flat"), tmp_path / "out"

    def again(how: How | None = None, model: Path = model) -> list[str]:
        predicted.clear()
        predict_files([pictures], model, out, how)
        return list(predicted)

    assert again() == ["f0.png", "f1.png", "f2.png"]
    assert again() == []
    assert "kept 3 of 3 label maps" in capsys.readouterr().err
    (out / "f1.png").write_bytes((out / "f1.png").read_bytes()[:-9])
    shutil.copy(pictures / "f0.png", pictures / "f2.png")
    assert again() == ["f1.png", "f2.png"]
    assert again(How(mirror=False)) == again(How(code="other")) == ["f0.png", "f1.png", "f2.png"]
    other = with_terms(study.model("flat"), tmp_path / "other", reading=Reading(axes="YX"))
    assert again(How(code="other"), other) == ["f0.png", "f1.png", "f2.png"]


def test_an_edited_label_map_is_not_replaced(pictures: Path, study: Any, tmp_path: Path, predicted: list[str]) -> None:
    (pictures / "f1_cut.png").unlink()
    maps = predict_files([pictures], study.model("flat"), tmp_path / "out")
    values, grid = read_labels(maps[1])
    write_labels(maps[1], np.where(values == 0, 3, values).astype(np.uint8), grid)
    edited, how = maps[1].read_bytes(), How(code="other")
    predicted.clear()
    with pytest.raises(ImagesFailed, match=r"f1\.png: its label map .*f1\.png was edited since it was predicted"):
        predict_files([pictures], study.model("flat"), tmp_path / "out", how)
    assert maps[1].read_bytes() == edited and predicted == ["f0.png", "f2.png"]
    # One that was cut is none.
    maps[1].write_bytes(maps[0].read_bytes()[:-9])
    assert len(predict_files([pictures], study.model("flat"), tmp_path / "out", how)) == 3


def test_kept_label_maps_are_measured_all_the_same(pictures: Path, study: Any, tmp_path: Path) -> None:
    seen: list[tuple[str, float, str]] = []
    note = lambda image, source, labels: seen.append((image.name, float(source.image().sum()), labels.name))  # noqa: E731
    for _ in range(2):
        predict_files([pictures / "f0.png"], study.model("flat"), tmp_path / "out", None, note)
    assert len(seen) == 2 and seen[0] == seen[1]


def test_the_command_line_ends_with_3_and_a_summary(pictures: Path, study: Any, tmp_path: Path) -> None:
    words = ["predict", pictures, "--model", study.model("flat"), "-o", tmp_path / "out", "--overlays"]
    command = [sys.executable, "-m", "medseg", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    names = [Path(line).name for line in done.stdout.splitlines()]
    assert names == [*(f"f{k}.png" for k in range(3)), *(f"f{k}.overlay.png" for k in range(3))]
    assert "1 of 4 was not predicted, 3 were" in done.stderr
    assert "Traceback" not in done.stderr


# Terms


def with_terms(model: Path, to: Path, **changes: Any) -> Path:
    """The model with other terms in its description."""
    checkpoint, network = read_checkpoint(model)
    write_checkpoint(to, replace(checkpoint, **changes), network)
    return to


def doubtful(folder: Path, volume: NDArray[Any]) -> dict[str, Path]:
    """Volumes with a doubtful header each, or constant: code of the doubt -> file."""
    grid = np.diag([1.0, 1.0, 1.5, 1.0])
    turned = np.diag([-1.0, 1.0, 1.5, 1.0])
    sheared = grid.copy()
    sheared[0, 1] = 0.15
    images = {
        "orientation": nibabel.Nifti1Image(volume, grid),
        "no-orientation": nibabel.Nifti1Image(volume, grid),
        "shear": nibabel.Nifti1Image(volume, sheared),
        "constant-image": nibabel.Nifti1Image(np.full_like(volume, -1000), grid),
    }
    images["orientation"].header.set_qform(turned, 1)
    images["orientation"].header.set_sform(grid, 1)
    for form in ("qform", "sform"):
        getattr(images["no-orientation"], f"set_{form}")(None, 0)
    found = {}
    for code, image in images.items():
        found[code] = folder / f"{code}.nii.gz"
        nibabel.save(image, found[code])
    return found


@pytest.fixture
def volumes(study: Any, tmp_path: Path) -> dict[str, Path]:
    source = study.folder("solid") / "imagesTr" / "s0.nii.gz"
    (tmp_path / "volumes").mkdir()
    return doubtful(tmp_path / "volumes", np.asanyarray(nibabel.load(source).dataobj))


def test_doubts_are_those_of_the_check_and_are_allowed_by_the_same_names(
    volumes: dict[str, Path], study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_terms(study.model("solid"), tmp_path / "model", accepts=())
    for code, path in volumes.items():
        with pytest.raises(ImagesFailed, match=rf"{path.name}: .*\({code}\); ") as caught:
            predict_files([path], model, tmp_path / code)
        advice = str(caught.value)
        if code == "orientation":
            assert "--orientation sform" in advice
            continue
        assert f"--allow {code} (" in advice
        assert len(predict_files([path], model, tmp_path / code, How(allow=(code,)))) == 1
        assert f"predict: allowed {code}: " in capsys.readouterr().err
    with pytest.raises(ImagesFailed, match="4 of 4 were not predicted") as caught:
        predict_files([volumes["shear"].parent], model, tmp_path / "all")
    assert all(f"({code})" in str(caught.value) for code in volumes)


def test_the_form_that_counted_in_training_counts_in_prediction(
    volumes: dict[str, Path], study: Any, tmp_path: Path
) -> None:
    path, plain = volumes["orientation"], study.model("solid")
    trained = with_terms(plain, tmp_path / "model", reading=Reading(orientation="qform"))
    maps = {}
    for name, model, how in (
        ("qform", plain, How(orientation="qform")),
        ("sform", plain, How(orientation="sform")),
        ("trained", trained, How()),
        ("against", trained, How(orientation="sform")),
    ):
        (target,) = predict_files([path], model, tmp_path / name, how)
        maps[name] = read_labels(target)[0]
    np.testing.assert_array_equal(maps["trained"], maps["qform"])
    np.testing.assert_array_equal(maps["against"], maps["sform"])
    assert (maps["qform"] != maps["sform"]).any()


def test_what_training_allowed_is_allowed_and_said(
    volumes: dict[str, Path], study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = with_terms(study.model("solid"), tmp_path / "model", accepts=("shear", "empty-label", "same-origin"))
    assert len(predict_files([volumes["shear"]], model, tmp_path / "o")) == 1
    assert "allowed shear" in capsys.readouterr().err
    with pytest.raises(ImagesFailed, match="no-orientation"):
        predict_files([volumes["no-orientation"]], model, tmp_path / "o")


def test_what_was_predicted_because_it_was_allowed_is_kept_where_it_still_is(
    volumes: dict[str, Path], study: Any, tmp_path: Path, predicted: list[str]
) -> None:
    model = with_terms(study.model("solid"), tmp_path / "m", accepts=())
    values = np.asanyarray(nibabel.load(volumes["shear"]).dataobj)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 1.5, 1.0])), tmp_path / "sound.nii.gz")
    words = [volumes["shear"], tmp_path / "sound.nii.gz"]
    with pytest.raises(ImagesFailed, match=r"1 of 2 was not predicted, 1 was\n.*\(shear\)"):
        predict_files(words, model, tmp_path / "o")
    predict_files(words, model, tmp_path / "o", How(allow=("shear",)))
    predict_files(words, model, tmp_path / "o", How(allow=("shear", "constant-image")))
    assert predicted == ["sound.nii.gz", "shear.nii.gz"]
    with pytest.raises(ImagesFailed, match=r"1 of 2 was not predicted, 1 was\n.*\(shear\)"):
        predict_files(words, model, tmp_path / "o")


def test_long_lists_are_cut_and_written(
    volumes: dict[str, Path], study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many").mkdir()
    for k in range(12):
        shutil.copy(volumes["no-orientation"], tmp_path / "many" / f"{k:02d}.nii.gz")
    shutil.copy(study.folder("solid") / "imagesTr" / "s0.nii.gz", tmp_path / "many" / "s.nii.gz")
    with pytest.raises(ImagesFailed) as caught:
        predict_files([tmp_path / "many"], study.model("solid"), tmp_path / "o")
    lines = str(caught.value).splitlines()
    assert lines[0] == "12 of 13 were not predicted, 1 was" and len(lines) == 6
    assert lines[4].startswith("… and 9 more: no-orientation: set sform or qform, or allow it: --allow no-orientation")
    assert len((tmp_path / "o" / "not-predicted.txt").read_text().splitlines()) == 12
    assert capsys.readouterr().err.count("predict: failed") == 3


@pytest.mark.parametrize(("code", "hint"), [("sheer", "did you mean 'shear'"), ("unreadable", "can be: ")])
def test_only_doubts_about_images_are_allowed(code: str, hint: str, study: Any, tmp_path: Path) -> None:
    image = study.folder("flat") / "images" / "f0.png"
    with pytest.raises(ConfigError, match=rf"--allow {code}: nothing that can be allowed of an image; {hint}"):
        predict_files([image], study.model("flat"), tmp_path, How(allow=(code,)))


def test_what_was_allowed_of_a_data_set_can_be_given_as_it_stands_there(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = study.folder("flat") / "images" / "f0.png"
    allow = ("shear", "class-absent")
    assert len(predict_files([image], study.model("flat"), tmp_path, How(allow=allow))) == 1
    assert "--allow class-absent: is about a data set" in capsys.readouterr().err


def test_training_hands_on_how_files_were_read(study: Any) -> None:
    """And models that say nothing of it are those of earlier versions."""
    checkpoint, _ = read_checkpoint(study.model("solid"))
    assert checkpoint.reading.names == checkpoint.channels
    assert checkpoint.voxel_sizes is not None
    assert checkpoint.voxel_sizes.unit == checkpoint.plan.grid.unit


def test_models_of_earlier_versions_have_no_terms(study: Any, tmp_path: Path) -> None:
    model = with_terms(study.model("flat"), tmp_path / "m")
    facts = read_record(model / "model.json", "")
    for name in ("reading", "accepts", "voxel_sizes"):
        del facts[name]
    write_record(model / "model.json", facts)
    found = read_checkpoint(model)[0]
    assert (found.reading, found.accepts, found.voxel_sizes) == (AS_STORED, (), None)
    assert len(predict_files([study.folder("flat") / "images" / "f0.png"], model, tmp_path / "o")) == 1


def test_terms_come_back_from_the_model_folder(study: Any, tmp_path: Path) -> None:
    reading = Reading("ZYX", (1, "DAPI"), ("a", "b"), "", (0.5, 0.25, 0.25), "mm", "files", "sform", -1024.0)
    sizes = VoxelSizes.of([Geometry.from_spacing((4, 4, 4), (s, 1.0, 2.0), "mm") for s in (0.5, 0.7, 3.0)])
    model = with_terms(study.model("solid"), tmp_path / "m", reading=reading, accepts=("nonfinite",), voxel_sizes=sizes)
    found = read_checkpoint(model)[0]
    assert (found.reading, found.accepts, found.voxel_sizes) == (reading, ("nonfinite",), sizes)
    assert sizes.median == (0.7, 1.0, 2.0)


def sized(study: Any, folder: Path, size: float, unit: str = "um") -> Path:
    """A picture of the study as ImageJ writes it, with pixels of this size."""
    values = open_image(study.folder("flat") / "images" / "f0.png").image()[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "f.tif"
    tifffile.imwrite(path, values, imagej=True, resolution=(1 / size, 1 / size), metadata={"unit": unit})
    return path


def of_micrometres(study: Any, folder: Path) -> Path:
    """The flat model as if it had been trained on pixels of 0.5 um."""
    checkpoint, network = read_checkpoint(study.model("flat"))
    plan = checkpoint.plan.changed(unit="um", spacing=(0.5, 0.5))
    sizes = VoxelSizes("um", (0.5, 0.5), (0.5, 0.5), (0.6, 0.6))
    write_checkpoint(folder, replace(checkpoint, plan=plan, voxel_sizes=sizes), network)
    return folder


def test_a_size_unlike_those_of_the_training_is_a_doubt_with_its_cause(study: Any, tmp_path: Path) -> None:
    model = of_micrometres(study, tmp_path / "model")
    with pytest.raises(DataError) as caught:
        predict_files([sized(study, tmp_path / "a", 1 / 300, "inch")], model, tmp_path / "out")
    words = str(caught.value)
    assert "a voxel of 84.67 x 84.67 um is 141 times larger than those of the model's training (0.5-0.6" in words
    assert "300 dots per inch" in words
    assert "--allow voxel-size" in words
    small = sized(study, tmp_path / "b", 0.09)
    with pytest.raises(DataError, match=r"5\.56 times smaller"):
        predict_files([small], model, tmp_path / "out")
    (target,) = predict_files([small], model, tmp_path / "out", How(allow=("voxel-size",)))
    assert target.is_file()


def test_a_size_in_another_unit_of_length_is_converted(study: Any, tmp_path: Path) -> None:
    model = of_micrometres(study, tmp_path / "model")
    in_um, in_mm = (sized(study, tmp_path / unit, size, unit) for unit, size in (("um", 0.5), ("mm", 0.0005)))
    first, second = (predict_files([path], model, tmp_path / f"o{path.parent.name}")[0] for path in (in_um, in_mm))
    np.testing.assert_array_equal(read_labels(first)[0], read_labels(second)[0])
    assert read_labels(second)[1].spacing == pytest.approx((0.5, 0.5))


def test_a_volume_without_directions_is_none_of_a_model_that_has_them(study: Any, tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 250, (12, 16, 18)).astype(np.uint8)
    path = tmp_path / "v.tif"
    metadata = {"axes": "ZYX", "spacing": 1000.0, "unit": "um"}
    tifffile.imwrite(path, volume, imagej=True, resolution=(0.001, 0.001), metadata=metadata)
    with pytest.raises(DataError, match=r"no directions in the world \(axes Z, Y, X\)"):
        predict_files([path], study.model("solid"), tmp_path / "out")


def test_declared_axes_and_channels_count_in_prediction(study: Any, tmp_path: Path) -> None:
    """A model of one channel takes the one of a file that its training took, or the user names."""
    picture = study.folder("flat") / "images" / "f0.png"
    values = open_image(picture).image()[0]
    stack = np.stack([255 - values, values])
    tifffile.imwrite(tmp_path / "two.tif", stack, photometric="minisblack", metadata={"axes": "CYX"})
    (reference,) = predict_files([picture], study.model("flat"), tmp_path / "ref")
    trained = with_terms(study.model("flat"), tmp_path / "model", reading=Reading(channels=(1,)))
    for name, model, how in (
        ("trained", trained, How()),
        ("asked", study.model("flat"), How(channels=(1,))),
    ):
        (target,) = predict_files([tmp_path / "two.tif"], model, tmp_path / name, how)
        np.testing.assert_array_equal(read_labels(target)[0], read_labels(reference)[0])


def test_channels_in_files_are_those_of_one_file(study: Any, tmp_path: Path) -> None:
    """Also on a grid of their own, if they show the same part of the world."""
    plan = tiny_plan("unet", 3, in_channels=2, normalization=("zscore",) * 2, statistics=({},) * 2, unit="mm")
    labels = LabelTable.create({"ball": 1, "rod": 3})
    model = tmp_path / "model"
    torch.manual_seed(0)
    checkpoint = Checkpoint("d", TWO, labels, plan, 0, 0, "f", {})
    write_checkpoint(model, checkpoint, build_model(plan.network.name, plan.network))
    volume = np.random.default_rng(0).normal(size=(20, 18, 16, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "both.nii.gz")
    for channel in (0, 1):
        nibabel.save(nibabel.Nifti1Image(volume[..., channel], np.eye(4)), tmp_path / f"p_000{channel}.nii.gz")
    split = sorted(tmp_path.glob("p_*.nii.gz"))
    (joined,) = predict_files([tmp_path / "both.nii.gz"], model, tmp_path / "o")
    (parts,) = predict_files(split, model, tmp_path / "o")
    assert parts.name == "p.nii.gz"
    np.testing.assert_array_equal(read_labels(parts)[0], read_labels(joined)[0])
    with pytest.raises(
        ImagesFailed, match=r"3-D with 1 channels; .*2 \(T1, T2\); name the files of all channels, as in p_0001"
    ):
        predict_files(split[:1], model, tmp_path / "o")
    coarse = nibabel.Nifti1Image(volume[::2, ::2, ::2, 1], np.diag([2.0, 2.0, 2.0, 1.0]))
    nibabel.save(coarse, split[1])
    (parts,) = predict_files(split, model, tmp_path / "o")
    assert read_labels(parts)[0].shape == (20, 18, 16)
    coarse.affine[0, 3] = 15.0
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(coarse.dataobj), coarse.affine), split[1])
    with pytest.raises(ImagesFailed, match=r"p_0001\.nii\.gz: covers .* of p_0000\.nii\.gz, .*\(channel-grid\)"):
        predict_files(split, model, tmp_path / "o")


def test_the_size_that_training_took_is_said(study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, network = read_checkpoint(study.model("flat"))
    plan = checkpoint.plan.changed(unit="um", spacing=(0.5, 0.5))
    model = tmp_path / "model"
    write_checkpoint(model, replace(checkpoint, plan=plan, reading=Reading(spacing=(0.5, 0.5))), network)
    picture = study.folder("flat") / "images" / "f0.png"
    predict_files([picture], model, tmp_path / "o")
    assert "states no pixel size; taken to be 0.5 x 0.5 um, as in the training" in capsys.readouterr().err
    predict_files([picture], model, tmp_path / "p", How(spacing=(0.5, 0.5)))
    assert "states no pixel size" not in capsys.readouterr().err


# Memory


def test_what_does_not_fit_into_memory_is_said_before(
    study: Any, tmp_path: Path, predicted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = study.folder("flat") / "images" / "f0.png"
    monkeypatch.setattr(files, "available_memory", lambda: 20_000_000)
    with pytest.raises(
        ImagesFailed, match=r"f0\.png: predicting its .* voxels needs about 0\.\d GB of memory, and 0\.0 GB"
    ):
        predict_files([picture], study.model("flat"), tmp_path / "o")
    assert predicted == []
    assert len(predict_files([picture], study.model("flat"), tmp_path / "o", How(max_gb=4.0))) == 1


def test_memory_that_runs_out_is_a_failed_image(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Predictor, "predict", fail)
    with pytest.raises(ImagesFailed, match=r"f0\.png: memory ran out; crop or split the image"):
        predict_files([study.folder("flat") / "images" / "f0.png"], study.model("flat"), tmp_path / "o")


@pytest.mark.parametrize(("shape", "dims"), [((4000, 3000), 2), ((200, 200, 100), 3)])
def test_the_estimate_grows_with_image_and_classes(shape: tuple[int, ...], dims: int) -> None:
    plan = tiny_plan("unet", dims)
    grid = Geometry.from_spacing(shape, plan.grid.spacing, plan.grid.unit)
    small, stored = image_bytes(1, grid, np.dtype(np.uint8), plan), np.dtype(np.float32)
    assert small > grid.shape[0] * grid.shape[1]
    assert image_bytes(1, grid, stored, plan) >= small
    assert image_bytes(1, grid, stored, plan, scaled=True) >= image_bytes(1, grid, stored, plan)
    twice = Geometry.from_spacing([2 * n for n in shape], plan.grid.spacing, plan.grid.unit)
    assert image_bytes(1, twice, stored, plan) > 2 * small


class FullGpu(Predictor):
    """A GPU whose memory ``most`` windows fill; it computes on the processor."""

    most = 1
    calls: list[int]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls = FullGpu.calls = []
        (member,) = self.members
        network = member.network

        def limited(x: torch.Tensor) -> torch.Tensor:
            self.calls.append(len(x))
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return network(x)  # type: ignore[no-any-return]

        self.members = (replace(member, network=limited),)

    def spare_memory(self) -> bool:
        self.device = "another"
        spared = super().spare_memory()
        self.device = "cpu"
        return spared


def test_a_full_gpu_is_tried_once_more_with_one_window_at_a_time(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = []
    for name in ("f0", "f1"):
        picture = read_labels(study.folder("flat") / f"images/{name}.png")[0]
        images.append(tmp_path / f"{name}.png")
        write_labels(
            images[-1], np.tile(picture, (3, 3)), Geometry.from_spacing((3 * picture.shape[0], 108), (1.0, 1.0))
        )
    expected = [read_labels(path)[0] for path in predict_files(images, study.model("flat"), tmp_path / "roomy")]
    monkeypatch.setattr(ensemble, "Predictor", FullGpu)
    monkeypatch.setattr(FullGpu, "most", 1)
    found = predict_files(images, study.model("flat"), tmp_path / "full")
    for path, labels in zip(found, expected, strict=True):
        assert (read_labels(path)[0] != labels).mean() < 1e-3
    # What was learnt of the first image holds for the next ones.
    assert FullGpu.calls[0] > 1 and set(FullGpu.calls[1:]) == {1}
    assert capsys.readouterr().err.count("again, one window at a time from now on") == 1
    # Not even one fits: the message has an option that helps.
    monkeypatch.setattr(FullGpu, "most", 0)
    with pytest.raises(ImagesFailed, match=r"f0\.png: the memory of the GPU ran out .*use --device cpu"):
        predict_files(images, study.model("flat"), tmp_path / "tiny")
    assert FullGpu.calls[0] > 1 and FullGpu.calls[1:] == [1, 1], (
        "the other image has its own try, and nothing is tried a third time"
    )


def test_on_a_processor_nothing_is_tried_again(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(study.model("flat"))
    assert predictor.device == "cpu" and not predictor.spare_memory()


def test_the_memory_of_a_network_is_counted_without_running_it() -> None:
    small, large = (network_bytes(tiny_plan("unet", 2, patch=patch), 0) for patch in ((32, 32), (128, 128)))
    assert 4 * small > large > 2 * small or large > small
    # Its shapes depend on content: the training step stands for it.
    assert network_bytes(tiny_plan("mask_rcnn", 2), 123) == 123


@pytest.mark.parametrize("axes", ["T2C2YX", "TCYX"])
def test_what_a_reader_says_of_a_key_is_said_of_the_option_here(axes: str, study: Any, tmp_path: Path) -> None:
    """A configuration has `axes`, a command `--axes`: each user is told of what they have."""
    planes = np.random.default_rng(0).integers(1, 200, (6, 40, 36)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack", metadata=None)
    with pytest.raises(ImagesFailed) as caught:
        predict_files([tmp_path / "a.tif"], study.model("flat"), tmp_path / "out", How(axes=axes))
    assert f"`--axes {axes}`" in str(caught.value)
    assert "`axes" not in str(caught.value)
    assert "exclude" not in str(caught.value)
    with pytest.raises(FormatError, match=f"`axes: {axes}`"):
        open_image(tmp_path / "a.tif", reading=Reading(axes=axes))
