"""MetaImage: keys, channels, worlds, and headers that make no sense."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pytest

from medseg.formats.errors import FormatError
from medseg.formats.metaimage import TYPES
from medseg.formats.read import open_image
from medseg.formats.source import Source

VOXELS = np.random.default_rng(0).integers(0, 99, (3, 4, 5)).astype("<i2")
KEYS = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "0 1 0 -1 0 0 0 0 1",
    "Offset": "10 20 30",
    "ElementSpacing": "2 1.5 3",
    "DimSize": "3 4 5",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
LPS = np.array([[0.0, -1.5, 0.0, 10.0], [2.0, 0.0, 0.0, 20.0], [0.0, 0.0, 3.0, 30.0], [0.0, 0.0, 0.0, 1.0]])
PLAIN = VOXELS.tobytes(order="F")


def mha(body: bytes = PLAIN, **changes: str | None) -> bytes:
    """A file with some keys changed or left out (None); ``ElementDataFile`` stays the last."""
    keys = {**KEYS, **changes}
    keys["ElementDataFile"] = keys.pop("ElementDataFile")
    return "".join(f"{key} = {value}\n" for key, value in keys.items() if value is not None).encode() + body


def read(data: bytes) -> Source:
    return open_image(Path("case.mha"), data)


def test_values_and_world() -> None:
    found = read(mha())
    np.testing.assert_array_equal(found.voxels[0], VOXELS)
    np.testing.assert_allclose(found.geometry.affine, np.diag([-1.0, -1.0, 1.0, 1.0]) @ LPS)
    assert (found.unit, found.notes) == ("mm", ())


@pytest.mark.parametrize(
    ("old", "new"), [("TransformMatrix", "Rotation"), ("Offset", "Position"), ("Offset", "Origin")]
)
def test_synonyms(old: str, new: str) -> None:
    found = read(mha().replace(old.encode(), new.encode()))
    np.testing.assert_allclose(found.geometry.affine, read(mha()).geometry.affine)
    with pytest.raises(FormatError, match=f"'{old}' twice"):
        read(mha(**{new: KEYS[old]}))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_types_byte_order_and_channels(name: str, big: bool, channels: int) -> None:
    dtype = np.dtype(TYPES[name]).newbyteorder(">" if big else "<")
    voxels = np.stack([VOXELS + k for k in range(channels)]).astype(dtype)
    keys = {"ElementType": name if channels == 1 else f"{name}_ARRAY", "BinaryDataByteOrderMSB": str(big)}
    found = read(mha(voxels.tobytes(order="F"), ElementNumberOfChannels=str(channels), **keys))
    np.testing.assert_array_equal(found.voxels, voxels)
    assert found.voxels.dtype == dtype.newbyteorder("=")


def test_packed_and_skipped_bytes() -> None:
    packed = zlib.compress(PLAIN)
    for data in (
        mha(packed, CompressedData="True"),
        mha(packed, CompressedData="True", CompressedDataSize=str(len(packed))),
        mha(gzip.compress(PLAIN), CompressedData="True"),
        mha(b"junk" + PLAIN, HeaderSize="4"),
        mha(b"junk" + PLAIN, HeaderSize="-1"),
        mha(ITK_InputFilterName="NrrdImageIO", Modality="MET_MOD_CT"),
    ):
        np.testing.assert_array_equal(read(data).voxels[0], VOXELS)


def test_sizes_and_orientation_that_are_not_there() -> None:
    found = read(mha(TransformMatrix=None))
    assert found.geometry.spacing == (2.0, 1.5, 3.0)
    assert [code for code, _ in found.notes] == ["no-orientation"]
    assert read(mha(ElementSpacing=None)).spaced((2.0, 0.5, 0.25)).geometry.spacing == (2.0, 0.5, 0.25)
    assert read(mha(ElementSpacing=None, ElementSize="2 1.5 3")).geometry.spacing == (2.0, 1.5, 3.0)
    assert read(mha(DistanceUnits="um")).unit == "um"
    for unit, spacing in (("cm", (20.0, 15.0, 30.0)), ("Micron", (2.0, 1.5, 3.0)), ("?", (2.0, 1.5, 3.0))):
        assert read(mha(DistanceUnits=unit)).geometry.spacing == pytest.approx(spacing)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (mha(NDims="4", DimSize="3 4 5 1"), "expected 2 or 3 axes"),
        (mha(NDims="3 3"), "expected one integer"),
        (mha(DimSize="3 4"), "expected 2 or 3 axes"),
        (mha(DimSize="3 4 0"), "expected 2 or 3 axes"),
        (mha(DimSize="3 4 6"), "needs exactly 144|can hold 120"),
        (mha(DimSize="3 4 4"), "needs exactly 96"),
        (mha(DimSize=None), "without 'DimSize'"),
        (mha(ElementType="MET_STRING"), "ElementType 'MET_STRING'"),
        (mha(ElementNumberOfChannels="0"), "0 channels"),
        (mha(BinaryData="False"), "without binary voxels"),
        (mha(ObjectType="Tube"), "without binary voxels"),
        (mha(BinaryDataByteOrderMSB="Maybe"), "expected True or False"),
        (mha(CompressedData="True"), "damaged zlib"),
        (mha(zlib.compress(PLAIN), CompressedData="True", CompressedDataSize="9"), "header says 9"),
        (mha(zlib.compress(PLAIN) + b"x", CompressedData="True"), "1 bytes follow"),
        (mha(zlib.compress(PLAIN)[:-1], CompressedData="True"), "breaks off"),
        (mha(zlib.compress(PLAIN), CompressedData="True", HeaderSize="5"), "HeaderSize before"),
        (mha(HeaderSize="5"), "needs exactly"),
        (mha(ElementSpacing="1 1"), "expected 3 finite"),
        (mha(ElementSpacing="1 1 0"), "sizes above 0"),
        (mha(ElementSpacing="1 1 -1"), "sizes above 0"),
        (mha(ElementSpacing="1 1 nan"), "expected 3 finite"),
        (mha(ElementSpacing="1 1 1_0"), "expected real numbers"),
        (mha(TransformMatrix="1 0 0 0 1 0 0 0"), "expected 9 finite"),
        (mha(TransformMatrix="1 0 0 1 0 0 0 0 1"), "singular"),
        (mha(Offset="a b c"), "expected real numbers"),
        (mha(DistanceUnits="s"), "DistanceUnits 's', expected a length"),
        (mha(ElementToIntensityFunctionSlope="2"), "ElementToIntensityFunctionSlope"),
        (mha(ElementDataFile="other.raw"), "rename it to .mhd"),
        (mha(b"", ElementDataFile=None), "without 'ElementDataFile'"),
        (mha().replace(b"NDims = 3", b"NDims 3"), "has no '='"),
        (mha().replace(b"NDims = 3", b"NDims = \xff"), "no text"),
    ],
)
def test_headers_that_make_no_sense_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=f"case.mha: .*({words})"):
        assert read(data).geometry


def test_data_files(tmp_path: Path) -> None:
    path = tmp_path / "case.mhd"
    (tmp_path / "case.raw").write_bytes(PLAIN)
    path.write_bytes(mha(b"", ElementDataFile="case.raw"))
    np.testing.assert_array_equal(open_image(path).voxels[0], VOXELS)
    for data, words in (
        (mha(b"", ElementDataFile="LIST"), "several files"),
        (mha(b"", ElementDataFile="slice%03d.raw 1 9 1"), "several files"),
        (mha(), "rename it to .mha"),
        (mha(b"more", ElementDataFile="case.raw"), "4 bytes follow"),
        (mha(b"", ElementDataFile="none.raw"), "none.raw: cannot be read"),
    ):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=words):
            open_image(path)
