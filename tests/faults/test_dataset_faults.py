"""Every fault of FAULTS is planted in a sound data set and found: once, alone, and many in one pass."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pytest

from medseg.config import Config
from medseg.errors import ConfigError, DatasetFaults
from medseg.image.formats import read_image, read_labels
from medseg.ingest.faults import FAULTS
from medseg.ingest.phantoms import generate
from medseg.ingest.run import check, run

CASES = 5
ALLOWABLE = [code for code, kind in FAULTS.items() if kind.allowed]


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a sound data set of either kind: ``cells`` and ``organs``."""
    root = tmp_path_factory.mktemp("sound")
    generate("cells", CASES, 3, root / "cells")
    generate("organs", CASES, 3, root / "organs")
    return root


def config(root: Path, kind: str, **changes: Any) -> Config:
    layout = {"cells": "pairs", "organs": "decathlon"}[kind]
    own = {"labels": {"nucleus": 1}, "instances": True} if kind == "cells" else {}
    return Config.model_validate(
        {
            "experiment": "test",
            "data_root": str(root),
            "datasets": {kind: {"layout": layout, "path": kind, **own, **changes}},
            "models": {"unet": {"network": "unet"}},
            "folds": {"count": 2},
            "budget": {"steps": 1},
        }
    )


# Ways to do damage


def picture(path: Path) -> np.ndarray:
    return np.moveaxis(read_image(path)[0], 0, -1).squeeze()


def store_png(path: Path, values: np.ndarray) -> None:
    path.write_bytes(imagecodecs.png_encode(values))


def store_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write voxels with nibabel, on the grid of the file that is there unless another is given."""
    known = read_image(path)[1].affine if affine is None else affine
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(values, known, dtype=values.dtype).to_bytes()))


def change_voxel(path: Path, value: float, dtype: str) -> None:
    values = read_image(path)[0][0].astype(dtype)
    values[2, 3, 4] = value
    store_nifti(path, values)


def change_index(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    index = json.loads((root / "dataset.json").read_text())
    change(index)
    (root / "dataset.json").write_text(json.dumps(index))


def patch_header(path: Path, offset: int, form: str, *values: float) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(gzip.compress(bytes(data)))


def shift_label(path: Path, voxels: float) -> None:
    labels, grid = read_labels(path)
    affine = grid.affine
    affine[:3, 3] += affine[:3, 0] * voxels
    store_nifti(path, labels, affine)


def rename(root: Path, old: str, new: str) -> None:
    for folder in ("images", "masks"):
        (root / folder / f"{old}.png").rename(root / folder / f"{new}.png")


def copy_case(root: Path, old: str, new: str) -> None:
    for folder in ("images", "masks"):
        shutil.copy(root / folder / f"{old}.png", root / folder / f"{new}.png")


def brighten(path: Path) -> None:
    store_png(path, picture(path) // 2)


def plant_unlisted(root: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        shutil.copy(root / folder / "organs_001.nii.gz", root / folder / "new.nii.gz")


def plant_two_dims(root: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        store_png(root / folder / "flat.png", np.eye(9, dtype=np.uint8))
    listing(image="./imagesTr/flat.png", label="./labelsTr/flat.png")(root)


def plant_case_twins(root: Path) -> None:
    copy_case(root, "cells_001", "CELLS_001")
    brighten(root / "images" / "CELLS_001.png")


def plant_tiff_twin(root: Path) -> None:
    import tifffile

    tifffile.imwrite(root / "images" / "cells_001.tif", picture(root / "images" / "cells_001.png"))


def plant_link(root: Path) -> None:
    target = root.parent / "elsewhere.png"
    (root / "images" / "cells_001.png").rename(target)
    (root / "images" / "cells_001.png").symlink_to(target)


@dataclass(frozen=True)
class Plant:
    """A fault: where it is put, and what must be said about it."""

    code: str
    kind: str
    case: str
    damage: Callable[[Path], Any]
    words: tuple[str, ...] = ()


IMAGE = "imagesTr/organs_001.nii.gz"
LABEL = "labelsTr/organs_001.nii.gz"
MASK = "masks/cells_001.png"
PICTURE = "images/cells_001.png"
O1, C1 = "organs_001", "cells_001"


def listing(**entry: Any) -> Callable[[Path], None]:
    return lambda root: change_index(root, lambda index: index["training"].append(entry))


PLANTS: dict[str, Plant] = {
    "pairs: image without label": Plant("image-without-label", "cells", C1, lambda r: (r / MASK).unlink()),
    "listed: image without label": Plant("image-without-label", "organs", O1, lambda r: (r / LABEL).unlink()),
    "new image in imagesTr": Plant(
        "image-without-label",
        "organs",
        "new",
        lambda r: shutil.copy(r / IMAGE, r / "imagesTr" / "new.nii.gz"),
    ),
    "pairs: label without image": Plant("label-without-image", "cells", C1, lambda r: (r / PICTURE).unlink()),
    "listed: label without image": Plant("label-without-image", "organs", O1, lambda r: (r / IMAGE).unlink()),
    "new label in labelsTr": Plant(
        "label-without-image",
        "organs",
        "new",
        lambda r: shutil.copy(r / LABEL, r / "labelsTr" / "new.nii.gz"),
    ),
    "listed, nothing there": Plant(
        "missing",
        "organs",
        "ghost",
        listing(image="./imagesTr/ghost.nii.gz", label="./labelsTr/ghost.nii.gz"),
    ),
    "no folder masks": Plant("missing", "cells", "-", lambda r: shutil.rmtree(r / "masks")),
    "no dataset.json": Plant("missing", "organs", "-", lambda r: (r / "dataset.json").unlink()),
    "no folder": Plant("missing", "organs", "-", lambda r: shutil.rmtree(r)),
    "nothing in it": Plant(
        "missing", "cells", "-", lambda r: [f.unlink() for f in [*r.glob("images/*"), *r.glob("masks/*")]]
    ),
    "dataset.json cut": Plant("dataset-json", "organs", "-", lambda r: (r / "dataset.json").write_text('{"labels": {')),
    "no training list": Plant("dataset-json", "organs", "-", lambda r: change_index(r, lambda i: i.pop("training"))),
    "entry without label": Plant("dataset-json", "organs", "-", listing(image="./imagesTr/organs_001.nii.gz")),
    "entry with NUL": Plant("dataset-json", "organs", "-", listing(image="a\0b", label="c")),
    "no labels": Plant("dataset-json", "organs", "-", lambda r: change_index(r, lambda i: i.pop("labels"))),
    "labels are a list of regions": Plant(
        "dataset-json", "organs", "-", lambda r: change_index(r, lambda i: i.update(labels={"liver": [1, 2]}))
    ),
    "unlisted pair": Plant("unlisted", "organs", "new", plant_unlisted),
    "a.png and a.tif": Plant("duplicate-id", "cells", C1, plant_tiff_twin),
    "a and A": Plant("duplicate-id", "cells", "cells_001", plant_case_twins, ("CELLS_001",)),
    "two masks": Plant("duplicate-id", "cells", C1, lambda r: (r / "masks" / "cells_001.tif").write_bytes(b"II*\0")),
    "listed twice": Plant("duplicate-id", "organs", O1, listing(image=f"./{IMAGE}", label=f"./{LABEL}")),
    "hostile id": Plant("unsafe-id", "cells", "a; touch X", lambda r: rename(r, C1, "a; touch X")),
    "id with a line break": Plant("unsafe-id", "cells", r"'a\nb'", lambda r: rename(r, C1, "a\nb")),
    "id beginning with a dash": Plant("unsafe-id", "cells", "-rf", lambda r: rename(r, C1, "-rf")),
    "id in other letters": Plant("unsafe-id", "cells", "Zelle_ü", lambda r: rename(r, C1, "Zelle_ü")),
    "parent folder": Plant("unsafe-path", "organs", "x", listing(image="../x.nii.gz", label=f"./{LABEL}")),
    "absolute path": Plant("unsafe-path", "organs", "passwd", listing(image="/etc/passwd", label=f"./{LABEL}")),
    "link that leads out": Plant("unsafe-path", "cells", C1, plant_link),
    "image cut": Plant(
        "unreadable",
        "organs",
        O1,
        lambda r: (r / IMAGE).write_bytes((r / IMAGE).read_bytes()[:5000]),
        ("trunc",),
    ),
    "image without its checksum": Plant(
        "unreadable", "organs", O1, lambda r: (r / IMAGE).write_bytes((r / IMAGE).read_bytes()[:-8])
    ),
    "label cut": Plant(
        "unreadable",
        "organs",
        O1,
        lambda r: (r / LABEL).write_bytes((r / LABEL).read_bytes()[:200]),
        ("trunc",),
    ),
    "picture cut": Plant(
        "unreadable", "cells", C1, lambda r: (r / PICTURE).write_bytes((r / PICTURE).read_bytes()[:3000])
    ),
    "empty file": Plant("unreadable", "cells", C1, lambda r: (r / MASK).write_bytes(b""), ("empty",)),
    "text": Plant("unreadable", "cells", C1, lambda r: (r / PICTURE).write_text("hello" * 99)),
    "JPEG": Plant("unreadable", "cells", C1, lambda r: (r / PICTURE).rename(r / "images/cells_001.jpg"), (".jpg",)),
    "folder instead of a file": Plant("unreadable", "cells", C1, lambda r: ((r / MASK).unlink(), (r / MASK).mkdir())),
    "singular affine": Plant(
        "unreadable", "organs", O1, lambda r: patch_header(r / IMAGE, 280, "<4f", 0, 0, 0, 0), ("singular",)
    ),
    "mask in colour": Plant(
        "unreadable",
        "cells",
        C1,
        lambda r: store_png(r / MASK, np.stack([picture(r / PICTURE)] * 3, -1)),
        ("3 channels",),
    ),
    "no orientation": Plant(
        "orientation",
        "organs",
        O1,
        lambda r: [patch_header(r / f, 252, "<hh", 0, 0) for f in (IMAGE, LABEL)],
        ("unknown",),
    ),
    "two orientations": Plant(
        "orientation", "organs", O1, lambda r: patch_header(r / IMAGE, 268, "<f", 99.0), ("sform and qform",)
    ),
    "flat among volumes": Plant("dims-mismatch", "organs", "flat", plant_two_dims, ("2 spatial axes",)),
    "colour among grey": Plant(
        "channels",
        "cells",
        C1,
        lambda r: store_png(r / PICTURE, np.stack([picture(r / PICTURE)] * 3, -1)),
        ("3 channels, expected 1",),
    ),
    "fourth axis": Plant(
        "channels",
        "organs",
        O1,
        lambda r: store_nifti(r / IMAGE, np.stack([read_image(r / IMAGE)[0][0]] * 2, -1)),
        ("expected 1 (CT)",),
    ),
    "label one slice short": Plant(
        "shape-mismatch", "organs", O1, lambda r: store_nifti(r / LABEL, read_labels(r / LABEL)[0][:, :, :-1])
    ),
    "mask turned": Plant("shape-mismatch", "cells", C1, lambda r: store_png(r / MASK, read_labels(r / MASK)[0][:-1])),
    "label moved": Plant("affine-mismatch", "organs", O1, lambda r: shift_label(r / LABEL, 0.6), ("0.6 voxels",)),
    "label mirrored": Plant(
        "affine-mismatch",
        "organs",
        O1,
        lambda r: store_nifti(
            r / LABEL, read_labels(r / LABEL)[0], read_labels(r / LABEL)[1].affine @ np.diag([-1.0, 1, 1, 1])
        ),
    ),
    "NaN": Plant(
        "nonfinite",
        "organs",
        O1,
        lambda r: change_voxel(r / IMAGE, np.nan, "float32"),
        ("1 NaN and 0 Inf", "first nan at (2, 3, 4)"),
    ),
    "infinity": Plant(
        "nonfinite",
        "organs",
        O1,
        lambda r: change_voxel(r / IMAGE, -np.inf, "float32"),
        ("0 NaN and 1 Inf", "first -inf at (2, 3, 4)"),
    ),
    "label 1.5": Plant(
        "label-not-integer",
        "organs",
        O1,
        lambda r: change_voxel(r / LABEL, 1.5, "float32"),
        ("1 label voxels", "first 1.5 at (2, 3, 4)"),
    ),
    "label NaN": Plant(
        "label-not-integer",
        "organs",
        O1,
        lambda r: change_voxel(r / LABEL, np.nan, "float32"),
        ("first nan",),
    ),
    "label 7": Plant(
        "label-values",
        "organs",
        O1,
        lambda r: change_voxel(r / LABEL, 7, "uint8"),
        ("value 7: 1 voxels, first at (2, 3, 4)", "0 background, 1 liver, 2 kidney"),
    ),
    "label -1": Plant(
        "label-values",
        "organs",
        O1,
        lambda r: change_voxel(r / LABEL, -1, "int16"),
        ("value -1: 1 voxels, first at (2, 3, 4)",),
    ),
    "empty label": Plant("empty-label", "organs", O1, lambda r: store_nifti(r / LABEL, read_labels(r / LABEL)[0] * 0)),
    "empty mask": Plant("empty-label", "cells", C1, lambda r: store_png(r / MASK, read_labels(r / MASK)[0] * 0)),
    "copied case": Plant(
        "identical-images",
        "cells",
        "cells_copy",
        lambda r: copy_case(r, C1, "cells_copy"),
        ("case cells_001",),
    ),
}


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
        run(config(tmp_path, plant.kind), plant.kind, out, workers=2)
    assert [(f.code, f.case) for f in caught.value.faults] == [(plant.code, plant.case)], str(caught.value)
    fault = caught.value.faults[0]
    for word in plant.words:
        assert word in fault.cause
    assert fault.mend
    assert len(str(caught.value).splitlines()) == 2
    assert str(tmp_path) not in str(fault) or plant.code == "missing"
    assert not out.exists()


def test_a_case_id_without_subject_is_found(copy: Callable[[str], Path], tmp_path: Path) -> None:
    rename(copy("cells"), C1, "odd")
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, "cells", subject=r"cells_(\d+)"), "cells")
    assert [(f.code, f.case) for f in caught.value.faults] == [("subject", "odd")]


def test_every_code_is_planted() -> None:
    assert {plant.code for plant in PLANTS.values()} | {"subject"} == set(FAULTS)


@pytest.mark.parametrize("kind", ["cells", "organs"])
def test_all_faults_are_told_in_one_pass(kind: str, sound: Path, tmp_path: Path) -> None:
    """Faults that can stand side by side, each in a case of its own, in one data set."""
    alone = {
        "cells": [
            "pairs: image without label",
            "hostile id",
            "picture cut",
            "mask turned",
            "empty mask",
            "colour among grey",
            "text",
            "empty file",
            "pairs: label without image",
            "copied case",
        ],
        "organs": [
            "listed: image without label",
            "image cut",
            "label cut",
            "label moved",
            "NaN",
            "label 1.5",
            "label 7",
            "empty label",
            "label one slice short",
            "no orientation",
            "fourth axis",
            "unlisted pair",
            "parent folder",
            "entry without label",
        ],
    }[kind]
    root = tmp_path / kind
    generate(kind, len(alone), 5, root)  # type: ignore[arg-type]
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
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, kind), kind, workers=2)
    found = [(f.code, f.case) for f in caught.value.faults]
    assert set(found) == set(expected), str(caught.value)
    assert len(found) == len(set(found))
    assert str(caught.value).startswith(f"{len(found)} faults in data set '{kind}'")


def swap(root: Path, places: tuple[str, str, str], one: str, other: str) -> None:
    if one == other:
        return
    for folder in places[:2]:
        a, b, c = (root / folder / f"{name}{places[2]}" for name in (one, other, ".swap"))
        for old, new in ((a, c), (b, a), (c, b)):
            if old.exists():
                old.rename(new)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["cells", "organs"])
def test_no_false_alarm_on_sound_data(kind: str, seed: int, tmp_path: Path) -> None:
    generate(kind, 6, seed, tmp_path / kind)  # type: ignore[arg-type]
    manifest = check(config(tmp_path, kind), kind)
    assert len(manifest.cases) == 6
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
    shift_label(organs / LABEL, 0.05)
    change_voxel(organs / "labelsTr" / "organs_002.nii.gz", 1.0004, "float32")
    for kind in ("cells", "organs"):
        assert len(check(config(tmp_path, kind), kind).cases) == CASES


# What can be allowed, and what that does

ALLOWED_PLANTS = {name: plant for name, plant in PLANTS.items() if plant.code in ALLOWABLE}


@pytest.mark.parametrize("plant", ALLOWED_PLANTS.values(), ids=ALLOWED_PLANTS.keys())
def test_allowed_by_name_is_no_error_and_is_recorded(plant: Plant, copy: Callable[[str], Path], tmp_path: Path) -> None:
    plant.damage(copy(plant.kind))
    manifest = check(config(tmp_path, plant.kind, allow=[plant.code]), plant.kind)
    assert len(manifest.allowed) == 1
    assert manifest.allowed[0].startswith(f"{plant.code} · {plant.case} · ")
    kept = FAULTS[plant.code].allowed
    assert kept is not None
    assert (plant.case in {case.id for case in manifest.cases}) == kept.startswith("kept")
    assert all(case.labels for case in manifest.cases)


def test_allowing_one_fault_allows_no_other(copy: Callable[[str], Path], tmp_path: Path) -> None:
    root = copy("organs")
    PLANTS["empty label"].damage(root)
    PLANTS["two orientations"].damage(root)
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, "organs", allow=["empty-label"]), "organs")
    assert [f.code for f in caught.value.faults] == ["orientation"]


@pytest.mark.parametrize("code", [*(c for c in FAULTS if c not in ALLOWABLE), "emptylabel"])
def test_other_faults_cannot_be_allowed(code: str, sound: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be allowed.*empty-label"):
        check(config(sound, "cells", allow=[code]), "cells")
