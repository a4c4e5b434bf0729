"""`medseg new`: a first configuration for a folder passes the checks, and says what nobody can see in files."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import yaml

from medseg.cli import main
from medseg.config import load_config
from medseg.draft.classes import put_labels
from medseg.draft.lines import Draft, Line
from medseg.draft.run import run
from medseg.draft.survey import LabelFacts, Survey, spread_out
from medseg.draft.text import draft_text, scalar
from medseg.errors import ConfigError, DataError, DatasetFaults
from medseg.formats.png import png_bytes
from medseg.image.geometry import Geometry
from medseg.ingest.run import check

SIZE: dict[str, Any] = {"imagej": True, "resolution": (2.0, 2.0), "metadata": {"unit": "um"}}


def picture(draw: np.random.Generator, colours: int = 1) -> np.ndarray:
    shape = (48, 64) if colours == 1 else (48, 64, colours)
    return draw.integers(0, 255, shape, dtype=np.uint8)


def png(values: np.ndarray) -> bytes:
    return png_bytes(Path("a.png"), values, Geometry.from_spacing(values.shape, (1.0, 1.0), "px"))


def objects(draw: np.random.Generator, count: int) -> np.ndarray:
    """Squares of 4 x 4 pixels, numbered from 1 and scattered."""
    cells = draw.permutation(12 * 8)[:count]
    values = np.zeros((48, 64), np.uint16)
    for number, cell in enumerate(cells, start=1):
        y, x = 6 * (cell // 12) % 48, 5 * (cell % 12)
        values[y : y + 4, x : x + 4] = number
    return values


def halves(draw: np.random.Generator, low: int = 1, high: int = 2) -> np.ndarray:
    """Two classes that keep their places."""
    values = np.zeros((48, 64), np.uint8)
    values[8:20, 5:50], values[25:40, 5:50] = low, high
    values[:, : int(draw.integers(1, 8))] = 0
    return values


def pictures(root: Path, maps: list[np.ndarray], names: list[str] | None = None, **tiff: Any) -> Path:
    """A folder in the layout of pairs."""
    draw = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for k, values in enumerate(maps):
        name = names[k] if names else f"{'abcdefghijklmnop'[k]}x"
        tifffile.imwrite(root / "images" / f"{name}.tif", picture(draw), **tiff)
        tifffile.imwrite(root / "masks" / f"{name}.tif", values, **tiff)
    return root


def drafted(root: Path, out: Path, **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The section of the data set that is written, which passes the check; and what is said."""
    said = run(root, out, 2, options.get("seconds", 60.0), options.get("gpu", False))
    settings = yaml.safe_load(out.read_text())
    config = load_config([out])
    name = next(iter(config.datasets))
    if "passes all checks" in said[0]:
        check(config, name, 2)
    return settings["datasets"][name], said


def comments(out: Path) -> str:
    """What stands in comments, however it is broken into lines."""
    return " ".join(line.strip(" #") for line in out.read_text().splitlines() if line.lstrip().startswith("#"))


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("my.yaml")


def test_numbers_of_objects_are_told_from_classes(draw: np.random.Generator, out: Path) -> None:
    cells = pictures(Path("cells"), [objects(draw, n) for n in (12, 20, 15, 12, 12)])
    section, said = drafted(cells, out)
    assert section == {"path": "cells", "layout": "pairs", "labels": {"object": 1}, "instances": True}
    assert said == ["wrote my.yaml; it passes all checks", "next: medseg run my.yaml"]
    text = comments(out)
    assert "the values number objects, 12 to 20 in an image" in text
    assert "e.g. images/ax.tif with masks/ax.tif; an image: 48 x 64 voxels, no size stated, 1 channel" in text
    assert "# spacing: [0.5, 0.5]" in out.read_text()
    organs = pictures(Path("organs"), [halves(draw) for _ in range(5)])
    section, said = drafted(organs, Path("organs.yaml"))
    assert section["labels"] == {"class_1": 1, "class_2": 2}
    assert "instances" not in section
    assert "in 5 of 5 label maps" in comments(Path("organs.yaml"))


def test_the_same_number_of_scattered_objects_everywhere_is_objects(draw: np.random.Generator, out: Path) -> None:
    section, _ = drafted(pictures(Path("cells"), [objects(draw, 14) for _ in range(6)]), out)
    assert section["instances"] is True


def test_binary_masks_are_one_class_and_the_way_to_objects_is_named(draw: np.random.Generator, out: Path) -> None:
    maps = [(objects(draw, 12) > 0).astype(np.uint8) * 255 for _ in range(5)]
    section, said = drafted(pictures(Path("cells"), maps), out)
    assert section["labels"] == {"foreground": 255}
    assert any("up to 12 separate parts of value 255" in line for line in said)


def test_masks_in_colour_are_classes_by_their_colours(draw: np.random.Generator, out: Path) -> None:
    palette = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 255)], np.uint8)
    root = pictures(Path("slides"), [palette[halves(draw)] for _ in range(5)])
    section, said = drafted(root, out)
    assert section["labels"] == {"class_1": "#0080ff", "class_2": "#ff0000"}
    assert section["background"] == ["#000000"]
    assert len(said) == 2
    white = np.array([(255, 255, 255), (255, 0, 0), (255, 0, 0)], np.uint8)
    section, said = drafted(pictures(Path("white"), [white[halves(draw)] for _ in range(5)]), Path("white.yaml"))
    assert (section["labels"], section["background"]) == ({"foreground": "#ff0000"}, ["#ffffff"])
    assert any("#ffffff, the colour that comes most often, is background" in line for line in said)
    photographs = pictures(Path("photographs"), [picture(draw, 3) for _ in range(5)])
    with pytest.raises(DatasetFaults):
        drafted(photographs, Path("photographs.yaml"))
    assert "as pictures do, not masks" in comments(Path("photographs.yaml"))


def test_label_maps_without_the_value_0_have_a_background_to_be_named(draw: np.random.Generator, out: Path) -> None:
    section, said = drafted(pictures(Path("d"), [1 + (halves(draw) > 0).astype(np.uint8) for _ in range(5)]), out)
    assert section["labels"] == {"class_1": 1, "class_2": 2}
    assert any("no label map shows 0; 1 comes most often" in line for line in said)
    text = out.read_text().replace("# background: [1]", "background: [1]")
    out.write_text(text.replace("{class_1: 1, class_2: 2}", "{class_2: 2}"))
    check(load_config([out]), "d", 2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([{1: 500, 2: 400, 255: 30}] * 4, "value 255 is a class or marks what nobody annotated"),
        ([{1: 500, 255: 400_000}] + [{255: 400_000}] * 19, "whether value 1 is a class"),
        ([dict.fromkeys(range(1, 200), 9)] * 3, "labels must not be scaled"),
        ([{}] * 3, "no label map that was read shows any"),
    ],
)
def test_values_that_may_mean_several_things_are_said(values: list[dict[int, int]], words: str) -> None:
    draft = Draft("d", ".", "d")
    put_labels(draft, Survey(len(values), labels=[LabelFacts(str(k), v, zeros=9) for k, v in enumerate(values)]))
    assert any(words in text for text in draft.open), draft.open


def test_segments_have_their_own_names() -> None:
    draft = Draft("d", ".", "d")
    maps = [LabelFacts(k, {1: 50, 2: 40}, names={1: "kidney", 2: "liver"}) for k in "ab"]
    put_labels(draft, Survey(2, labels=maps))
    assert draft.settings()["datasets"]["d"]["labels"] == {"kidney": 1, "liver": 2}
    # They are read by name, whatever their numbers in other files.
    maps.append(LabelFacts("c", {1: 50, 2: 40}, names={2: "kidney", 1: "liver"}))
    put_labels(draft, Survey(3, labels=maps))
    assert draft.settings()["datasets"]["d"]["labels"] == {"kidney": 1, "liver": 2}
    maps.append(LabelFacts("d", {1: 50}, names={1: "spleen"}))
    put_labels(draft, Survey(4, labels=maps))
    assert draft.settings()["datasets"]["d"]["labels"] == {"kidney": 1, "liver": 2, "spleen": 3}
    maps.append(LabelFacts("plain", {1: 50}))
    put_labels(draft, Survey(5, labels=maps))
    assert draft.settings()["datasets"]["d"]["labels"] == {"class_1": 1, "class_2": 2}


def test_subjects_in_ids_and_sides_of_one_body_are_joined(draw: np.random.Generator, out: Path) -> None:
    names = [f"p{k}_{part}" for k in range(1, 4) for part in "12"]
    section, said = drafted(pictures(Path("a"), [halves(draw) for _ in names], names), out)
    assert section["subject"] == "^([^_.-]*)"
    assert any("p1_1 and p1_2 look like cases of one subject: 3 subjects" in line for line in said)
    assert yaml.safe_load(out.read_text())["folds"] == {"count": 3, "run": [0]}
    names = [f"Eye{k}{side}" for k in "123" for side in "LR"]
    section, said = drafted(pictures(Path("b"), [halves(draw) for _ in names], names), Path("b.yaml"))
    assert section["subject"] == "same-origin"
    assert yaml.safe_load(Path("b.yaml").read_text())["folds"] == {"count": 3, "run": [0]}
    # Subjects of the ids, and sides beside them: only a table says both.
    names = [f"s{k}{side}_{part}" for k in "123" for side in "LR" for part in "12"]
    section, said = drafted(pictures(Path("c"), [halves(draw) for _ in names], names), Path("c.yaml"))
    assert section["subject"] == "c-subjects.csv"
    assert Path("c-subjects.csv").is_file()


def test_a_mask_file_per_object_needs_no_numbers(draw: np.random.Generator, out: Path) -> None:
    for k in range(5):
        folder = Path("stage1_train", f"img{k}x")
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        (folder / "images" / f"img{k}x.png").write_bytes(png(picture(draw)))
        values = objects(draw, 4)
        for number in range(1, 5):
            (folder / "masks" / f"{number}.png").write_bytes(png(((values == number) * 255).astype(np.uint8)))
    section, said = drafted(Path("stage1_train"), out)
    assert section["layout"] == "dsb2018"
    assert said[0].endswith("passes all checks")
    assert "# labels: {nucleus: 1}" in out.read_text()


def test_a_mask_file_per_class_names_the_classes(draw: np.random.Generator, out: Path) -> None:
    for k in range(5):
        (folder := Path("set", f"s{k}x", "segmentations")).mkdir(parents=True)
        save = lambda name, array, at=folder: nib.save(nib.Nifti1Image(array, np.eye(4)), at / f"{name}.nii.gz")  # noqa: E731
        save("../ct", draw.integers(-1000, 500, (16, 16, 12)).astype(np.int16))
        for number, organ in enumerate(("liver", "spleen")):
            mask = np.zeros((16, 16, 12), np.uint8)
            mask[2 + 6 * number : 6 + 6 * number, 3:9, 3:9] = 1
            save(organ, mask)
    section, said = drafted(Path("set"), out)
    assert section["masks"].endswith("{class}.nii.gz")
    assert section["channels"] == ["CT"]
    assert said[0].endswith("passes all checks")
    assert "# labels: {liver: 1, spleen: 2}" in out.read_text()


def test_hounsfield_units_are_normalised_as_such(draw: np.random.Generator, out: Path) -> None:
    for name in ("images", "masks"):
        Path("ct", name).mkdir(parents=True)
    for case in "abcd":
        image = draw.integers(-1000, 400, (20, 24, 10)).astype(np.int16)
        values = np.zeros((20, 24, 10), np.uint8)
        values[4:12, 4:12, 2:8] = 1
        for name, array in (("images", image), ("masks", values)):
            nib.save(nib.Nifti1Image(array, np.diag([1, 1, 2, 1.0])), Path("ct", name, f"{case}v.nii.gz"))
    section, _ = drafted(Path("ct"), out)
    assert section["channels"] == ["CT"]
    assert "20 x 24 x 10 voxels, of 1 x 1 x 2 mm, 1 channel" in comments(out)


def test_pages_beside_label_maps_of_one_page_are_channels(draw: np.random.Generator, out: Path) -> None:
    root = pictures(Path("pages"), [halves(draw) for _ in range(5)])
    for image in (root / "images").iterdir():
        tifffile.imwrite(image, np.stack([picture(draw), picture(draw)]), photometric="minisblack", metadata=None)
    section, said = drafted(root, out)
    assert section["axes"] == "CYX"
    assert said[0].endswith("passes all checks")


def test_grey_beside_colour_is_brought_together(draw: np.random.Generator, out: Path) -> None:
    root = pictures(Path("mixed"), [halves(draw) for _ in range(6)])
    tifffile.imwrite(root / "images/ax.tif", picture(draw, 3), photometric="rgb")
    assert drafted(root, out)[0]["channels"] == "rgb"


def test_sizes_that_only_some_files_state_are_left_to_the_user(draw: np.random.Generator, out: Path) -> None:
    root = pictures(Path("sizes"), [halves(draw) for _ in range(6)])
    tifffile.imwrite(root / "images/ax.tif", picture(draw), **SIZE)
    tifffile.imwrite(root / "masks/ax.tif", halves(draw), **SIZE)
    # Ingest refuses what mixes units.
    with contextlib.suppress(DatasetFaults):
        drafted(root, out)
    text = out.read_text()
    assert "5 of 6 images that were read state no size of a pixel" in comments(out)
    assert "# spacing: [0.5, 0.5]" in text
    assert "# sizes: pixels" in text


def test_what_the_configuration_cannot_settle_is_written_and_raised(draw: np.random.Generator, out: Path) -> None:
    maps = [halves(draw) for _ in range(6)]
    maps[2][:] = 0
    root = pictures(Path("d"), maps)
    (root / "images/px.tif").write_bytes((root / "images/ax.tif").read_bytes())
    with pytest.raises(DatasetFaults) as found:
        run(root, out, 2, 60.0, False)
    assert {fault.code for fault in found.value.faults} == {"empty-label", "image-without-label"}
    text = out.read_text()
    assert "1 faults of kind empty-label" in text
    # The lines that are offered settle it.
    offered = text.replace("# exclude: [ID]", "exclude: [px]").replace("# allow: [", "allow: [")
    out.write_text(offered)
    check(load_config([out]), "d", 2)


def test_one_subject_is_too_few(draw: np.random.Generator, out: Path) -> None:
    with pytest.raises(ConfigError, match=r"validation needs another one; .* or write `folds: all` there"):
        run(pictures(Path("d"), [halves(draw)]), out, 1, 60.0, False)
    assert "one subject" in comments(out)
    # The way that the message names.
    text = re.sub(r"^folds:.*$", "folds: all", out.read_text(), flags=re.MULTILINE)
    assert text != out.read_text()
    out.write_text(text)
    check(load_config([out]), "d", 2)


def test_a_folder_that_shows_no_layout_gives_no_file_but_the_way(out: Path) -> None:
    Path("pile").mkdir()
    tifffile.imwrite("pile/a.tif", np.zeros((9, 9), np.uint8))
    with pytest.raises(DataError, match=r"images: \"imgs/\{case\}"):
        run(Path("pile"), out, 1, 60.0, False)
    assert not out.exists()


def test_a_file_that_is_there_stays_as_it_is(out: Path) -> None:
    out.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        run(Path("."), out, 1, 60.0, False)
    assert out.read_text() == "mine"
    with pytest.raises(ConfigError, match="no such folder"):
        run(Path("nowhere"), Path("other.yaml"), 1, 60.0, False)


def test_what_takes_too_long_is_left_out_and_said(draw: np.random.Generator, out: Path) -> None:
    root = pictures(Path("many"), [halves(draw) for _ in range(6)])
    _, said = drafted(root, out, seconds=1e-9)
    assert "was not checked against all files" in said[0]
    assert any("whether the data pass the checks" in line for line in said)
    assert any("0 of 6 label maps were read" in line for line in said)


@pytest.mark.parametrize(("folder", "name"), [("compare", "my-compare"), ("Zählung 1", "Z-hlung-1"), ("...", "data")])
def test_names_that_results_cannot_have_are_changed(
    folder: str, name: str, draw: np.random.Generator, out: Path
) -> None:
    root = pictures(Path(folder), [halves(draw) for _ in range(5)])
    drafted(root, out)
    assert yaml.safe_load(out.read_text())["experiment"] == name


def test_the_folder_may_be_the_one_one_is_in(draw: np.random.Generator, out: Path) -> None:
    pictures(Path("here"), [])
    for path in pictures(Path("away"), [halves(draw) for _ in range(5)]).rglob("*.tif"):
        Path(path.parent.name).mkdir(exist_ok=True)
        path.rename(Path(path.parent.name, path.name))
    section, _ = drafted(Path("."), out)
    assert (yaml.safe_load(out.read_text())["data_root"], section["path"]) == (".", ".")


def test_a_budget_for_a_gpu_and_for_none(draw: np.random.Generator, out: Path) -> None:
    root = pictures(Path("d"), [halves(draw) for _ in range(5)])
    drafted(root, out, gpu=True)
    settings = yaml.safe_load(out.read_text())
    assert (settings["budget"], "threads" in settings) == ({"minutes": 60}, False)
    drafted(root, Path("cpu.yaml"))
    settings = yaml.safe_load(Path("cpu.yaml").read_text())
    assert (settings["budget"], "threads" in settings) == ({"minutes": 30}, True)


def test_the_command_ends_with_2_where_something_is_left(
    draw: np.random.Generator, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(Path("d"), [halves(draw) for _ in range(5)])
    for code in (0, 2):
        monkeypatch.setattr(sys, "argv", ["medseg", "new", "d", "-o", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
    printed = capsys.readouterr()
    assert "next: medseg run my.yaml" in printed.out
    assert "my.yaml: is there already" in printed.err


VALUES = [
    "no",
    "1e-4",
    "12",
    "a: b",
    "#x",
    "^(p\\d+)_",
    "Zählung",
    "tab\there",
    "",
    ".",
    "..",
    "../a",
    "/x/y",
    ".5",
    "x y",
]


@pytest.mark.parametrize("value", [*VALUES, {"no": 1, "a": 2}, [0.5, 1], {"CT": "x"}, True])
def test_values_are_yaml(value: Any) -> None:
    assert yaml.safe_load(f"key: {scalar(value)}") == {"key": value}


def test_names_from_files_cannot_leave_their_comment() -> None:
    draft = Draft("d", ".", "d", [Line("layout", "pairs", "e.g. a\nexperiment: taken\u2028b\x1b[2J")])
    text = draft_text(draft, Path("my.yaml"))
    assert yaml.safe_load(text) == {
        "experiment": "d",
        "data_root": ".",
        "datasets": {"d": {"path": "d", "layout": "pairs"}},
    }
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize(("there", "wanted"), [(0, 5), (1, 5), (5, 5), (100, 24), (100, 100)])
def test_a_sample_is_spread_and_so_is_each_beginning_of_it(there: int, wanted: int) -> None:
    found = spread_out(range(there), wanted)
    assert len(found) == len(set(found)) == min(there, wanted)
    if there > 1:
        assert {0, there - 1} <= set(found)
        assert max(found[:4]) >= there / 2
