"""A DICOM segmentation and its series in the eyes of pydicom and highdicom: one place, one study, slice by slice."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medseg.formats.dicom.label import MOST_SEGMENTS
from medseg.formats.read import open_image
from medseg.formats.source import Source
from medseg.formats.world import About
from medseg.formats.write import write_labels
from medseg.image.geometry import placement_in
from medseg.image.labels import LabelTable
from medseg.image.resample import placed
from medseg.predict.sinks import LabelFile
from tests import dicom_phantom as phantom
from tests.dicom_phantom import COLUMNS, ROWS, SLICES
from tests.stand_in import sink_labels

STUDY, FRAME = phantom.IDENTITY["StudyInstanceUID"], phantom.IDENTITY["FrameOfReferenceUID"]
# Whatever else could tell who it is.
PERSONAL = [text for text in phantom.CANARIES if not text.startswith("2.25.")]
TABLE = LabelTable.create({"liver": 1, "Niere (größer)": 2, "spleen": 4})


def uid(k: int) -> str:
    return f"2.25.777000{k}"


def series(**elements: Any) -> dict[str, bytes]:
    return phantom.series({k: {"SOPInstanceUID": uid(k)} for k in range(SLICES)}, **elements)


def uneven() -> dict[str, bytes]:
    """Slices that lie a little beside their place in an even stack, with a thickness that is not their distance."""
    places = {k: {"SOPInstanceUID": uid(k)} for k in range(SLICES)}
    for k, off in ((1, 0.04), (3, -0.06)):
        places[k]["ImagePositionPatient"] = phantom.decimals(phantom.position(k + off))  # type: ignore[assignment]
    return phantom.series(places, SliceThickness=5.0)


FILES: Mapping[str, Callable[[], dict[str, bytes]]] = {
    "slices": series,
    "uneven slices": uneven,
    "one slice": lambda: {"a": phantom.file_bytes(phantom.one_slice(0, SOPInstanceUID=uid(0)))},
    "frames": lambda: {"a": phantom.file_bytes(phantom.enhanced(SOPInstanceUID=uid(9)))},
    "implicit": lambda: phantom.series({k: {"SOPInstanceUID": uid(k)} for k in range(SLICES)}, phantom.IMPLICIT),
}


def folder(tmp_path: Path, files: Mapping[str, bytes]) -> Path:
    return phantom.write_folder(tmp_path / "scan", files)


def labels_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).choice([0, 1, 2, 4], shape).astype(np.uint8)


def predict(source: Source, out: Path, **options: Any) -> np.ndarray:
    """Write a label map as a prediction of an image is written."""
    channels = np.random.default_rng(1).integers(0, 4, source.geometry.shape)
    sink_labels(source, channels, TABLE, [LabelFile(out, **options)])
    return TABLE.to_values(channels)


def frames_of(path: Path) -> dict[str, Any]:
    """Source instance and frame -> (position, orientation, spacing) of the slices of a series."""
    out = {}
    for file in sorted(path.iterdir()):
        image = pydicom.dcmread(file)
        if "PerFrameFunctionalGroupsSequence" not in image:
            place = (image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing)
            out[image.SOPInstanceUID, 0] = place
            continue
        shared = image.SharedFunctionalGroupsSequence[0]
        for number, item in enumerate(image.PerFrameFunctionalGroupsSequence, start=1):
            turn, size = shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0]
            place = item.PlanePositionSequence[0].ImagePositionPatient
            out[image.SOPInstanceUID, number] = (place, turn.ImageOrientationPatient, size.PixelSpacing)
    return out


@pytest.mark.parametrize("kind", FILES)
def test_every_frame_lies_on_the_slice_that_it_names(kind: str, tmp_path: Path) -> None:
    scan, out = folder(tmp_path, FILES[kind]()), tmp_path / "scan.dcm"
    values = predict(open_image(scan), out)
    np.testing.assert_array_equal(open_image(out).labels(), values)
    expected, seg = frames_of(scan), pydicom.dcmread(out)
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    for item in seg.PerFrameFunctionalGroupsSequence:
        source = item.DerivationImageSequence[0].SourceImageSequence[0]
        key = (source.ReferencedSOPInstanceUID, int(source.get("ReferencedFrameNumber", 0)))
        # Bit for bit: 0 mm apart.
        assert (item.PlanePositionSequence[0].ImagePositionPatient, orientation, spacing) == expected[key]
    assert open_image(out).geometry.corner_distance_voxels(open_image(scan).geometry) < 1e-6


@pytest.mark.parametrize("kind", FILES)
def test_a_segmentation_is_in_the_study_of_its_series(kind: str, tmp_path: Path) -> None:
    scan, out = folder(tmp_path, FILES[kind]()), tmp_path / "scan.dcm"
    predict(open_image(scan), out)
    seg, images = pydicom.dcmread(out), [pydicom.dcmread(file) for file in scan.iterdir()]
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == (STUDY, FRAME)
    (referred,) = seg.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == phantom.SERIES != seg.SeriesInstanceUID
    named = {(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in referred.ReferencedInstanceSequence}
    assert named == {(image.SOPClassUID, image.SOPInstanceUID) for image in images}
    assert seg.SOPInstanceUID not in {image.SOPInstanceUID for image in images}


def test_segments_have_the_names_of_the_classes(tmp_path: Path) -> None:
    predict(open_image(folder(tmp_path, series())), tmp_path / "scan.dcm")
    seg = pydicom.dcmread(tmp_path / "scan.dcm")
    assert [(s.SegmentNumber, s.SegmentLabel) for s in seg.SegmentSequence] == [
        (1, "liver"),
        (2, "Niere (größer)"),
        (3, "3"),
        (4, "spleen"),
    ]
    assert {s.SegmentAlgorithmType for s in seg.SegmentSequence} == {"AUTOMATIC"}
    assert open_image(tmp_path / "scan.dcm").segments == {1: "liver", 2: "Niere (größer)", 3: "3", 4: "spleen"}


def test_classes_that_nothing_shows_are_segments_as_well(tmp_path: Path) -> None:
    source = open_image(folder(tmp_path, series()))
    about = About.of_classes(source.world, TABLE.names)
    write_labels(tmp_path / "none.dcm", np.zeros(source.geometry.shape, np.uint8), source.geometry, about)
    assert open_image(tmp_path / "none.dcm").segments == {1: "liver", 2: "Niere (größer)", 3: "3", 4: "spleen"}
    long = "a very long name " * 6
    write_labels(
        tmp_path / "long.dcm", labels_of(source.geometry.shape), source.geometry, About(source.world, {1: long})
    )
    (first, *_) = pydicom.dcmread(tmp_path / "long.dcm").SegmentSequence
    assert (first.SegmentLabel, first.SegmentDescription) == (long[:64].strip(), long.strip())


def test_without_references_nothing_of_the_series_is_there(tmp_path: Path) -> None:
    scan, out = folder(tmp_path, series()), tmp_path / "scan.dcm"
    predict(open_image(scan), out, references=False)
    data, seg = out.read_bytes(), pydicom.dcmread(out)
    for text in (*phantom.CANARIES, phantom.SERIES, *map(uid, range(SLICES))):
        assert text.encode() not in data
    assert "ReferencedSeriesSequence" not in seg
    # It still lies where its image lies.
    places = [item.PlanePositionSequence[0].ImagePositionPatient for item in seg.PerFrameFunctionalGroupsSequence]
    assert {tuple(place) for place in places} == {tuple(place[0]) for place in frames_of(scan).values()}


def test_nothing_personal_is_there_but_the_references(tmp_path: Path) -> None:
    predict(open_image(folder(tmp_path, series())), tmp_path / "scan.dcm")
    data = (tmp_path / "scan.dcm").read_bytes()
    assert [text for text in PERSONAL if text.encode() in data] == []
    assert repr(open_image(tmp_path / "scan")).find(STUDY) == -1


def test_the_recipe_for_archives_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(
        open_image(folder(tmp_path, {f"IM000{n}": data for n, data in enumerate(series().values())})),
        tmp_path / "scan.dcm",
    )
    page = (Path(__file__).parents[2] / "docs/dicom.md").read_text()
    (recipe,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(recipe, {})
    filed = pydicom.dcmread(tmp_path / "scan-for-archive.dcm")
    assert (filed.PatientID, filed.StudyInstanceUID) == (phantom.IDENTITY["PatientID"], STUDY)
    assert open_image(tmp_path / "scan-for-archive.dcm").segments[1] == "liver"


@pytest.mark.parametrize("lost", [STUDY, uid(3)])
def test_a_series_without_valid_uids_is_not_referred_to(lost: str, tmp_path: Path) -> None:
    """A text in their place could be a name."""
    name = b"CANARY".ljust(len(lost), b"X")
    files = {name_: data.replace(lost.encode(), name) for name_, data in series().items()}
    predict(open_image(folder(tmp_path, files)), tmp_path / "scan.dcm")
    assert "ReferencedSeriesSequence" not in pydicom.dcmread(tmp_path / "scan.dcm")
    assert b"CANARY" not in (tmp_path / "scan.dcm").read_bytes()


def test_a_series_without_frame_of_reference_is_referred_to(tmp_path: Path) -> None:
    predict(open_image(folder(tmp_path, series(FrameOfReferenceUID=None))), tmp_path / "scan.dcm")
    seg = pydicom.dcmread(tmp_path / "scan.dcm")
    assert seg.StudyInstanceUID == STUDY
    assert seg.FrameOfReferenceUID.startswith("2.25.")


@pytest.mark.parametrize("kind", ["slices", "frames"])
def test_what_is_made_of_a_segmentation_refers_as_it_does(kind: str, tmp_path: Path) -> None:
    """As post-processing writes them."""
    predict(open_image(folder(tmp_path, FILES[kind]())), tmp_path / "scan.dcm")
    first = open_image(tmp_path / "scan.dcm")
    about = About.of_classes(first.world, TABLE.names)
    write_labels(tmp_path / "again.dcm", first.labels(), first.geometry, about)
    assert (tmp_path / "again.dcm").read_bytes() == (tmp_path / "scan.dcm").read_bytes()


def test_references_to_several_frames_are_no_reason_to_refuse_labels(tmp_path: Path) -> None:
    predict(open_image(folder(tmp_path, FILES["frames"]())), tmp_path / "scan.dcm")
    seg = pydicom.dcmread(tmp_path / "scan.dcm")
    for item in seg.PerFrameFunctionalGroupsSequence:
        item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber = [2, 5]
    seg.save_as(tmp_path / "other.dcm")
    np.testing.assert_array_equal(
        open_image(tmp_path / "other.dcm").labels(), open_image(tmp_path / "scan.dcm").labels()
    )


def test_object_numbers_refer_as_well(tmp_path: Path) -> None:
    source = open_image(folder(tmp_path, series()))
    numbers = np.arange(COLUMNS * ROWS * SLICES, dtype=np.uint16).reshape(COLUMNS, ROWS, SLICES)
    assert numbers.max() > MOST_SEGMENTS
    write_labels(tmp_path / "many.dcm", numbers, source.geometry, About(source.world))
    seg = pydicom.dcmread(tmp_path / "many.dcm")
    assert (seg.SegmentationType, seg.StudyInstanceUID) == ("LABELMAP", STUDY)
    sources = [item.DerivationImageSequence[0].SourceImageSequence[0] for item in seg.PerFrameFunctionalGroupsSequence]
    assert [one.ReferencedSOPInstanceUID for one in sources] == [uid(k) for k in range(SLICES)]


def test_equal_labels_of_two_series_are_two_instances(tmp_path: Path) -> None:
    for number, study in enumerate(("2.25.1", "2.25.2")):
        source = open_image(phantom.write_folder(tmp_path / study, series(StudyInstanceUID=study)))
        write_labels(
            tmp_path / f"{number}.dcm", np.zeros(source.geometry.shape, np.uint8), source.geometry, About(source.world)
        )
    one, other = (pydicom.dcmread(tmp_path / f"{number}.dcm") for number in (0, 1))
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID


@pytest.mark.parametrize("kind", FILES)
def test_highdicom_sees_the_segments_on_their_slices(kind: str, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    scan, out = folder(tmp_path, FILES[kind]()), tmp_path / "scan.dcm"
    source = open_image(scan)
    values = predict(source, out)
    seg = highdicom.seg.segread(io.BytesIO(out.read_bytes()))
    assert seg.get_segment_numbers(segment_label="liver") == [1]
    assert seg.get_segment_description(4).algorithm_type.value == "AUTOMATIC"
    studies = {(str(study), str(one)) for study, one, _ in seg.get_source_image_uids()}
    assert studies == {(STUDY, phantom.SERIES)}
    if kind in ("frames", "one slice"):
        return
    order = [pydicom.dcmread(file) for file in scan.iterdir()]
    order.sort(key=lambda image: float(np.dot(image.ImagePositionPatient, phantom.NORMAL)))
    pixels = seg.get_pixels_by_source_instance(
        [image.SOPInstanceUID for image in order], combine_segments=True, ignore_spatial_locations=True
    )
    np.testing.assert_array_equal(pixels.transpose(2, 1, 0), values)
    if kind != "uneven slices":
        volume = seg.get_volume(combine_segments=True)
        lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ source.geometry.affine
        corners = np.array([[0, 0, 0, 1], [0, 0, SLICES - 1, 1], [COLUMNS - 1, ROWS - 1, 0, 1]])
        # Their axes are slices (the last one first), rows, columns.
        np.testing.assert_array_equal(volume.array[::-1].transpose(2, 1, 0), values)
        index = np.array([[SLICES - 1 - c[2], c[1], c[0], 1] for c in corners])
        place = volume.affine @ index.T
        np.testing.assert_allclose(place, lps @ corners.T, atol=1e-9)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("slices", [[2], [4, 5], [0, 4]], ids=["one", "at the end", "far apart"])
def test_what_highdicom_writes_without_empty_frames_lies_in_its_image(
    slices: list[int], kind: str, tmp_path: Path
) -> None:
    highdicom = pytest.importorskip("highdicom")
    scan = folder(tmp_path, series(PatientSex="F"))
    images = [pydicom.dcmread(file) for file in sorted(scan.iterdir())]
    labels = np.zeros((SLICES, ROWS, COLUMNS), np.uint8)
    labels[slices, 2:5, 3:6], labels[slices[0], 6:8, 0:2] = 1, 2
    places = [float(np.dot(image.ImagePositionPatient, phantom.NORMAL)) for image in images]
    made = highdicom.seg.Segmentation(
        images,
        labels[np.argsort(np.argsort(places))],
        highdicom.seg.SegmentationTypeValues[kind],
        [_described(highdicom, number, name) for number, name in ((1, "liver"), (2, "kidney"))],
        *(highdicom.UID(), 9, highdicom.UID(), 1, "m", "m", "1", "1"),
    )
    made.save_as(tmp_path / "labels.dcm")
    image, found = open_image(scan), open_image(tmp_path / "labels.dcm")
    part = placement_in(found.geometry, image.geometry)
    assert part is not None and found.sparse and found.segments == {1: "liver", 2: "kidney"}
    whole = placed(found.labels(), part, image.geometry.shape)
    np.testing.assert_array_equal(whole.transpose(2, 1, 0), labels)


def _described(highdicom: Any, number: int, name: str) -> Any:
    from pydicom.sr.codedict import codes

    kind = highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    return highdicom.seg.SegmentDescription(number, name, codes.SCT.Organ, codes.SCT.Liver, kind)
