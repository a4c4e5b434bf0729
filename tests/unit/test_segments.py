"""Segmentations that list segments: names, layers, empty parts that they leave out, and where they lie in the image."""

from __future__ import annotations

import gzip
import io
import re
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.config import Config
from medseg.errors import DatasetFaults
from medseg.formats.dicom.label import segmentation_bytes
from medseg.formats.errors import FormatError
from medseg.formats.read import open_image
from medseg.formats.table import stem_of, suffix_of
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry, placement_in
from medseg.image.resample import placed
from medseg.ingest import run as ingest
from medseg.ingest.cases import read_case_labels
from medseg.ingest.manifest import read_manifest
from medseg.measure.pairing import Pair
from medseg.measure.scenes import Reading
from tests.configurations import config as configured

AFFINE = np.array([[-0.7, 0.1, 0.0, 30.0], [0.1, 0.7, 0.0, -12.0], [0.0, 0.0, 2.5, 40.0], [0.0, 0.0, 0.0, 1.0]])
GRID = Geometry.create((12, 11, 9), AFFINE @ np.diag([1.0, -1.0, 1.0, 1.0]))
NAMES = {"liver": 1, "kidney": 2}


def organs() -> np.ndarray:
    """Two organs away from the borders, in slices 2 to 6."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:6, 4:8, 2:6] = 1
    labels[8:10, 2:4, 4:7] = 2
    return labels


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, GRID.shape).astype(np.int16)


def without_empty_frames(data: bytes) -> bytes:
    """A segmentation as highdicom writes it by default: no frames where a segment has no voxel."""
    file = pydicom.dcmread(io.BytesIO(data))
    frames = file.pixel_array
    keep = [n for n, frame in enumerate(frames) if frame.any()]
    file.PerFrameFunctionalGroupsSequence = [file.PerFrameFunctionalGroupsSequence[n] for n in keep]
    file.NumberOfFrames = len(keep)
    packed = np.packbits(frames[keep], axis=None, bitorder="little").tobytes()
    file.PixelData = packed + b"\0" * (len(packed) % 2)
    out = io.BytesIO()
    file.save_as(out)
    return out.getvalue()


def seg_nrrd(voxels: np.ndarray, grid: Geometry, **keys: str) -> bytes:
    """What 3D Slicer writes, in its order of lines: (*S), or (L,*S) for several layers."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ grid.affine[:3]
    layers = voxels.ndim == 4
    vectors = " ".join(f"({','.join(repr(float(v)) for v in lps[:, axis])})" for axis in range(3))
    lines = [
        *("NRRD0004", "# Complete NRRD file format specification at:", "type: unsigned char"),
        f"dimension: {voxels.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, voxels.shape))}",
        f"space directions: {'none ' if layers else ''}{vectors}",
        f"kinds: {'list ' if layers else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: ({','.join(repr(float(v)) for v in lps[:, 3])})",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        *(f"{key}:={text}" for key, text in keys.items()),
    ]
    return ("\n".join(lines) + "\n\n").encode() + gzip.compress(voxels.astype(np.uint8).tobytes(order="F"))


def keys(*segments: tuple[str, int, int]) -> dict[str, str]:
    """Keys of segments (name, value, layer)."""
    out = {}
    for n, (name, value, layer) in enumerate(segments):
        fields = {"ID": f"Segment_{n}", "Name": name, "LabelValue": str(value), "Layer": str(layer), "Color": "1 0 0"}
        out |= {f"Segment{n}_{field}": text for field, text in fields.items()}
    return out


def cropped(labels: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> tuple[np.ndarray, Geometry]:
    box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
    return labels[box], GRID.cropped(start, shape)


def test_names_of_a_dicom_segmentation_are_read_by_number() -> None:
    file = pydicom.dcmread(io.BytesIO(segmentation_bytes(Path("a.dcm"), organs(), GRID)))
    file.SpecificCharacterSet = "ISO_IR 192"
    for item, name in zip(file.SegmentSequence, ("Leber", "Niere (größer)"), strict=True):
        item.SegmentLabel = name
    out = io.BytesIO()
    file.save_as(out)
    source = open_image(Path("a.dcm"), out.getvalue())
    assert source.segments == {1: "Leber", 2: "Niere (größer)"}
    assert source.sparse


def test_seg_nrrd_is_a_suffix_and_names_its_segments() -> None:
    assert (stem_of(Path("a.seg.nrrd")), suffix_of(Path("A.SEG.NRRD"))) == ("a", ".seg.nrrd")
    data = seg_nrrd(organs(), GRID, **keys(("kidney", 2, 0), ("liver", 1, 0)))
    source = open_image(Path("a.seg.nrrd"), data)
    np.testing.assert_array_equal(source.labels(), organs())
    assert source.segments == {2: "kidney", 1: "liver"}
    assert source.geometry.corner_distance_voxels(GRID) < 1e-9
    # Under its other name it is the same.
    assert open_image(Path("a.nrrd"), data).segments == source.segments


def test_layers_that_do_not_overlap_are_one_label_map() -> None:
    labels = organs()
    apart = np.stack([labels == 1, (labels == 2) * 2])
    source = open_image(Path("a.seg.nrrd"), seg_nrrd(apart, GRID, **keys(("liver", 1, 0), ("kidney", 2, 1))))
    np.testing.assert_array_equal(source.labels(), labels)
    assert (source.segments, source.remarks) == ({1: "liver", 2: "kidney"}, ())
    # Values are unique within a layer only; Slicer numbers each layer from 1.
    source = open_image(Path("a.seg.nrrd"), seg_nrrd(apart > 0, GRID, **keys(("liver", 1, 0), ("kidney", 1, 1))))
    np.testing.assert_array_equal(source.labels(), labels)
    assert source.segments == {1: "liver", 2: "kidney"}
    assert "numbered from 1 to 2" in source.remarks[0]
    # Before version 4.11 every segment had its layer, and neither value nor layer was said.
    old = {"Segment0_Name": "liver", "Segment1_Name": "kidney"}
    np.testing.assert_array_equal(open_image(Path("a.seg.nrrd"), seg_nrrd(apart > 0, GRID, **old)).labels(), labels)


@pytest.mark.parametrize(
    ("layers", "segments", "cause"),
    [
        (lambda a: np.stack([a == 1, a > 0]), [("liver", 1, 0), ("all", 1, 1)], "segments 'liver' and 'all' overlap"),
        (
            lambda a: np.stack([a == 1, a]),
            [("liver", 1, 0), ("kidney", 2, 1)],
            "layer 1 has the value 1, which is no segment",
        ),
        (lambda a: np.stack([a == 1, a == 2]), [("liver", 1, 0), ("kidney", 1, 2)], "in layer 2, there are 2"),
        (lambda a: a, [("liver", 1, 0), ("kidney", 1, 0)], "2 segments of value 1 in layer 0"),
        (lambda a: a, [("liver", 0, 0)], "a segment of value 0"),
    ],
)
def test_segments_that_contradict_their_voxels_are_refused(layers, segments, cause: str) -> None:  # type: ignore[no-untyped-def]
    data = seg_nrrd(layers(organs()), GRID, **keys(*segments))
    with pytest.raises(FormatError, match=cause):
        open_image(Path("a.seg.nrrd"), data)


def test_parts_are_placed_by_the_world() -> None:
    start, shape = (2, 1, 3), (9, 8, 5)
    labels, grid = cropped(organs(), start, shape)
    for axes, flips in (((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, False, True))):
        turned = np.flip(labels.transpose(axes), [i for i, flip in enumerate(flips) if flip])
        found = placement_in(grid.reoriented(axes, flips), GRID)
        assert found is not None
        expected = np.zeros_like(organs())
        expected[2:11, 1:9, 3:8] = labels
        np.testing.assert_array_equal(placed(turned, found, GRID.shape), expected)


def moved(grid: Geometry, *shift: float) -> Geometry:
    affine = grid.affine
    affine[:3, 3] += affine[:3, :3] @ shift
    return Geometry.create(grid.shape, affine, grid.unit)


def test_what_lies_beside_the_grid_is_no_part_of_it() -> None:
    part = GRID.cropped((1, 1, 1), (4, 4, 4))
    assert placement_in(part, GRID) is not None
    assert placement_in(moved(part, 0.05, 0, 0), GRID) is not None
    for other in (
        moved(part, 0.5, 0.0, 0.0),
        moved(part, -2.0, 0.0, 0.0),
        moved(part, 0.0, 0.0, 5.0),
        part.resampled((8, 8, 8)),
        Geometry.create(part.shape, part.affine, "um"),
        Geometry.from_spacing((4, 4), (1.0, 1.0), "mm"),
    ):
        assert placement_in(other, GRID) is None


def study(root: Path, label: bytes, name: str) -> Config:
    """Two cases; the first has ``label`` as its label file."""
    for case in ("a", "b"):
        noise = np.random.default_rng(ord(case)).integers(-900, 900, GRID.shape).astype(np.int16)
        write_labels(root / f"data/images/{case}.nii.gz", noise, GRID)
    write_labels(root / "data/masks/b.nii.gz", organs(), GRID)
    (root / "data/masks" / name).write_bytes(label)
    return configured(root, layout="pairs", labels=NAMES)


def dicom_part() -> bytes:
    return without_empty_frames(segmentation_bytes(Path("a.dcm"), organs(), GRID))


def dicom_turned() -> bytes:
    """The image was converted by a program that reverses rows."""
    turned = GRID.reoriented((0, 1, 2), (False, True, True))
    labels = np.flip(organs(), (1, 2))
    return without_empty_frames(segmentation_bytes(Path("a.dcm"), labels, turned))


def slicer_part() -> bytes:
    labels, grid = cropped(organs(), (3, 2, 2), (7, 6, 5))
    return seg_nrrd(labels, grid, **keys(("liver", 1, 0), ("kidney", 2, 0)))


def slicer_begin() -> bytes:
    labels, grid = cropped(organs(), (0, 0, 0), (10, 8, 7))
    return seg_nrrd(labels, grid, **keys(("liver", 1, 0), ("kidney", 2, 0)))


def plain_part() -> bytes:
    labels, grid = cropped(organs(), (0, 0, 2), (12, 11, 7))
    with tempfile.TemporaryDirectory() as folder:
        write_labels(Path(folder) / "a.nii.gz", labels, grid)
        return (Path(folder) / "a.nii.gz").read_bytes()


PARTS = {
    "a.dcm": [dicom_part, dicom_turned],
    "a.seg.nrrd": [slicer_part, slicer_begin],
    "a.nii.gz": [plain_part],
}


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in PARTS.items() for part in parts])
def test_a_label_on_a_part_of_the_grid_counts_as_background_elsewhere(name: str, part, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    config = study(tmp_path, part(), name)
    ingest.run(config, "data", tmp_path / "out", workers=1)
    case = read_manifest(tmp_path / "out/manifest.tsv").case("a")
    np.testing.assert_array_equal(read_case_labels(case, tmp_path / "data"), organs())
    assert case.label_counts == dict(enumerate(np.bincount(organs().ravel()).tolist()))
    assert any("a part of the image's grid" in remark for remark in case.remarks)


def torn() -> bytes:
    labels, grid = cropped(organs(), (0, 0, 0), (12, 11, 8))
    return seg_nrrd(labels, grid)


def beside() -> bytes:
    return seg_nrrd(organs()[:, :, 2:], moved(GRID.cropped((0, 0, 2), (12, 11, 7)), 0.4, 0, 0), **keys(("liver", 1, 0)))


@pytest.mark.parametrize(("name", "label"), [("a.nrrd", torn), ("a.seg.nrrd", beside)])
def test_what_may_be_torn_off_or_lies_beside_is_a_fault(name: str, label, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(study(tmp_path, label(), name), "data")
    (fault,) = caught.value.faults
    assert fault.code == "shape-mismatch"
    assert ("begins where the image does" in fault.cause) == (label is torn)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd"])
def test_the_advice_for_a_file_that_ends_before_its_image_helps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, grid = cropped(organs(), (0, 0, 0), (12, 11, 8))
    config = study(tmp_path, b"", name)
    write_labels(tmp_path / "data/masks" / name, labels, grid)
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(config, "data")
    (fault,) = caught.value.faults
    assert "docs/formats.md, Segments" in fault.fix
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text()
    (script,) = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "np.pad" in one]
    monkeypatch.chdir(tmp_path / "data")
    images = next((tmp_path / "data/images").iterdir()).name
    exec(script.replace("images/a.nii.gz", f"images/{images}").replace("masks/a.nii.gz", f"masks/{name}"), {})
    ingest.run(config, "data", tmp_path / "out", workers=1)
    case = read_manifest(tmp_path / "out/manifest.tsv").case("a")
    np.testing.assert_array_equal(read_case_labels(case, tmp_path / "data"), organs())


def test_objects_on_a_part_of_the_image_are_measured(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.nii.gz", image(), GRID)
    places = {}
    for name, data in (("whole.seg.nrrd", seg_nrrd(organs(), GRID)), ("part.seg.nrrd", slicer_part())):
        (tmp_path / name).write_bytes(data)
        scene = Reading().read(Pair("a", tmp_path / "a.nii.gz", tmp_path / name)).scene
        places[name] = scene.boxes
    assert places["whole.seg.nrrd"] == places["part.seg.nrrd"]
    assert len(places["part.seg.nrrd"]) == 2
