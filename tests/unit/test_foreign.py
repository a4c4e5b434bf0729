"""Files that are not read: the message says what they are, by content before name, and which program exports them."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from medseg.formats.errors import FormatError
from medseg.formats.foreign import FOREIGN, TIFF_MAKERS
from medseg.formats.read import open_image, read_image
from medseg.formats.table import FORMATS


def refused(path: Path, data: bytes) -> FormatError:
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        open_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"x")
    return out.getvalue()


TIFF, HDF5, OLE = (
    b"II*\0" + bytes(99),
    b"\x89HDF\r\n\x1a\n" + bytes(99),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99),
)
FILES = [
    ("a.czi", b"ZISRAWFILE" + bytes(99), "a Zeiss CZI file", "Fiji"),
    ("a.nd2", b"\xda\xce\xbe\x0a" + bytes(99), "a Nikon ND2 file", "bfconvert"),
    ("a.nd2", b"\0\0\0\x0cjP  \r\n", "a Nikon ND2 file of old", "Fiji"),
    ("a.lif", b"\x70\0\0\0\x10\0\0\0\x2a" + bytes(99), "a Leica LIF file", "Fiji"),
    ("a.lsm", TIFF, "a Zeiss LSM file", "Fiji"),
    ("a.svs", TIFF, "an Aperio slide", "QuPath"),
    ("a.ndpi", TIFF, "a Hamamatsu slide", "QuPath"),
    ("a.mrxs", b"\xff\xd8\xff\xe0" + bytes(99), "a MIRAX slide", "QuPath"),
    ("a.vsi", TIFF, "an Olympus VSI file", "QuPath"),
    ("a.oib", OLE, "an Olympus OIB file", "Fiji"),
    ("a.oif", "[File]".encode("utf-16"), "an Olympus OIF file", "Fiji"),
    ("a.dv", bytes(96) + b"\xa0\xc0" + bytes(99), "a DeltaVision file", "Fiji"),
    ("a.ims", HDF5, "an Imaris file", "Fiji"),
    ("a.h5", HDF5, "an HDF5 file", "h5py"),
    ("a.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(99), "a MATLAB file", "scipy.io.loadmat"),
    ("a.mat", HDF5, r"a MATLAB file \(7.3\)", "h5py"),
    ("a.npy", b"\x93NUMPY\x01\0" + bytes(99), "a NumPy array", "tifffile.imwrite"),
    ("a.npz", zipped("x.npy"), "NumPy arrays", "tifffile.imwrite"),
    ("a.mgz", gzip.compress(bytes(99)), "a FreeSurfer volume", "mri_convert"),
    ("a.pdf", b"%PDF-1.7\n", "a PDF document", "PNG"),
    ("a.doc", OLE, "an Office document", "PNG"),
    ("a.docx", zipped("[Content_Types].xml"), "an Office document", "PNG"),
    ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture", "PNG"),
    ("a.webp", b"RIFF\0\0\0\0WEBPVP8 ", "a WebP picture", "PNG"),
    ("a.heic", b"\0\0\0\x18ftypheic" + bytes(99), "a HEIC or AVIF picture", "PNG"),
    ("a.ome.zarr.zip", zipped("zarr.json"), "a packed OME-Zarr", "unpack it"),
    ("a.nrrd.gz", gzip.compress(b"NRRD0004"), "a gzip file", "unpack it"),
    ("a.csv", b"case,image\n", "by its name a table or text", "out of the folder"),
    ("a.img", bytes(999), "by its name the voxels of a header", "name the header"),
    # What it holds counts more than what it is called.
    ("a.tif", b"ZISRAWFILE" + bytes(99), "the content is a Zeiss CZI file, expected TIFF", "Fiji"),
    ("a.png", b"%PDF-1.7\n", "the content is a PDF document, expected PNG", "PNG"),
    ("a.tif", HDF5, "the content is an HDF5 file, expected TIFF", "h5py"),
    ("a.nii", b"<!DOCTYPE html><html>", "the content is a page of HTML", "download"),
    ("a.nii.gz", b"version https://git-lfs.github.com/spec/v1\n", "the content is a Git LFS pointer", "git lfs pull"),
    ("a.hdr", b"\x5c\x01\0\0" + bytes(344), "the content is an Analyze 7.5 volume, expected NIfTI", "nibabel"),
    ("a.czi", b"%PDF-1.7\n", "a PDF document", "PNG"),
    ("a.czi", b"nothing known", "by its name a Zeiss CZI file", "Fiji"),
    ("a.xyz", b"\xff\xd8\xff\xe0" + bytes(99), r"the content is JPEG, called \.xyz", "rename it to a.xyz.jpg"),
    (
        "IM0001",
        bytes(128) + b"DICM" + bytes(99),
        r"the content is DICOM, called \(no suffix\)",
        "rename it to IM0001.dcm",
    ),
    ("a.xyz", b"nothing known", r"format \.xyz, expected \.nii", "export it in the program that made it"),
]


@pytest.mark.parametrize(("name", "data", "cause", "way"), FILES, ids=[f"{f[0]} {f[2][:24]}" for f in FILES])
def test_a_file_that_is_not_read_is_named_with_the_way(
    name: str, data: bytes, cause: str, way: str, tmp_path: Path
) -> None:
    error = refused(tmp_path / name, data)
    assert re.match(cause, error.cause), error.cause
    assert way in error.fix


def test_no_row_takes_a_suffix_that_is_read() -> None:
    """Content decides there; a row may only say what a wrong content is."""
    taken = {suffix for row in FOREIGN for suffix in row.suffixes} & FORMATS.keys()
    assert taken == {".hdr"}
    for row in FOREIGN:
        assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in row.suffixes)
        assert row.suffixes or row.begins is not None
        assert not row.shared or (row.suffixes and row.begins is not None)


@pytest.mark.parametrize(("name", "mark", "way"), TIFF_MAKERS)
def test_pyramids_and_thumbnails_of_a_vendor_are_named(name: str, mark: int | str, way: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for side in (64, 16):
            tags = [(mark, 1, 600, bytes(600), True)] if isinstance(mark, int) else []
            text = mark if isinstance(mark, str) else None
            file.write(np.zeros((side, side), np.uint8), extratags=tags, description=text, metadata=None)
    with pytest.raises(FormatError) as caught:
        open_image(path)
    assert caught.value.cause.startswith(f"{name}, which is not read (pages of different kinds")
    assert caught.value.fix == way


def test_the_advice_for_arrays_works(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    np.save(tmp_path / "a.npy", array)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.load(tmp_path / "a.npy"), photometric="minisblack", metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_image(path)[0][0], array)


def test_the_advice_for_analyze_works(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    nibabel.save(nibabel.analyze.AnalyzeImage(array, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "a.hdr")
    assert "an Analyze 7.5 volume" in refused(tmp_path / "a.hdr", (tmp_path / "a.hdr").read_bytes()).cause
    nibabel.save(nibabel.load(tmp_path / "a.hdr"), tmp_path / "a.nii.gz")
    found, grid = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(found[0], array)
    assert grid.spacing == (2.0, 3.0, 4.0)
