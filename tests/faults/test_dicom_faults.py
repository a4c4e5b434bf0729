"""Faults planted in a DICOM series: each is found, by its own code, and nobody's identity is told."""

from __future__ import annotations

import io
import re
import stat
import struct
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.formats.content import Content
from medseg.formats.dicom import read as dicom
from medseg.formats.dicom.label import NO_DATE, NO_TIME, segmentation_bytes
from medseg.formats.dicom.read import open_dicom, open_dicom_zip
from medseg.formats.errors import FormatError
from medseg.formats.limits import file_limit
from medseg.formats.read import open_image, read_image
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.faults import FAULTS
from tests import dicom_phantom as phantom
from tests.dicom_phantom import DOWN, NORMAL, SLICES, STEP, VOXELS, decimals, name_of, position, series

Files = dict[str, bytes]
GRID = Geometry.create(VOXELS.shape, phantom.expected_affine())


def without(k: int) -> Files:
    files = series()
    del files[name_of(k)]
    return files


def two_series() -> Files:
    other = series(SeriesInstanceUID="2.25.77", SeriesNumber=8)
    del other[name_of(0)]
    return series() | {f"other{name}": data for name, data in other.items()}


def with_bytes(k: int, change: Callable[[bytes], bytes]) -> Files:
    files = series()
    return files | {name_of(k): change(files[name_of(k)])}


def compressed_as(syntax: str, code: bytes | None = None, **elements: object) -> Files:
    from pydicom.encaps import encapsulate

    image, _ = phantom.compressed(0, phantom.JPEG_2000)
    if code is not None:
        image.PixelData = encapsulate([code])
        image["PixelData"].is_undefined_length = True
    return {"case.dcm": phantom.file_bytes(phantom.changed(image, **elements), syntax)}


def one_file(image: pydicom.Dataset) -> Files:
    return {"case.dcm": phantom.file_bytes(image)}


def turned() -> list[str]:
    from scipy.spatial.transform import Rotation

    across, down, _ = Rotation.from_euler("xyz", [20, -30, 12], degrees=True).as_matrix().T
    return decimals([*across, *down])


# What was planted -> (files, code, what the message says).
PLANTS: dict[str, tuple[Callable[[], Files], str, str]] = {
    "missing slice": (
        lambda: without(3),
        "slice-gap",
        rf"gap of 5\.00 mm between {name_of(2)} at .* mm and {name_of(4)} at .* mm; usual distance 2\.50 mm, 1 missing",
    ),
    "uneven slice": (
        lambda: series({4: {"ImagePositionPatient": decimals(position(4.3))}}),
        "slice-gap",
        r"gap of 3\.25 mm",
    ),
    "two slices at one position": (
        lambda: series({4: {"ImagePositionPatient": decimals(position(3))}}),
        "slice-twice",
        "have one position",
    ),
    "a slice copied": (lambda: series() | {"copy": series()[name_of(2)]}, "slice-twice", "copy|one position"),
    "mixed orientation": (
        lambda: series({4: {"ImageOrientationPatient": turned()}}),
        "slice-mixed",
        "orientation differs",
    ),
    "mixed pixel spacing": (lambda: series({4: {"PixelSpacing": [0.8, 1.1]}}), "slice-mixed", "pixel spacing"),
    "a slice beside the stack": (
        lambda: series({4: {"ImagePositionPatient": decimals(position(4) + DOWN)}}),
        "slice-mixed",
        r"shifted by 1\.\d\d mm|shifted by 0\.\d\d mm",
    ),
    "no position": (lambda: series({4: {"ImagePositionPatient": None}}), "slice-position", "no ImagePositionPatient"),
    "no position at all": (lambda: series(ImagePositionPatient=None), "slice-position", "no ImagePositionPatient"),
    "no orientation": (lambda: series(ImageOrientationPatient=None), "slice-position", "no ImageOrientationPatient"),
    "no spacing": (lambda: series(PixelSpacing=None), "slice-position", "no PixelSpacing"),
    "frames without positions": (
        lambda: one_file(phantom.enhanced(PerFrameFunctionalGroupsSequence=None)),
        "slice-position",
        "6 frames without positions",
    ),
    "two series": (
        two_series,
        "series",
        rf"2 series: 2\.25\.1234567890 \(number 3, CT, {SLICES} files\); 2\.25\.77 \(number 8, CT, 5 files\)",
    ),
    "other rows": (
        lambda: series({4: {"Rows": 7, "PixelData": bytes(7 * 9 * 2)}}),
        "slice-mixed",
        r"7 x 9 int16",
    ),
    "truncated pixels": (lambda: with_bytes(4, lambda data: data[:-60]), "unreadable", "truncated: 84 of 144 bytes"),
    "pixels cut off": (lambda: with_bytes(4, lambda data: data[:-160]), "unreadable", "truncated"),
    "header cut": (lambda: with_bytes(4, lambda data: data[:400]), "unreadable", "truncated|damaged"),
    "too many pixels": (
        lambda: series({4: {"PixelData": bytes(150)}}),
        "unreadable",
        "150 bytes of pixels, 1 frames of 8 x 9 need 144",
    ),
    "unknown transfer syntax": (
        lambda: compressed_as("1.2.840.10008.1.2.4.102"),
        "decoder",
        r"transfer syntax 1\.2\.840\.10008\.1\.2\.4\.102 \(MPEG-4",
    ),
    "deflated": (lambda: compressed_as("1.2.840.10008.1.2.1.99"), "decoder", "Deflated Explicit VR"),
    "fake JPEG 2000": (
        lambda: compressed_as(phantom.JPEG_2000, b"no JPEG 2000 at all"),
        "unreadable",
        "JPEG 2000 Lossless stream holds no picture",
    ),
    "JPEG 2000 of another size": (
        lambda: compressed_as(phantom.JPEG_2000, Rows=16),
        "unreadable",
        "a picture of 8 x 9, the header says 16 x 9",
    ),
    "frames of another number": (
        lambda: one_file(phantom.enhanced(NumberOfFrames=5)),
        "unreadable",
        "864 bytes of pixels|positions of 6 frames",
    ),
    "colour": (
        lambda: one_file(phantom.one_slice(0, SamplesPerPixel=3, PhotometricInterpretation="RGB")),
        "unreadable",
        "RGB with 3 samples, expected MONOCHROME2",
    ),
    "inverted grey": (
        lambda: series(PhotometricInterpretation="MONOCHROME1"),
        "unreadable",
        "MONOCHROME1 with 1 samples",
    ),
    "impossible bits": (lambda: series(HighBit=11), "unreadable", "impossible pixels: 16 bits allocated, 16 stored"),
    "look-up table": (lambda: series(ModalityLUTSequence=[pydicom.Dataset()]), "unreadable", "look-up table"),
    "no size": (lambda: series(Rows=0), "unreadable", "impossible size"),
    "slope zero": (lambda: series(RescaleSlope=0), "unreadable", "rescale slope 0"),
    "directions no directions": (
        lambda: series(ImageOrientationPatient=[1, 0, 0, 0, 2, 0]),
        "unreadable",
        "no pair of directions",
    ),
    "rows not at right angles to columns": (
        lambda: series(ImageOrientationPatient=decimals([1, 0, 0, 0.6, 0.8, 0])),
        "unreadable",
        "not at right angles",
    ),
    "impossible spacing": (lambda: series(PixelSpacing=[0, 1]), "unreadable", "impossible pixel spacing"),
    "other files": (
        lambda: series() | {"notes.txt": b"CANARY", "a.png": b"\x89PNG"},
        "unreadable",
        r"no DICOM files: notes\.txt, a\.png",
    ),
    "no preamble": (lambda: {"case.dcm": series()[name_of(0)][132:]}, "unreadable", "no DICOM file"),
    "no image": (
        lambda: one_file(phantom.one_slice(0, Modality="SR", PixelData=None)),
        "unreadable",
        "no DICOM image",
    ),
    "fractional segments": (
        lambda: one_file(phantom.enhanced(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", SegmentationType="FRACTIONAL")),
        "unreadable",
        "fractional segments",
    ),
}


def refused(files: Files, series_wanted: str = "") -> FormatError:
    with pytest.raises(FormatError) as caught:
        open_dicom(Path("case.dcm") if len(files) == 1 else Path("case"), Content(files, series_wanted))
    return caught.value


@pytest.mark.parametrize("plant", PLANTS)
def test_every_fault_is_found_by_its_code(plant: str) -> None:
    make, code, says = PLANTS[plant]
    error = refused(make())
    assert (error.code, error.path.name.removesuffix(".dcm")) == (code, "case")
    assert re.search(says, error.cause), error.cause
    assert code in FAULTS and error.fix


@pytest.mark.parametrize("plant", PLANTS)
def test_no_message_tells_an_identity(plant: str) -> None:
    error = refused(PLANTS[plant][0]())
    told = f"{error} {error!r} {error.args}"
    assert [canary for canary in phantom.CANARIES if canary.lower() in told.lower()] == []
    assert "canary" not in told.lower()


@pytest.mark.parametrize("wanted", ["9", "2.25.7", phantom.SERIES[:-1]])
def test_a_series_that_is_not_there_lists_those_that_are(wanted: str) -> None:
    error = refused(two_series(), wanted)
    assert error.code == "series" and f"0 of 2 series are '{wanted}'" in error.cause
    assert refused(series(), wanted).code == "series"


def test_two_series_of_one_number_are_told_apart_by_uid() -> None:
    files = series() | {f"b{n}": d for n, d in series(SeriesInstanceUID="2.25.77").items()}
    assert refused(files, "3").code == "series"
    assert open_dicom(Path("case"), Content(files, "2.25.77")).voxels.shape == (1, *VOXELS.shape)


def test_a_missing_codec_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """DX-09."""
    import imagecodecs

    def absent(data: bytes) -> None:
        raise ImportError("could not import name")

    monkeypatch.setattr(imagecodecs, "jpegls_decode", absent)
    image, _ = phantom.compressed(0, phantom.JPEG_LS)
    error = refused({"case.dcm": phantom.file_bytes(image, phantom.JPEG_LS)})
    assert error.code == "decoder" and "JPEG-LS" in error.cause


# Nobody is told


def test_planted_identity_leaves_the_reader_nowhere(tmp_path: Path) -> None:
    assert len(phantom.CANARIES) >= 30
    files = series() | {f"b{n}": d for n, d in two_series().items() if n.startswith("other")}
    there = b"".join(files.values())
    assert all(canary.encode() in there for canary in phantom.CANARIES)
    folder = phantom.write_folder(tmp_path / "case", series())
    stored_image = open_image(folder)
    image, geometry = read_image(folder)
    write_labels(tmp_path / "out.dcm", (image[0] > 0).astype(np.uint8), geometry)
    written = (tmp_path / "out.dcm").read_bytes()
    told = f"{stored_image!r} {stored_image.notes} {geometry!r} {refused(files)}"
    for canary in phantom.CANARIES:
        assert canary.encode().lower() not in written.lower()
        assert canary.lower() not in told.lower()
    assert b"canary" not in written.lower() and phantom.SERIES.encode() not in written


def test_damaged_elements_are_not_repeated() -> None:
    """Where pydicom's own error would show the value."""
    files = with_bytes(2, lambda data: data.replace(b"1234567890", b"CANARY^AND").replace(b"2.5 ", b"CNRY"))
    assert "canary" not in str(refused(files)).lower() and "cnry" not in str(refused(files)).lower()


def test_a_written_segmentation_has_no_patient_and_no_date() -> None:
    data = segmentation_bytes(Path("a.dcm"), (VOXELS > 0).astype(int), GRID)
    image = pydicom.dcmread(io.BytesIO(data))
    for element in image.iterall():
        if element.VR in ("PN", "DA", "TM", "DT") or element.tag.group == 0x0010:
            # The standard wants a date and a time here; these are nobody's.
            assert not element.value or element.value in (NO_DATE, NO_TIME), element


def test_warnings_of_the_parser_do_not_leak(capfd: pytest.CaptureFixture[str]) -> None:
    """pydicom warns with the value; also from threads, and the filters of others are left alone."""
    data = phantom.file_bytes(phantom.one_slice(0)).replace(b"2.25.1234567890", b"CANARY^NAME UID")
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        list(pool.map(lambda _: open_image(Path("case.dcm"), data), range(8)))
        warnings.warn("of others", UserWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["of others"]
    assert "CANARY" not in "".join(capfd.readouterr())


# Claims


@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": 2_000_000_000},
        {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 2_000_000_000},
    ],
)
@pytest.mark.parametrize("syntax", [phantom.EXPLICIT, phantom.RLE, phantom.JPEG_2000, phantom.JPEG_LS])
def test_impossible_claims_are_refused_cheaply(elements: dict[str, int], syntax: str) -> None:
    if syntax == phantom.EXPLICIT:
        data = phantom.file_bytes(phantom.enhanced(**elements))
    else:
        data = phantom.file_bytes(phantom.changed(phantom.compressed(0, syntax)[0], **elements), syntax)
    refused({"case.dcm": data})
    tracemalloc.start()
    started = time.process_time()
    try:
        refused({"case.dcm": data})
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 1


def test_a_compressed_picture_that_claims_much_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Header and stream agree on a huge size: the bytes that are there forbid it."""
    import imagecodecs

    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda data: pytest.fail("decoded"))
    image, _ = phantom.compressed(0, phantom.JPEG_2000)
    data = phantom.file_bytes(phantom.changed(image, Rows=65535, Columns=65535), phantom.JPEG_2000)
    at = data.index(b"\xff\x4f\xff\x51")
    data = data[: at + 8] + struct.pack(">II", 65535, 65535) + data[at + 16 :]
    assert "the file can hold" in refused({"case.dcm": data}).cause


def test_a_segmentation_that_spans_kilometres_is_refused() -> None:
    data = segmentation_bytes(Path("a.dcm"), (VOXELS > 0).astype(int), GRID)
    image = pydicom.dcmread(io.BytesIO(data))
    far = image.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    far.ImagePositionPatient = decimals(position(0) + 30_000 * STEP * NORMAL)
    error = refused({"case.dcm": phantom.file_bytes(image)})
    assert error.code == "slice-gap" and "30001 slices" in error.cause


def test_number_and_size_of_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = phantom.write_folder(tmp_path / "case", series())
    monkeypatch.setattr("medseg.formats.read.MAX_FILES", SLICES - 1)
    with pytest.raises(FormatError, match="folder of 6 files, expected 1 to 5"):
        open_image(folder)
    monkeypatch.setattr("medseg.formats.read.MAX_FILES", SLICES)
    with file_limit(10_000), pytest.raises(FormatError, match="allowed are 10000"):
        open_image(folder)


# Archives


def archive_of(change: Callable[[zipfile.ZipFile], None]) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the names that are planted here
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in series().items():
                archive.writestr(f"case/{name}", data)
            change(archive)
    return out.getvalue()


def member(name: str, mode: int = 0, **attributes: int) -> Callable[[zipfile.ZipFile], None]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.writestr(info, b"/etc/passwd")

    return add


def patched(old: bytes, new: bytes, data: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "leads up": (lambda: archive_of(member("../slip.dcm")), "leads out"),
    "leads up inside": (lambda: archive_of(member("case/../../slip.dcm")), "leads out"),
    "absolute": (lambda: archive_of(member("/etc/slip.dcm")), "leads out"),
    "drive": (lambda: archive_of(member("C:slip.dcm")), "leads out"),
    "backslash": (lambda: patched(b"case/slipx", b"..\\..\\slip", archive_of(member("case/slipx"))), "leads out"),
    "link": (lambda: archive_of(member("case/link", stat.S_IFLNK | 0o777)), "link or device"),
    "device": (lambda: archive_of(member("case/null", stat.S_IFCHR | 0o666)), "link or device"),
    "twice": (lambda: archive_of(member(f"case/{name_of(0)}")), "two members have one name"),
    "case only": (lambda: archive_of(member(f"CASE/{name_of(0)}")), "two members have one name"),
    "bzip2": (lambda: archive_of(member("case/x", compress_type=zipfile.ZIP_BZIP2)), "compression 12"),
    "no archive": (lambda: b"PK\x03\x04" + bytes(100), "damaged zip archive"),
    "empty": (lambda: phantom.zipped({}), "without files"),
    "bomb": (lambda: phantom.zipped({"a": bytes(30_000_000)}), "allowed|can hold|no DICOM"),
}


@pytest.mark.parametrize("plant", ARCHIVES)
def test_unsafe_archives_are_refused(plant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CF-10: nothing is written, whatever the members are called."""
    make, says = ARCHIVES[plant]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=says) as caught:
        open_dicom_zip(Path("case.zip"), Content({"case.zip": make()}))
    assert caught.value.path == Path("case.zip")
    assert list(tmp_path.iterdir()) == []


def test_archives_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = phantom.zipped(series())
    monkeypatch.setattr(dicom, "MAX_FILES", SLICES - 1)
    with pytest.raises(FormatError, match="6 members, allowed 5"):
        open_image(Path("case.zip"), data)
    monkeypatch.setattr(dicom, "MAX_FILES", SLICES)
    with file_limit(5_000), pytest.raises(FormatError, match="allowed are 5000"):
        open_image(Path("case.zip"), data)
    lying = bytearray(data)
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<I", lying, at + 24, 2**31)
    with pytest.raises(FormatError):
        open_image(Path("case.zip"), bytes(lying))


# Mutations


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, cut, doubled or overwritten somewhere, more often in the header than in the pixels."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(132, len(out))) if len(out) > 133 else 0
        kind = int(rng.integers(5))
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at : at + 4] = rng.integers(0, 256, 4, dtype=np.uint8).tobytes()
        elif kind == 2:
            out[at : at + 4] = b"\xff\xff\xff\xff"
        elif kind == 3:
            del out[at : at + int(rng.integers(1, 40))]
        else:
            out[at:at] = out[at : at + int(rng.integers(1, 40))]
    return bytes(out)


@pytest.mark.parametrize("seed", phantom.seed_files())
def test_mutated_files_are_read_or_refused(seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but our own error, which names the file; no warning, no long wait."""
    data = phantom.seed_files()[seed]
    rng = np.random.default_rng(len(seed))
    path = Path(seed)
    for _ in range(25):
        started = time.process_time()
        try:
            found = open_image(path, mutated(data, rng))
            assert found.geometry
            assert found.voxels.ndim == 4
        except FormatError as error:
            assert str(error).startswith(seed)
            assert "canary" not in str(error).lower()
        assert time.process_time() - started < 5


@pytest.mark.parametrize("syntax", [phantom.RLE, *phantom.ENCODERS])
def test_cut_streams_are_refused_and_crash_no_decoder(syntax: str) -> None:
    """A stream that was cut and padded again; decoders in C have been seen to crash (RLE) and to hang (JPEG-LS)."""
    code = phantom.code_of(0, syntax)
    for length in range(40, len(code) - 2, 7):
        assert refused(compressed_as(syntax, code[:length], **phantom.bits_of(syntax))).code == "unreadable"


@pytest.mark.parametrize("head", [(0, 64, 100), (2, 64, 2**31), (2, 64, 63), (2, 0, 90), (3, 64, 90), (2, 90, 64)])
def test_impossible_segments_of_run_lengths_are_refused(head: tuple[int, int, int]) -> None:
    code = np.array([*head, *[0] * 13], "<u4").tobytes() + phantom.code_of(0, phantom.RLE)[64:]
    elements = phantom.bits_of(phantom.RLE)
    assert "RLE Lossless" in refused(compressed_as(phantom.RLE, code, **elements)).cause


@pytest.mark.parametrize("depth", [50, 5000])
def test_sequences_nested_without_end_are_refused(depth: int) -> None:
    data = phantom.file_bytes(phantom.one_slice(0))
    at = data.index(b"\x08\x00\x16\x00")
    nest = b"\x08\x00\x10\x11SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4
    assert refused({"case.dcm": data[:at] + nest * depth + data[at:]}).code == "unreadable"


@pytest.mark.parametrize("keyword", ["SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesNumber"])
def test_elements_of_an_unknown_kind_are_refused(keyword: str) -> None:
    from pydicom.datadict import tag_for_keyword

    data = phantom.file_bytes(phantom.one_slice(0))
    tag = int(tag_for_keyword(keyword) or 0)
    at = data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF), 132)
    assert "damaged DICOM elements" in refused({"case.dcm": data[: at + 4] + b"QQ" + data[at + 6 :]}).cause


def test_mutated_slices_of_a_series() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        files = series()
        name = sorted(files)[int(rng.integers(SLICES))]
        try:
            open_dicom(Path("case"), Content(files | {name: mutated(files[name], rng)}))
        except FormatError as error:
            assert str(error).startswith("case: ")
