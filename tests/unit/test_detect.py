"""Folders as public data sets have them: which images and masks belong together is seen, or said in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.config import DatasetConfig
from medseg.errors import ConfigError, DatasetFaults
from medseg.ingest.look import look
from medseg.ingest.run import check
from medseg.ingest.sources import find_cases
from tests.configurations import config


@dataclass(frozen=True)
class Published:
    """The files of a data set as its makers publish them, and what is to be seen in them.

    Attributes:
        files: paths.
        images, masks: the patterns.
        cases: how many.
        example: a pair.
        ids: of two cases.
        unused: words of the remark about what is not used.
    """

    files: tuple[str, ...]
    images: str
    masks: str
    cases: int
    example: tuple[str, str]
    ids: tuple[str, ...] = ()
    unused: str = ""


def each(pattern: str, *lists: Iterable[Any]) -> list[str]:
    """A path for every combination of values; the last varies fastest."""
    paths = [pattern]
    for number, values in enumerate(lists):
        paths = [path.replace(f"<{number}>", str(value)) for path in paths for value in values]
    return paths


def two(values: Iterable[int]) -> list[str]:
    return [f"{value:02d}" for value in values]


def four(values: Iterable[int]) -> list[str]:
    return [f"{value:04d}" for value in values]


HASHES = ("00ae65c1", "0121d6759", "0acd2c22", "0b0d577159")
ORGANS = ("aorta", "liver", "kidney_left")
PUBLISHED = {
    "DRIVE": Published(
        (
            *each("training/images/<0>_training.tif", range(21, 41)),
            *each("training/1st_manual/<0>_manual1.gif", range(21, 41)),
            *each("training/mask/<0>_training_mask.gif", range(21, 41)),
            *each("test/images/<0>_test.tif", two(range(1, 21))),
            *each("test/1st_manual/<0>_manual1.gif", two(range(1, 21))),
            *each("test/2nd_manual/<0>_manual2.gif", two(range(1, 21))),
            *each("test/mask/<0>_test_mask.gif", two(range(1, 21))),
        ),
        "training/images/{case}_training.tif",
        "training/1st_manual/{case}_manual1.gif",
        20,
        ("training/images/21_training.tif", "training/1st_manual/21_manual1.gif"),
        ("21", "40"),
        "training/mask/{case}_training_mask.gif is not used",
    ),
    "CHASE_DB1": Published(
        (*each("Image_<0><1><2>", two(range(1, 15)), "LR", (".jpg", "_1stHO.png", "_2ndHO.png")),),
        "{case}.jpg",
        "{case}_1stHO.png",
        28,
        ("Image_01L.jpg", "Image_01L_1stHO.png"),
        ("Image_01L", "Image_14R"),
        "{case}_2ndHO.png is not used",
    ),
    "TNBC": Published(
        (*each("<1>_<0>/<0>_<2>.png", two(range(1, 12)), ("Slide", "GT"), range(1, 5)),),
        "Slide_{group}/{case}.png",
        "GT_{group}/{case}.png",
        44,
        ("Slide_01/01_1.png", "GT_01/01_1.png"),
        ("01_1", "11_4"),
    ),
    "FUSeg": Published(
        (
            *each("train/<0>/<1>.png", ("images", "labels"), four(range(1, 30))),
            *each("validation/<0>/<1>.png", ("images", "labels"), four(range(1001, 1009))),
            *each("test/images/<0>.png", four(range(1201, 1209))),
        ),
        "{split:train|validation}/images/{case}.png",
        "{split:train|validation}/labels/{case}.png",
        37,
        ("train/images/0001.png", "train/labels/0001.png"),
        ("0001", "1008"),
        "test/ is not used: a published test set",
    ),
    "EMPS": Published(
        (*each("<0>/<1>.png", ("images", "segmaps"), HASHES),),
        "images/{case}.png",
        "segmaps/{case}.png",
        4,
        ("images/00ae65c1.png", "segmaps/00ae65c1.png"),
    ),
    "Cellpose": Published(
        (*each("<0>/<1>_<2>.png", ("train", "test"), ("000", "001", "002"), ("img", "masks")),),
        "train/{case}_img.png",
        "train/{case}_masks.png",
        3,
        ("train/000_img.png", "train/000_masks.png"),
        ("000", "002"),
        "test/ is not used",
    ),
    "Cellpose GUI": Published(
        (*each("<0><1>", ("a 1", "b"), (".tif", "_cp_masks.png", "_seg.npy", "_outlines.txt", "_flows.tif")),),
        "{case}.tif",
        "{case}_cp_masks.png",
        2,
        ("a 1.tif", "a 1_cp_masks.png"),
    ),
    "Omnipose": Published(
        (*each("<0><1>.png", ("a", "c", "well_3"), ("", "_masks", "_flows")),),
        "{case}.png",
        "{case}_masks.png",
        3,
        ("a.png", "a_masks.png"),
        ("a", "well_3"),
        "a_flows.png",
    ),
    "StarDist": Published(
        (*each("dsb2018/<0>/<1>/<2>.tif", ("train", "test"), ("images", "masks"), HASHES),),
        "dsb2018/train/images/{case}.tif",
        "dsb2018/train/masks/{case}.tif",
        4,
        ("dsb2018/train/images/00ae65c1.tif", "dsb2018/train/masks/00ae65c1.tif"),
        (),
        "dsb2018/test/ is not used",
    ),
    "HRF": Published(
        (
            *each("images/<0>_<1>.JPG", two(range(1, 6)), ("dr", "g", "h")),
            *each("manual1/<0>_<1>.tif", two(range(1, 6)), ("dr", "g", "h")),
            *each("mask/<0>_<1>_mask.tif", two(range(1, 6)), ("dr", "g", "h")),
        ),
        "images/{case}.JPG",
        "manual1/{case}.tif",
        15,
        ("images/01_dr.JPG", "manual1/01_dr.tif"),
        (),
        "mask/{case}_mask.tif is not used",
    ),
    "GlaS": Published(
        (*each("train_<0><1>.bmp", range(1, 12), ("", "_anno")),),
        "{case}.bmp",
        "{case}_anno.bmp",
        11,
        ("train_1.bmp", "train_1_anno.bmp"),
    ),
    "ISIC": Published(
        (
            *each("ISIC-2017_Training_Data/ISIC_<0>.jpg", four(range(9))),
            *each("ISIC-2017_Training_Part1_GroundTruth/ISIC_<0>_segmentation.png", four(range(9))),
        ),
        "ISIC-2017_Training_Data/{case}.jpg",
        "ISIC-2017_Training_Part1_GroundTruth/{case}_segmentation.png",
        9,
        ("ISIC-2017_Training_Data/ISIC_0000.jpg", "ISIC-2017_Training_Part1_GroundTruth/ISIC_0000_segmentation.png"),
    ),
    "CVC-ClinicDB": Published(
        (*each("<0>/<1>.png", ("Original", "Ground Truth"), range(1, 9)),),
        "Original/{case}.png",
        "Ground Truth/{case}.png",
        8,
        ("Original/1.png", "Ground Truth/1.png"),
    ),
    "Carvana": Published(
        (*each("train/<0>_01.jpg", HASHES), *each("train_masks/<0>_01_mask.gif", HASHES)),
        "train/{case}.jpg",
        "train_masks/{case}_mask.gif",
        4,
        ("train/00ae65c1_01.jpg", "train_masks/00ae65c1_01_mask.gif"),
    ),
    "BUSI": Published(
        (*each("<0>/<0> (<1>)<2>.png", ("benign", "malignant"), range(1, 5), ("", "_mask")),),
        "{group}/{case}.png",
        "{group}/{case}_mask.png",
        8,
        ("benign/benign (1).png", "benign/benign (1)_mask.png"),
    ),
    "ACDC": Published(
        (
            *each(
                "training/patient<0>/patient<0>_<1>.nii.gz",
                four(range(1, 6)),
                ("frame01", "frame01_gt", "frame12", "frame12_gt"),
            ),
        ),
        "training/{group}/{case}.nii.gz",
        "training/{group}/{case}_gt.nii.gz",
        10,
        (
            "training/patient0001/patient0001_frame01.nii.gz",
            "training/patient0001/patient0001_frame01_gt.nii.gz",
        ),
    ),
    "BraTS": Published(
        (
            *each(
                "BraTS20_Training_<0>/BraTS20_Training_<0>_<1>.nii.gz",
                four(range(1, 5)),
                ("t1", "t1ce", "t2", "flair", "seg"),
            ),
        ),
        "{group}/{case}_{channel:flair|t1|t1ce|t2}.nii.gz",
        "{group}/{case}_seg.nii.gz",
        4,
        (
            "BraTS20_Training_0001/BraTS20_Training_0001_flair.nii.gz",
            "BraTS20_Training_0001/BraTS20_Training_0001_seg.nii.gz",
        ),
    ),
    "TotalSegmentator": Published(
        (*each("s<0>/ct.nii.gz", four(range(4))), *each("s<0>/segmentations/<1>.nii.gz", four(range(4)), ORGANS)),
        "{case}/ct.nii.gz",
        "{case}/segmentations/{class}.nii.gz",
        4,
        ("s0000/ct.nii.gz", "s0000/segmentations/aorta.nii.gz"),
        ("s0000", "s0003"),
    ),
    "contours, converted by dcmrtstruct2nii": Published(
        (*each("P<0>/<1>.nii.gz", range(4), ("image", "mask_liver", "mask_kidney-left")),),
        "{case}/image.nii.gz",
        "{case}/mask_{class}.nii.gz",
        4,
        ("P0/image.nii.gz", "P0/mask_kidney-left.nii.gz"),
    ),
    "two observers": Published(
        (*each("P<0>/<1>.nii.gz", range(4), ("ct", "observer1_seg", "observer2_seg")),),
        "{case}/ct.nii.gz",
        "{case}/observer1_seg.nii.gz",
        4,
        ("P0/ct.nii.gz", "P0/observer1_seg.nii.gz"),
        (),
        "{case}/observer2_seg.nii.gz is not used",
    ),
    "KiTS": Published(
        (*each("case_<0>/<1>.nii.gz", four(range(4)), ("imaging", "segmentation")),),
        "{case}/imaging.nii.gz",
        "{case}/segmentation.nii.gz",
        4,
        ("case_0000/imaging.nii.gz", "case_0000/segmentation.nii.gz"),
    ),
    "LiTS": Published(
        (*each("<0>-<1>.nii", ("volume", "segmentation"), range(12)),),
        "volume-{case}.nii",
        "segmentation-{case}.nii",
        12,
        ("volume-0.nii", "segmentation-0.nii"),
    ),
    "Synapse": Published(
        (*each("<0>/<0><1>.nii.gz", ("img", "label"), four(range(4))),),
        "img/img{case}.nii.gz",
        "label/label{case}.nii.gz",
        4,
        ("img/img0000.nii.gz", "label/label0000.nii.gz"),
    ),
    "Slicer, a folder per case": Published(
        (*each("P<0>/<1>.nrrd", range(4), ("CT", "Segmentation.seg")),),
        "{case}/CT.nrrd",
        "{case}/Segmentation.seg.nrrd",
        4,
        ("P0/CT.nrrd", "P0/Segmentation.seg.nrrd"),
    ),
    "Slicer, one folder": Published(
        (*each("P<0>.<1>", range(4), ("nrrd", "seg.nrrd")),),
        "{case}.nrrd",
        "{case}.seg.nrrd",
        4,
        ("P0.nrrd", "P0.seg.nrrd"),
    ),
    "DICOM folders": Published(
        (*each("scans/d<0>/IM<1>.dcm", range(3), four(range(5))), *each("segs/d<0>.dcm", range(3))),
        "scans/{case}",
        "segs/{case}.dcm",
        3,
        ("scans/d0", "segs/d0.dcm"),
    ),
    "nnU-Net without dataset.json": Published(
        (*each("imagesTr/a<0>_<1>.nii.gz", range(3), ("0000", "0001")), *each("labelsTr/a<0>.nii.gz", range(3))),
        "imagesTr/{case}_{channel:0000|0001}.nii.gz",
        "labelsTr/{case}.nii.gz",
        3,
        ("imagesTr/a0_0000.nii.gz", "labelsTr/a0.nii.gz"),
    ),
    "a suffix": Published(
        (*each("images/f<0>.tif", range(5)), *each("masks/f<0>_mask.tif", range(5))),
        "images/{case}.tif",
        "masks/{case}_mask.tif",
        5,
        ("images/f0.tif", "masks/f0_mask.tif"),
        ("f0", "f4"),
    ),
    "two annotators beside PNG images": Published(
        (*each("Image_<0><1>.png", two(range(1, 8)), ("", "_1stHO", "_2ndHO")),),
        "{case}.png",
        "{case}_1stHO.png",
        7,
        ("Image_01.png", "Image_01_1stHO.png"),
        (),
        "7 files are called like an image and a mask, and are not used: Image_01_2ndHO.png",
    ),
    "several suffixes": Published(
        ("imgs/a.tif", "imgs/b.png", "imgs/c.nrrd", "gt/a.png", "gt/b.png", "gt/c.png"),
        "imgs/{case}.*",
        "gt/{case}.png",
        3,
        ("imgs/a.tif", "gt/a.png"),
    ),
    "a folder called like both": Published(
        (*each("images_and_masks/<0><1>.png", "abcd", ("", "_mask")),),
        "images_and_masks/{case}.png",
        "images_and_masks/{case}_mask.png",
        4,
        ("images_and_masks/a.png", "images_and_masks/a_mask.png"),
    ),
    "a mask per class": Published(
        (*each("images/c<0>.png", range(3)), *each("masks/c<0>_<1>.png", range(3), ("liver", "kidney"))),
        "images/{case}.png",
        "masks/{case}_{class:kidney|liver}.png",
        3,
        ("images/c0.png", "masks/c0_kidney.png"),
    ),
    "the same names again in validation": Published(
        (*each("<0>/<1>/<2>.png", ("train", "val"), ("img", "seg"), ("1", "2", "3")),),
        "{split:train|val}/img/{case}.png",
        "{split:train|val}/seg/{case}.png",
        6,
        ("train/img/1.png", "train/seg/1.png"),
        ("train_1", "val_3"),
    ),
}


def lay_out(root: Path, files: Iterable[str]) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    return root


@pytest.mark.parametrize("name", PUBLISHED)
def test_folders_as_published(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = PUBLISHED[name]
    root = lay_out(tmp_path / "data", expected.files)
    seen = look(root)
    assert seen.keys == {"images": expected.images, "masks": expected.masks}, seen.why
    assert (seen.layout, seen.cases, seen.faults) == ("patterns", expected.cases, 0)
    assert (seen.example[0][0], seen.example[1][0]) == expected.example
    assert expected.unused in " · ".join(seen.remarks)
    # What was seen is what ingest uses and prints, and what the two lines in a configuration mean.
    labels = {name: k for k, name in enumerate(seen.classes or ["thing"], start=1)}
    alone = find_cases("data", root, DatasetConfig(path=".", labels=labels, subject="case"))
    printed = capsys.readouterr().err
    assert f'images: "{expected.images}", masks: "{expected.masks}"; e.g. {expected.example[0]} with' in printed
    assert expected.unused in printed
    said = find_cases("data", root, DatasetConfig(path=".", labels=labels, subject="case", **seen.keys))
    assert said == alone
    assert len(said.candidates) == expected.cases
    assert {*expected.ids} <= {case.id for case in said.candidates}


def test_what_cannot_be_decided_is_said_with_the_way_out(tmp_path: Path) -> None:
    both = lay_out(tmp_path / "both", each("<0>/f<1>.tif", ("images", "masks", "labels"), range(4)))
    (both / "images/f0.tif").rename(both / "images/f0.png")  # still pairs
    lay_out(tmp_path / "two", each("<0>/f<1>.tif", ("imgs", "masks", "labels"), range(4)))
    lay_out(tmp_path / "none", each("<0>/f<1>.tif", ("first", "second"), range(4)))
    for folder, words in (
        ("two", r'"masks/{case}\.tif" and "labels/{case}\.tif" may both be the masks: say which'),
        ("none", r"there is first/ \(4 \.tif\), second/ \(4 \.tif\), but no word such as masks"),
    ):
        seen = look(tmp_path / folder)
        assert (seen.layout, seen.keys) == ("", {})
        section = DatasetConfig(path=".", labels={"cell": 1})
        with pytest.raises(ConfigError, match=words.replace("{", r"\{").replace("}", r"\}")) as caught:
            find_cases("data", tmp_path / folder, section)
        assert '`images: "imgs/{case}.tif"`' in str(caught.value)
    # The advice, followed.
    section = DatasetConfig(path=".", labels={"cell": 1}, images="first/{case}.tif", masks="second/{case}.tif")
    assert len(find_cases("data", tmp_path / "none", section).candidates) == 4
    assert look(both).layout == "pairs"


def test_the_pairs_layout_says_what_the_folders_look_like(tmp_path: Path) -> None:
    root = lay_out(tmp_path, PUBLISHED["a suffix"].files)
    (fault,) = find_cases("data", root, DatasetConfig(path=".", layout="pairs", labels={"cell": 1})).faults
    assert fault.cause == "no name is in both folders: images/f0.tif, masks/f0_mask.tif, …"
    advice = dict(re.findall(r'`(images|masks): "(.*?)"`', fault.fix.partition("it looks like")[2]))
    assert advice == {"images": "images/{case}.tif", "masks": "masks/{case}_mask.tif"}
    assert "without `layout: pairs`" in fault.fix
    assert len(find_cases("data", root, DatasetConfig(path=".", labels={"cell": 1}, **advice)).candidates) == 5


def test_looking_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/dataset.json").write_text('{"labels')
    assert "no folder" in look(tmp_path / "absent").why
    assert "no file of a known format" in look(tmp_path / "empty").why
    assert look(tmp_path / "cut").faults == 1
    odd = lay_out(tmp_path / "odd", ["{case}/{x}.tif", "a{b.png", "masks/*.tif", "masks/[a].tif"])
    assert look(odd).layout == ""


# With images in them: the whole check


PICTURES = (".png", ".tif", ".jpg", ".gif", ".bmp")


def picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values.astype(np.uint8))
    elif path.suffix.lower() in PICTURES:
        Image.fromarray(values.astype(np.uint8)).save(path)


def write_pictures(root: Path, published: Published) -> None:
    """Fill the paths with tiny pictures; what is called like a mask shows two objects."""
    inventory = find_cases(
        "data", lay_out(root, published.files), DatasetConfig(path=".", labels={"cell": 1}, subject="case")
    )
    masks = {file for case in inventory.candidates for file in case.labels}
    for seed, file in enumerate(published.files):
        rng = np.random.Generator(np.random.PCG64(seed))
        values = rng.integers(0, 200, (24, 20))
        if file in masks:
            values = np.zeros((24, 20))
            values[2:8, 2:9], values[12:20, 4:11] = 1, 2
        picture(root / file, values)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, one in PUBLISHED.items()
        if one.files[0].lower().endswith(PICTURES) and "{class" not in one.masks and ".*" not in one.images
    ],
)
def test_a_whole_check_of_folders_as_published(name: str, tmp_path: Path) -> None:
    published = PUBLISHED[name]
    write_pictures(tmp_path / "data", published)
    # At most one line says how the folders are meant; it is the one that the fault asks for.
    line = ONE_LINE.get(name, {})
    manifest = check(config(tmp_path, labels={"cell": 1}, instances=True, **line), "data")
    assert len(manifest.cases) == published.cases
    if name == "TNBC":
        assert len({case.subject for case in manifest.cases}) == 11


# What nobody can see in names.
ONE_LINE: dict[str, dict[str, Any]] = {
    "TNBC": {"subject": "folder"},
    "BUSI": {"subject": "case"},
    "CHASE_DB1": {"subject": "same-origin"},
    "HRF": {"subject": "case"},
    "the same names again in validation": {"subject": "case"},
}


def test_folders_that_hold_several_cases_are_asked_about(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", PUBLISHED["TNBC"])
    with pytest.raises(DatasetFaults, match="4 cases lie in the folder 01, and `subject` does not say") as caught:
        check(config(tmp_path, labels={"cell": 1}, instances=True), "data")
    assert "`subject: folder`" in str(caught.value)
    with pytest.raises(ConfigError, match="no folder says whose case it is"):
        write_pictures(tmp_path / "flat" / "data", PUBLISHED["EMPS"])
        check(config(tmp_path / "flat", labels={"cell": 1}, instances=True, subject="folder"), "data")


# Patterns of the user's own


def cases_of(root: Path, **section: Any) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    found = find_cases("data", root, DatasetConfig(path=".", **{"labels": {"cell": 1}, "subject": "case"} | section))
    assert not found.faults, found.faults
    return {case.id: (case.images, case.labels) for case in found.candidates}


def test_placeholders(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path,
        [
            "p1/x/scan a.tif",
            "p1/x/scan b.tif",
            "drawn/p1/by Eve/a.PNG",
            "drawn/p1/by Eve/b.png",
            "drawn/p1/by Eve/c.txt",
        ],
    )
    found = cases_of(root, images="{subject}/*/scan {case}.tif", masks="drawn/{subject}/by*/{case}.png")
    assert found == {
        "a": (("p1/x/scan a.tif",), ("drawn/p1/by Eve/a.PNG",)),
        "b": (("p1/x/scan b.tif",), ("drawn/p1/by Eve/b.png",)),
    }
    section = DatasetConfig(
        path=".", labels={"cell": 1}, images="{subject}/*/scan {case}.tif", masks="drawn/{subject}/by*/{case}.png"
    )
    inventory = find_cases("data", root, section)
    assert {case.subject for case in inventory.candidates} == {"p1"}
    assert inventory.grouping.sentence(1) == "subject, declared by {subject} in `images`: 1 subjects"


def test_channels_are_those_of_the_configuration_in_its_order(tmp_path: Path) -> None:
    root = lay_out(tmp_path, each("<0>_<1>.png", "ab", ("c1", "c2", "c3", "gt")))
    patterns = {"images": "{case}_{channel}.png", "masks": "{case}_gt.png"}
    assert cases_of(root, **patterns)["a"][0] == ("a_c1.png", "a_c2.png", "a_c3.png")
    assert cases_of(root, **patterns, channels=["c3", "c1"])["a"][0] == ("a_c3.png", "a_c1.png")
    (root / "b_c2.png").unlink()
    found = find_cases("data", root, DatasetConfig(path=".", labels={"cell": 1}, subject="case", **patterns))
    assert [(f.code, f.case, f.cause) for f in found.faults] == [("channels", "b", "no file b_c2.png")]


def test_a_file_per_object(tmp_path: Path) -> None:
    root = lay_out(tmp_path, [*each("img/<0>.png", "ab"), *each("cells/<0>/<1>.png", "a", range(3))])
    (root / "cells/b").mkdir()
    patterns = {"images": "img/{case}.png", "masks": "cells/{case}/{object}.png"}
    assert cases_of(root, **patterns) == {
        "a": (("img/a.png",), ("cells/a/0.png", "cells/a/1.png", "cells/a/2.png")),
        "b": (("img/b.png",), ()),
    }


def test_patterns_and_another_layout_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="are for the layout patterns, this is nnunet"):
        DatasetConfig(path=".", layout="nnunet", images="a/{case}.png", masks="b/{case}.png")


FAULTY = [
    ({"images": "img/{case}.png"}, r"datasets\.data\.masks: missing; the patterns layout needs"),
    ({"images": "../{case}.png", "masks": "m/{case}.png"}, "expected a path inside the data set's folder"),
    ({"images": "/x/{case}.png", "masks": "m/{case}.png"}, "expected a path inside the data set's folder"),
    ({"images": "img/{name}.png", "masks": "m/{case}.png"}, r"no placeholder \{name\}; there are \{case\}"),
    ({"images": "img/{case.png", "masks": "m/{case}.png"}, "a brace without its partner"),
    ({"images": "img/*.png", "masks": "m/{case}.png"}, r"has no \{case\}; write it where"),
    ({"images": "**/{case}.png", "masks": "m/{case}.png"}, r"\*\* is no pattern here"),
    ({"images": "img/{case}_{class}.png", "masks": "m/{case}.png"}, r"\{class\} belongs into `masks`"),
    ({"images": "img/{case}.png", "masks": "m/{case}_{channel}.png"}, r"\{channel\} belongs into `images`"),
]


@pytest.mark.parametrize(("section", "words"), FAULTY)
def test_patterns_that_make_no_sense(section: dict[str, str], words: str, tmp_path: Path) -> None:
    lay_out(tmp_path, ["img/a.png", "m/a.png"])
    with pytest.raises(ConfigError, match=words):
        find_cases("data", tmp_path, DatasetConfig(path=".", labels={"cell": 1}, **section))


def test_a_published_test_set_is_kept_apart_by_its_split(tmp_path: Path) -> None:
    root = lay_out(tmp_path / "data", PUBLISHED["DRIVE"].files)
    section: dict[str, Any] = {
        "images": "{split}/images/{case}_{split}.tif",
        "masks": "{split}/1st_manual/{case}_manual1.gif",
        "labels": {"vessel": 255},
    }
    for split, kept in (("test", two(range(1, 21))), ("training", [str(n) for n in range(21, 41)])):
        found = find_cases("data", root, DatasetConfig(path=".", **section, test={"split": split}))
        assert not found.faults
        assert sorted(found.test) == kept
        assert len(found.candidates) == 40
    (fault,) = find_cases("data", root, DatasetConfig(path=".", **section, test={"split": "tset"})).faults
    assert fault.cause == "`test` names the split tset, {split} is test, training"
    with pytest.raises(ConfigError, match=r"a split needs \{split\} in `images`"):
        alone = {"images": "training/images/{case}_training.tif", "masks": "training/1st_manual/{case}_manual1.gif"}
        find_cases("data", root, DatasetConfig(path=".", labels={"v": 1}, test={"split": "test"}, **alone))


def test_files_without_a_partner_are_faults_that_name_the_file_that_is_lacking(tmp_path: Path) -> None:
    root = lay_out(tmp_path, ["img/a.png", "img/b.png", "m/a_gt.png", "m/c_gt.png"])
    section = DatasetConfig(path=".", labels={"cell": 1}, images="img/{case}.png", masks="m/{case}_gt.png")
    found = find_cases("data", root, section).faults
    assert [(f.code, f.case, f.cause) for f in found] == [
        ("image-without-label", "b", "no file m/b_gt.png"),
        ("label-without-image", "c", "no file img/c.png"),
    ]
    section = DatasetConfig(path=".", labels={"cell": 1}, images="img/{case}.tif", masks="m/{case}_gt.png")
    (fault,) = find_cases("data", root, section).faults
    assert fault.cause == "`images: img/{case}.tif` matches no file"
    assert "img/a.png" in fault.fix
