"""Folders of links: those that stay inside the data set are followed, all others are named; none is left out unsaid."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medseg.errors import DatasetFaults
from medseg.formats.read import read_image
from medseg.ingest.run import check, run
from tests.faults.sets import KINDS, config

CASES = 3


@pytest.fixture
def root(tmp_path: Path) -> Path:
    KINDS["dicom"].write(tmp_path / "dicom", CASES, 1)
    return tmp_path / "dicom"


def as_links(folder: Path, store: Path, keep: int = 0) -> None:
    """Move the files of a folder to ``store`` and put relative links in their place, but for the last ``keep``."""
    store.mkdir(parents=True)
    files = sorted(folder.iterdir())
    for file in files[: len(files) - keep]:
        file.rename(store / file.name)
        file.symlink_to(os.path.relpath(store / file.name, folder))


@pytest.mark.parametrize("keep", [0, 3])
def test_links_that_stay_inside_are_followed(keep: int, root: Path, tmp_path: Path) -> None:
    before = read_image(root / "images/dicom_001")
    as_links(root / "images/dicom_001", root / "store", keep)
    after = read_image(root / "images/dicom_001")
    assert (before[0] == after[0]).all()
    assert before[1] == after[1]
    assert len(run(config(tmp_path, "dicom"), "dicom", tmp_path / "out").cases) == CASES


def test_a_linked_folder_of_slices_is_followed(root: Path, tmp_path: Path) -> None:
    before = read_image(root / "images/dicom_001")
    (root / "store").mkdir()
    (root / "images/dicom_001").rename(root / "store/series")
    (root / "images/dicom_001").mkdir()
    (root / "images/dicom_001/series").symlink_to("../../store/series", target_is_directory=True)
    assert (read_image(root / "images/dicom_001")[0] == before[0]).all()
    assert len(check(config(tmp_path, "dicom"), "dicom").cases) == CASES


def test_links_that_lead_out_are_named(root: Path, tmp_path: Path) -> None:
    as_links(root / "images/dicom_001", tmp_path / "elsewhere")
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, "dicom"), "dicom")
    (fault,) = caught.value.faults
    assert (fault.code, fault.case, fault.file) == ("unsafe-path", "dicom_001", "images/dicom_001")
    assert "8 links in it lead out of the data set's folder, such as " in fault.cause
    # One of two ways out that the message offers: a folder above, which holds both.
    section = {"path": ".", "images": "dicom/images/{case}", "masks": "dicom/masks/{case}.*"}
    wide = config(tmp_path, "dicom").model_copy(deep=True)
    data = wide.datasets["dicom"].model_copy(update=section | {"layout": "patterns"})
    wide = wide.model_copy(update={"data_root": str(tmp_path), "datasets": {"dicom": data}})
    assert len(check(wide, "dicom").cases) == CASES


def test_links_that_lead_nowhere_are_named(root: Path, tmp_path: Path) -> None:
    as_links(root / "images/dicom_001", root / "store", keep=2)
    for file in sorted((root / "store").iterdir())[:4]:
        file.unlink()
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, "dicom"), "dicom")
    (fault,) = caught.value.faults
    assert "4 of 8 files are links that lead nowhere, such as" in fault.cause
    assert "datalad get" in fault.fix


@pytest.mark.parametrize(
    ("text", "cause", "fix"),
    [
        ("../../store/{name}", "a link that was copied as text", "cp -rL FOLDER COPY"),
        ("/annex/objects/MD5E-s3972--0123\n", "a git-annex pointer", "datalad get"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3972\n", "a Git LFS pointer", "git lfs pull"),
    ],
)
def test_links_and_pointers_that_became_texts_are_named(
    text: str, cause: str, fix: str, root: Path, tmp_path: Path
) -> None:
    for file in (root / "images/dicom_001").iterdir():
        file.write_text(text.replace("{name}", file.name))
    image = root / "images/dicom_002"
    shutil.rmtree(image)
    image.with_suffix(".nii.gz").write_text(text)
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, "dicom"), "dicom")
    found = {fault.case: fault for fault in caught.value.faults}
    assert f"no DICOM files, each is {cause}" in found["dicom_001"].cause
    assert f"the content is {cause}" in found["dicom_002"].cause
    assert all(fix in fault.fix for fault in found.values())
