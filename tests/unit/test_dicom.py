"""DICOM series: where voxels are, which numbers they hold, in every dress a series can come in."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.formats.content import Content
from medseg.formats.dicom.label import MOST_SEGMENTS, segmentation_bytes
from medseg.formats.dicom.pixels import SYNTAXES
from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_content, read_image, read_labels
from medseg.formats.source import Source
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from tests import dicom_phantom as phantom
from tests.dicom_phantom import COLUMNS, ROWS, SLICES, VOXELS

FOLDER = Path("case")
GRID = Geometry.create(VOXELS.shape, phantom.expected_affine())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return phantom.write_folder(tmp_path / "case", phantom.series())


def read(files: dict[str, bytes], series: str = "") -> Source:
    """Read files as a folder, or a single one by its own name."""
    from medseg.formats.dicom.read import open_dicom

    return open_dicom(FOLDER, Content(files, series))


def read_one(data: bytes) -> Source:
    return open_image(Path("case.dcm"), data)


# Geometry


def test_every_voxel_lies_where_its_slice_says(folder: Path) -> None:
    image, geometry = read_image(folder)
    np.testing.assert_array_equal(image[0], VOXELS)
    assert image.dtype == np.int16 and image.flags.c_contiguous
    assert geometry.shape == (COLUMNS, ROWS, SLICES) and geometry.unit == "mm"
    for voxel in itertools.product((0, COLUMNS - 1, 4), (0, ROWS - 1, 3), (0, SLICES - 1, 2)):
        np.testing.assert_allclose((geometry.affine @ [*voxel, 1])[:3], phantom.ras_of(*voxel), atol=1e-9)
    np.testing.assert_allclose(geometry.spacing, (1.1, 0.7, 2.5), atol=1e-9)


def test_the_first_readers_may_be_several_threads(tmp_path: Path) -> None:
    for name in "abcd":
        phantom.write_folder(tmp_path / name, phantom.series())
    code = """
import sys, pathlib, concurrent.futures
from medseg.formats.read import open_image
sys.setswitchinterval(1e-5)
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    print(len(list(pool.map(open_image, sorted(pathlib.Path(sys.argv[1]).iterdir())))))
"""
    # Which thread comes when is chance.
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code, tmp_path], text=True, capture_output=True)
        assert done.stdout == "4\n", done.stderr[-800:]


def test_file_names_and_numbers_do_not_order_slices() -> None:
    """DX-03: InstanceNumber is 1 everywhere; any naming gives one volume."""
    files = phantom.series()
    data = [files[phantom.name_of(k)] for k in range(SLICES)]
    for order in list(itertools.permutations(range(SLICES)))[:: 6 * 5 * 4 - 1]:
        stored = read({f"{n}.dcm": data[k] for n, k in enumerate(order)})
        np.testing.assert_array_equal(stored.voxels[0], VOXELS)
        np.testing.assert_allclose(stored.affine, phantom.expected_affine(), atol=1e-9)
        assert stored.notes == ()


@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_every_plane_and_direction(axes: tuple[int, int, int], signs: tuple[int, int]) -> None:
    """Axial, coronal and sagittal planes, read in either direction: slices ascend along the normal."""
    across, down = np.eye(3)[axes[0]] * signs[0], np.eye(3)[axes[1]] * signs[1]
    normal = np.cross(across, down)
    change = {
        k: {
            "ImagePositionPatient": phantom.decimals(k * 2.0 * normal),
            "ImageOrientationPatient": phantom.decimals([*across, *down]),
        }
        for k in range(SLICES)
    }
    stored = read(phantom.series(change))
    np.testing.assert_array_equal(stored.voxels[0], VOXELS)
    lps = np.stack([across * 1.1, down * 0.7, normal * 2.0], axis=1)
    np.testing.assert_allclose(stored.affine[:3, :3], np.diag([-1, -1, 1]) @ lps, atol=1e-12)


@settings(max_examples=15)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 6)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_what_is_written_comes_back(
    angles: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]
) -> None:
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    affine[:3, 3] = origin
    geometry = Geometry.create((4, 3, 3), affine)
    labels = np.arange(36).reshape(4, 3, 3) % 5
    data = segmentation_bytes(Path("a.dcm"), labels, geometry)
    stored = read_one(data)
    np.testing.assert_array_equal(stored.labels(), labels)
    assert stored.geometry.corner_distance_voxels(geometry) < 1e-6
    assert segmentation_bytes(Path("b.dcm"), stored.labels(), stored.geometry) == data


def test_a_tilted_gantry_is_noted_and_keeps_its_sheared_grid() -> None:
    """DX-07."""
    change = {
        k: {"ImagePositionPatient": phantom.decimals(phantom.position(k) + 0.5 * k * phantom.DOWN)}
        for k in range(SLICES)
    }
    stored = read(phantom.series(change))
    assert [code for code, _ in stored.notes] == ["gantry-tilt"]
    place = stored.affine @ [2, 3, 4, 1]
    np.testing.assert_allclose(place[:3], phantom.ras_of(2, 3 + 0.5 * 4 / 0.7, 4), atol=1e-9)


def test_one_slice_is_a_volume_of_one() -> None:
    stored = read_one(phantom.file_bytes(phantom.one_slice(2)))
    np.testing.assert_array_equal(stored.voxels[0, :, :, 0], VOXELS[:, :, 2])
    np.testing.assert_allclose(stored.affine[:, 2], phantom.expected_affine()[:, 2], atol=1e-9)
    np.testing.assert_allclose(stored.affine[:3, 3], phantom.ras_of(0, 0, 2), atol=1e-9)
    with pytest.raises(FormatError, match="unknown thickness"):
        read_one(phantom.file_bytes(phantom.one_slice(2, SliceThickness=None)))


def test_rounded_positions_are_no_faults() -> None:
    """Scanners write two decimals."""
    change = {k: {"ImagePositionPatient": [f"{v:.2f}" for v in phantom.position(k)]} for k in range(SLICES)}
    stored = read(phantom.series(change))
    assert stored.notes == ()
    assert stored.geometry.corner_distance_voxels(GRID) < 0.05


# Numbers


def test_rescaling_common_to_all_slices_is_kept_apart() -> None:
    stored = read(phantom.series(RescaleSlope=2, RescaleIntercept=-1000.5))
    assert (stored.slope, stored.intercept, stored.voxels.dtype) == (2.0, -1000.5, np.int16)
    np.testing.assert_array_equal(stored.image()[0], VOXELS * 2.0 - 1000.5)


def test_rescaling_of_single_slices_is_applied() -> None:
    """PET: each slice has its own slope."""
    stored = read(phantom.series({k: {"RescaleSlope": 0.5 + k} for k in range(SLICES)}))
    assert stored.voxels.dtype == np.float32 and (stored.slope, stored.intercept) == (1.0, 0.0)
    np.testing.assert_array_equal(stored.voxels[0], VOXELS * (0.5 + np.arange(SLICES)))


@pytest.mark.parametrize(("stored_bits", "signed"), [(12, 0), (12, 1), (16, 0), (16, 1), (9, 1)])
def test_only_stored_bits_count(stored_bits: int, signed: int) -> None:
    """Overlays may lie above the stored bits; the highest stored bit is the sign."""
    words = np.random.default_rng(1).integers(0, 2**16, (ROWS, COLUMNS)).astype(np.uint16)
    low = words.astype(np.int64) % 2**stored_bits
    expected = np.where(low >= 2 ** (stored_bits - 1), low - 2**stored_bits, low) if signed else low
    image = phantom.one_slice(
        0, BitsStored=stored_bits, HighBit=stored_bits - 1, PixelRepresentation=signed, PixelData=words.tobytes()
    )
    stored = read_one(phantom.file_bytes(image))
    assert stored.voxels.dtype == (np.int16 if signed else np.uint16)
    np.testing.assert_array_equal(stored.voxels[0, :, :, 0], expected.T)


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (32, np.uint32)])
def test_other_word_sizes(bits: int, dtype: type) -> None:
    values = np.random.default_rng(1).integers(0, 2**bits, (ROWS, COLUMNS)).astype(dtype)
    data = values.tobytes()
    image = phantom.one_slice(
        0, BitsAllocated=bits, BitsStored=bits, HighBit=bits - 1, PixelRepresentation=0, PixelData=data
    )
    stored = read_one(phantom.file_bytes(image))
    assert stored.voxels.dtype == dtype
    np.testing.assert_array_equal(stored.voxels[0, :, :, 0], values.T)


@pytest.mark.parametrize("syntax", [phantom.IMPLICIT, phantom.EXPLICIT, phantom.BIG])
def test_native_transfer_syntaxes(syntax: str) -> None:
    np.testing.assert_array_equal(read(phantom.series(syntax=syntax)).voxels[0], VOXELS)


@pytest.mark.parametrize("syntax", [phantom.RLE, *phantom.ENCODERS])
def test_compressed_transfer_syntaxes(syntax: str) -> None:
    files, planes = {}, []
    for k in range(SLICES):
        image, plane = phantom.compressed(k, syntax)
        files[f"{SLICES - k}"] = phantom.file_bytes(image, syntax)
        planes.append(plane.T)
    stored = read(files)
    expected = np.stack(planes, axis=-1)
    assert stored.voxels.dtype == expected.dtype and stored.lossy == SYNTAXES[syntax].lossy
    off = np.abs(stored.voxels[0].astype(int) - expected).max()
    assert off <= (2 if stored.lossy else 0)


def test_every_decoder_of_the_table_is_tested() -> None:
    assert {uid for uid, syntax in SYNTAXES.items() if syntax.decode} == {phantom.RLE, *phantom.ENCODERS}


def test_signed_numbers_in_jpeg_2000() -> None:
    import imagecodecs
    from pydicom.encaps import encapsulate

    plane = np.ascontiguousarray(VOXELS[:, :, 0].T)
    code = imagecodecs.jpeg2k_encode(plane, level=0, codecformat="j2k", reversible=True)
    image = phantom.one_slice(0, PixelData=encapsulate([code]))
    image["PixelData"].is_undefined_length = True
    stored = read_one(phantom.file_bytes(image, phantom.JPEG_2000))
    np.testing.assert_array_equal(stored.voxels[0, :, :, 0], VOXELS[:, :, 0])


# Dresses


def test_a_folder_a_nested_folder_and_a_zip_hold_the_same(folder: Path, tmp_path: Path) -> None:
    files = phantom.series()
    nested = phantom.write_folder(
        tmp_path / "nested", {f"a/b{n % 2}/{name}": d for n, (name, d) in enumerate(files.items())}
    )
    archive = tmp_path / "case.zip"
    archive.write_bytes(phantom.zipped({f"study/{name}": data for name, data in files.items()}))
    first, grid = read_image(folder)
    for path in (nested, archive):
        image, geometry = read_image(path)
        np.testing.assert_array_equal(image, first)
        assert geometry == grid


def test_litter_and_directories_are_no_slices(folder: Path) -> None:
    expected = open_image(folder).voxels
    directory = phantom.one_slice(0, SOPClassUID="1.2.840.10008.1.3.10", PixelData=None)
    litter = {"DICOMDIR": b"x", ".DS_Store": b"x", "Thumbs.db": b"x", ".git/config": b"x", "index": b""}
    phantom.write_folder(folder, {**litter, "index": phantom.file_bytes(directory)})
    np.testing.assert_array_equal(open_image(folder).voxels, expected)


def test_the_named_series_is_read(folder: Path) -> None:
    other = phantom.series(SeriesInstanceUID="2.25.77", SeriesNumber=8, RescaleIntercept=5, PatientName="CANARY^B")
    phantom.write_folder(folder, {f"other/{name}": data for name, data in other.items()})
    report = phantom.one_slice(0, SeriesInstanceUID="2.25.78", Modality="SR", PixelData=None)
    phantom.write_folder(folder, {"report": phantom.file_bytes(report)})
    for wanted, intercept in ((phantom.SERIES, 0), ("3", 0), ("2.25.77", 5), ("8", 5)):
        stored = open_image(folder, read_content(folder, wanted))
        np.testing.assert_array_equal(stored.voxels[0], VOXELS)
        assert stored.intercept == intercept


def test_an_enhanced_file_is_a_volume() -> None:
    stored = read_one(phantom.file_bytes(phantom.enhanced()))
    np.testing.assert_array_equal(stored.voxels[0], VOXELS)
    np.testing.assert_allclose(stored.affine, phantom.expected_affine(), atol=1e-9)
    assert (stored.slope, stored.intercept) == (2.0, -7.0)


# Segmentations


def some_labels(most: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, most + 1, VOXELS.shape)


@pytest.mark.parametrize("most", [0, 1, 3, MOST_SEGMENTS, MOST_SEGMENTS + 1, 65535])
def test_labels_are_written_on_the_grid_of_the_series(most: int, folder: Path, tmp_path: Path) -> None:
    labels, (_, geometry) = some_labels(most), read_image(folder)
    labels[0, 0, 0] = most
    write_labels(tmp_path / "out.dcm", labels, geometry)
    found, grid = read_labels(tmp_path / "out.dcm")
    np.testing.assert_array_equal(found, labels)
    assert grid.shape == geometry.shape and grid.corner_distance_voxels(geometry) < 1e-7
    kind = pydicom.dcmread(tmp_path / "out.dcm").SegmentationType
    assert kind == ("BINARY" if most <= MOST_SEGMENTS else "LABELMAP")


def test_a_segmentation_has_the_date_that_it_must_have_and_none_of_anybody(folder: Path, tmp_path: Path) -> None:
    """Elements of type 1; always the same, so that equal labels give equal bytes on any day."""
    for name in ("one", "two"):
        write_labels(tmp_path / f"{name}.dcm", some_labels(3), read_image(folder)[1])
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()
    image = pydicom.dcmread(tmp_path / "one.dcm")
    assert (image.ContentDate, image.ContentTime) == ("19700101", "000000")
    assert not any(image[name].value for name in ("StudyDate", "StudyTime", "PatientBirthDate"))


def test_a_sheared_grid_of_a_tilted_gantry_is_written() -> None:
    change = {
        k: {"ImagePositionPatient": phantom.decimals(phantom.position(k) + 0.5 * k * phantom.DOWN)}
        for k in range(SLICES)
    }
    geometry = read(phantom.series(change)).geometry
    back = read_one(segmentation_bytes(Path("a.dcm"), some_labels(2), geometry)).geometry
    assert back.corner_distance_voxels(geometry) < 1e-7


def test_grids_and_numbers_that_a_segmentation_cannot_hold() -> None:
    path, labels = Path("a.dcm"), some_labels(2)
    mirrored = Geometry.create(labels.shape, np.diag([1.0, 1.0, -1.0, 1.0]))
    skewed = np.eye(4)
    skewed[0, 1] = 0.2
    for geometry, what in (
        (mirrored, "cannot express"),
        (Geometry.create(labels.shape, skewed), "right angles"),
        (Geometry.create(labels.shape, np.eye(4), "um"), "in um"),
        (Geometry.from_spacing((9, 8), (1, 1)), "2 axes"),
    ):
        with pytest.raises(FormatError, match=what):
            segmentation_bytes(path, labels, geometry)
    for low, high in ((-1, 1), (0, 65536)):
        with pytest.raises(FormatError, match="holds 0 to 65535"):
            segmentation_bytes(path, np.clip(labels * 10**6 - 10, low, high), GRID)


def reencoded(data: bytes, **elements: object) -> bytes:
    image = pydicom.dcmread(io.BytesIO(data))
    return phantom.file_bytes(phantom.changed(image, **elements))


def test_empty_frames_may_be_left_out() -> None:
    """Other programs write no frames for slices without the segment: they are background."""
    labels = np.zeros(VOXELS.shape, int)
    labels[2:5, 3:6, [0, 3, 5]] = 1
    image = pydicom.dcmread(io.BytesIO(segmentation_bytes(Path("a.dcm"), labels, GRID)))
    frames = image.pixel_array
    kept = [k for k in range(SLICES) if frames[k].any()]
    assert kept == [0, 3, 5]
    image.PerFrameFunctionalGroupsSequence = [image.PerFrameFunctionalGroupsSequence[k] for k in reversed(kept)]
    image.NumberOfFrames = len(kept)
    image.PixelData = np.packbits(frames[kept[::-1]], axis=None, bitorder="little").tobytes()
    stored = read_one(phantom.file_bytes(image))
    np.testing.assert_array_equal(stored.labels(), labels)
    assert stored.geometry.corner_distance_voxels(GRID) < 1e-7


def test_segments_must_not_overlap_or_be_fractions() -> None:
    data = segmentation_bytes(Path("a.dcm"), some_labels(2), GRID)
    ones = reencoded(data, PixelData=b"\xff" * len(pydicom.dcmread(io.BytesIO(data)).PixelData))
    with pytest.raises(FormatError, match="overlaps"):
        read_one(ones)
    with pytest.raises(FormatError, match="fractional"):
        read_one(reencoded(data, SegmentationType="FRACTIONAL"))
