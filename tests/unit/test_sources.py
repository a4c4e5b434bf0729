"""Every layout: what it finds, what is wrong when files are missing or misnamed, and a whole ingest of each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import Config
from medseg.errors import ConfigError, DatasetFaults
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import read_manifest
from medseg.ingest.run import check, run
from medseg.ingest.sources import LAYOUTS, find_cases
from medseg.ingest.splits import read_split
from tests.configurations import config as configured

CLASSES = {"ball": 1, "rod": 2}
SHAPE = (12, 10, 8)
NAMES = ("alpha", "beta", "gamma", "delta")


def volume(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image that varies, int16, and a label map with both classes, uint8."""
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6, 2:6, 2:6] = 1
    labels[7:10, 3:8, 1:5] = 2
    return (labels * 200 + rng.integers(0, 100, SHAPE)).astype(np.int16), labels


def store(path: Path, values: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 2.0)) -> None:
    """Write voxels in the format that the suffix names; volumes as NIfTI (or TIFF), planes as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, values, metadata={"axes": "ZYX"})
    elif path.suffix == ".png":
        write_labels(path, values.astype(np.uint8), Geometry.from_spacing(values.shape, (1.0, 1.0)))
    else:
        write_labels(path, values, Geometry.from_spacing(values.shape, spacing, "mm"))


def write_pairs(root: Path) -> None:
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        store(root / "images" / f"{name}.nii.gz", image)
        store(root / "masks" / f"{name}.nii.gz", labels)


def write_decathlon(root: Path) -> None:
    training = []
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        store(root / "imagesTr" / f"{name}.nii.gz", image)
        store(root / "labelsTr" / f"{name}.nii.gz", labels)
        training.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    labels_of = {"0": "background", "1": "ball", "2": "rod"}
    index = {"modality": {"0": "CT"}, "labels": labels_of, "training": training}
    (root / "dataset.json").write_text(json.dumps(index))


NNUNET = {
    "channel_names": {"0": "T2", "1": "ADC"},
    "labels": {"background": 0, "ball": 1, "rod": 2},
    "numTraining": len(NAMES),
    "file_ending": ".nii.gz",
}


def write_nnunet(root: Path, ending: str = ".nii.gz") -> None:
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        store(root / "imagesTr" / f"{name}_0000{ending}", image)
        store(root / "imagesTr" / f"{name}_0001{ending}", 1000 - 3 * image)
        store(root / "labelsTr" / f"{name}{ending}", labels)
    (root / "dataset.json").write_text(json.dumps(NNUNET | {"file_ending": ending}))


def write_bids(root: Path) -> None:
    sites = []
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        session = "ses-1/" if seed % 2 else ""
        stem = f"sub-{name}" + ("_ses-1" if session else "")
        store(root / f"sub-{name}/{session}anat/{stem}_T2w.nii.gz", image)
        store(root / f"sub-{name}/{session}anat/{stem}_T1w.nii.gz", image[::-1].copy())
        store(root / f"derivatives/labels/sub-{name}/{session}anat/{stem}_space-T2w_dseg.nii.gz", labels)
        sites.append(f"sub-{name}\t{40 + seed}\t{'north' if seed % 2 else 'south'}")
    (root / "participants.tsv").write_text("\n".join(["participant_id\tage\tsite", *sites]) + "\n")
    (root / "dataset_description.json").write_text("{}")


def write_dsb2018(root: Path) -> None:
    for seed, name in enumerate(NAMES):
        image, _ = volume(seed)
        plane = image[:, :, 3] % 251
        store(root / f"stage1_train/{name}/images/{name}.png", plane)
        for number in range(3):
            mask = np.zeros(plane.shape, np.uint8)
            mask[4 * number : 4 * number + 2, 1:5] = 255
            store(root / f"stage1_train/{name}/masks/m{number}.png", mask)


def write_table(root: Path) -> None:
    lines = ["case,image_T1,image_T2,label,subject,site,age"]
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        store(root / f"deep/{name} a.nii.gz", image)
        store(root / f"deep/{name} b.nii.gz", 7 * image)
        store(root / f"labels of {name}.nii.gz", labels)
        lines.append(f"{name},deep/{name} a.nii.gz,deep/{name} b.nii.gz,labels of {name}.nii.gz,P{seed},s{seed % 2},9")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")


def write_corrections(root: Path) -> None:
    lines = ["case,subject,image,label,label_source,annotator,model,fingerprint,weights,date,predicted"]
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        own = f"medseg-corrections/{name}"
        store(root / own / f"image/{name}.nii.gz", image)
        store(root / own / "label/edited.nii.gz", labels)
        files = f"{own}/image/{name}.nii.gz,{own}/label/edited.nii.gz"
        lines.append(f"{name},P{seed},{files},corrected,anna,a/unet fold 0 seed 0,f00,w00,2026-12-01,{seed:064d}")
    (root / "medseg-corrections/cases.csv").write_text("\n".join(lines) + "\n")


def write_patterns(root: Path) -> None:
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        store(root / "scans" / f"{name}_T1.nii.gz", image)
        store(root / "scans" / f"{name}_T2.nii.gz", 7 * image)
        store(root / "gt" / f"{name}_seg.nii.gz", labels)


@dataclass(frozen=True)
class Example:
    """A sound data set in one layout."""

    write: Callable[[Path], None]
    section: dict[str, Any] = field(default_factory=dict)
    cases: tuple[str, ...] = tuple(sorted(NAMES))
    channels: tuple[str, ...] = ("channel0",)
    subjects: tuple[str, ...] = tuple(sorted(NAMES))


SUBS = tuple(sorted(f"sub-{name}" for name in NAMES))
LABELS = {"labels": CLASSES}
EXAMPLES = {
    "pairs": Example(write_pairs, LABELS),
    "patterns": Example(
        write_patterns,
        LABELS | {"images": "scans/{case}_{channel}.nii.gz", "masks": "gt/{case}_seg.nii.gz"},
        channels=("T1", "T2"),
    ),
    "decathlon": Example(write_decathlon, channels=("CT",)),
    "nnunet": Example(write_nnunet, channels=("T2", "ADC")),
    "bids": Example(
        write_bids,
        LABELS | {"bids": {"image": ["T2w", "T1w"]}},
        ("sub-alpha", "sub-beta_ses-1", "sub-delta_ses-1", "sub-gamma"),
        ("T2w", "T1w"),
        SUBS,
    ),
    "dsb2018": Example(write_dsb2018),
    "table": Example(
        write_table, LABELS | {"table": "cases.csv"}, channels=("T1", "T2"), subjects=("P0", "P1", "P3", "P2")
    ),
    "corrections": Example(write_corrections, LABELS, subjects=("P0", "P1", "P3", "P2")),
}


def config(root: Path, layout: str, **section: Any) -> Config:
    return configured(root, layout=layout, **section)


def faults_of(root: Path, layout: str, **section: Any) -> list[tuple[str, str]]:
    with pytest.raises(DatasetFaults) as caught:
        check(config(root, layout, **{**EXAMPLES[layout].section, **section}), "data")
    text = str(caught.value)
    assert all(f.fix and f.cause for f in caught.value.faults), text
    return [(f.code, f.case) for f in caught.value.faults]


def causes_of(root: Path, layout: str, **section: Any) -> str:
    with pytest.raises(DatasetFaults) as caught:
        check(config(root, layout, **{**EXAMPLES[layout].section, **section}), "data")
    return "\n".join(f"{f.cause} · {f.fix}" for f in caught.value.faults)


def test_every_layout_has_an_example_and_a_place_in_the_configuration() -> None:
    from typing import get_args

    from medseg.config import DatasetConfig

    assert set(EXAMPLES) == set(LAYOUTS) == set(get_args(get_args(DatasetConfig.model_fields["layout"].annotation)[0]))


@pytest.mark.parametrize("layout", EXAMPLES)
def test_a_whole_ingest(layout: str, tmp_path: Path) -> None:
    example = EXAMPLES[layout]
    example.write(tmp_path / "data")
    out = tmp_path / "out"
    manifest = run(config(tmp_path, layout, **example.section), "data", out)
    assert read_manifest(out / "manifest.tsv") == manifest
    assert tuple(c.id for c in manifest.cases) == example.cases
    assert tuple(c.subject for c in manifest.cases) == example.subjects
    assert manifest.channels == example.channels
    assert manifest.allowed == ()
    val = [case for fold in (0, 1) for case in read_split(out / "splits.json", fold)[1]]
    assert sorted(val) == list(example.cases)
    for case in manifest.cases:
        image, labels = read_case_image(case, tmp_path / "data"), read_case_labels(case, tmp_path / "data")
        assert image.shape == (len(manifest.channels), *labels.shape)
        name = case.id.removeprefix("sub-").removesuffix("_ses-1")
        expected, truth = volume(NAMES.index(name))
        if layout == "dsb2018":
            assert len(case.labels) == 3
            assert sorted(np.unique(labels)) == [0, 1, 2, 3]
            assert manifest.labels.instances
            assert dict(case.label_counts) == {0: 120 - 24, 1: 24}
        else:
            np.testing.assert_array_equal(image[0], expected)
            np.testing.assert_array_equal(labels, truth)
            assert manifest.labels.names == (("ball", 1), ("rod", 2))


@pytest.mark.parametrize("layout", EXAMPLES)
def test_hidden_files_and_litter_are_overlooked(layout: str, tmp_path: Path) -> None:
    EXAMPLES[layout].write(tmp_path / "data")
    folders = [path for path in (tmp_path / "data").rglob("*") if path.is_dir()] + [tmp_path / "data"]
    for folder in folders:
        for name in (".DS_Store", "._alpha.nii.gz", "Thumbs.db"):
            (folder / name).write_bytes(b"left by a file manager")
        (folder / "__MACOSX").mkdir()
        (folder / "__MACOSX" / "sub-x_T2w.nii.gz").write_bytes(b"")
    assert len(check(config(tmp_path, layout, **EXAMPLES[layout].section), "data").cases) == len(NAMES)


@pytest.mark.parametrize("layout", EXAMPLES)
def test_odd_folders_and_loops_of_links_are_survived(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "i ü dir 🙂" / "a'b"
    EXAMPLES[layout].write(root / "data")
    for folder in [path for path in (root / "data").rglob("*") if path.is_dir()]:
        (folder / ".loop").symlink_to(root / "data", target_is_directory=True)
    assert len(check(config(root, layout, **EXAMPLES[layout].section), "data").cases) == len(NAMES)
    for folder in [path for path in (root / "data").rglob("*") if path.is_dir() and not path.is_symlink()]:
        (folder / "loop").symlink_to(folder, target_is_directory=True)
        (folder / "circle").symlink_to(folder / "circle")
    source = find_cases("data", root / "data", config(root, layout, **EXAMPLES[layout].section).datasets["data"])
    assert {c.id for c in source.candidates} >= set(EXAMPLES[layout].cases) or source.faults
    assert len(source.faults) < 20


@pytest.mark.parametrize("layout", EXAMPLES)
def test_a_missing_folder_names_the_way_out(layout: str, tmp_path: Path) -> None:
    assert faults_of(tmp_path, layout) == [("missing", "-")]
    assert "medseg download" in causes_of(tmp_path, layout, download={"url": "http://localhost/x.zip"})


# What is listed or named, and not there. Damage -> (code, case); each is told once.

Damage = Callable[[Path], Any]


def json_change(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(root: Path) -> None:
        index = json.loads((root / "dataset.json").read_text())
        change(index)
        (root / "dataset.json").write_text(json.dumps(index))

    return damage


def text_change(name: str, old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return damage


def drop(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def move(old: str, new: str) -> Damage:
    def damage(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return damage


def several(*damages: Damage) -> Damage:
    return lambda root: [damage(root) for damage in damages]


ANAT, DERIVED = "sub-alpha/anat/sub-alpha", "derivatives/labels/sub-alpha/anat/sub-alpha"
FAULTY: list[tuple[str, str, Damage, str, str, str]] = [
    ("nnunet", "no label", drop("labelsTr/beta.nii.gz"), "image-without-label", "beta", "labelsTr/beta.nii.gz"),
    (
        "nnunet",
        "no image",
        several(drop("imagesTr/beta_0000.nii.gz"), drop("imagesTr/beta_0001.nii.gz")),
        "label-without-image",
        "beta",
        "imagesTr/beta_0000.nii.gz",
    ),
    ("nnunet", "a channel gone", drop("imagesTr/beta_0001.nii.gz"), "channels", "beta", "no channel _0001 (ADC)"),
    (
        "nnunet",
        "a channel more",
        lambda r: store(r / "imagesTr/beta_0002.nii.gz", volume(9)[0]),
        "channels",
        "beta",
        "channel _0002 beyond the 2",
    ),
    (
        "nnunet",
        "no channel number",
        lambda r: store(r / "imagesTr/omega.nii.gz", volume(9)[0]),
        "channels",
        "omega",
        "rename to omega_0000.nii.gz",
    ),
    (
        "nnunet",
        "another ending",
        lambda r: store(r / "imagesTr/omega_0000.png", volume(9)[0][0]),
        "unlisted",
        "omega_0000.png",
        "end in .nii.gz",
    ),
    ("nnunet", "no dataset.json", drop("dataset.json"), "missing", "-", "no such file"),
    ("nnunet", "cut", lambda r: (r / "dataset.json").write_text('{"labels'), "dataset-json", "-", "JSON"),
    (
        "nnunet",
        "a class twice",
        text_change("dataset.json", '"rod": 2', '"rod": 2, "rod": 3'),
        "dataset-json",
        "-",
        "the key 'rod' is there twice",
    ),
    ("nnunet", "a list", lambda r: (r / "dataset.json").write_text("[]"), "dataset-json", "-", "no mapping"),
    ("nnunet", "numTraining", json_change(lambda i: i.update(numTraining=7)), "dataset-json", "-", "is 7, 4 cases"),
    ("nnunet", "numTraining as text", json_change(lambda i: i.update(numTraining="7")), "dataset-json", "-", "is 7, 4"),
    (
        "nnunet",
        "odd numTraining",
        json_change(lambda i: i.update(numTraining=[4])),
        "dataset-json",
        "-",
        "is [4] (list)",
    ),
    ("nnunet", "no ending", json_change(lambda i: i.pop("file_ending")), "dataset-json", "-", "file_ending None"),
    ("nnunet", "no channels", json_change(lambda i: i.pop("channel_names")), "dataset-json", "-", "channel_names"),
    ("nnunet", "no labels", json_change(lambda i: i.pop("labels")), "dataset-json", "-", "no mapping 'labels'"),
    (
        "nnunet",
        "label is text",
        json_change(lambda i: i["labels"].update(rod="two")),
        "dataset-json",
        "-",
        "'rod': 'two', expected a whole number",
    ),
    (
        "nnunet",
        "regions without order",
        json_change(lambda i: i.update(labels={"background": 0, "whole": [1, 2], "rod": 2})),
        "dataset-json",
        "-",
        "regions_class_order",
    ),
    (
        "nnunet",
        "order too short",
        json_change(lambda i: i.update(labels={"whole": [1, 2], "rod": 2}, regions_class_order=[1])),
        "dataset-json",
        "-",
        "one value for each of ['whole', 'rod']",
    ),
    (
        "nnunet",
        "twins in case",
        lambda r: [
            (r / f"{d}/beta{n}.nii.gz").rename(r / f"{d}/ALPHA{n}.nii.gz")
            for d, n in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", ""))
        ],
        "duplicate-id",
        "alpha",
        "the same id",
    ),
    ("bids", "no label", drop(f"{DERIVED}_space-T2w_dseg.nii.gz"), "image-without-label", "sub-alpha", "dseg"),
    (
        "bids",
        "no image",
        several(drop(f"{ANAT}_T2w.nii.gz"), drop(f"{ANAT}_T1w.nii.gz")),
        "label-without-image",
        "sub-alpha_space-T2w_dseg",
        "*_T2w",
    ),
    ("bids", "a channel gone", drop(f"{ANAT}_T1w.nii.gz"), "channels", "sub-alpha", "sub-alpha_T1w"),
    ("bids", "the first channel gone", drop(f"{ANAT}_T2w.nii.gz"), "channels", "sub-alpha", "sub-alpha_T2w"),
    (
        "bids",
        "two labels",
        lambda r: store(r / f"{DERIVED}_desc-second_dseg.nii.gz", volume(0)[1]),
        "duplicate-id",
        "sub-alpha",
        "2 label maps",
    ),
    (
        "bids",
        "label of another run",
        move(f"{DERIVED}_space-T2w_dseg.nii.gz", f"{DERIVED}_run-2_dseg.nii.gz"),
        "image-without-label",
        "sub-alpha",
        "",
    ),
    (
        "dsb2018",
        "no masks",
        lambda r: shutil.rmtree(r / "stage1_train/beta/masks"),
        "image-without-label",
        "beta",
        "no folder stage1_train/beta/masks",
    ),
    (
        "dsb2018",
        "no objects",
        lambda r: [f.unlink() for f in (r / "stage1_train/beta/masks").iterdir()],
        "empty-label",
        "beta",
        "none of 120 voxels",
    ),
    ("dsb2018", "no image", drop("stage1_train/beta/images/beta.png"), "label-without-image", "beta", "no image in"),
    ("dsb2018", "an empty folder", lambda r: (r / "stage1_train/new").mkdir(), "missing", "new", "neither"),
    (
        "dsb2018",
        "two images",
        lambda r: store(r / "stage1_train/beta/images/z.png", volume(8)[0][0]),
        "duplicate-id",
        "beta",
        "the same id",
    ),
    ("table", "no file", drop("cases.csv"), "table", "-", "cannot be read"),
    ("table", "no text", lambda r: (r / "cases.csv").write_bytes(b"case,\xff\xfe"), "table", "-", "not UTF-8"),
    ("table", "empty", lambda r: (r / "cases.csv").write_text("\n"), "table", "-", "empty"),
    ("table", "a cell more", text_change("cases.csv", "P1,", "P1,,"), "table", "-", "line 3 has 8 cells, the header 7"),
    ("table", "an open quote", text_change("cases.csv", "beta,", '"beta,'), "table", "-", "quote"),
    ("table", "misspelt", text_change("cases.csv", "subject", "subjct"), "table", "-", "did you mean 'subject'"),
    ("table", "other word", text_change("cases.csv", "subject", "patient_id"), "table", "-", "did you mean 'subject'"),
    ("table", "capital", text_change("cases.csv", "site", "Site"), "table", "-", "did you mean 'site'"),
    ("table", "no label column", text_change("cases.csv", "label,", "note,"), "table", "-", "no column 'label'"),
    ("table", "column twice", text_change("cases.csv", "site,age", "site,site"), "table", "-", "two columns 'site'"),
    ("table", "no id", text_change("cases.csv", "beta,deep", ",deep"), "table", "-", "line 3: column 'case' is empty"),
    ("table", "no subject", text_change("cases.csv", ",P1,", ",,"), "table", "beta", "column 'subject' is empty"),
    ("table", "no label", text_change("cases.csv", "labels of beta.nii.gz", ""), "image-without-label", "beta", ""),
    ("table", "label gone", drop("labels of beta.nii.gz"), "image-without-label", "beta", "labels of beta.nii.gz"),
    ("table", "a channel gone", drop("deep/beta b.nii.gz"), "channels", "beta", "1 of 2 channel files"),
    (
        "table",
        "no image",
        several(drop("deep/beta a.nii.gz"), drop("deep/beta b.nii.gz")),
        "label-without-image",
        "beta",
        "deep/beta a.nii.gz",
    ),
    ("table", "hostile id", text_change("cases.csv", "beta,deep", "../X,deep"), "unsafe-id", "../X", ""),
    ("table", "an id twice", text_change("cases.csv", "beta,deep", "alpha,deep"), "duplicate-id", "alpha", "alpha a"),
]


@pytest.mark.parametrize(
    ("layout", "damage", "code", "case", "words"),
    [(layout, damage, code, case, words) for layout, _, damage, code, case, words in FAULTY],
    ids=[f"{layout}: {name}" for layout, name, *_ in FAULTY],
)
def test_each_fault_of_a_layout_is_told_once(
    layout: str, damage: Damage, code: str, case: str, words: str, tmp_path: Path
) -> None:
    EXAMPLES[layout].write(tmp_path / "data")
    damage(tmp_path / "data")
    found = faults_of(tmp_path, layout)
    assert (code, case) in found
    allowed = {("label-without-image", "sub-alpha_run-2_dseg")} if "sub-" in case else set()
    assert set(found) - {(code, case)} <= allowed, found
    assert found.count((code, case)) == 1
    assert words in causes_of(tmp_path, layout)
    assert "\n\n" not in causes_of(tmp_path, layout)


# Paths that lead out (CF-05) and names that no file may have (CF-08), in every layout that lists files

SPELLINGS = ["../out.nii.gz", "/etc/passwd", "a/../../out.nii.gz", "./../out.nii.gz", "imagesTr/../../out.nii.gz", "li"]


@pytest.mark.parametrize("layout", ["decathlon", "nnunet", "table"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("role", ["image", "label"])
def test_paths_that_lead_out_are_refused(layout: str, spelling: str, role: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    EXAMPLES[layout].write(root)
    store(tmp_path / "out.nii.gz", volume(7)[0])
    (root / "a").mkdir()
    (root / "li").symlink_to(tmp_path / "out.nii.gz")
    good = {"image": "imagesTr/alpha.nii.gz", "label": "labelsTr/alpha.nii.gz"}
    entry = good | {role: spelling}
    if layout == "decathlon":
        json_change(lambda i: i["training"].append(entry))(root)
    elif layout == "nnunet":
        new = {"images": [entry["image"], "imagesTr/alpha_0001.nii.gz"], "label": entry["label"]}
        json_change(lambda i: i.update(dataset={"new": new}, numTraining=1))(root)
    else:
        (root / "cases.csv").write_text(f"case,image,label\nnew,{entry['image']},{entry['label']}\n")
    source = find_cases("data", root, config(tmp_path, layout, **EXAMPLES[layout].section).datasets["data"])
    escapes = [f for f in source.faults if f.code == "unsafe-path"]
    assert len(escapes) == 1
    assert escapes[0].file == str(Path(spelling))
    assert all("out.nii.gz" not in file and file != "li" for c in source.candidates for file in (*c.images, *c.labels))


@pytest.mark.parametrize("layout", ["pairs", "nnunet", "bids", "dsb2018"])
def test_links_that_lead_out_are_refused(layout: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    EXAMPLES[layout].write(root)
    file = sorted(f for f in root.rglob("*alpha*") if f.is_file())[0]
    outside = tmp_path / file.name
    file.rename(outside)
    file.symlink_to(outside)
    assert [code for code, _ in faults_of(tmp_path, layout)] == ["unsafe-path"]
    # A link that stays inside is a file like any other.
    file.unlink()
    outside.rename(root / ".inside")
    file.symlink_to(os.path.relpath(root / ".inside", file.parent))
    assert len(check(config(tmp_path, layout, **EXAMPLES[layout].section), "data").cases) == len(NAMES)


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "a\x1b[1m"])
def test_names_that_are_unsafe(name: str, tmp_path: Path) -> None:
    write_pairs(tmp_path / "data")
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder / "alpha.nii.gz").rename(tmp_path / "data" / folder / f"{name}.nii.gz")
    assert [code for code, _ in faults_of(tmp_path, "pairs")] == ["unsafe-id"]


def test_names_that_differ_in_unicode_form_only(tmp_path: Path) -> None:
    write_pairs(tmp_path / "data")
    for folder in ("images", "masks"):
        for old, new in (("alpha", "\u00e9"), ("beta", "e\u0301")):
            (tmp_path / "data" / folder / f"{old}.nii.gz").rename(tmp_path / "data" / folder / f"{new}.nii.gz")
    assert [code for code, _ in faults_of(tmp_path, "pairs")] == ["duplicate-id"]


# What single layouts know


def test_nnunet_regions_and_ignore(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_nnunet(root)
    labels = {"background": 0, "whole": [1, 2], "rod": 2, "ignore": 3}
    json_change(lambda i: i.update(labels=labels, regions_class_order=[1, 2]))(root)
    values = volume(0)[1]
    values[0] = 3
    store(root / "labelsTr/alpha.nii.gz", values)
    manifest = check(config(tmp_path, "nnunet"), "data")
    assert manifest.labels.regions == (("whole", (1, 2)), ("rod", (2,)))
    assert manifest.labels.order == (1, 2)
    assert manifest.labels.ignore == 3
    assert dict(manifest.labels.names) == {"label 1": 1, "rod": 2}
    assert "take `regions` and `instances` out" in causes_of(tmp_path, "nnunet", instances=True)


def test_nnunet_ignore_alone_and_classes_of_the_configuration(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "data")
    json_change(lambda i: i["labels"].update(ignore=3))(tmp_path / "data")
    table = check(config(tmp_path, "nnunet"), "data").labels
    assert (dict(table.names), table.ignore, table.regions) == ({"ball": 1, "rod": 2}, 3, ())
    own = check(config(tmp_path, "nnunet", labels={"one": 1, "two": 2}), "data").labels
    assert (dict(own.names), own.ignore) == ({"one": 1, "two": 2}, None)


@pytest.mark.parametrize("count", ["4", " 4 ", 4])
def test_nnunet_takes_a_count_that_is_text(count: Any, tmp_path: Path) -> None:
    write_nnunet(tmp_path / "data")
    json_change(lambda i: i.update(numTraining=count))(tmp_path / "data")
    assert len(check(config(tmp_path, "nnunet"), "data").cases) == 4


def test_nnunet_lists_files_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_nnunet(root)
    entry = {"images": ["imagesTr/beta_0000.nii.gz", "imagesTr/beta_0001.nii.gz"], "label": "labelsTr/beta.nii.gz"}
    other = {"images": ["imagesTr/alpha_0000.nii.gz", "imagesTr/alpha_0001.nii.gz"], "label": "labelsTr/alpha.nii.gz"}
    json_change(lambda i: i.update(dataset={"one": entry, "two": other}, numTraining=2))(root)
    manifest = check(config(tmp_path, "nnunet"), "data")
    assert [c.id for c in manifest.cases] == ["one", "two"]
    assert manifest.cases[0].images == tuple(entry["images"])
    wrong = {"one": entry, "two": other | {"images": ["a.nii.gz"]}, "three": "x"}
    json_change(lambda i: i.update(dataset=wrong, numTraining=9))(root)
    assert faults_of(tmp_path, "nnunet") == [("channels", "two"), ("dataset-json", "-"), ("dataset-json", "three")]


def test_nnunet_sidecars_bring_spacing_to_tiff(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_nnunet(root, ".tif")
    for name in NAMES:
        for folder in ("imagesTr", "labelsTr"):
            (root / folder / f"{name}.json").write_text('{"spacing": [2.0, 0.5, 0.25]}')
    grids = {c.geometry for c in check(config(tmp_path, "nnunet"), "data").cases}
    assert {(g.spacing, g.unit, g.shape) for g in grids} == {((2.0, 0.5, 0.25), "um", SHAPE)}
    (root / "labelsTr/alpha.json").write_text('{"spacing": [2.0, 0.5, 0.5]}')
    (root / "imagesTr/beta.json").write_text('{"spacing": [2.0, 0.5, 0]}')
    (root / "imagesTr/gamma.json").write_text('{"spacing": "fine"}')
    (root / "imagesTr/delta.json").write_text("{")
    assert faults_of(tmp_path, "nnunet") == [
        ("affine-mismatch", "alpha"),
        ("unreadable", "beta"),
        ("unreadable", "delta"),
        ("unreadable", "gamma"),
    ]


def test_bids_sites_and_names(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_bids(root)
    manifest = check(config(tmp_path, "bids", **EXAMPLES["bids"].section, folds={"scheme": "site"}), "data")
    assert {c.subject: c.site for c in manifest.cases} == {
        "sub-alpha": "south",
        "sub-beta": "north",
        "sub-gamma": "south",
        "sub-delta": "north",
    }
    participants = root / "participants.tsv"
    sound = participants.read_bytes()
    participants.write_bytes(sound.replace(b"north", b"n\xf6rth"))
    source = find_cases("data", root, config(tmp_path, "bids", **EXAMPLES["bids"].section).datasets["data"])
    assert [(f.code, f.file) for f in source.faults] == [("table", "participants.tsv")]
    assert "not UTF-8" in source.faults[0].cause
    participants.write_bytes(sound)
    # A longer end is another image: the one with contrast agent is not the one without.
    image, labels = volume(5)
    store(root / f"{ANAT}_ce-GAD_T1w.nii.gz", image)
    store(root / "derivatives/manual/sub-alpha/anat/sub-alpha_ce-GAD_label-ball_seg.nii.gz", labels)
    fitting = {"image": "ce-GAD_T1w", "derivative": "manual", "label": "label-ball_seg"}
    section = LABELS | {"bids": fitting, "folds": {"count": 2}}
    source = find_cases("data", root, config(tmp_path, "bids", **section).datasets["data"])
    assert [(c.id, c.images) for c in source.candidates] == [("sub-alpha", (f"{ANAT}_ce-GAD_T1w.nii.gz",))]
    assert source.faults == ()


def test_bids_names_the_derivatives_that_there_are(tmp_path: Path) -> None:
    write_bids(tmp_path / "data")
    told = causes_of(tmp_path, "bids", bids={"derivative": "lables"})
    assert "there are: labels" in told
    assert faults_of(tmp_path, "bids", bids={"image": "FLAIR"}) == [
        ("label-without-image", f"{case}_space-T2w_dseg") for case in EXAMPLES["bids"].cases
    ]


def test_dsb2018_ids_of_64_letters_lie_directly_in_the_folder(tmp_path: Path) -> None:
    write_dsb2018(tmp_path)
    (tmp_path / "stage1_train").rename(tmp_path / "data")
    long = "0" * 60 + "beef"
    (tmp_path / "data/alpha").rename(tmp_path / "data" / long)
    (tmp_path / "data/readme.txt").write_text("not a case")
    manifest = check(config(tmp_path, "dsb2018", labels={"cell": 1}), "data")
    assert [c.id for c in manifest.cases] == [long, "beta", "delta", "gamma"]
    assert manifest.labels.class_names == ("cell",)
    assert manifest.cases[0].labels == tuple(f"{long}/masks/m{k}.png" for k in range(3))


def test_table_cells(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for seed, name in enumerate(NAMES):
        image, labels = volume(seed)
        store(root / f"{name}.tif", image)
        store(root / f"{name}_l.tif", labels)
    header = "case\tT2\tlabel\tspacing\tseries\tfold\n"
    rows = [f"{name}\t{name}.tif\t{name}_l.tif\t2 x 0.5 x 0.25\t\t{k % 2}" for k, name in enumerate(NAMES)]
    (root / "cases.tsv").write_bytes(b"\xef\xbb\xbf" + (header + "\r\n\r\n".join(rows)).encode())
    section = LABELS | {"table": "cases.tsv", "channels": ["T2"]}
    manifest = run(config(tmp_path, "table", **section), "data", tmp_path / "out")
    assert manifest.channels == ("T2",)
    assert {(c.geometry.spacing, c.geometry.unit) for c in manifest.cases} == {((2.0, 0.5, 0.25), "um")}
    # Its column `fold` is what it says, unless the configuration names another file.
    assert read_split(tmp_path / "out" / "splits.json", 0) == (["beta", "delta"], ["alpha", "gamma"])
    assert json.loads((tmp_path / "out" / "splits.json").read_text())["scheme"] == "file"
    text_change("cases.tsv", "0.5", "0,5")(root)
    assert faults_of(tmp_path, "table", **section) == [("table", name) for name in sorted(NAMES)]


def test_all_faults_of_a_table_are_told_at_once(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_table(root)
    text = (root / "cases.csv").read_text()
    text = text.replace("alpha,deep", ",deep").replace(",P1,", ",,").replace("deep/gamma a", "../gamma a")
    (root / "cases.csv").write_text(text.replace("labels of delta", "labels of elsewhere"))
    assert faults_of(tmp_path, "table") == [
        ("image-without-label", "delta"),
        ("table", "-"),
        ("table", "beta"),
        ("unsafe-path", "gamma_a"),
    ]
    (root / "cases.csv").write_text("cases;image_1;lable\n")
    assert causes_of(tmp_path, "table").count("did you mean") == 2


def test_settings_that_a_layout_needs(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for layout in ("pairs", "bids", "table"):
        with pytest.raises(ConfigError, match=f"the {layout} layout needs"):
            check(config(tmp_path, layout, table="cases.csv"), "data")
    with pytest.raises(ConfigError, match="the table layout needs the file of cases"):
        check(config(tmp_path, "table", **LABELS), "data")


def test_pairs_of_folders_and_of_headers_with_data_files(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder, suffix in (("images", ""), ("masks", ".nii.gz")):
        for name in ("P01.2", "P02"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if suffix:
                (root / folder / f"{name}{suffix}").write_bytes(b"")
            else:
                (root / folder / name).mkdir()
    for name in ("P03.mhd", "P03.raw", "P04.nhdr", "P04.raw.gz"):
        (root / "images" / name).write_bytes(b"")
    for name in ("P03", "P04"):
        (root / "masks" / f"{name}.nii.gz").write_bytes(b"")
    section = config(tmp_path, "pairs", **LABELS, subject="case").datasets["data"]
    source = find_cases("data", root, section)
    assert [(c.id, c.images) for c in source.candidates] == [
        ("P01.2", ("images/P01.2",)),
        ("P02", ("images/P02",)),
        ("P03", ("images/P03.mhd",)),
        ("P04", ("images/P04.nhdr",)),
    ]
    assert source.faults == ()


# Whatever stands in the files, nothing but faults and our own errors comes of it

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["0", "²", "CT"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("0"), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["channel_names", "modality", "labels", "training", "dataset", "numTraining", "file_ending"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    write_nnunet(root / "data", ".tif")
    return root


@pytest.mark.parametrize("layout", ["decathlon", "nnunet"])
@given(st.dictionaries(st.sampled_from([*KEYS, "regions_class_order"]), JSON, max_size=3), JSON)
def test_any_json(layout: str, small: Path, change: dict[str, Any], sidecar: Any) -> None:
    (small / "data/dataset.json").write_text(json.dumps(NNUNET | {"file_ending": ".tif", "training": []} | change))
    (small / "data/imagesTr/alpha.json").write_text(json.dumps(sidecar))
    source = find_cases("data", small / "data", config(small, layout).datasets["data"])
    assert source.labels is not None or source.faults


@pytest.mark.parametrize("layout", ["decathlon", "nnunet"])
def test_json_that_is_nested_too_deeply(layout: str, tmp_path: Path) -> None:
    EXAMPLES[layout].write(tmp_path / "data")
    (tmp_path / "data/dataset.json").write_text("[" * 200_000)
    assert faults_of(tmp_path, layout) == [("dataset-json", "-")]


CELLS = st.text("a,;\t\n\"'/.\\0-é\0\u2028 ", max_size=12) | st.sampled_from(
    ["case", "image", "label", "subject", "fold"]
)


@given(st.lists(st.lists(CELLS, max_size=6), max_size=5), st.sampled_from(",\t;"), st.booleans())
def test_any_table(small: Path, rows: list[list[str]], separator: str, headed: bool) -> None:
    lines = [separator.join(row) for row in rows]
    head = [separator.join(["case", "image", "label", "fold"])] if headed else []
    (small / "data/cases.csv").write_text("\n".join(head + lines), newline="")
    section = config(small, "table", **LABELS, table="cases.csv").datasets["data"]
    source = find_cases("data", small / "data", section)
    assert source.faults
    assert all(len(str(f).splitlines()) == 1 for f in source.faults)


# Subjects (LB-11)


def named(root: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        image, labels = volume(seed)
        store(root / "images" / f"{name}.nii.gz", image)
        store(root / "masks" / f"{name}.nii.gz", labels)


REPEATED = ["patient001_frame01", "patient001_frame12", "patient002_frame01", "patient003"]


def test_ids_that_look_as_if_subjects_repeat_are_refused_until_someone_says(tmp_path: Path) -> None:
    named(tmp_path / "data", REPEATED)
    assert faults_of(tmp_path, "pairs") == [("subject", "-")]
    told = causes_of(tmp_path, "pairs")
    assert "patient001_frame01 and patient001_frame12" in told
    assert "`subject: case`" in told
    suggested = told.split("write `subject: '")[1].split("'`")[0]
    grouped = check(config(tmp_path, "pairs", **LABELS, subject=suggested), "data")
    assert [c.subject for c in grouped.cases] == ["patient001", "patient001", "patient002", "patient003"]
    alone = check(config(tmp_path, "pairs", **LABELS, subject="case"), "data")
    assert [c.subject for c in alone.cases] == sorted(REPEATED)


@pytest.mark.parametrize(
    "names",
    [
        ["hippocampus_001", "hippocampus_003", "hippocampus_004"],
        ["003cee89357d", "0280fa8f60f6", "02903040e19d"],
        ["control_01", "control_02", "tumour_01", "tumour_02"],
        ["BRATS_001", "BRATS_002"],
        ["case-1.2", "case-1.3"],
    ],
)
def test_ids_of_subjects_that_do_not_repeat_pass(names: list[str], tmp_path: Path) -> None:
    named(tmp_path / "data", names)
    assert len(check(config(tmp_path, "pairs", **LABELS), "data").cases) == len(names)


def test_layouts_that_know_subjects_are_believed_unless_the_configuration_says_otherwise(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_table(root)
    text_change("cases.csv", "alpha,deep", "P0_a,deep")(root)
    text_change("cases.csv", "beta,deep", "P0_b,deep")(root)
    text_change("cases.csv", ",P1,", ",P0,")(root)
    section = EXAMPLES["table"].section
    assert [c.subject for c in check(config(tmp_path, "table", **section), "data").cases] == ["P0", "P0", "P3", "P2"]
    own = check(config(tmp_path, "table", **section, subject="case"), "data")
    assert [c.subject for c in own.cases] == [c.id for c in own.cases]


# Without a layout


@pytest.mark.parametrize("layout", EXAMPLES)
def test_a_folder_tells_its_layout_by_its_landmarks(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = EXAMPLES[layout]
    example.write(tmp_path / "data")
    section = config(tmp_path, layout, **example.section).datasets["data"]
    said = find_cases("data", tmp_path / "data", section)
    found = find_cases("data", tmp_path / "data", section.model_copy(update={"layout": None}))
    assert found == said
    assert f"ingest data: layout {layout} (" in capsys.readouterr().err


def test_a_folder_without_landmarks_is_told_which_there_are(tmp_path: Path) -> None:
    (tmp_path / "data" / "scans").mkdir(parents=True)
    section = config(tmp_path, "pairs").datasets["data"].model_copy(update={"layout": None})
    with pytest.raises(ConfigError, match=r"datasets\.data\.layout: not given.*no file.*`images: "):
        find_cases("data", tmp_path / "data", section)
