"""Faults that no check at the beginning can meet: those that must be survived, and those that show only later."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.errors import DataError, DatasetFaults
from medseg.formats.read import read_image, read_labels
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import read_manifest
from medseg.ingest.run import run
from medseg.plan.plan import read_plan
from medseg.plan.survey import run_fingerprint
from medseg.preprocess import run as preprocess
from tests.faults.plants import PLAIN, PLAIN_LABEL, huge_nifti2, patch_header, store_nifti
from tests.faults.sets import CASES, KINDS, config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    KINDS["nifti"].write(tmp_path / "nifti", CASES, 3)
    return tmp_path / "nifti"


def prepared(root: Path, kind: str, **changes: Any) -> Path:
    """Ingest, fingerprint and preprocess the data set ``root / kind``; the folder of its store."""
    here, out = config(root, kind, **changes), root / "out"
    run(here, kind, out)
    run_fingerprint(here, out / "manifest.tsv", out / "fingerprint.json", 1)
    preprocess.run(here, "unet", out / "manifest.tsv", out / "fingerprint.json", out / "store", "code", 1)
    return out / "store"


# IN-06: memory follows what is there, not what a header claims

CLAIM = """
import resource, sys
from pathlib import Path
from medseg.formats.read import read_image
from medseg.formats.errors import FormatError
import nibabel, tifffile, imagecodecs
limit = 2 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_image(Path(name))
    except FormatError as error:
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


def test_claims_of_huge_volumes_cost_no_memory(nifti: Path) -> None:
    paths = [nifti / PLAIN, nifti / "images/nifti_002.nii", nifti / "packed.nii.gz"]
    huge_nifti2(nifti)
    patch_header(paths[1], 42, "<3h", 32767, 32767, 32767)
    paths[2].write_bytes(gzip.compress(paths[1].read_bytes()))
    done = subprocess.run(
        [sys.executable, "-c", CLAIM, *map(str, paths)], capture_output=True, text=True, check=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout + done.stderr
    assert all(int(line.split()[0]) <= 64 for line in lines), lines


# IN-11, IN-13, IN-14: what looks odd and is sound


@pytest.mark.parametrize("slope", [float("nan"), float("inf"), 0.0])
def test_no_scaling_is_spelt_in_several_ways(slope: float, nifti: Path) -> None:
    before = read_image(nifti / PLAIN)[0]
    patch_header(nifti / PLAIN, 112, "<2f", slope, 7.0)
    np.testing.assert_array_equal(read_image(nifti / PLAIN)[0], before)


@pytest.mark.parametrize("axes", [(1,), (1, 1)])
def test_trailing_axes_of_one_are_dropped(axes: tuple[int, ...], nifti: Path) -> None:
    image, grid = read_image(nifti / PLAIN)
    longer = nibabel.Nifti1Image(image[0].reshape((*image[0].shape, *axes)), grid.affine)
    nibabel.save(longer, nifti / PLAIN)
    again, same = read_image(nifti / PLAIN)
    np.testing.assert_array_equal(again, image)
    assert same.shape == grid.shape


@pytest.mark.parametrize("shape", [(25, 21, 17), (24, 20, 1), (7, 40, 3)], ids=str)
def test_any_shape_is_planned_prepared_and_goes_through_the_network(shape: tuple[int, ...], tmp_path: Path) -> None:
    import torch

    from medseg.models.zoo import build_model
    from tests.plans import run_plan

    rng = np.random.default_rng(0)
    for number in range(4):
        labels = np.zeros(shape, np.uint8)
        labels[tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in shape)] = 1 + (np.arange(1) % 2)
        labels.flat[:1] = 2
        for folder, values in (("images", rng.integers(1, 99, shape).astype(np.int16)), ("masks", labels)):
            (tmp_path / "nifti" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "nifti" / folder / f"case{number}.nii")
    store = prepared(tmp_path, "nifti")
    here = config(tmp_path, "nifti")
    run_plan(here, "unet", store.parent / "fingerprint.json", store.parent / "unet.json")
    planned = read_plan(store.parent / "unet.json")
    network = build_model(planned.network.name, planned.network)
    logits = network(torch.zeros((2, 1, *planned.network.patch)))
    last = logits[0] if isinstance(logits, list | tuple) else logits
    assert tuple(last.shape[2:]) == tuple(planned.network.patch)


# IN-17: the manifest's digests catch what changes after the check


@pytest.mark.parametrize("file", [PLAIN, PLAIN_LABEL])
def test_a_bit_flipped_after_the_check_is_noticed(file: str, nifti: Path, tmp_path: Path) -> None:
    run(config(tmp_path, "nifti"), "nifti", tmp_path / "out")
    case = read_manifest(tmp_path / "out" / "manifest.tsv").case("nifti_001")
    data = bytearray((nifti / file).read_bytes())
    data[-3] ^= 1
    (nifti / file).write_bytes(bytes(data))
    read = read_case_image if file == PLAIN else read_case_labels
    with pytest.raises(DataError, match="changed since `medseg ingest`"):
        read(case, nifti)


# IN-24, LB-04: labels stay integers


def test_object_numbers_beyond_what_float32_tells_apart(nifti: Path, tmp_path: Path) -> None:
    labels = read_labels(nifti / PLAIN_LABEL)[0].astype(np.int32)
    ids = np.where(labels > 0, 2**24 + np.arange(labels.size, dtype=np.int32).reshape(labels.shape) % 64, 0)
    nibabel.save(nibabel.Nifti1Image(ids.astype(np.int32), read_image(nifti / PLAIN)[1].affine), nifti / PLAIN_LABEL)
    section = {"labels": {"ball": 1}, "instances": True}
    manifest = run(config(tmp_path, "nifti", **section), "nifti", tmp_path / "out")
    assert manifest.case("nifti_001").label_counts[1] == (labels > 0).sum()
    assert len(np.unique(read_case_labels(manifest.case("nifti_001"), nifti))) == 65


# LB-08: empty labels are counted per fold


def test_empty_labels_are_counted_per_fold(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "organs"
    KINDS["organs"].write(root, CASES, 3)
    for number in (0, 1, 4):
        path = root / f"labelsTr/organs_{number:03d}.nii.gz"
        store_nifti(path, read_labels(path)[0] * 0)
    run(config(tmp_path, "organs", allow=["empty-label"]), "organs", tmp_path / "out")
    folds = json.loads((tmp_path / "out" / "splits.json").read_text())["folds"]
    empty = {f"organs_{n:03d}" for n in (0, 1, 4)}
    counts = ", ".join(str(len(empty & set(fold["val"]))) for fold in folds)
    told = capfd.readouterr().err
    assert f"3 cases show no class; per validation fold: {counts}" in told
    assert "allowed by name: 3 x empty-label" in told


# LB-10: a class that is lost on the planned grid


def lose_a_class(root: Path) -> None:
    """Class rod (2) is one voxel of case 001; the plan is twice as coarse."""
    path = root / PLAIN_LABEL
    labels = np.where(read_labels(path)[0] == 1, 1, 0).astype(np.uint8)
    labels[1, 1, 1] = 2
    nibabel.save(nibabel.Nifti1Image(labels, read_image(root / PLAIN)[1].affine), path)


COARSE = {"unet": {"network": "unet", "plan": {"spacing": [2.4, 2.4, 4.8]}}}


def test_a_class_lost_by_resampling_is_told_with_its_case(nifti: Path, tmp_path: Path) -> None:
    lose_a_class(nifti)
    for _ in range(2):  # the second time, cases are there already
        with pytest.raises(DatasetFaults) as caught:
            prepared(tmp_path, "nifti", models=COARSE)
        assert [(f.code, f.case) for f in caught.value.faults] == [("lost-class", "nifti_001")]
        assert "none of the 1 voxels of class rod (2) is left at spacing 2.4 x 2.4 x 4.8" in str(caught.value)
        assert not (tmp_path / "out/store/index.json").exists()


def test_a_lost_class_can_be_allowed(nifti: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lose_a_class(nifti)
    store = prepared(tmp_path, "nifti", models=COARSE, allow=["lost-class"])
    assert (store / "index.json").exists()
    assert "allowed by name: lost-class · nifti_001" in capfd.readouterr().err


def test_no_class_is_lost_on_sound_data(nifti: Path, tmp_path: Path) -> None:
    assert (prepared(tmp_path, "nifti") / "index.json").exists()


# CF-07, CF-08, CF-09: names


# Fields of shell texts that can only be numbers, held so by the rules' wildcard constraints.
NUMBERS = {"threads", "wildcards.fold", "wildcards.seed"}


def test_no_shell_text_takes_a_name_unquoted() -> None:
    for file in [ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk")), ROOT / "workflow/Snakefile"]:
        text = file.read_text()
        for block in re.findall(r"shell:\s*((?:\s*[rf]*\"(?:[^\"\\]|\\.)*\"\s*)+)", text):
            fields = re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", block)
            unquoted = [f for f in fields if not f.endswith(":q") and f not in NUMBERS]
            assert not unquoted, f"{file.name}: {unquoted}"


@pytest.mark.parametrize("name", ["a b", "Zürich 🙂", "x" * 200, "quote ' and \" and $HOME"])
def test_folders_may_have_any_name(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    KINDS["tiff"].write(root / "tiff", CASES, 1)
    manifest = run(config(root, "tiff"), "tiff", root / "out")
    assert len(read_manifest(root / "out" / "manifest.tsv").cases) == len(manifest.cases) == CASES


def test_links_that_lead_in_circles_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "dicom"
    KINDS["dicom"].write(root, CASES, 1)
    (root / "images/dicom_001/again").symlink_to(root / "images", target_is_directory=True)
    (root / "images/dicom_002/self").symlink_to(root / "images/dicom_002", target_is_directory=True)
    manifest = run(config(tmp_path, "dicom"), "dicom", tmp_path / "out")
    assert manifest.case("dicom_001").geometry.shape == (16, 15, 8)


# DX-03, DX-10, DX-11: kinds of pictures and series that are sound


def test_slices_are_ordered_by_position_alone(tmp_path: Path) -> None:
    import pydicom

    root = tmp_path / "dicom"
    KINDS["dicom"].write(root, CASES, 1)
    folder = root / "images/dicom_001"
    before, grid = read_image(folder)
    order = np.random.default_rng(0).permutation(8)
    files = sorted(folder.iterdir())
    for number, file in enumerate(files):
        slice_ = pydicom.dcmread(file)
        slice_.InstanceNumber = 1
        slice_.save_as(folder / f"shuffled_{order[number]:03d}.dcm")
        file.unlink()
    after, same = read_image(folder)
    np.testing.assert_array_equal(after, before)
    assert same == grid


def test_the_content_decides_which_reader_is_asked(tmp_path: Path) -> None:
    KINDS["tiff"].write(tmp_path / "tiff", 1, 1)
    tiff = tmp_path / "tiff/images/tiff_000.tif"
    shutil.copy(tiff, tmp_path / "wrong.png")
    with pytest.raises(DataError, match="PNG"):
        read_image(tmp_path / "wrong.png")
