"""Every fault of the catalogue is planted in a sound data set and found: once, alone, and many in one pass."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError, DatasetFaults
from medseg.formats.read import read_labels
from medseg.ingest.faults import FAULTS
from medseg.ingest.run import check, run
from tests.faults.plants import IMAGE, LABEL, O1, PLANTS, Plant, change_voxel, moved, regridded
from tests.faults.sets import CASES, KINDS, config

ALLOWABLE = [code for code, kind in FAULTS.items() if kind.allowed]
# What else must be said to allow a fault.
BESIDES = {"nonfinite": {"fill": -1024.0}}


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a sound data set of every kind."""
    root = tmp_path_factory.mktemp("sound")
    for name, kind in KINDS.items():
        kind.write(root / name, CASES, 3)
    return root


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Callable[[str], Path]:
    def of(kind: str) -> Path:
        shutil.copytree(sound / kind, tmp_path / kind)
        return tmp_path / kind

    return of


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS.keys())
def test_each_fault_is_found_once_and_alone(plant: Plant, copy: Callable[[str], Path], tmp_path: Path) -> None:
    plant.damage(copy(plant.kind))
    out = tmp_path / "out"
    with pytest.raises(DatasetFaults) as caught:
        run(config(tmp_path, plant.kind, **plant.section), plant.kind, out, workers=2)
    assert [(f.code, f.case) for f in caught.value.faults] == [(plant.code, plant.case)], str(caught.value)
    fault = caught.value.faults[0]
    for word in plant.words:
        assert word in fault.cause
    assert fault.fix
    assert len(str(caught.value).splitlines()) == 2
    assert str(tmp_path) not in str(fault) or plant.code == "missing"
    assert not [path for path in out.rglob("*") if not path.name.endswith(".lock")]


def test_every_code_is_planted() -> None:
    elsewhere = {
        "lost-class": "tests/faults/test_survived.py",
        "decoder": "tests/faults/test_dicom_faults.py",
        "table": "tests/unit/test_sources.py",
        "segment-names": "tests/unit/test_label_values.py",
        "label-overlap": "tests/unit/test_label_values.py",
        "unchanged-prediction": "tests/unit/test_correct.py",
    }
    for code, file in elsewhere.items():
        assert f'"{code}"' in (Path(__file__).parents[2] / file).read_text()
    assert {plant.code for plant in PLANTS.values()} | set(elsewhere) == set(FAULTS)


TOGETHER = {
    "cells": [
        "pairs: image without label",
        "id with a line break",
        "picture cut",
        "mask one row short",
        "empty mask",
        "colour among grey",
        "mask in colour",
        "pairs: label without image",
        "white picture",
        "PNG claims 60000 x 60000",
    ],
    "organs": [
        "listed: image without label",
        "cut at 50%",
        "wrong checksum",
        "bytes behind the end",
        "text",
        "plain file named .gz",
        "32767 voxels a side, packed",
        "dim 0",
        "vox_offset 1e9",
        "bitpix wrong",
        "complex numbers",
        "fourth axis",
        "one slice",
        "NaN",
        "-Inf",
        "1000 everywhere",
        "pixdim negative",
        "qform moved",
        "no orientation",
        "singular affine",
        "shear",
        "label 7",
        "label -1",
        "label 1.5",
        "scaled label",
        "label one slice short",
        "label moved",
        "label mirrored",
        "empty label",
        "unlisted pair",
        "parent folder",
        "entry without label",
        "copied case, other header",
    ],
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_all_faults_are_told_in_one_pass(kind: str, tmp_path: Path) -> None:
    """Faults that can stand side by side, each in a case of its own, in one data set."""
    alone = TOGETHER[kind]
    root = tmp_path / kind
    # Some of these faults copy the case that is planted in, so that there must be more cases than faults.
    KINDS[kind].write(root, len(alone) + 3, 5)
    places = ("images", "masks", ".png") if kind == "cells" else ("imagesTr", "labelsTr", ".nii.gz")
    expected = []
    for number, name in enumerate(alone):
        # Each plant works on case 001: lend it the place of that case, and put the real one back afterwards.
        swap(root, places, f"{kind}_001", f"{kind}_{number:03d}")
        plant = PLANTS[name]
        plant.damage(root)
        swap(root, places, f"{kind}_001", f"{kind}_{number:03d}")
        own = plant.case == f"{kind}_001"
        expected.append((plant.code, f"{kind}_{number:03d}" if own else plant.case))
    section = {"subject": r"([a-z]+_\d+|a|other|new|x)"} if kind == "cells" else {"subject": "case"}
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, kind, **section), kind, workers=2)
    found = [(f.code, f.case) for f in caught.value.faults]
    assert sorted(found) == sorted(set(expected)), str(caught.value)
    assert str(caught.value).startswith(f"{len(found)} faults in data set '{kind}'")


def swap(root: Path, places: tuple[str, str, str], one: str, other: str) -> None:
    if one == other:
        return
    for folder in places[:2]:
        a, b, c = (root / folder / f"{name}{places[2]}" for name in (one, other, ".swap"))
        for old, new in ((a, c), (b, a), (c, b)):
            if old.exists():
                old.rename(new)


def test_the_command_line_tells_every_fault_and_exits_with_2(copy: Callable[[str], Path], tmp_path: Path) -> None:
    root = copy("organs")
    for name in ("cut at 50%", "unlisted pair"):
        PLANTS[name].damage(root)
    settings_file = tmp_path / "config.yaml"
    settings_file.write_text(yaml.safe_dump(config(tmp_path, "organs", subject="case").model_dump(exclude_none=True)))
    command = [
        sys.executable,
        "-m",
        "medseg",
        "ingest",
        "--config",
        str(settings_file),
        "--dataset",
        "organs",
        "--check",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Under each kind, which begins its line, its faults.
    lines = [line.strip() for line in done.stderr.splitlines() if " · " in line or "):" in line]
    assert done.returncode == 2
    assert [line.split()[0] for line in lines] == ["unlisted", "new", "unreadable", O1], done.stderr
    assert "Traceback" not in done.stderr


# No false alarms


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_no_false_alarm_on_sound_data(kind: str, seed: int, tmp_path: Path) -> None:
    KINDS[kind].write(tmp_path / kind, CASES, seed)
    manifest = check(config(tmp_path, kind), kind)
    assert len(manifest.cases) == CASES
    assert manifest.allowed == ()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.tuples(*[st.integers(3, 14)] * 3), min_size=4, max_size=7),
    dtype=st.sampled_from(["uint8", "int16", "uint16", "int32", "float32", "float64"]),
    angle=st.floats(-3, 3),
    spacing=st.tuples(*[st.floats(0.05, 20)] * 3),
    suffix=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]),
    seed=st.integers(0, 1000),
)
def test_no_false_alarm_on_any_valid_volumes(
    shapes: list[tuple[int, int, int]],
    dtype: str,
    angle: float,
    spacing: tuple[float, float, float],
    suffix: str,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    import SimpleITK as sitk

    root = tmp_path_factory.mktemp("valid")
    rng = np.random.default_rng(seed)
    for number, shape in enumerate(shapes):
        labels = rng.integers(0, 3, shape).astype(np.uint8)
        labels.flat[:3] = (0, 1, 2)
        values = (rng.random(shape) * 100).astype(dtype)
        for folder, array in (("images", values), ("masks", labels)):
            (root / "nifti" / folder).mkdir(parents=True, exist_ok=True)
            image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
            image.SetSpacing(spacing)
            cos, sin = float(np.cos(angle)), float(np.sin(angle))
            image.SetDirection((cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0))
            image.SetOrigin((12.5, -80.0, 3.0))
            sitk.WriteImage(image, str(root / "nifti" / folder / f"case{number}{suffix}"), useCompression=True)
    manifest = check(config(root, "nifti"), "nifti")
    assert [case.geometry.shape for case in manifest.cases] == list(shapes)
    assert manifest.allowed == ()


def test_what_looks_odd_but_is_sound_passes(copy: Callable[[str], Path], tmp_path: Path) -> None:
    cells, organs = copy("cells"), copy("organs")
    (cells / "images" / "._cells_001.png").write_bytes(b"left by a file manager")
    (cells / "masks" / ".DS_Store").write_bytes(b"also")
    (cells / "images" / "Thumbs.db").write_bytes(b"also")
    (cells / "notes.txt").write_text("beside the folders")
    mask = cells / "masks" / "cells_002.png"
    import tifffile

    tifffile.imwrite(mask.with_suffix(".tif"), read_labels(mask)[0].astype(np.int32) * 70001)
    mask.unlink()
    (organs / "imagesTr" / "._organs_001.nii.gz").write_bytes(b"left by a file manager")
    regridded(LABEL, lambda a: moved(a, 0.05))(organs)
    change_voxel(organs / "labelsTr" / "organs_002.nii.gz", 1.0004, "float32")
    for kind in ("cells", "organs"):
        assert len(check(config(tmp_path, kind), kind).cases) == CASES


# What can be allowed, and what that does

ALLOWED_PLANTS = {name: plant for name, plant in PLANTS.items() if plant.code in ALLOWABLE}


@pytest.mark.parametrize("plant", ALLOWED_PLANTS.values(), ids=ALLOWED_PLANTS.keys())
def test_allowed_by_name_is_no_error_and_is_recorded(
    plant: Plant, copy: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant.damage(copy(plant.kind))
    section = {**plant.section, **BESIDES.get(plant.code, {}), "allow": [plant.code]}
    manifest = check(config(tmp_path, plant.kind, **section), plant.kind)
    assert len(manifest.allowed) == 1
    assert manifest.allowed[0].startswith(f"{plant.code} · {plant.case} · ")
    assert manifest.allowed[0] in capfd.readouterr().err
    kept = FAULTS[plant.code].allowed
    assert kept is not None
    assert plant.case == "-" or (plant.case in {case.id for case in manifest.cases}) == kept.startswith("kept")
    assert all(case.has_reference for case in manifest.cases)


def test_allowing_one_fault_allows_no_other(copy: Callable[[str], Path], tmp_path: Path) -> None:
    root = copy("organs")
    PLANTS["empty label"].damage(root)
    PLANTS["qform moved"].damage(root)
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, "organs", allow=["empty-label"]), "organs")
    assert [f.code for f in caught.value.faults] == ["orientation"]


@pytest.mark.parametrize("code", [*(c for c in FAULTS if c not in ALLOWABLE), "emptylabel"])
def test_other_faults_cannot_be_allowed(code: str, sound: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be allowed.*empty-label"):
        check(config(sound, "cells", allow=[code]), "cells")


@pytest.mark.parametrize("section", [{"allow": ["nonfinite"]}, {"fill": 0.0}], ids=str)
def test_nonfinite_voxels_are_allowed_with_a_number_to_fill_in(section: dict, sound: Path) -> None:
    with pytest.raises(ConfigError, match="give both or none"):
        check(config(sound, "organs", **section), "organs")


@pytest.mark.parametrize("name", ["NaN", "+Inf", "-Inf"])
def test_allowed_nonfinite_voxels_are_filled(name: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    from medseg.formats.read import read_image
    from medseg.ingest.cases import read_case_image
    from medseg.ingest.manifest import read_manifest

    root = copy("organs")
    PLANTS[name].damage(root)
    run(config(tmp_path, "organs", allow=["nonfinite"], fill=-1024.0), "organs", tmp_path / "out")
    case = read_manifest(tmp_path / "out" / "manifest.tsv").case(O1)
    filled, raw = read_case_image(case, root)[0], read_image(root / IMAGE)[0][0]
    assert case.fill == -1024.0
    assert "filled with -1024" in read_manifest(tmp_path / "out" / "manifest.tsv").allowed[0]
    assert filled[2, 3, 4] == -1024.0
    finite = np.isfinite(raw)
    assert (~finite).sum() == 1
    np.testing.assert_array_equal(filled[finite], raw[finite])


@pytest.mark.parametrize("winner", ["sform", "qform"])
def test_the_configuration_names_the_form_that_counts(winner: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    import nibabel

    from medseg.ingest.manifest import read_manifest

    root = copy("nifti")
    PLANTS["x one way and the other"].damage(root)
    shutil.copy(root / "images/nifti_001.nii", tmp_path / "odd.nii")
    label = nibabel.load(root / "masks/nifti_001.nii")
    header = nibabel.load(tmp_path / "odd.nii").header
    both = nibabel.Nifti1Image(np.asarray(label.dataobj).copy(), None, header, dtype=np.uint8)
    nibabel.save(both, root / "masks/nifti_001.nii")
    run(config(tmp_path, "nifti", orientation=winner), "nifti", tmp_path / "out")
    manifest = read_manifest(tmp_path / "out" / "manifest.tsv")
    expected = header.get_sform() if winner == "sform" else header.get_qform()
    np.testing.assert_allclose(manifest.case("nifti_001").geometry.affine, expected, atol=1e-4)
    assert manifest.case("nifti_001").orientation == winner
    assert [line.split(" · ")[0] for line in manifest.allowed] == ["orientation"]
    assert f"{winner} is used, as configured" in manifest.allowed[0]
