"""Values of label files are mapped, not edited: several for one class, background, colours, equal planes, segments."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medseg.config import DatasetConfig
from medseg.errors import DatasetFaults
from medseg.formats.read import open_image
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.recode import Recoding, colours_of
from medseg.ingest.cases import read_case_labels, reading_facts
from medseg.ingest.manifest import Manifest, read_manifest
from medseg.ingest.run import check, run
from tests.configurations import config

SHAPE = (20, 24)
NAMES = ("a", "b", "c", "d")


def rectangles() -> np.ndarray:
    """Background 0 and three parts: 1, 2, 3."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:8, 2:9], labels[10:18, 4:11], labels[3:9, 14:20] = 1, 2, 3
    return labels


def write(root: Path, masks: dict[str, np.ndarray], suffix: str = ".png") -> None:
    for seed, (name, mask) in enumerate(masks.items()):
        for folder in ("images", "masks"):
            (root / "data" / folder).mkdir(parents=True, exist_ok=True)
        rng = np.random.Generator(np.random.PCG64(seed))
        tifffile.imwrite(root / f"data/images/{name}.tif", rng.integers(0, 250, SHAPE).astype(np.uint8))
        path = root / f"data/masks/{name}{suffix}"
        mask = mask.astype(np.uint8)
        Image.fromarray(mask).save(path) if suffix == ".png" else tifffile.imwrite(path, mask)


def alike(mask: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(NAMES, mask)


def ingested(root: Path, **section: Any) -> tuple[Manifest, np.ndarray]:
    """The manifest, as it is read back, and the label map of the first case."""
    manifest = run(config(root, **section), "data", root / "out")
    assert read_manifest(root / "out" / "manifest.tsv") == manifest
    return manifest, read_case_labels(manifest.cases[0], root / "data")


def causes(root: Path, **section: Any) -> str:
    with pytest.raises(DatasetFaults) as caught:
        check(config(root, **section), "data")
    return str(caught.value)


# (values in the files of background and the three parts, labels, background, names -> values of the parts)
MAPPED: dict[str, tuple[list[int], dict[str, Any], list[Any] | None, dict[str, int], list[int]]] = {
    "as they are": ([0, 1, 2, 3], {"a": 1, "b": 2, "c": 3}, None, {"a": 1, "b": 2, "c": 3}, [0, 1, 2, 3]),
    "merged": (
        [0, 1, 2, 255],
        {"membrane": [1, 2], "vessel": 255},
        None,
        {"membrane": 1, "vessel": 255},
        [0, 1, 1, 255],
    ),
    "background of several": ([0, 4, 2, 3], {"b": 2, "c": 3}, [0, 4], {"b": 2, "c": 3}, [0, 0, 2, 3]),
    "background is another": ([255, 0, 7, 7], {"cell": 0, "wall": 7}, [255], {"cell": 1, "wall": 7}, [0, 1, 7, 7]),
    "a stray 128": (
        [0, 127, 128, 255],
        {"cell": [127, 128], "debris": 255},
        None,
        {"cell": 127, "debris": 255},
        [0, 127, 127, 255],
    ),
    "background by name": ([0, 1, 2, 2], {"background": 0, "a": 1, "b": 2}, None, {"a": 1, "b": 2}, [0, 1, 2, 2]),
}


@pytest.mark.parametrize("name", MAPPED)
def test_values_are_mapped(name: str, tmp_path: Path) -> None:
    stored, labels, background, names, meant = MAPPED[name]
    write(tmp_path, alike(np.array(stored, np.uint8)[rectangles()]))
    manifest, found = ingested(tmp_path, labels=labels, background=background)
    np.testing.assert_array_equal(found, np.array(meant)[rectangles()])
    assert dict(manifest.labels.names) == names
    values, counts = np.unique(found, return_counts=True)
    assert dict(manifest.cases[0].label_counts) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    # What later stages learn and write: channels and values of the table.
    channels = manifest.labels.to_channels(found)
    np.testing.assert_array_equal(manifest.labels.to_values(channels), found)


def test_a_configuration_without_mapping_means_what_it_meant(tmp_path: Path) -> None:
    write(tmp_path, alike(rectangles()))
    manifest, _ = ingested(tmp_path, labels={"a": 1, "b": 2, "c": 3})
    assert manifest.cases[0].recodings == ()
    assert "recodings" not in reading_facts(manifest.cases[0], manifest.labels, reference=True)
    mapped, _ = ingested(tmp_path, labels={"a": [1, 2], "c": 3})
    facts = reading_facts(mapped.cases[0], mapped.labels, reference=True)
    assert json.loads(json.dumps(facts))["recodings"] == [{"values": {"0": 0, "1": 1, "2": 1, "3": 3}}]
    assert "recodings" not in reading_facts(mapped.cases[0], mapped.labels)


def test_what_is_not_mapped_is_a_fault_with_the_value_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, alike(rectangles()) | {"b": rectangles() + (rectangles() == 3) * 4})
    text = causes(tmp_path, labels={"a": [1, 2], "c": 3})
    assert "label-values · b · masks/b.png · value 7: 36 voxels, first at (3, 14)" in text
    assert "(expected 0 background, 1 a, 2 a, 3 c)" in text
    # The value that a class gets is not that of a stray one.
    write(tmp_path / "other", alike(np.array([255, 0, 1, 1], np.uint8)[rectangles()]))
    assert "value 1: 92 voxels" in causes(tmp_path / "other", labels={"cell": 0}, background=[255])


PALE = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255], [255, 255, 255]], np.uint8)
COLOURS = {"vessel": "#ff0000", "nerve": ["#0080ff", "#FFFFFF"]}


def test_colours_are_classes(tmp_path: Path) -> None:
    write(tmp_path, alike(PALE[rectangles()]))
    manifest, found = ingested(tmp_path, labels=COLOURS)
    assert dict(manifest.labels.names) == {"vessel": 1, "nerve": 2}
    np.testing.assert_array_equal(found, np.array([0, 1, 2, 2])[rectangles()])
    assert found.dtype == np.uint8
    # A white background, and black as a class.
    _, other = ingested(tmp_path, labels={"ink": ["#000000", "#ff0000"], "sea": "#0080ff"}, background=["#ffffff"])
    np.testing.assert_array_equal(other, np.array([1, 1, 2, 0])[rectangles()])


def test_a_colour_that_nobody_named_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, alike(PALE[rectangles()]))
    text = causes(tmp_path, labels={"vessel": "#ff0000", "nerve": "#0080ff"})
    assert "colour #ffffff: 36 voxels, first at (3, 14) (expected #000000 background, #ff0000 vessel" in text


def test_masks_in_colour_without_colours_show_them_and_the_way_out(tmp_path: Path) -> None:
    write(tmp_path, alike(PALE[rectangles()]))
    text = causes(tmp_path, labels={"vessel": 1})
    assert "a label file in colour: #000000 (346 pixels), #0080ff (56 pixels), #ff0000 (42 pixels)" in text
    advice = re.search(r"`labels: (\{NAME: .*?\})`", text)
    assert advice
    assert advice[1] == '{NAME: "#0080ff"}'
    # The advice, followed.
    ingested(tmp_path, labels={"NAME": "#0080ff", "other": ["#ff0000", "#ffffff"]}, background=["#000000"])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_three_equal_planes_are_one(suffix: str, tmp_path: Path) -> None:
    write(tmp_path, alike(np.repeat(rectangles()[..., np.newaxis] * 80, 3, axis=-1)), suffix)
    manifest, found = ingested(tmp_path, labels={"a": 80, "b": 160, "c": 240})
    np.testing.assert_array_equal(found, rectangles() * 80)
    assert manifest.cases[0].remarks == ("label files of 3 equal planes: read as one",)
    _, colours = ingested(tmp_path, labels={"a": ["#505050", "#a0a0a0"], "c": "#f0f0f0"})
    np.testing.assert_array_equal(colours, np.array([0, 1, 1, 2])[rectangles()])


def test_grey_masks_by_colour(tmp_path: Path) -> None:
    write(tmp_path, alike(rectangles() * 80))
    _, found = ingested(tmp_path, labels={"a": "#505050", "rest": ["#a0a0a0", "#f0f0f0"]})
    np.testing.assert_array_equal(found, np.array([0, 1, 2, 2])[rectangles()])


def test_colour_tables_by_index_and_by_colour(tmp_path: Path) -> None:
    write(tmp_path, alike(rectangles()))
    for name in NAMES:
        picture = Image.fromarray(rectangles(), mode="P")
        picture.putpalette(PALE.ravel().tolist())
        picture.save(tmp_path / f"data/masks/{name}.png")
    _, index = ingested(tmp_path, labels={"a": 1, "b": [2, 3]})
    np.testing.assert_array_equal(index, np.array([0, 1, 2, 2])[rectangles()])
    _, colour = ingested(tmp_path, labels=COLOURS)
    np.testing.assert_array_equal(colour, index)


def test_objects_of_background_numbers_are_background(tmp_path: Path) -> None:
    write(tmp_path, alike(rectangles()))
    manifest, found = ingested(tmp_path, labels={"cell": 1}, instances=True, background=[0, 1])
    np.testing.assert_array_equal(found, np.where(rectangles() == 1, 0, rectangles()))
    assert dict(manifest.cases[0].label_counts) == {0: 388, 1: 92}


REFUSED = {
    "class is 0": ({"labels": {"vessel": 0, "nerve": 1}}, "vessel has the value 0, which is background"),
    "class is black": ({"labels": {"vessel": "#000000"}}, "vessel has the value #000000, which is background"),
    "twice": ({"labels": {"a": [1, 2], "b": 2}}, "b and a have one value, 2"),
    "class and background": ({"labels": {"a": [1, 4]}, "background": [0, 4]}, "a and background have one value, 4"),
    "values and colours": ({"labels": {"a": 1, "b": "#00ff00"}}, "either values or colours, not both"),
    "background in values": ({"labels": {"a": "#00ff00"}, "background": [0]}, "either values or colours, not both"),
    "no colour": ({"labels": {"a": "red"}}, "a: 'red'; expected its value in the label files, a list of values, or a"),
    "a comment": ({"labels": {"a": None}}, 'write "#ff0000"'),
    "nothing": ({"labels": {"a": []}}, "a: an empty list"),
    "text": ({"labels": {"a": "1"}}, "a: this is text to YAML: write it as 1"),
    "objects": ({"labels": {"a": [1, 2]}, "instances": True}, "a value numbers an object; give a one number"),
    "objects without 0": ({"labels": {"a": 1}, "instances": True, "background": [4]}, "0 is the background of object"),
    "ignored background": ({"labels": {"a": 1}, "background": [0, 9], "ignore": 9}, "9 is also the value of `ignore`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradictions_are_refused(name: str) -> None:
    section, words = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(words)):
        DatasetConfig(path=".", **section)


def test_the_advice_for_a_class_of_value_0_works(tmp_path: Path) -> None:
    write(tmp_path, alike(np.where(rectangles() == 1, 0, 255).astype(np.uint8)))
    with pytest.raises(ValueError, match=r"e\.g\. `background: \[255\]`"):
        config(tmp_path, labels={"membrane": 0})
    _, found = ingested(tmp_path, labels={"membrane": 0}, background=[255])
    np.testing.assert_array_equal(found, rectangles() == 1)


# A file per class


def write_classes(root: Path, suffix: str = ".png") -> None:
    write(root, dict.fromkeys(NAMES, rectangles()))
    for name in NAMES:
        for value, organ in ((1, "liver"), (2, "spleen"), (3, "kidney left")):
            path = root / f"data/masks/{name}/{organ}{suffix}"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(((rectangles() == value) * 255).astype(np.uint8)).save(path)
        (root / f"data/masks/{name}.png").unlink()


PATTERNS = {"images": "images/{case}.tif", "masks": "masks/{case}/{class}.png"}


def test_a_file_per_class(tmp_path: Path) -> None:
    write_classes(tmp_path)
    manifest, found = ingested(tmp_path, labels={"liver": 5, "kidney left": 2}, **PATTERNS)
    np.testing.assert_array_equal(found, np.array([0, 5, 0, 2])[rectangles()])
    assert manifest.cases[0].labels == ("masks/a/kidney left.png", "masks/a/liver.png")
    # Without names, all of them, in their order.
    manifest, found = ingested(tmp_path, **PATTERNS)
    assert dict(manifest.labels.names) == {"kidney left": 1, "liver": 2, "spleen": 3}
    np.testing.assert_array_equal(found, np.array([0, 2, 3, 1])[rectangles()])


def test_faults_of_files_per_class(tmp_path: Path) -> None:
    write_classes(tmp_path)
    (tmp_path / "data/masks/a/liver.png").unlink()
    both = ((rectangles() == 2) | (rectangles() == 1)).astype(np.uint8)
    Image.fromarray(both).save(tmp_path / "data/masks/b/spleen.png")
    Image.fromarray(rectangles()).save(tmp_path / "data/masks/c/spleen.png")
    section = {"labels": {"liver": 1, "spleen": 2}, **PATTERNS}
    text = causes(tmp_path, **section)
    assert "image-without-label · a · images/a.tif · no file masks/a/liver.png" in text
    assert "label-overlap · b · masks/b/liver.png · 42 voxels are in the files of several classes" in text
    assert "label-values · c · masks/c/spleen.png · value 2: 56 voxels" in text
    manifest = check(config(tmp_path, exclude=["a", "c"], allow=["label-overlap"], **section), "data")
    kept = read_case_labels(manifest.cases[0], tmp_path / "data")
    np.testing.assert_array_equal(kept, np.array([0, 1, 2, 0])[rectangles()])


def test_an_empty_folder_of_objects_is_an_image_without_objects(tmp_path: Path) -> None:
    write_classes(tmp_path)
    for file in (tmp_path / "data/masks/b").iterdir():
        file.unlink()
    section = {"images": "images/{case}.tif", "masks": "masks/{case}/{object}.png", "labels": {"cell": 1}}
    assert "empty-label · b · images/b.tif · none of 480 voxels" in causes(tmp_path, **section)
    manifest = run(config(tmp_path, allow=["empty-label"], **section), "data", tmp_path / "out")
    assert read_manifest(tmp_path / "out/manifest.tsv") == manifest
    case = manifest.case("b")
    assert (case.labels, dict(case.label_counts), case.has_reference) == ((), {0: 480}, True)
    assert not read_case_labels(case, tmp_path / "data").any()
    assert read_case_labels(manifest.case("a"), tmp_path / "data").max() == 3


# Segments


def write_segments(root: Path, names: dict[str, list[str]]) -> None:
    """Volumes with Slicer's segmentations, whose segments 1, 2, … have these names."""
    parts = np.repeat(rectangles()[..., np.newaxis], 4, axis=-1)
    for seed, (case, segments) in enumerate(names.items()):
        rng = np.random.Generator(np.random.PCG64(seed))
        for folder in ("images", "masks"):
            (root / "data" / folder).mkdir(parents=True, exist_ok=True)
        grid = Geometry.from_spacing(parts.shape, (1.0, 1.0, 2.0), "mm")
        write_labels(root / f"data/images/{case}.nrrd", rng.integers(0, 250, parts.shape).astype(np.int16), grid)
        write_labels(root / f"data/masks/{case}.nrrd", np.where(parts <= len(segments), parts, 0), grid)
        plain = root / f"data/masks/{case}.nrrd"
        header, _, voxels = plain.read_bytes().partition(b"\n\n")
        lines = [
            f"Segment{n}_{key}:={value}"
            for n, name in enumerate(segments)
            for key, value in (("Name", name), ("LabelValue", n + 1))
        ]
        plain.unlink()
        plain.with_suffix(".seg.nrrd").write_bytes(header + b"\n" + "\n".join(lines).encode() + b"\n\n" + voxels)


def test_segments_are_mapped_by_their_names(tmp_path: Path) -> None:
    write_segments(
        tmp_path, {"a": ["liver", "kidney"], "b": ["Kidney", "Liver"], "c": ["kidney", "liver"], "d": ["liver"]}
    )
    manifest = run(config(tmp_path, labels={"liver": 1, "kidney": 2}), "data", tmp_path / "out")
    assert read_manifest(tmp_path / "out/manifest.tsv") == manifest
    parts = np.repeat(rectangles()[..., np.newaxis], 4, axis=-1)
    for case, meant in (("a", [0, 1, 2, 0]), ("b", [0, 2, 1, 0]), ("c", [0, 2, 1, 0]), ("d", [0, 1, 0, 0])):
        found = read_case_labels(manifest.case(case), tmp_path / "data")
        np.testing.assert_array_equal(found, np.array(meant)[parts], case)
    assert "segments have other numbers" in manifest.case("b").remarks[0]


def test_segments_that_contradict_the_classes_are_faults(tmp_path: Path) -> None:
    names = {
        "a": ["Leber", "Niere"],
        "b": ["Segment_1", "Segment_2"],
        "c": ["liver", "spleen"],
        "d": ["liver", "kidney"],
    }
    write_segments(tmp_path, names)
    text = causes(tmp_path, labels={"liver": 1, "kidney": 2})
    assert (
        "segment-names · a · masks/a.seg.nrrd · its segments are 1 'Leber', 2 'Niere'; the classes are 1 liver" in text
    )
    assert "label-values · c · masks/c.seg.nrrd · segment 2 ('spleen'): 224 voxels" in text
    assert " b " not in text.partition("\n")[2]
    # What was advised.
    write_segments(tmp_path / "one", {name: ["Leber", "Niere"] for name in NAMES})
    check(config(tmp_path / "one", labels={"Leber": 1, "Niere": 2}), "data")
    check(config(tmp_path / "one", labels={"liver": 1, "kidney": 2}, allow=["segment-names"]), "data")


# Laws


@given(
    st.dictionaries(st.integers(0, 300), st.integers(0, 300), max_size=6),
    st.lists(st.integers(0, 300), min_size=1, max_size=20),
)
def test_recoding_is_the_mapping_of_each_voxel(values: dict[int, int], stored: list[int]) -> None:
    recoding = Recoding(values)
    labels = np.array(stored, np.uint16).reshape(1, -1)
    found = recoding.apply(labels)
    assert found[0].tolist() == [values.get(value, value) for value in stored]
    assert Recoding.from_json(json.loads(json.dumps(recoding.to_json()))) == recoding


def test_colours_as_numbers() -> None:
    planes = np.array([[[255, 1]], [[0, 2]], [[16, 3]]], np.uint8)
    assert colours_of(planes).tolist() == [[0xFF0010, 0x010203]]
    assert colours_of(planes[:1]).tolist() == [[0xFFFFFF, 0x010101]]


def test_planes_that_differ_are_refused_where_values_are_meant(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.arange(2 * 12 * 10, dtype=np.uint16).reshape(2, 12, 10), metadata={"axes": "CYX"}
    )
    with pytest.raises(Exception, match="label file with 2 channels, expected one"):
        open_image(tmp_path / "a.tif").labels()
