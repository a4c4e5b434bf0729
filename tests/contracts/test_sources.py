"""What an opened image promises, whatever its format: boxes are the same bits as the image, and cost what they hold."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from medseg.errors import GeometryError
from medseg.formats.content import FileBytes
from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_content, read_image
from medseg.formats.source import Source
from medseg.formats.table import FOLDER, FORMATS
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from tests import dicom_phantom
from tests.contracts.test_formats import ROWS, some_labels
from tests.pictures import picture


def scaled_nifti(path: Path, dtype: str, slope: float, big_endian: bool = False) -> None:
    voxels = np.random.default_rng(3).integers(0, 200, (9, 8, 7, 2)).astype(dtype)
    header = nibabel.Nifti1Header(endianness=">" if big_endian else "<")
    header.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(voxels, np.diag([2.0, 1.5, 3.0, 1.0]), header)
    image.header.set_slope_inter(slope, 4.0 if slope != 1 else 0.0)
    nibabel.save(image, path)


def by_itk(path: Path, channels: int, compress: bool) -> None:
    voxels = np.random.default_rng(4).normal(60, 20, (5, 6, 7, channels)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(voxels if channels > 1 else voxels[..., 0], isVector=channels > 1)
    SimpleITK.WriteImage(image, str(path), useCompression=compress)


def tiff(path: Path, shape: tuple[int, ...], **options: Any) -> None:
    voxels = np.random.default_rng(6).integers(0, 250, shape).astype(np.uint16)
    tifffile.imwrite(path, voxels, **options)


def dicom_folder(path: Path) -> None:
    path.mkdir()
    for name, data in dicom_phantom.series().items():
        (path / name).write_bytes(data)


def some_colours() -> np.ndarray:
    return np.random.default_rng(8).integers(0, 255, (37, 23, 3)).astype(np.uint8)


def some_table() -> np.ndarray:
    return np.random.default_rng(9).integers(0, 65535, (3, 256)).astype(np.uint16)


# Images that no label map of ours looks like: scaled, of big-endian numbers, of several channels, in tiles and strips.
IMAGES: dict[str, Callable[[Path], None]] = {
    "scaled.nii": lambda p: scaled_nifti(p, "int16", 0.5),
    "scaled.nii.gz": lambda p: scaled_nifti(p, "int16", 0.5),
    "wide.nii": lambda p: scaled_nifti(p, "float64", 1.7),
    "big.nii": lambda p: scaled_nifti(p, "int32", 1.0, big_endian=True),
    "plain.nrrd": lambda p: by_itk(p, 1, False),
    "vector.nrrd": lambda p: by_itk(p, 3, False),
    "vector.nhdr": lambda p: by_itk(p, 3, False),
    "vector.mha": lambda p: by_itk(p, 2, False),
    "packed.mha": lambda p: by_itk(p, 2, True),
    "plain.mhd": lambda p: by_itk(p, 1, False),
    "strips.tif": lambda p: tiff(p, (37, 23), rowsperstrip=5),
    "tiles.tif": lambda p: tiff(p, (70, 90), tile=(32, 48), compression="zlib", predictor=True),
    "colour.tif": lambda p: tiff(p, (70, 90, 3), tile=(32, 48), photometric="rgb", compression="lzw"),
    "planar.tif": lambda p: tiff(p, (3, 70, 90), tile=(32, 48), photometric="rgb", planarconfig="separate"),
    "jpeg.tif": lambda p: tifffile.imwrite(
        p,
        np.random.default_rng(1).integers(0, 255, (70, 90, 3)).astype(np.uint8),
        tile=(32, 48),
        photometric="rgb",
        compression="jpeg",
    ),
    "bits.tif": lambda p: tifffile.imwrite(p, np.random.default_rng(2).random((37, 23)) > 0.5, rowsperstrip=4),
    "half.tif": lambda p: tifffile.imwrite(p, np.random.default_rng(2).random((37, 23)).astype(np.float16)),
    "big.tif": lambda p: tiff(p, (3, 70, 90), tile=(32, 48), byteorder=">", photometric="minisblack", bigtiff=True),
    "rows.tif": lambda p: tiff(
        p, (3, 37, 23), byteorder=">", photometric="rgb", planarconfig="separate", rowsperstrip=5
    ),
    "float.tif": lambda p: tifffile.imwrite(
        p, np.random.default_rng(2).random((37, 23)), rowsperstrip=5, compression="zlib", predictor=3
    ),
    "stack.tif": lambda p: tiff(p, (5, 2, 40, 30), imagej=True, metadata={"axes": "ZCYX"}),
    "alpha.tif": lambda p: tifffile.imwrite(
        p, np.full((9, 8, 4), 255, np.uint8), photometric="rgb", extrasamples=["unassalpha"]
    ),
    "series": dicom_folder,
    "colour.jpg": lambda p: p.write_bytes(picture(".jpg", some_colours())),
    "table.bmp": lambda p: p.write_bytes(picture(".bmp", Image.fromarray(some_colours()).quantize(30))),
    "table.gif": lambda p: p.write_bytes(picture(".gif", Image.fromarray(some_colours()).quantize(30))),
    "table.tif": lambda p: tifffile.imwrite(
        p, some_colours()[..., 0], photometric="palette", colormap=some_table(), rowsperstrip=5, metadata=None
    ),
}


@pytest.fixture(params=[*ROWS, *IMAGES])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An image of every row of the table, and of every kind that readers tell apart."""
    if request.param in IMAGES:
        IMAGES[request.param](tmp_path / request.param)
        return tmp_path / request.param
    path = tmp_path / f"case{request.param}"
    grid = ROWS[request.param].grids[0]
    ROWS[request.param].make(path, some_labels(grid), grid)
    return path


def random_box(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[slice, ...]:
    bounds = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
    return tuple(slice(int(a), int(b)) for a, b in bounds)


def test_every_row_is_opened_here() -> None:
    assert ROWS.keys() | {FOLDER} == FORMATS.keys()


def test_any_box_is_the_same_bits_as_the_image(path: Path) -> None:
    image, geometry = read_image(path)
    source = open_image(path)
    assert (source.shape, source.dtype, source.geometry) == (image.shape, image.dtype, geometry)
    assert source.sha256 == read_content(path).sha256
    rng = np.random.default_rng(11)
    shape = image.shape[1:]
    boxes = [random_box(rng, shape) for _ in range(25)]
    boxes += [(slice(None),) * len(shape), tuple(slice(n - 1, n) for n in shape), tuple(slice(0, 1) for _ in shape)]
    np.testing.assert_array_equal(source.read(), image)
    held = Source.from_array(image, geometry)
    for box in boxes:
        found = source.read(box)
        np.testing.assert_array_equal(found, image[(slice(None), *box)])
        assert found.dtype == image.dtype and found.dtype.isnative and found.flags.c_contiguous
        np.testing.assert_array_equal(held.read(box), found)


def test_boxes_that_are_empty_or_reach_out_are_refused(path: Path) -> None:
    source = open_image(path)
    whole = [slice(None)] * (len(source.shape) - 1)
    length = source.shape[1]
    for bad in (slice(2, 2), slice(0, length + 1), slice(-1, None), slice(0, length, 2), slice(length, None)):
        with pytest.raises(GeometryError, match=r"is empty or not within the image of"):
            source.read([bad, *whole[1:]])
    with pytest.raises(GeometryError, match="a box of"):
        source.read([*whole, slice(None)])


def test_an_open_image_survives_the_removal_of_its_file(path: Path) -> None:
    image, _ = read_image(path)
    source = open_image(path)
    for file in [path] if path.is_file() else []:
        file.unlink()
    np.testing.assert_array_equal(source.image(), image)


def test_an_image_that_nobody_holds_keeps_no_file_open(path: Path) -> None:
    """Without waiting for the collector of cycles, which may come after a thousand files."""
    gc.disable()
    try:
        open_image(path).image()  # libraries open what they keep
        before = os.listdir("/proc/self/fd")
        open_image(path)
        open_image(path).image()
        read_image(path)
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()


LARGE = (96, 80, 64)


@pytest.mark.parametrize("suffix", [".nii", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_slab_of_a_plain_file_reads_little_else(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In units of the slab's own bytes, in both directions; with room for one small plane only, as in a large image."""
    path = tmp_path / f"large{suffix}"
    voxels = np.random.default_rng(0).integers(0, 999, LARGE).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels.T.copy()), str(path), useCompression=False)
    taken: list[int] = []
    read = FileBytes._read
    monkeypatch.setattr(FileBytes, "_read", lambda self, at, size: taken.append(size) or read(self, at, size))
    source = open_image(path)
    header = sum(taken)
    taken.clear()
    np.testing.assert_array_equal(source.read([slice(None), slice(None), slice(10, 14)])[0], voxels[:, :, 10:14])
    assert sum(taken) == voxels[:, :, 10:14].nbytes
    assert header < voxels.nbytes // 2 or header <= 2 << 20
    taken.clear()
    monkeypatch.setattr("medseg.formats.raw.SPAN", LARGE[0] * 2)
    np.testing.assert_array_equal(source.read([slice(5, 9), slice(0, 3), slice(10, 14)])[0], voxels[5:9, :3, 10:14])
    assert sum(taken) == voxels[5:9, :3, 10:14].nbytes and max(taken) == 8


def test_a_box_of_a_tiff_reads_its_pages_strips_and_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Incompressible tiles of 64 x 64, rows of 200 pixels, pages of 200 x 200, two bytes a pixel."""
    voxels = np.random.default_rng(0).integers(0, 60000, (30, 200, 200)).astype(np.uint16)
    taken: list[int] = []
    read = FileBytes._read
    monkeypatch.setattr(FileBytes, "_read", lambda self, at, size: taken.append(size) or read(self, at, size))
    for name, options in (("rows", {}), ("tiles", {"tile": (64, 64), "compression": "zstd"})):
        path = tmp_path / f"{name}.ome.tif"
        tifffile.imwrite(path, voxels, metadata={"axes": "ZYX"}, **options)
        source = open_image(path)
        taken.clear()
        np.testing.assert_array_equal(
            source.read([slice(9, 11), slice(60, 70), slice(0, 64)])[0], voxels[9:11, 60:70, :64]
        )
        expected = 2 * 10 * 200 * 2 if name == "rows" else 2 * 2 * 64 * 64 * 2
        assert expected * 0.9 < sum(taken) < expected * 1.1
        assert len(taken) == (2 if name == "rows" else 4)


def test_a_file_that_was_cut_after_it_was_opened_is_named(tmp_path: Path) -> None:
    path = tmp_path / "case.nii"
    grid = Geometry.create((30, 30, 30), np.eye(4))
    write_labels(path, np.ones(grid.shape, np.uint8), grid)
    source = open_image(path)
    with open(path, "r+b") as file:
        file.truncate(5000)
    assert source.read([slice(None), slice(None), slice(0, 2)]).all()
    with pytest.raises(FormatError, match=r"case\.nii: ends at byte 5000"):
        source.image()


def test_an_overflow_is_found_where_it_is_read(tmp_path: Path) -> None:
    """Beside NaN, too: a box that lacks the one must not differ from the image that has both."""
    path = tmp_path / "case.nii"
    voxels = np.ones((4, 4, 4), np.float32)
    voxels[0, 0, 0], voxels[3, 3, 3] = np.nan, 3e38
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    image.header.set_slope_inter(1e9, 0.0)
    nibabel.save(image, path)
    data = bytearray(path.read_bytes())
    data[352:] = voxels.tobytes(order="F")
    data[112:116] = np.float32(1e9).tobytes()
    path.write_bytes(data)
    source = open_image(path)
    assert np.isnan(source.read([slice(0, 1)] * 3)).all()
    for read in (source.image, lambda: source.read([slice(3, 4)] * 3)):
        with pytest.raises(FormatError, match="makes values overflow"):
            read()
