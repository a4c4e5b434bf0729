"""Contours of DICOM structure sets as labels: which voxels lie inside, on which slices, under which names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from pydicom.dataset import Dataset
from skimage.measure import find_contours
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.config import load_config
from medseg.errors import DatasetFaults
from medseg.formats.dicom.contours import filled
from medseg.formats.drawn import drawn as drawn_on
from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_content
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest import run as ingest
from medseg.ingest.cases import read_case_labels
from medseg.ingest.manifest import Manifest, read_manifest
from tests import dicom_phantom as phantom
from tests.configurations import config as configured
from tests.dicom_contours import GRID, Loops, in_space, loops, structure_set


def drawn(path: Path, data: bytes, meant: Mapping[int, int] | None = None, grid: Geometry = GRID) -> Any:
    path.write_bytes(data)
    return drawn_on(open_image(path), grid, meant or {})


def some_mask(seed: int, shape: tuple[int, ...] = GRID.shape, share: float = 0.4) -> np.ndarray:
    """Random voxels: holes, islands in holes, corners that touch; something in every slice."""
    mask = np.random.default_rng(seed).random(shape) < share
    mask[0, 0, :] = True
    return mask


# Inside


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_contours_between_voxels_come_back_as_the_mask_they_were_traced_from(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((9, 13)) < share
    polygons = [points - 1 for points in find_contours(np.pad(mask, 1).astype(float), 0.5)]
    np.testing.assert_array_equal(filled(mask.shape, polygons), mask)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
def test_inside_is_what_another_library_says(seed: int, corners: int) -> None:
    rng = np.random.default_rng(seed)
    angles, radii = np.sort(rng.uniform(0, 2 * np.pi, corners)), rng.uniform(1, 12, corners)
    polygon = np.column_stack([8.3 + radii * np.cos(angles), 7.7 + radii * np.sin(angles)])
    pixels = np.stack(np.mgrid[:16, :18], axis=-1).reshape(-1, 2)
    expected = Outline(np.vstack([polygon, polygon[:1]]), closed=True).contains_points(pixels).reshape(16, 18)
    np.testing.assert_array_equal(filled((16, 18), [polygon]), expected)


SQUARE, HOLE = np.array([[1.0, 1], [1, 8], [8, 8], [8, 1]]), np.array([[3.0, 3], [3, 6], [6, 6], [6, 3]])


def test_holes_keyholes_and_islands_and_what_lies_on_a_contour_is_inside() -> None:
    ring = np.zeros((10, 10), bool)
    ring[1:9, 1:9] = True
    ring[4:6, 4:6] = False
    np.testing.assert_array_equal(filled((10, 10), [SQUARE, HOLE]), ring)
    keyhole = np.vstack([SQUARE, SQUARE[:1], HOLE, HOLE[:1]])
    np.testing.assert_array_equal(filled((10, 10), [keyhole]), ring)
    island = np.array([[3.5, 3.5], [3.5, 4.5], [4.5, 4.5], [4.5, 3.5]])
    ring[4, 4] = True
    np.testing.assert_array_equal(filled((10, 10), [SQUARE, HOLE, island]), ring)
    # Beyond the picture, outside of it, and no area at all.
    assert filled((4, 4), [SQUARE - 20, SQUARE[:2]]).sum() == 0
    assert filled((4, 4), [SQUARE - 3.5]).all()


# On the grid of the image


@pytest.mark.parametrize("implicit", [False, True])
def test_structures_are_drawn_on_the_slices_of_their_series(implicit: bool, tmp_path: Path) -> None:
    first, second = some_mask(1), some_mask(2)
    second &= ~first
    data = structure_set({"Liver": loops(first), "kidney": loops(second)}, implicit=implicit)
    source = drawn(tmp_path / "rs.dcm", data)
    assert source.segments == {1: "Liver", 2: "kidney"}
    np.testing.assert_array_equal(source.labels(), first + 2 * second)
    assert source.geometry == GRID
    assert not source.notes
    # By position, whatever the order of contours in the file.
    turned = structure_set({"Liver": loops(first)[::-1], "kidney": loops(second)[::-1]})
    np.testing.assert_array_equal(drawn(tmp_path / "rs.dcm", turned).labels(), first + 2 * second)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("mirrored", [(), (0,), (1, 2)])
def test_the_image_may_have_been_converted(axes: tuple[int, ...], mirrored: tuple[int, ...], tmp_path: Path) -> None:
    """The same image with axes in another order and direction: the same structure in the same place."""
    mask = some_mask(3)
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, old in enumerate(axes):
        turn[old, new] = -1 if new in mirrored else 1
        turn[old, 3] = GRID.shape[old] - 1 if new in mirrored else 0
    grid = Geometry.create([GRID.shape[old] for old in axes], GRID.affine @ turn)
    expected = np.flip(mask.transpose(axes), mirrored) if mirrored else mask.transpose(axes)
    found = drawn(tmp_path / "rs.dcm", structure_set({"a": loops(mask)}), grid=grid)
    np.testing.assert_array_equal(found.labels(), expected)


def moved(contours: Loops, by: Sequence[float]) -> list[tuple[np.ndarray, str]]:
    shift = in_space(np.array([by])) - in_space(np.zeros((1, 3)))
    return [(points + shift, kind) for points, kind in contours]


REFUSED: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "between slices": (
        lambda: structure_set({"a": moved(loops(some_mask(1)), (0, 0, 0.4))}),
        "affine-mismatch",
        "0.4 slices from slice",
    ),
    "outside": (
        lambda: structure_set({"a": moved(loops(some_mask(1)), (0, 0, 3))}),
        "affine-mismatch",
        "with slices 0 to 5",
    ),
    "in other planes": (
        lambda: structure_set({"a": [(in_space(np.array([[1.0, 1, 1], [3, 3, 1], [3, 1, 4]])), "CLOSED_PLANAR")]}),
        "affine-mismatch",
        "slices from slice",
    ),
    "every other slice": (
        lambda: structure_set({"a": [one for k, one in enumerate(loops(np.ones(GRID.shape, bool))) if not k % 2]}),
        "slice-gap",
        "every 2. slice",
    ),
    "open": (
        lambda: structure_set({"a": [(in_space(np.array([[1.0, 1, 1], [3, 3, 1], [3, 1, 1]])), "OPEN_PLANAR")]}),
        "unreadable",
        "1 open contours",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_contours_that_do_not_lie_in_slices_are_refused(name: str, tmp_path: Path) -> None:
    make, code, words = REFUSED[name]
    with pytest.raises(FormatError, match=words) as caught:
        drawn(tmp_path / "rs.dcm", make())
    assert caught.value.code == code
    assert caught.value.fix


def test_what_cannot_be_drawn_on_is_said(tmp_path: Path) -> None:
    data = structure_set({"a": loops(some_mask(1))})
    for grid in (Geometry.from_spacing((9, 8), (1, 1), "mm"), Geometry.from_spacing((9, 8, 6), (1, 1, 1), "px")):
        with pytest.raises(FormatError, match="contours in mm, on an image of"):
            drawn(tmp_path / "rs.dcm", data, grid=grid)
    with pytest.raises(FormatError, match="give the file as the label of a case"):
        open_image(tmp_path / "rs.dcm").image()
    with pytest.raises(FormatError, match="without any closed contour"):
        drawn(tmp_path / "rs.dcm", structure_set({"isocentre": [(np.zeros((1, 3)), "POINT")]}))
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a", "b"):
        (two / name).write_bytes(data)
    with pytest.raises(FormatError, match="2 files of contours"):
        open_image(two)


def test_gaps_and_points_and_numbers_that_are_no_label_values(tmp_path: Path) -> None:
    mask = some_mask(4)
    mask[:, :, 2] = False
    point = (in_space(np.array([[1.0, 1, 1]])), "POINT")
    data = structure_set({"point": [point], "organ": [*loops(mask), point]}, numbers=(1, 0))
    found = drawn(tmp_path / "rs.dcm", data)
    np.testing.assert_array_equal(found.labels(), mask)
    assert found.segments == {1: "organ"}
    assert any("no contour in slices between others" in remark for remark in found.remarks)
    assert "structures numbered from 1 to 1" in found.remarks


def test_damage_is_an_error_without_text_of_the_file(tmp_path: Path) -> None:
    for points in ([1.0, 2], [1e9, 0, 0], []):
        item = Dataset()
        item.ContourGeometricType, item.ContourData = "CLOSED_PLANAR", points
        roi = Dataset()
        roi.ReferencedROINumber, roi.ContourSequence = 1, [item]
        with pytest.raises(FormatError) as caught:
            drawn(tmp_path / "rs.dcm", structure_set({}, ROIContourSequence=[roi]))
        assert not [canary for canary in phantom.CANARIES if canary in str(caught.value)]


@pytest.mark.parametrize("undefined", [False, True])
def test_a_file_that_was_cut_is_never_taken_for_one_of_fewer_contours(undefined: bool, tmp_path: Path) -> None:
    mask = some_mask(1, share=0.2)
    whole = structure_set({"a": loops(mask), "b": loops(mask)}, undefined=undefined)
    expected = drawn(tmp_path / "rs.dcm", whole).labels()
    starts = range(200, len(whole), 97)
    survived = 0
    for end in starts:
        try:
            found = drawn(tmp_path / "cut.dcm", whole[:end])
        except FormatError:
            continue
        survived += 1
        np.testing.assert_array_equal(found.labels(), expected)
    assert survived < len(starts) / 10


# As labels of a data set


def data_set(root: Path, structures: Mapping[str, Loops], **section: Any) -> Any:
    """Two cases, one a series, the other the same converted to NIfTI, each with its contours."""
    for name, content in phantom.series().items():
        path = root / "data/images/a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    grid = Geometry.create(GRID.shape, GRID.affine)
    rng = np.random.default_rng(0)
    write_labels(root / "data/images/b.nii.gz", rng.integers(1, 900, GRID.shape).astype(np.int16), grid)
    for case in "ab":
        path = root / "data/masks" / f"{case}.dcm"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(structure_set(structures))
    return configured(root, **{"layout": "pairs", "labels": {"kidney": 1, "liver": 2}, **section})


def ingested(config: Any, root: Path) -> Manifest:
    ingest.run(config, "data", root / "out")
    return read_manifest(root / "out/manifest.tsv")


def test_structures_are_classes_by_their_names_and_others_are_left_aside(tmp_path: Path) -> None:
    liver, kidney, body = some_mask(5, share=0.3), some_mask(6, share=0.2), np.ones(GRID.shape, bool)
    kidney &= ~liver
    config = data_set(tmp_path, {"BODY": loops(body), "Liver": loops(liver), "Kidney": loops(kidney)})
    manifest = ingested(config, tmp_path)
    for case in manifest.cases:
        values = read_case_labels(case, tmp_path / "data")
        np.testing.assert_array_equal(values, kidney + 2 * liver)
        assert "structures that are no class are left aside: BODY" in case.remarks
    counts = manifest.cases[0].label_counts
    assert (counts[1], counts[2]) == (kidney.sum(), liver.sum())
    text = (tmp_path / "out/manifest.tsv").read_text() + (tmp_path / "out/dataset.json").read_text()
    assert not [canary for canary in phantom.CANARIES if canary in text]


def test_structures_that_overlap_are_a_fault_that_can_be_allowed(tmp_path: Path) -> None:
    liver, kidney = some_mask(5), some_mask(6)
    both = int((liver & kidney).sum())
    config = data_set(tmp_path, {"liver": loops(liver), "kidney": loops(kidney)})
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(config, "data")
    assert {f.code for f in caught.value.faults} == {"label-overlap"}
    assert caught.value.faults[0].cause == f"{both} voxels are inside several structures"
    # The class of the lower value keeps them, as with a file per class.
    config = data_set(tmp_path, {"liver": loops(liver), "kidney": loops(kidney)}, allow=["label-overlap"])
    values = read_case_labels(ingested(config, tmp_path).cases[0], tmp_path / "data")
    np.testing.assert_array_equal(values, np.where(kidney, 1, 2 * liver))


def test_structures_with_other_names_are_a_fault(tmp_path: Path) -> None:
    config = data_set(tmp_path, {"leber": loops(some_mask(5)), "BODY": loops(np.ones(GRID.shape, bool))})
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(config, "data")
    named = next(f for f in caught.value.faults if f.code == "segment-names")
    assert "1 'leber', 2 'BODY'" in named.cause


def test_contours_beside_their_series_in_one_folder(tmp_path: Path) -> None:
    """As archives export a study: the image passes the contours over, a table or pattern names their file."""
    folder = tmp_path / "data"
    mask = some_mask(7)
    for case in "ab":
        (folder / case).mkdir(parents=True)
        for name, content in phantom.series().items():
            (folder / case / name).write_bytes(content)
        (folder / case / "RS.dcm").write_bytes(structure_set({"liver": loops(mask)}))
    image, whole = open_image(folder / "a"), read_content(folder / "a")
    assert image.shape == (1, *GRID.shape)
    assert "RS.dcm" in whole.files
    (folder / "cases.csv").write_text("case,image,label\na,a,a/RS.dcm\n")
    section = {"layout": "table", "table": "cases.csv", "labels": {"liver": 1}, "allow": ["unlisted"]}
    config = configured(tmp_path, {"run": ["all"]}, **section)
    (case,) = ingested(config, tmp_path).cases
    np.testing.assert_array_equal(read_case_labels(case, folder), mask)
    patterns = {"images": "{case}", "masks": "{case}/RS.dcm", "labels": {"liver": 1}}
    config = configured(tmp_path, {"run": ["all"]}, **patterns, exclude=["b"], allow=["unlisted"])
    assert [case.labels for case in ingested(config, tmp_path).cases] == [("a/RS.dcm",)]


def test_a_configuration_is_drafted_from_the_names_of_structures(tmp_path: Path) -> None:
    liver, kidney = some_mask(5, share=0.3), some_mask(6, share=0.2)
    data_set(tmp_path, {"Liver": loops(liver), "Kidney": loops(kidney & ~liver)})
    found = CliRunner().invoke(app, ["new", str(tmp_path / "data"), "-o", str(tmp_path / "my.yaml")])
    assert found.exit_code == 0, found.output
    (section,) = load_config([tmp_path / "my.yaml"]).datasets.values()
    assert section.labels == {"Liver": 1, "Kidney": 2}
