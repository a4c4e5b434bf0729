"""What every row of FORMATS promises, whoever wrote its reader: a new row passes by being listed in ROWS."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import tifffile

from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_content, read_image, read_labels
from medseg.formats.table import FOLDER, FORMATS, label_suffix, suffix_of
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from tests.contracts.bombs import BOMBS
from tests.pictures import write_picture
from tests.zarr_samples import write_files, write_zarr

TURN = np.array([[0.8, -0.6, 0.0], [0.6 * 0.96, 0.8 * 0.96, -0.28], [0.6 * 0.28, 0.8 * 0.28, 0.96]])
ORIGIN = (33.0, -40.5, 7.25)


def affine(linear: np.ndarray, origin: Sequence[float] = ORIGIN) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = linear, origin
    return out


TURNED = affine(TURN @ np.diag([0.7, 1.3, 4.1]))
# Mirrored, and a little sheared on top of it.
OBLIQUE = affine(TURN @ np.diag([-0.7, 1.3, 4.1]) @ np.array([[1.0, 0.02, 0.0], [0.0, 1.0, 0.01], [0.0, 0.0, 1.0]]))

WORLD = [
    Geometry.create((7, 6, 5), OBLIQUE),
    Geometry.create((7, 6, 5), TURNED, "um"),
    *(Geometry.create(shape, OBLIQUE) for shape in ((1, 6, 5), (7, 1, 5), (7, 6, 1), (1, 1, 1))),
]
FLAT_WORLD = [
    Geometry.create((37, 23), np.array([[0.6, -0.4, 3.0], [0.3, 0.8, -5.0], [0.0, 0.0, 1.0]])),
    Geometry.from_spacing((1, 23), (0.5, 0.25), "um"),
    Geometry.from_spacing((4, 3), (1.0, 1.0), "px"),
]
MICROSCOPE = [
    Geometry.from_spacing((5, 37, 23), (2.0, 0.1234567890123, 0.25), "um"),
    Geometry.from_spacing((5, 7, 6), (1.0, 1.0, 1.0), "px"),
    *(Geometry.from_spacing(shape, (2.0, 0.3, 0.2), "um") for shape in ((5, 1, 6), (5, 6, 1))),
    Geometry.from_spacing((37, 23), (0.5, 0.25), "um"),
    Geometry.from_spacing((37, 23), (1.0, 1.0), "px"),
    Geometry.from_spacing((1, 1), (0.5, 0.25), "um"),
]
ONE_SLICE = [
    Geometry.from_spacing((1, 6, 7), (2.0, 0.3, 0.2), "um"),
    Geometry.from_spacing((1, 1, 1), (1.0, 1.0, 1.0), "px"),
]
SERIES = [Geometry.create(shape, TURNED) for shape in ((7, 6, 5), (7, 6, 1), (1, 1, 1))]
ALL_TYPES = ("uint8", "uint16", "int16", "int32", "uint32", "int64", "uint64")


@dataclass(frozen=True)
class Row:
    """What one format can hold.

    Attributes:
        grids: that come back as written.
        packed: the voxels are under a checksum, so that a flipped bit in them is always found.
        keeps: whether the integer type comes back, too.
        sparse: slices or chunks that are not there are background, so the header alone makes the shape.
        make: writes a label map as a file; formats that are only read have the writer of another library.
        lossy: the numbers do not come back, and labels are refused.
    """

    grids: Sequence[Geometry]
    packed: bool
    keeps: bool = True
    sparse: bool = False
    make: Callable[[Path, np.ndarray, Geometry], None] = write_labels
    lossy: bool = False


PICTURES = [g for g in MICROSCOPE if g.dims == 2 and g.unit == "px"]
ROWS = {
    ".nii": Row(WORLD + FLAT_WORLD[:2], packed=False),
    ".nii.gz": Row(WORLD + FLAT_WORLD[:2], packed=True),
    ".hdr": Row(WORLD + FLAT_WORLD[:2], packed=False),
    ".nrrd": Row(WORLD + FLAT_WORLD, packed=True),
    ".seg.nrrd": Row(WORLD + FLAT_WORLD, packed=True),
    ".nhdr": Row(WORLD + FLAT_WORLD, packed=True),
    ".mha": Row(WORLD + FLAT_WORLD, packed=True),
    ".mhd": Row(WORLD + FLAT_WORLD, packed=True),
    ".png": Row(PICTURES, packed=True, keeps=False),
    ".jpg": Row(PICTURES, packed=False, keeps=False, make=write_picture, lossy=True),
    ".jpeg": Row(PICTURES, packed=False, keeps=False, make=write_picture, lossy=True),
    ".bmp": Row(PICTURES, packed=False, keeps=False, make=write_picture),
    ".gif": Row(PICTURES, packed=False, keeps=False, make=write_picture),
    ".tif": Row(MICROSCOPE + ONE_SLICE, packed=True, keeps=False),
    ".tiff": Row(MICROSCOPE + ONE_SLICE, packed=True, keeps=False),
    ".ome.tif": Row(MICROSCOPE, packed=True, keeps=False),
    ".ome.tiff": Row(MICROSCOPE, packed=True, keeps=False),
    ".dcm": Row(SERIES, packed=False, keeps=False, sparse=True),
    ".zarr": Row(MICROSCOPE[1:] + MICROSCOPE[:1], packed=False, sparse=True, make=write_zarr),
    ".ome.zarr": Row(MICROSCOPE[1:] + MICROSCOPE[:1], packed=False, sparse=True, make=write_zarr),
    ".zip": Row(SERIES, packed=True, keeps=False),
}
Files = dict[str, bytes]


def some_labels(geometry: Geometry, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(5).integers(0, 120, geometry.shape).astype(dtype)


def files_of(folder: Path) -> Files:
    """All files in a folder, and in folders inside it, by their names relative to it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def main_file(path: Path) -> Path:
    """The file that is looked at first; of a folder, that with its metadata."""
    return path if path.is_file() else path / next(iter(read_content(path).files))


# Those that label maps are written in.
WRITTEN = [suffix for suffix in ROWS if FORMATS[suffix].write]


def values_of(path: Path, content: Any = None) -> tuple[np.ndarray, Geometry]:
    """What a file says: the label map, or of a lossy format the only channel of the image."""
    if not ROWS[suffix_of(path)].lossy:
        return read_labels(path, content)
    image, geometry = read_image(path, content)
    return image[0], geometry


@pytest.fixture(params=ROWS)
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def written(suffix: str, tmp_path: Path) -> Path:
    """A small label map of the format, alone in its folder."""
    path = tmp_path / f"case{suffix}"
    geometry = ROWS[suffix].grids[0]
    ROWS[suffix].make(path, some_labels(geometry), geometry)
    return path


def damages(path: Path, change: Callable[[bytes], Iterator[bytes]]) -> Iterator[str]:
    """Change one of the image's files after the other, as often as ``change`` says; yields the changed one's name."""
    first = main_file(path)
    files = {first.relative_to(path.parent).as_posix(): first.read_bytes()} | files_of(path.parent)
    for name, data in files.items():
        for changed in change(data):
            (path.parent / name).write_bytes(changed)
            yield name
        (path.parent / name).write_bytes(data)


def test_every_row_is_tested() -> None:
    assert ROWS.keys() | {FOLDER} == FORMATS.keys()


@pytest.mark.parametrize("dtype", ALL_TYPES)
def test_labels_come_back_as_written(suffix: str, dtype: str, tmp_path: Path) -> None:
    for number, geometry in enumerate(ROWS[suffix].grids):
        path = tmp_path / f"case{number}{suffix}"
        labels = some_labels(geometry, dtype)
        ROWS[suffix].make(path, labels, geometry)
        found, grid = values_of(path)
        if ROWS[suffix].lossy:
            assert abs(found.astype(int) - labels.astype(int)).max() <= 12
            with pytest.raises(FormatError, match="labels in a lossy compression"):
                read_labels(path)
        else:
            np.testing.assert_array_equal(found, labels)
        assert found.dtype.kind in "iu"
        assert found.dtype == labels.dtype or not ROWS[suffix].keeps
        assert (grid.shape, grid.unit) == (geometry.shape, geometry.unit)
        assert grid.corner_distance_voxels(geometry) < 1e-4


def test_the_image_is_the_label_map_with_a_channel_axis(written: Path) -> None:
    image, geometry = read_image(written)
    labels, same = values_of(written)
    np.testing.assert_array_equal(image, labels[np.newaxis])
    assert geometry == same
    assert image.flags.c_contiguous
    assert image.dtype.isnative


@pytest.mark.parametrize("suffix", WRITTEN)
def test_equal_input_gives_equal_bytes(written: Path, suffix: str, tmp_path: Path) -> None:
    first = files_of(written.parent)
    other = tmp_path / "other" / written.name
    geometry = ROWS[suffix].grids[0]
    write_labels(other, np.asfortranarray(some_labels(geometry)), geometry)
    assert files_of(other.parent) == first


def test_the_content_says_all_that_is_read(written: Path) -> None:
    expected, geometry = values_of(written)
    content = read_content(written)
    assert content.files == files_of(written if written.is_dir() else written.parent)
    folder = written.is_dir()
    shutil.rmtree(written.parent)
    if folder:
        written.mkdir(parents=True)  # what a folder holds is not read again, but it is one
    found, grid = values_of(written, content)
    np.testing.assert_array_equal(found, expected)
    assert grid == geometry


def cuts(data: bytes) -> Iterator[bytes]:
    size = len(data)
    places = {0, 1, 5, *(size * k // 100 for k in range(1, 100)), *(size - k for k in range(1, 13))}
    yield from (data[:place] for place in sorted(places) if 0 <= place < size)


def test_a_file_cut_anywhere_is_refused_by_name(written: Path) -> None:
    expected, _ = values_of(written)
    size = read_content(written).size
    for _ in damages(written, cuts):
        try:
            found, _ = values_of(written)
        except FormatError as error:
            assert str(error).startswith(f"{written}: ")
        else:
            # Only the line break at the end of a text header may be missing.
            np.testing.assert_array_equal(found, expected)
            assert read_content(written).size == size - 1


def flips(data: bytes) -> Iterator[bytes]:
    rng = np.random.default_rng(1)
    places = (
        range(len(data)) if len(data) <= 400 else rng.choice(len(data), 150 if len(data) < 3000 else 50, replace=False)
    )
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        yield bytes(damaged)


def test_a_flipped_bit_is_refused_or_leaves_the_shape(written: Path, suffix: str) -> None:
    expected, _ = values_of(written)
    changed = 0
    for _ in damages(written, flips):
        try:
            found, _ = values_of(written)
        except FormatError as error:
            assert str(error).startswith(f"{written}: ")
            continue
        assert found.shape == expected.shape or ROWS[suffix].sparse
        changed += not np.array_equal(found, expected)
    assert changed == 0 or not ROWS[suffix].packed


OTHERS = {
    "text": b"not an image at all " * 40,
    "zeros": bytes(2000),
    "gzip of nothing": b"\x1f\x8b" + bytes(500),
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(500),
    "GIF": b"GIF89a" + bytes(500),
    "BMP": b"BM" + bytes(500),
    "page of an error": b"<!DOCTYPE html><html><body>404</body></html>" * 9,
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS.keys())
def test_other_content_is_refused(written: Path, content: bytes) -> None:
    main_file(written).write_bytes(content)
    with pytest.raises(FormatError, match="case"):
        values_of(written)


def test_every_format_refuses_the_content_of_every_other_and_says_what_it_is(written: Path, suffix: str) -> None:
    data = main_file(written).read_bytes()
    for other, row in FORMATS.items():
        if other in (FOLDER, suffix) or (row.kind and row.kind == FORMATS[suffix].kind):
            continue
        path = written.parent / f"other{other}"
        path.write_bytes(data)
        with pytest.raises(FormatError, match="other") as caught:
            read_labels(path)
        if FORMATS[suffix].kind and row.kind:
            assert f"the content is {FORMATS[suffix].kind}" in str(caught.value)
            assert "rename it to" in caught.value.fix
        path.unlink()


def test_empty_and_missing_files_are_refused(written: Path) -> None:
    for name in files_of(written.parent):
        data = (written.parent / name).read_bytes()
        (written.parent / name).write_bytes(b"")
        with pytest.raises(FormatError, match=f"{written.name}: "):
            values_of(written)
        (written.parent / name).unlink()
        if not written.is_dir():  # a chunk that is not there is background: tests/unit/test_zarr.py
            with pytest.raises(FormatError, match=r"No such file"):
                values_of(written)
        (written.parent / name).write_bytes(data)
    assert values_of(written)


def test_bytes_behind_the_end_are_refused_or_without_effect(written: Path, suffix: str) -> None:
    expected, _ = values_of(written)
    for _ in damages(written, lambda data: iter([data + b"x" * 70, data + b"\0", data + data])):
        try:
            found, _ = values_of(written)
        except FormatError:
            continue
        # A directory, or the end of the pixels, says where everything is: nobody looks at what is left.
        assert FORMATS[suffix].kind in ("TIFF", "DICOM", "ZIP", "JPEG")
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("suffix", [suffix for suffix in ROWS if suffix not in WRITTEN])
def test_formats_that_are_only_read_name_the_one_that_is_written(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"case{suffix}"
    geometry = ROWS[suffix].grids[0]
    with pytest.raises(FormatError, match=r"case.*label maps are not written as") as caught:
        write_labels(path, some_labels(geometry), geometry)
    instead = path.with_suffix(caught.value.fix.removeprefix("write "))
    assert label_suffix(path) == suffix_of(instead)
    write_labels(instead, some_labels(geometry), geometry)
    np.testing.assert_array_equal(read_labels(instead)[0], some_labels(geometry))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_cannot_be_written_is_refused_and_leaves_no_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"case{suffix}"
    geometry = ROWS[suffix].grids[0]
    labels = some_labels(geometry)
    dims = 3 if 3 not in FORMATS[suffix].dims else 4
    many = Geometry.create((2,) * dims, np.eye(dims + 1))
    for bad, grid in (
        (labels.astype(np.float32), geometry),
        (labels[1:], geometry),
        (np.zeros(many.shape, np.uint8), many),
    ):
        with pytest.raises(FormatError, match="case"):
            write_labels(path, bad, grid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", WRITTEN)
def test_nothing_of_an_input_is_in_an_output(written: Path) -> None:
    """Outputs are made of labels and grid alone: neither the folder's name nor the time is in them."""
    folder = written.parent.name.encode()
    for data in files_of(written.parent).values():
        assert folder not in data
        assert b"tifffile" not in data


def test_claims_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """Each in a process of its own kind of poverty: 512 MiB of addresses more than it has after its imports."""
    assert ROWS.keys() - {".dcm", ".zip"} <= {name.partition(" ")[0] for name in BOMBS}
    jobs = []
    for number, (name, make) in enumerate(BOMBS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = make()
        write_files(folder, files)
        jobs.append([name, str(folder / Path(next(iter(files))).parts[0])])
    command = [sys.executable, "-W", "error", "-m", "tests.contracts.bombs"]
    done = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    for name, path in jobs:
        assert told[name]["error"].startswith(f"{path}: "), (name, told[name])
        assert told[name]["extra_mib"] <= 64, (name, told[name])


# Other libraries see the same


ITK_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")


def itk_affine(image: Any) -> np.ndarray:
    linear = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine(linear, image.GetOrigin())


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32"])
def test_itk_reads_what_we_write(suffix: str, dtype: str, tmp_path: Path) -> None:
    path = tmp_path / f"case{suffix}"
    geometry = Geometry.create((7, 6, 5), TURNED)
    labels = some_labels(geometry, dtype)
    write_labels(path, labels, geometry)
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, labels)
    np.testing.assert_allclose(itk_affine(image), TURNED, atol=1e-5)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
@pytest.mark.parametrize(
    ("dtype", "channels"), [("uint8", 1), ("float32", 1), ("int16", 1), ("float64", 3), ("uint8", 2)]
)
def test_we_read_what_itk_writes(suffix: str, dtype: str, channels: int, compress: bool, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(60, 20, (5, 6, 7, channels)).astype(dtype)
    image = SimpleITK.GetImageFromArray(voxels if channels > 1 else voxels[..., 0], isVector=channels > 1)
    image.SetSpacing((0.7, 1.3, 4.1))
    image.SetDirection((np.diag([-1, -1, 1]) @ TURN).ravel().tolist())
    image.SetOrigin((-33.0, 40.5, 7.25))
    path = tmp_path / f"case{suffix}"
    SimpleITK.WriteImage(image, str(path), useCompression=compress and suffix != ".hdr")
    found, grid = read_image(path)
    np.testing.assert_array_equal(found, voxels.transpose(3, 2, 1, 0))
    assert found.dtype == voxels.dtype
    np.testing.assert_allclose(grid.affine, TURNED, atol=1e-5)
    assert open_image(path).notes == ()


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_tifffile_reads_what_we_write(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"case{suffix}"
    labels = some_labels(MICROSCOPE[0], "int32")
    write_labels(path, labels, MICROSCOPE[0])
    with tifffile.TiffFile(path) as file:
        assert file.is_ome
        assert (file.series[0].axes, file.series[0].shape) == ("ZYX", labels.shape)
        np.testing.assert_array_equal(file.asarray(), labels)
        told = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert [told[f"PhysicalSize{axis}"] for axis in "ZYX"] == list(MICROSCOPE[0].spacing)
    assert told["PhysicalSizeXUnit"] == "µm"


def test_an_old_header_never_stands_beside_new_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Killed between the two writes, a pair has no header, and is written again by the next run."""
    from medseg.formats import write as formats

    path = tmp_path / "case.mhd"
    geometry = WORLD[0]
    write_labels(path, some_labels(geometry), geometry)
    real = formats.atomic_writer

    def killed(target: Path) -> Any:
        if target == path:
            raise KeyboardInterrupt
        return real(target)

    monkeypatch.setattr(formats, "atomic_writer", killed)
    with pytest.raises(KeyboardInterrupt):
        write_labels(path, some_labels(geometry) + 1, geometry)
    assert not path.exists()
