"""The ingest stage: phantoms, layouts, manifest, folds on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.cli import main
from medseg.cli.data import ingest
from medseg.config import Config
from medseg.errors import ConfigError, DataError, DatasetFaults
from medseg.formats.raw import RawVoxels
from medseg.formats.read import read_image, read_labels
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.cases import open_case_image, read_case_image
from medseg.ingest.fault_list import fault_list
from medseg.ingest.manifest import read_manifest
from medseg.ingest.phantoms import ORGANS, generate, run_phantoms
from medseg.ingest.run import check, run
from medseg.ingest.splits import read_folds, read_split, write_splits
from medseg.provenance import import_closure
from medseg.records import read_record, write_record
from tests.configurations import config

CELLS: dict[str, Any] = {"layout": "pairs", "labels": {"nucleus": 1}, "instances": True}
ORGAN: dict[str, Any] = {"layout": "decathlon"}


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    generate("cells", 4, 0, tmp_path / "data")
    return tmp_path


@pytest.fixture
def organs(tmp_path: Path) -> Path:
    generate("organs", 4, 0, tmp_path / "data")
    return tmp_path


def digest(folder: Path) -> dict[str, str]:
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


# Phantoms


@pytest.mark.parametrize("kind", ["cells", "organs"])
def test_phantoms_are_a_function_of_seed_and_case(kind: Any, tmp_path: Path) -> None:
    for name, cases, seed in (("a", 3, 0), ("b", 3, 0), ("fewer", 2, 0), ("other", 3, 1)):
        generate(kind, cases, seed, tmp_path / name)
    a, b, fewer, other = (digest(tmp_path / name) for name in ("a", "b", "fewer", "other"))
    assert a == b
    shared = [f for f in fewer if "/" in f]
    assert len(shared) == 4
    assert {f: a[f] for f in shared} == {f: fewer[f] for f in shared}
    assert not {a[f] for f in shared} & set(other.values())


@pytest.mark.parametrize("kind", ["cells", "organs"])
def test_phantoms_of_an_earlier_call_go_away_and_other_data_stays(kind: Any, tmp_path: Path) -> None:
    generate(kind, 3, 0, tmp_path / "data")
    generate(kind, 2, 0, tmp_path / "data")
    generate(kind, 2, 0, tmp_path / "fresh")
    assert digest(tmp_path / "data") == digest(tmp_path / "fresh")
    folder = next(p for p in sorted((tmp_path / "data").iterdir()) if p.is_dir())
    (folder / "patient.png").write_bytes(b"real data")
    before = digest(tmp_path / "data")
    with pytest.raises(DataError, match=r"patient\.png: not a phantom"):
        generate(kind, 1, 0, tmp_path / "data")
    assert digest(tmp_path / "data") == before


def test_the_mark_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *_: object) -> None:
        raise OSError(28, "No space left on device")

    generate("cells", 2, 0, tmp_path / "data")
    monkeypatch.setattr("medseg.ingest.phantoms.write_labels", fail)
    with pytest.raises(OSError, match="No space"):
        generate("cells", 2, 1, tmp_path / "data")
    assert not (tmp_path / "data" / "phantoms.json").exists()


def test_cells_touch_and_vary(cells: Path) -> None:
    shapes, touching, depths = set(), 0, set()
    for path in sorted((cells / "data" / "images").iterdir()):
        image, grid = read_image(path)
        labels, same = read_labels(cells / "data" / "masks" / path.name)
        assert grid == same
        shapes.add(grid.shape)
        depths.add(image.dtype)
        assert sorted(np.unique(labels)) == list(range(labels.max() + 1))
        assert labels.max() >= 20
        left, right = labels[:, :-1], labels[:, 1:]
        touching += int(((left != right) & (left > 0) & (right > 0)).sum())
        assert image[0][labels > 0].mean() > 1.5 * image[0][labels == 0].mean()
    assert len(shapes) > 1
    assert touching > 50
    assert depths == {np.dtype(np.uint8), np.dtype(np.uint16)}


def test_organs_lie_oblique_in_several_orientations_and_resemble_their_neighbours(organs: Path) -> None:
    codes = set()
    for path in sorted((organs / "data" / "imagesTr").iterdir()):
        image, grid = read_image(path)
        labels, same = read_labels(organs / "data" / "labelsTr" / path.name)
        assert grid == same
        codes.add(nibabel.aff2axcodes(grid.affine))
        directions = np.abs(grid.affine[:3, :3] / np.array(grid.spacing))
        assert ((directions > 0.03) & (directions < 0.2)).sum() >= 2
        assert max(grid.spacing) > 2 * min(grid.spacing)
        hu = image[0].astype(float)
        means = [hu[labels == value].mean() for value in ORGANS.values()]
        assert 20 < means[1] - means[0] < 90
        # Thresholding cannot do it: as many voxels outside the organs have their intensities.
        alike = (hu > means[0] - 20) & (hu < means[1] + 20) & (labels == 0)
        assert alike.sum() > 0.3 * (labels > 0).sum()
    assert len(codes) == 4


def test_run_phantoms(tmp_path: Path) -> None:
    generated = config(tmp_path, **CELLS, generate={"kind": "cells", "cases": 2, "seed": 7})
    folder = run_phantoms(generated, "data")
    assert folder == tmp_path / "data"
    assert read_record(folder / "phantoms.json", "") == {"kind": "cells", "cases": 2, "seed": 7}
    assert len(check(generated, "data").cases) == 2
    with pytest.raises(ConfigError, match="no `generate`"):
        run_phantoms(config(tmp_path, **CELLS), "data")


# The stage


@pytest.mark.parametrize(("kind", "section"), [("cells", CELLS), ("organs", ORGAN)])
def test_outputs_say_what_the_files_hold(kind: Any, section: dict[str, Any], tmp_path: Path) -> None:
    generate(kind, 4, 0, tmp_path / "data")
    out = tmp_path / "out"
    manifest = run(config(tmp_path, **section), "data", out)
    assert read_manifest(out / "manifest.tsv") == manifest
    written = ["dataset.json", "manifest.tsv", "splits.json", "test.json", "test.tsv"]
    assert sorted(p.name for p in out.iterdir() if not p.name.endswith(".lock")) == written
    for case in manifest.cases:
        image_file, label_file = tmp_path / "data" / case.images[0], tmp_path / "data" / case.labels[0]
        image, grid = read_image(image_file)
        labels, _ = read_labels(label_file)
        assert case.geometry == grid
        assert case.dtype == str(image.dtype)
        assert case.images_sha256 == (hashlib.sha256(image_file.read_bytes()).hexdigest(),)
        assert case.labels_sha256[0] == hashlib.sha256(label_file.read_bytes()).hexdigest()
        counted = labels > 0 if kind == "cells" else labels
        expected = {int(v): int((counted == v).sum()) for v in np.unique(counted)}
        assert dict(case.label_counts) == expected
    if kind == "organs":
        assert manifest.channels == ("CT",)
        assert manifest.labels.names == (("liver", 1), ("kidney", 2))
        assert manifest.dims == 3
    else:
        assert (manifest.channels, manifest.dims) == (("channel0",), 2)


def test_outputs_are_equal_for_any_number_of_workers_and_any_run(cells: Path) -> None:
    for name, workers in (("a", 1), ("b", 1), ("c", 4)):
        run(config(cells, **CELLS), "data", cells / name, workers=workers)
    assert digest(cells / "a") == digest(cells / "b") == digest(cells / "c")


def test_check_writes_nothing(cells: Path) -> None:
    before = digest(cells)
    check(config(cells, **CELLS), "data")
    assert digest(cells) == before


@pytest.mark.parametrize("only_check", [True, False])
@pytest.mark.parametrize(
    ("section", "cause"),
    [
        (
            {"metrics": {"tolerance": {"livr": 2.0}}},
            r"data\.metrics\.tolerance: no class or region 'livr'; there are: liver",
        ),
        ({"metrics": {"names": ["hd59"]}}, "no metric 'hd59'"),
        ({"postprocess": {"largest_component": ["livr"]}}, r"largest_component: no class \['livr'\]"),
    ],
)
def test_what_later_stages_ask_of_classes_is_refused_before_a_case_is_read(
    organs: Path, monkeypatch: pytest.MonkeyPatch, section: dict[str, Any], cause: str, only_check: bool
) -> None:
    # The classes stand in the data set alone: the configuration by itself is sound.
    file = organs / "config.json"
    file.write_text(config(organs, **ORGAN, **section).model_dump_json())
    monkeypatch.setattr("medseg.ingest.run.check_cases", lambda *_: pytest.fail("cases are read"))
    with pytest.raises(ConfigError, match=cause):
        ingest(file, "data", None if only_check else organs / "out", only_check, 1)
    assert not [path for path in (organs / "out").rglob("*") if not path.name.endswith(".lock")]


def test_a_tolerance_near_the_voxels_is_reported_once(organs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side = max(check(config(organs, **ORGAN), "data").cases[0].geometry.spacing)
    tolerances = {"liver": 0.1 * side, "kidney": 10 * side}
    file = organs / "config.json"
    file.write_text(config(organs, **ORGAN, metrics={"tolerance": tolerances}).model_dump_json())
    capsys.readouterr()
    ingest(file, "data", None, True, 1)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: the tolerance" in line]
    assert len(warnings) == 1
    assert f"data: warning: the tolerance {0.1 * side:g} mm of 'liver'" in warnings[0]


def test_each_file_is_read_once(organs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    lock = threading.Lock()
    original = Path.read_bytes

    def counted(path: Path) -> bytes:
        with lock:
            opened.append(path.name + path.parent.name)
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    check(config(organs, **ORGAN), "data", workers=2)
    assert len(opened) == len(set(opened)) == 2 * 4 + 1


def test_names_of_channels_and_labels_in_either_spelling(organs: Path) -> None:
    path = organs / "data" / "dataset.json"
    index = json.loads(path.read_text())
    index["labels"] = {"background": 0, "liver": 1, "kidney": 2}
    index["channel_names"] = [index.pop("modality")["0"]]
    path.write_text(json.dumps(index))
    manifest = check(config(organs, **ORGAN), "data")
    assert manifest.labels.names == (("liver", 1), ("kidney", 2))
    assert manifest.channels == ("CT",)
    own = check(config(organs, **ORGAN, labels={"organ one": 1, "organ two": 2}, channels=["attenuation"]), "data")
    assert own.labels.class_names == ("organ one", "organ two")
    assert own.channels == ("attenuation",)


def test_a_file_per_channel(organs: Path) -> None:
    path = organs / "data" / "dataset.json"
    index = json.loads(path.read_text())
    index["modality"] = {"0": "T1", "1": "T2"}
    for entry in index["training"]:
        name = Path(entry["image"]).name
        second = f"./imagesTr/second_{name}"
        first, grid = read_image(organs / "data" / "imagesTr" / name)
        write_labels(organs / "data" / second, first[0] // 2, grid)
        entry["image"] = [entry["image"], second]
    path.write_text(json.dumps(index))
    manifest = check(config(organs, **ORGAN), "data")
    assert manifest.channels == ("T1", "T2")
    assert manifest.cases[0].images == ("imagesTr/organs_000.nii.gz", "imagesTr/second_organs_000.nii.gz")
    assert len(manifest.cases[0].images_sha256) == 2
    # A channel on another grid is brought to the first's.
    second = organs / "data" / manifest.cases[0].images[1]
    image, grid = read_image(second)
    write_labels(second, image[0][1:], grid.cropped((1, 0, 0), (image.shape[1] - 1, *image.shape[2:])))
    case = check(config(organs, **ORGAN), "data").cases[0]
    both = read_case_image(case, organs / "data")
    assert both.shape == (2, *case.geometry.shape)
    np.testing.assert_array_equal(open_case_image(case, organs / "data").read(), both)
    np.testing.assert_allclose(both[1, 1:], image[0][1:], atol=1e-3)


@pytest.mark.parametrize("fill", [None, 7.0])
def test_an_open_case_is_the_case_box_by_box(fill: float | None, organs: Path) -> None:
    """On the grid of the manifest, whatever the file's own rounding; uncompressed, it stays on disk."""
    path = organs / "data" / "dataset.json"
    index = json.loads(path.read_text())
    for entry in index["training"]:
        image, grid = read_image(organs / "data" / entry["image"])
        (organs / "data" / entry["image"]).unlink()
        entry["image"] = entry["image"].removesuffix(".gz")
        write_labels(organs / "data" / entry["image"], image[0].astype(np.int16), grid)
    path.write_text(json.dumps(index))
    for case in check(config(organs, **ORGAN), "data").cases:
        case = dataclasses.replace(case, fill=fill)
        whole, source = read_case_image(case, organs / "data"), open_case_image(case, organs / "data")
        assert (source.geometry, source.shape, source.dtype) == (case.geometry, whole.shape, whole.dtype)
        assert isinstance(source.stored, RawVoxels)
        np.testing.assert_array_equal(source.read([slice(2, 9), slice(None), slice(3, 4)]), whole[:, 2:9, :, 3:4])
    with open(organs / "data" / case.images[0], "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="changed since `medseg ingest`"):
        open_case_image(case, organs / "data")
    (organs / "data" / case.images[0]).unlink()
    with pytest.raises(DataError, match=r"missing since `medseg ingest`; put the file back, or, if `download` filled"):
        open_case_image(case, organs / "data")


def test_pixel_size_in_micrometres(cells: Path) -> None:
    grid = check(config(cells, **CELLS, spacing=[0.5, 0.25]), "data").cases[0].geometry
    assert (grid.spacing, grid.unit) == ((0.5, 0.25), "um")
    with pytest.raises(ConfigError, match=r"spacing: 3 numbers, \.png files have 2 axes"):
        check(config(cells, **CELLS, spacing=[1.0, 1.0, 1.0]), "data")


def test_subjects_stay_together(tmp_path: Path) -> None:
    flat = Geometry.from_spacing((8, 8), (1, 1))
    for number in range(12):
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            labels = np.full((8, 8), number + 1, np.uint8)
            labels[0] = 0
            write_labels(tmp_path / "data" / folder / f"p{number // 3}_scan{number % 3}.png", labels, flat)
    section = CELLS | {"subject": "^(p[0-9]+)_"}
    manifest = run(config(tmp_path, 4, **section), "data", tmp_path / "out")
    assert {case.subject for case in manifest.cases} == {"p0", "p1", "p2", "p3"}
    for fold in range(4):
        train, val = read_split(tmp_path / "out" / "splits.json", fold)
        assert len(val) == 3
        assert len({case.split("_")[0] for case in val}) == 1
        assert not {case.split("_")[0] for case in train} & {case.split("_")[0] for case in val}
    with pytest.raises(ConfigError, match="5 folds need 5 subjects, there are 4"):
        check(config(tmp_path, 5, **section), "data")


@pytest.mark.parametrize(("pattern", "words"), [("(", "no regular expression"), ("p", "0 groups"), ("(p)(q)", "2 gr")])
def test_a_useless_subject_pattern_is_refused(pattern: str, words: str, cells: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        check(config(cells, **CELLS, subject=pattern), "data")


def test_wrong_names_are_refused_with_a_hint(cells: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'data'"):
        check(config(cells, **CELLS), "dta")
    with pytest.raises(ConfigError, match="the pairs layout needs the classes"):
        check(config(cells, layout="pairs"), "data")


def test_many_wrong_values_stay_on_one_line(tmp_path: Path) -> None:
    generate("cells", 2, 0, tmp_path / "data")
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, layout="pairs", labels={"nucleus": 1}), "data")
    assert [f.code for f in caught.value.faults] == ["label-values"] * 2
    for fault in caught.value.faults:
        assert fault.cause.count("value ") == 8
        assert "values more" in fault.cause
        assert len(str(fault).splitlines()) == 1


def test_faults_in_a_terminal_are_told_by_kind(organs: Path) -> None:
    for number in (1, 2):
        (organs / "data" / "labelsTr" / f"organs_00{number}.nii.gz").unlink()
    (organs / "data" / "imagesTr" / "organs_003.nii.gz").write_bytes(b"")
    with pytest.raises(DatasetFaults) as caught:
        check(config(organs, **ORGAN), "data")
    head, *blocks = fault_list(caught.value).split("\n\n")
    assert head.startswith("3 faults in data set 'data'")
    assert [block.splitlines()[0].split(":")[0] for block in blocks] == ["image-without-label (2)", "unreadable (1)"]
    assert "`allow: [image-without-label]` (left out)" in blocks[0]
    assert "allow" not in blocks[1]
    assert blocks[0].splitlines()[1].startswith("  organs_001 · imagesTr/organs_001.nii.gz · ")
    assert sum(len(block.splitlines()) - 1 for block in blocks) == len(caught.value.faults)


def many(root: Path) -> Config:
    """A data set with 12 images without a label, and one file that is empty."""
    generate("cells", 4, 0, root / "data")
    source = (root / "data/images/cells_000.png").read_bytes()
    for number in range(12):
        (root / f"data/images/more_{number:02d}.png").write_bytes(source)
    (root / "data/images/cells_001.png").write_bytes(b"")
    return config(root, layout="pairs", labels={"nucleus": 1}, instances=True)


def test_long_lists_are_cut_and_a_file_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    value = many(tmp_path)
    (tmp_path / "my.yaml").write_text(json.dumps(value.model_dump(exclude_none=True)))
    monkeypatch.chdir(tmp_path)

    def lines(*options: str) -> list[str]:
        arguments = ["medseg", "ingest", "--config", "my.yaml", "--dataset", "data", "--check", *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as end:
            main()
        text = "".join(capfd.readouterr())
        return [str(end.value.code), *text[text.index("13 faults") :].splitlines()]

    cut = lines()
    assert cut[0] == "2"
    assert any(line.startswith("image-without-label (12): add its label") for line in cut)
    shown = [line for line in cut if line.startswith("  ")]
    assert [line.split(" · ")[0].strip() for line in shown] == [
        "more_00",
        "more_01",
        "more_02",
        "… and 9 more",
        "cells_001",
    ]
    file = f"results/{value.experiment}/logs/faults/data.txt"
    assert cut[-1] == f"9 of 13 are not shown: `medseg ingest --all` shows them; all are in {file}"
    # What was advised, and the file.
    whole = lines("--all")
    assert sum(line.startswith("  more_") for line in whole) == 12
    assert whole[-1].startswith("  cells_001")
    assert Path(file).read_text().splitlines() == whole[1:]
    # Of a data set that was put right, no list stays.
    for path in (tmp_path / "data/images").glob("more_*"):
        path.unlink()
    (tmp_path / "data/images/cells_001.png").unlink()
    (tmp_path / "data/masks/cells_001.png").unlink()
    monkeypatch.setattr(sys, "argv", ["medseg", "ingest", "--config", "my.yaml", "--dataset", "data", "--check"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code, capfd.readouterr()
    assert not Path(file).exists()


# Folds on disk


def test_a_split_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    write_splits(path, [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}], seed=4)
    assert read_folds(path) == {
        "scheme": "balanced",
        "seed": 4,
        "count": 2,
        "group": "subject",
        "folds": [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}],
    }
    assert read_split(path, 1) == (["b"], ["a"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"folds": [{"train": ["a", "b"], "val": ["b"]}]}, "names 'b' more than once"),
        ({"folds": [{"train": ["a", "a"], "val": ["b"]}]}, "names 'a' more than once"),
        ({"folds": [{"train": [], "val": ["b"]}]}, "non-empty list of case ids 'train'"),
        ({"folds": [{"train": ["a"], "val": [1]}]}, "non-empty list of case ids 'val'"),
        ({"folds": ["a"]}, "non-empty list"),
        ({"folds": []}, "0 folds, fold 0 wanted"),
        ({}, "no list of folds"),
    ],
)
def test_a_bad_split_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    write_record(path, content)
    with pytest.raises(DataError, match=words):
        read_split(path, 0)


def test_folds_of_ones_own_have_their_place_in_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"folds": [{"train": ["a"], "val": ["b"]}]}))
    with pytest.raises(DataError, match=r"no digest.*medseg ingest.*`folds\.file` of the configuration"):
        read_split(path, 0)


@pytest.mark.parametrize("module", ["manifest", "splits"])
def test_what_ingest_wrote_is_read_without_its_code(module: str) -> None:
    """A line in a reader of images or a help text of the configuration trains nothing again."""
    closure = import_closure(f"medseg.ingest.{module}")
    others = ("medseg.config", "medseg.formats", "medseg.ingest.layouts", "medseg.ingest.faults", "medseg.networks")
    assert not [name for name in closure if name.startswith(others)]


def test_missing_folds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_split(tmp_path / "splits.json", 0)


# Real data


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "section"),
    [
        # Cases of one origin are among them: halves of one head, tiles of one field.
        ("hippocampus", ORGAN | {"path": "hippocampus", "subject": "same-origin"}),
        ("nuclei_fluo", CELLS | {"path": "nuclei_fluo", "subject": "same-origin"}),
    ],
)
def test_real_data_is_sound(name: str, section: dict[str, Any]) -> None:
    root = os.environ.get("MEDSEG_REALDATA", "")
    if not (Path(root) / name).is_dir() or not root:
        pytest.skip(f"MEDSEG_REALDATA has no folder {name}")
    manifest = check(config(Path(root), 5, **section), "data", workers=2)
    assert len(manifest.cases) >= 10
    assert manifest.allowed == ()
