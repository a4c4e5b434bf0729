"""Names, NIfTI, integer labels and PNG in detail; tests/contracts/test_formats.py holds what all formats promise."""

from __future__ import annotations

import bz2
import gzip
import os
import pickle
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pytest
import SimpleITK

from medseg.errors import GeometryError
from medseg.formats import limits
from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_content, read_image, read_labels
from medseg.formats.table import stem_of, suffix_of
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry

# Rotated about two axes, anisotropic, mirrored, off the origin.
OBLIQUE = np.array([[-1.48, 0.21, 0.1, 33.0], [0.2, 1.47, -0.52, -40.5], [0.12, 0.19, 4.1, 7.25], [0.0, 0.0, 0.0, 1.0]])


GRID = Geometry.create((7, 6, 5), OBLIQUE)


def some_labels(dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(5).integers(0, 120, (7, 6, 5)).astype(dtype)


# Names


def test_names() -> None:
    assert suffix_of(Path("a/B.NII.GZ")) == ".nii.gz"
    assert stem_of(Path("a/B.c.NII.GZ")) == "B.c"
    assert stem_of(Path("a/b.c.png")) == "b.c"
    with pytest.raises(FormatError, match=r"format \.xyz, expected"):
        open_image(Path("strange.xyz"))
    with pytest.raises(FormatError, match="no suffix"):
        open_image(Path("name"))


def test_the_error_survives_a_process_boundary() -> None:
    error = FormatError(Path("a.png"), "cause", "fix", "label-not-integer")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a.png: cause; fix"
    assert again.code == "label-not-integer"


# NIfTI against nibabel


def nifti_bytes(image: nibabel.Nifti1Image) -> bytes:
    return image.to_bytes()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "uint16", ">i2", ">f4"])
@pytest.mark.parametrize("cls", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_images_agree_with_nibabel(cls: type, dtype: str) -> None:
    voxels = np.random.default_rng(0).normal(100, 50, (9, 8, 7)).astype(dtype)
    header = cls.header_class(endianness=">" if dtype.startswith(">") else "<")
    data = cls(voxels, OBLIQUE, header, dtype=voxels.dtype).to_bytes()
    image, geometry = read_image(Path("case.nii"), data)
    np.testing.assert_array_equal(image[0], voxels)
    assert image.dtype == voxels.dtype.newbyteorder("=")
    np.testing.assert_allclose(
        geometry.affine,
        nibabel.Nifti1Image.from_bytes(data).affine if cls is nibabel.Nifti1Image else cls.from_bytes(data).affine,
    )


PLANES = {
    "transversal": np.array([[0.5, 0.0, 0, 3], [0.0, -0.7, 0, 4], [0, 0, 2, 9], [0, 0, 0, 1]]),
    "turned": np.array([[0.4, -0.42, 0, 3], [0.3, 0.56, 0, 4], [0, 0, 1, 9], [0, 0, 0, 1]]),
    "coronal": np.array([[0.5, 0, 0, 3], [0, 0, -1, 4], [0, 0.7, 0, 5], [0, 0, 0, 1]]),
}


def plane(affine: np.ndarray, qform: bool = False, **fields: object) -> bytes:
    """A picture of 9 x 8 pixels as NIfTI with two axes."""
    image = nibabel.Nifti1Image(np.arange(72, dtype=np.int16).reshape(9, 8), affine)
    image.set_sform(affine, 0 if qform else 1)
    image.set_qform(affine, 1 if qform else 0)
    data = bytearray(image.to_bytes())
    for name, value in fields.items():
        image.header[name] = value
    data[:348] = image.header.binaryblock
    struct.pack_into("<f", data, 108, 352.0)
    return bytes(data)


@pytest.mark.parametrize("qform", [False, True])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("transversal", [[0.5, 0, 3], [0, -0.7, 4], [0, 0, 1]]),
        ("turned", [[0.4, -0.42, 3], [0.3, 0.56, 4], [0, 0, 1]]),
        ("coronal", [[0.5, 0, 3], [0, 0.7, 5], [0, 0, 1]]),
    ],
)
def test_a_picture_in_nifti_has_two_axes(name: str, expected: list[list[float]], qform: bool) -> None:
    data = plane(PLANES[name], qform)
    found = open_image(Path("case.nii"), data)
    np.testing.assert_array_equal(found.image(), np.arange(72).reshape(1, 9, 8))
    np.testing.assert_allclose(found.geometry.affine, expected, atol=1e-6)
    assert (found.geometry.unit, found.notes) == ("mm", ())


def test_a_tilted_picture_keeps_its_sizes_and_angles() -> None:
    found = open_image(Path("case.nii"), plane(OBLIQUE)).geometry
    np.testing.assert_allclose(found.spacing, np.linalg.norm(OBLIQUE[:3, :2], axis=0), rtol=1e-6)
    axes = found.affine[:2, :2]
    assert axes[:, 0] @ axes[:, 1] == pytest.approx(OBLIQUE[:3, 0] @ OBLIQUE[:3, 1], abs=1e-6)


def test_the_third_axis_of_a_picture_counts_for_nothing() -> None:
    zeros = {"srow_x": [0.5, 0, 0, 3], "srow_y": [0, 0.7, 0, 4], "srow_z": [0, 0, 0, 5]}
    pixdim = [1, 0.5, 0.7, 0, 0, 0, 0, 0]
    found = open_image(Path("case.nii"), plane(PLANES["transversal"], pixdim=pixdim, **zeros))
    np.testing.assert_allclose(found.geometry.affine, [[0.5, 0, 3], [0, 0.7, 4], [0, 0, 1]], atol=1e-6)
    assert found.notes == ()
    # Without forms a picture has no orientation to doubt.
    plain_one = open_image(Path("case.nii"), plane(PLANES["transversal"], sform_code=0, pixdim=pixdim))
    np.testing.assert_allclose(plain_one.geometry.affine, np.diag([0.5, 0.7, 1]), rtol=1e-6)
    assert plain_one.notes == ()
    with pytest.raises(FormatError, match="sform is singular"):
        open_image(Path("case.nii"), plane(PLANES["transversal"], srow_x=[np.nan, 0, 0, 3]))


def test_a_picture_is_written_with_two_axes(tmp_path: Path) -> None:
    path = tmp_path / "case.nii.gz"
    grid = Geometry.create((9, 8), np.array([[0.4, -0.42, 3], [0.3, 0.56, 4], [0, 0, 1]]))
    write_labels(path, np.arange(72, dtype=np.uint8).reshape(9, 8), grid)
    image = SimpleITK.ReadImage(str(path))
    assert image.GetSize() == (9, 8)
    np.testing.assert_allclose(image.GetSpacing(), (0.5, 0.7), rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), (-3, -4), rtol=1e-6)
    assert nibabel.load(path).shape == (9, 8)


@pytest.mark.parametrize("shape", [(5, 6, 7, 3), (6, 7, 3)])
def test_vectors_as_itk_writes_them(shape: tuple[int, ...], tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    path = tmp_path / "case.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels, isVector=True), str(path))
    found = open_image(path)
    np.testing.assert_array_equal(found.image(), voxels.T)
    assert found.remarks == (f"axes {nibabel.load(path).shape}: the fifth holds 3 channels",)


def test_written_files_read_the_same_in_nibabel(tmp_path: Path) -> None:
    path = tmp_path / "case.nii.gz"
    labels = some_labels("int16")
    write_labels(path, labels, GRID)
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    assert image.get_data_dtype() == np.int16
    np.testing.assert_allclose(image.get_sform(), OBLIQUE, atol=1e-5)
    shared = Geometry.create(labels.shape, image.get_sform())
    np.testing.assert_allclose(image.get_qform(), OBLIQUE, atol=0.3)
    # OBLIQUE is a little sheared, which a qform cannot express: it must not claim to be one.
    assert int(image.header["qform_code"]) == 0
    assert shared.corner_distance_voxels(GRID) < 1e-5


def test_sform_and_qform_are_both_set_and_equal_without_shear(tmp_path: Path) -> None:
    path = tmp_path / "case.nii.gz"
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 1.5, 4.0])
    write_labels(path, some_labels(), Geometry.create((7, 6, 5), affine))
    image = nibabel.load(path)
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-5)
    assert open_image(path).notes == ()


def test_nothing_of_an_input_header_is_written(tmp_path: Path) -> None:
    path = tmp_path / "case.nii"
    write_labels(path, some_labels(), GRID)
    header = nibabel.load(path).header
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        assert header[field].item() == b""
    assert len(header.extensions) == 0


def test_big_grids_use_nifti_2(tmp_path: Path) -> None:
    path = tmp_path / "case.nii.gz"
    labels = np.zeros((40000, 1, 2), np.uint8)
    labels[-1] = 3
    write_labels(path, labels, Geometry.create(labels.shape, np.eye(4)))
    assert isinstance(nibabel.load(path), nibabel.Nifti2Image)
    np.testing.assert_array_equal(read_labels(path)[0], labels)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 5, 6, 1), (1, 4, 5, 6)),
        ((4, 5, 6, 1, 1), (1, 4, 5, 6)),
        ((4, 5, 6, 3), (3, 4, 5, 6)),
        ((4, 5, 1), (1, 4, 5, 1)),
    ],
)
def test_trailing_axes(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    image, geometry = read_image(Path("case.nii"), nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes())
    assert image.shape == expected
    assert geometry.shape == expected[1:]
    dropped = open_image(Path("case.nii"), nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()).remarks
    assert any("of length 1 at the end dropped" in remark for remark in dropped) == (len(shape) > 3 and shape[-1] == 1)
    for channel in range(expected[0]):
        reference = voxels.reshape(*expected[1:], -1)[..., channel]
        np.testing.assert_array_equal(image[channel], reference)


@pytest.mark.parametrize("shape", [(4,), (4, 5, 6, 2, 3), (4, 5, 6, 1, 2, 2)])
def test_other_numbers_of_axes_are_refused(shape: tuple[int, ...]) -> None:
    data = nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)).to_bytes()
    with pytest.raises(FormatError, match=r"case.nii: axes \(.*expected 2 or 3, and a fourth or fifth for channels"):
        read_image(Path("case.nii"), data)


def test_four_axes_are_no_label_map() -> None:
    data = nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.uint8), np.eye(4)).to_bytes()
    with pytest.raises(FormatError, match="2 channels, expected one"):
        read_labels(Path("case.nii"), data)


def plain() -> bytearray:
    return bytearray(nibabel.Nifti1Image(np.ones((8, 7, 6), np.int16), np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes())


HEADER_DAMAGE: list[tuple[str, int, str, tuple[float, ...]]] = [
    ("zero dimension", 42, "<h", (0,)),
    ("negative dimension", 44, "<h", (-7,)),
    ("no dimensions", 40, "<h", (0,)),
    ("nine dimensions", 40, "<h", (9,)),
    ("claims too much", 42, "<hhh", (32767, 32767, 32767)),
    ("claims too little", 42, "<h", (4,)),
    ("vox_offset 0", 108, "<f", (0.0,)),
    ("vox_offset far", 108, "<f", (1e9,)),
    ("vox_offset negative", 108, "<f", (-10.0,)),
    ("vox_offset broken", 108, "<f", (352.5,)),
    ("vox_offset NaN", 108, "<f", (float("nan"),)),
    ("bitpix contradicts", 72, "<h", (8,)),
    ("unknown datatype", 70, "<h", (9999,)),
    ("complex datatype", 70, "<hh", (32, 64)),
    ("colour datatype", 70, "<hh", (128, 24)),
    ("intercept infinite", 112, "<ff", (1.0, float("inf"))),
    ("slope overflows", 112, "<f", (3e38,)),
    ("affine singular", 280, "<ffff", (0.0, 0.0, 0.0, 0.0)),
    ("affine NaN", 280, "<f", (float("nan"),)),
    ("two-file magic", 344, "<4s", (b"ni1\0",)),  # type: ignore[list-item]
    ("no magic", 344, "<4s", (b"\0\0\0\0",)),  # type: ignore[list-item]
]


@pytest.mark.parametrize(
    ("offset", "form", "values"), [d[1:] for d in HEADER_DAMAGE], ids=[d[0] for d in HEADER_DAMAGE]
)
@pytest.mark.parametrize("packed", [False, True])
def test_impossible_headers_are_refused_cheaply(
    packed: bool, offset: int, form: str, values: tuple[float, ...]
) -> None:
    data = plain()
    data[352:354] = struct.pack("<h", 30000)
    struct.pack_into(form, data, offset, *values)
    content = gzip.compress(bytes(data)) if packed else bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"case\.nii"):
            read_image(Path("case.nii.gz" if packed else "case.nii"), content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_a_real_decompression_bomb_is_refused_by_the_budget() -> None:
    data = gzip.compress(nibabel.Nifti1Image(np.zeros((256, 256, 64), np.int16), np.eye(4)).to_bytes())
    with (
        limits.file_limit(1 << 20),
        pytest.raises(FormatError, match="needs 8388960 bytes of memory, allowed are 1048576"),
    ):
        read_image(Path("case.nii.gz"), data)
    assert read_image(Path("case.nii.gz"), data)[0].shape == (1, 256, 256, 64)


def test_gzip_checksum_and_length_are_checked() -> None:
    data = gzip.compress(bytes(plain()))
    for damaged in (
        data[:-8],
        data[:-4],
        data[:-5] + bytes([data[-5] ^ 1]) + data[-4:],
        data + gzip.compress(b"x"),
        data + gzip.compress(b"")[:-1],
        data + data[:2],
    ):
        with pytest.raises(FormatError):
            read_image(Path("case.nii.gz"), damaged)


def in_members(data: bytes, size: int, pack: Callable[[bytes], bytes] = gzip.compress) -> bytes:
    """As ``cat``, bgzip and pbzip2 make it; the last member is empty, as in every file of bgzip."""
    return b"".join(pack(data[at : at + size]) for at in range(0, len(data), size)) + pack(b"")


@pytest.mark.parametrize("size", [10, 352, 353, 5000])
def test_a_gzip_file_of_several_members_is_one_file(size: int) -> None:
    data = label_file(some_labels("int16"))
    np.testing.assert_array_equal(read_labels(Path("case.nii.gz"), in_members(data, size))[0], some_labels("int16"))
    with_empty = gzip.compress(b"") * 3 + in_members(data, size)
    np.testing.assert_array_equal(read_labels(Path("case.nii.gz"), with_empty)[0], some_labels("int16"))


def test_members_in_other_formats(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 7 6 5\nencoding: {}\n\n"
    labels = some_labels()
    for name, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress)):
        data = head.format(name).encode() + in_members(labels.tobytes(order="F"), 50, pack)
        np.testing.assert_array_equal(read_labels(Path("case.nrrd"), data)[0], labels)
    meta = "ObjectType = Image\nNDims = 3\nCompressedData = True\nDimSize = 7 6 5\nElementType = MET_UCHAR\n"
    start = f"{meta}ElementDataFile = LOCAL\n".encode()
    data = start + in_members(labels.tobytes(order="F"), 50)
    np.testing.assert_array_equal(read_labels(Path("case.mha"), data)[0], labels)
    with pytest.raises(FormatError, match=r"bytes follow the end of the zlib stream"):
        read_labels(Path("case.mha"), start + in_members(labels.tobytes(order="F"), 50, zlib.compress))


def test_members_stay_on_disk_and_cost_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "case.nii.gz"
    data = label_file(some_labels("int16"))
    path.write_bytes(in_members(data, 100))
    np.testing.assert_array_equal(open_image(path).labels(), some_labels("int16"))
    # Thousands of members of nothing are read through, and nothing is kept of them.
    tracemalloc.start()
    open_image(path, gzip.compress(b"") * 20_000 + gzip.compress(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    path.write_bytes(in_members(data, 100)[:-9])
    with pytest.raises(FormatError, match=r"case\.nii\.gz: truncated"):
        open_image(path)


@pytest.mark.parametrize("slope", [0.0, float("nan"), float("inf"), -float("inf"), 1.0])
def test_no_scaling_keeps_the_stored_type_and_is_recorded(slope: float) -> None:
    data = plain()
    struct.pack_into("<ff", data, 112, slope, float("nan") if slope != slope else 0.0)
    found = open_image(Path("case.nii"), bytes(data))
    assert found.image().dtype == np.int16
    assert (found.image() == 1).all()
    assert found.notes == ()
    assert found.remarks == (() if slope == 1 else (f"scl_slope {slope:g}: taken as no scaling",))


def test_signalling_nan_is_found_without_a_warning() -> None:
    data = bytearray(label_file(np.zeros((4, 4, 4), np.float32)))
    data[352:356] = b"\x01\x00\xa0\x7f"
    with pytest.raises(FormatError, match="first nan at"):
        read_labels(Path("case.nii"), bytes(data))


def test_scaling_applies_to_images() -> None:
    data = plain()
    struct.pack_into("<ff", data, 112, -0.5, 10.0)
    image, _ = read_image(Path("case.nii"), bytes(data))
    assert image.dtype == np.float32
    assert (image == 9.5).all()


def affine_of(sform: int, qform: int, **fields: float) -> tuple[np.ndarray, str]:
    image = nibabel.Nifti1Image(np.ones((8, 7, 6), np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    image.set_sform(np.diag([2.0, 2.0, 2.0, 1.0]), sform)
    image.set_qform(np.diag([-1.0, 2.0, 3.0, 1.0]), qform)
    image.header["pixdim"][1:4] = fields.get("pixdim", image.header["pixdim"][1:4])
    image.header["pixdim"][0] = fields.get("qfac", image.header["pixdim"][0])
    data = bytearray(plain())
    data[:348] = image.header.binaryblock
    struct.pack_into("<f", data, 108, 352.0)
    found = open_image(Path("case.nii"), bytes(data))
    return found.geometry.affine, "; ".join(text for _, text in found.notes)


def test_sform_is_preferred_and_a_contradiction_is_noted() -> None:
    affine, note = affine_of(1, 1)
    np.testing.assert_allclose(affine, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert "sform and qform differ" in note
    affine, note = affine_of(1, 0)
    np.testing.assert_allclose(affine, np.diag([2.0, 2.0, 2.0, 1.0]))
    assert "sform has voxels of 2 x 2 x 2, pixdim says 1 x 2 x 3" in note
    assert affine_of(1, 0, pixdim=2.0)[1] == ""


def test_qform_serves_without_sform_and_pixdim_without_both() -> None:
    affine, note = affine_of(0, 1)
    np.testing.assert_allclose(affine, np.diag([-1.0, 2.0, 3.0, 1.0]), atol=1e-6)
    assert note == ""
    affine, note = affine_of(0, 0)
    np.testing.assert_allclose(affine, np.diag([1.0, 2.0, 3.0, 1.0]))
    assert "orientation unknown" in note
    with pytest.raises(FormatError, match="impossible voxel size"):
        affine_of(0, 0, pixdim=0.0)


def test_metres_become_millimetres() -> None:
    here = read_image(Path("case.nii"), bytes(plain()))[1]
    data = plain()
    data[123] = 1
    there = read_image(Path("case.nii"), bytes(data))[1]
    assert there.unit == "mm"
    assert there.spacing == pytest.approx([1000 * size for size in here.spacing])


def test_micrometres_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "case.nii"
    write_labels(path, some_labels(), Geometry.create((7, 6, 5), np.eye(4), "um"))
    assert read_labels(path)[1].unit == "um"


# Labels are integers


def label_file(values: np.ndarray) -> bytes:
    return nibabel.Nifti1Image(values, np.eye(4), dtype=values.dtype).to_bytes()


def test_large_ids_never_pass_through_float() -> None:
    ids = (np.arange(64, dtype=np.int32) + 2**24).reshape(4, 4, 4)
    labels, _ = read_labels(Path("case.nii"), label_file(ids))
    np.testing.assert_array_equal(labels, ids)
    assert len(np.unique(labels)) == 64


def test_float_labels_near_integers_are_rounded_not_cut() -> None:
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 2, 3], values[0, 0, 0] = 0.9996, 2.0004
    labels, _ = read_labels(Path("case.nii"), label_file(values))
    assert labels.dtype.kind == "i"
    assert (labels[1, 2, 3], labels[0, 0, 0], labels.sum()) == (1, 2, 3)


@pytest.mark.parametrize("bad", [1.5, 0.998, float("nan"), float("inf"), -float("inf"), 1e12])
def test_other_float_labels_tell_value_count_and_place(bad: float) -> None:
    values = np.zeros((4, 4, 4), np.float32)
    values[1, 2, 3] = values[3, 0, 0] = bad
    words = f"2 label voxels are no integers below 2^31, first {np.float32(bad):g} at (1, 2, 3)"
    with pytest.raises(FormatError, match=re.escape(words)) as caught:
        read_labels(Path("case.nii"), label_file(values))
    assert caught.value.code == "label-not-integer"


def test_scaled_labels_must_come_out_as_integers() -> None:
    data = bytearray(label_file(np.ones((4, 4, 4), np.uint8)))
    struct.pack_into("<ff", data, 112, 1 / 3, 0.0)
    with pytest.raises(FormatError, match=r"0.333"):
        read_labels(Path("case.nii"), bytes(data))
    struct.pack_into("<ff", data, 112, 2.0, 1.0)
    assert (read_labels(Path("case.nii"), bytes(data))[0] == 3).all()


# Pictures


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_colours_become_channels(channels: int, dtype: type) -> None:
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (11, 9, channels)).astype(dtype)
    image, geometry = read_image(Path("case.png"), imagecodecs.png_encode(picture), spacing=(0.5, 0.25))
    np.testing.assert_array_equal(image, np.moveaxis(picture, -1, 0))
    assert image.dtype == dtype
    assert (geometry.shape, geometry.spacing, geometry.unit) == ((11, 9), (0.5, 0.25), "um")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4])
def test_only_opaque_alpha_is_dropped(channels: int, dtype: type) -> None:
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (11, 9, channels)).astype(dtype)
    picture[..., -1] = np.iinfo(dtype).max
    found = open_image(Path("case.png"), imagecodecs.png_encode(picture))
    np.testing.assert_array_equal(found.image(), np.moveaxis(picture[..., :-1], -1, 0))
    assert found.remarks == ("a fully opaque alpha channel was dropped",)
    picture[3, 4, -1] -= 1
    with pytest.raises(FormatError, match=r"alpha.*1 of 99 pixels not opaque"):
        read_image(Path("case.png"), imagecodecs.png_encode(picture))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("turn", [1, 6])
def test_png_that_is_shown_turned_is_refused(turn: int, order: str) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    exif = mark + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, turn, 0, 0)
    data = png(4, 2, 8, 0, b"\0\0\1\2\3\0\3\2\1\0", (b"eXIf", exif))
    if turn == 1:
        assert read_image(Path("case.png"), data)[0].shape == (1, 2, 4)
    else:
        with pytest.raises(FormatError, match="EXIF orientation 6, expected 1"):
            read_image(Path("case.png"), data)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 2), (8, 8), (17, 5)])
@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint16)])
def test_interlaced_png(size: tuple[int, int], channels: int, dtype: type) -> None:
    picture = np.random.default_rng(0).integers(0, 250, (*size, channels)).astype(dtype)
    rows = b""
    for row, column, down, right in [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
    ]:
        part = picture[row::down, column::right]
        rows += b"".join(b"\0" + line.astype(line.dtype.newbyteorder(">")).tobytes() for line in part if line.size)
    rows += b"".join(b"\0" + line.astype(line.dtype.newbyteorder(">")).tobytes() for line in picture[1::2])
    header = struct.pack(">IIBBBBB", size[1], size[0], 8 * picture.itemsize, 2 if channels == 3 else 0, 0, 0, 1)
    data = png(size[1], size[0], 8, 0, rows)
    data = data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    np.testing.assert_array_equal(read_image(Path("case.png"), data)[0], np.moveaxis(picture, -1, 0))


@pytest.mark.parametrize("rows", [b"\0\0\1\2\3\0\3\2\1", b"\0\0\1\2\3\0\3\2\1\0\0"])
def test_png_with_less_or_more_than_its_pixels_is_refused(rows: bytes) -> None:
    with pytest.raises(FormatError, match="header needs"):
        read_image(Path("case.png"), png(4, 2, 8, 0, rows))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


PALETTE = (b"PLTE", bytes([0, 0, 0, 255, 0, 0, 0, 255, 0, 7, 7, 7]))


@pytest.mark.parametrize(
    ("depth", "rows"), [(8, b"\0\0\1\2\3\0\3\2\1\0"), (2, b"\0\x1b\0\xe4"), (4, b"\0\x01\x23\0\x32\x10")]
)
@pytest.mark.parametrize("colour", [0, 3])
def test_small_depths_and_palettes_give_the_stored_numbers(depth: int, rows: bytes, colour: int) -> None:
    data = png(4, 2, depth, colour, rows, *([PALETTE] if colour == 3 else []))
    labels, _ = read_labels(Path("case.png"), data)
    np.testing.assert_array_equal(labels, [[0, 1, 2, 3], [3, 2, 1, 0]])
    if colour == 3:
        image, _ = read_image(Path("case.png"), data)
        np.testing.assert_array_equal(image[:, 0], [[0, 255, 0, 7], [0, 0, 255, 7], [0, 0, 0, 7]])


def test_a_table_of_greys_is_one_channel_and_labels_stay_indices() -> None:
    table = (b"PLTE", bytes([0, 0, 0, 90, 90, 90, 7, 7, 7, 255, 255, 255]))
    data = png(4, 1, 8, 3, b"\0\0\1\2\3", table)
    np.testing.assert_array_equal(read_image(Path("case.png"), data)[0], [[[0, 90, 7, 255]]])
    np.testing.assert_array_equal(read_labels(Path("case.png"), data)[0], [[0, 1, 2, 3]])


@pytest.mark.parametrize("tables", [[], [PALETTE, PALETTE], [(b"PLTE", b"")], [(b"PLTE", bytes(7))]])
def test_an_indexed_png_has_one_colour_table(tables: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(FormatError, match="an indexed picture without one colour table"):
        read_image(Path("case.png"), png(4, 1, 8, 3, b"\0\0\1\2\3", *tables))


def test_an_index_beyond_the_colour_table_is_damage() -> None:
    with pytest.raises(FormatError, match="damaged: colour 4 of a table of 4"):
        read_image(Path("case.png"), png(4, 1, 8, 3, b"\0\0\1\2\4", PALETTE))


def test_transparency_adds_no_channel() -> None:
    data = png(4, 2, 8, 0, b"\0\0\1\2\3\0\3\2\1\0", (b"tRNS", b"\0\1"), (b"gAMA", b"\0\0\1\0"))
    np.testing.assert_array_equal(read_labels(Path("case.png"), data)[0], [[0, 1, 2, 3], [3, 2, 1, 0]])


def test_colour_masks_are_refused() -> None:
    colours = np.zeros((5, 5, 3), np.uint8)
    assert read_labels(Path("case.png"), imagecodecs.png_encode(colours))[0].shape == (5, 5)
    colours[2, 3] = (255, 0, 16)
    with pytest.raises(FormatError, match=r"a label file in colour: #000000 \(24 pixels\), #ff0010 \(1 pixels\)"):
        read_labels(Path("case.png"), imagecodecs.png_encode(colours))


@pytest.mark.parametrize("size", [(60000, 60000), (0, 5), (2**31 - 1, 2**31 - 1)])
def test_png_size_claims_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(FormatError):
        read_image(Path("case.png"), png(*size, 8, 0, b"\0\0\1\2\3"))


def test_png_holds_16_bits_without_sign(tmp_path: Path) -> None:
    flat = Geometry.from_spacing((2, 2), (1, 1))
    for values in ([[0, 1], [2, 65536]], [[0, -1], [2, 3]]):
        with pytest.raises(FormatError, match="PNG holds 0 to 65535"):
            write_labels(tmp_path / "case.png", np.array(values), flat)
    write_labels(tmp_path / "case.png", np.array([[0, 1], [2, 65535]]), flat)
    assert read_labels(tmp_path / "case.png")[0].max() == 65535


def test_spacing_must_fit() -> None:
    data = imagecodecs.png_encode(np.zeros((5, 5), np.uint8))
    with pytest.raises((FormatError, GeometryError), match="spacing"):
        read_image(Path("case.png"), data, spacing=(1.0, 1.0, 1.0))


def test_half_of_memory_is_the_budget_unless_said() -> None:
    assert 1 << 20 < limits.memory_budget() < 1 << 50
    with limits.file_limit(5):
        assert limits.memory_budget() == 5


def test_header_and_data_file_are_one_image(tmp_path: Path) -> None:
    path = tmp_path / "case.hdr"
    write_labels(path, some_labels(), Geometry.create((7, 6, 5), OBLIQUE))
    content = read_content(path)
    assert list(content.files) == ["case.hdr", "case.img"]
    (tmp_path / "case.img").write_bytes(content.files["case.img"][::-1])
    assert read_content(path).sha256 != content.sha256
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj).ravel("F")[::-1], some_labels().ravel("F"))
    (tmp_path / "case.img").unlink()
    with pytest.raises(FormatError, match=r"case.hdr: case.img: cannot be read \(No such file"):
        read_content(path)
    path.rename(tmp_path / "case.nii")
    with pytest.raises(FormatError, match="header of a pair of files; name the pair"):
        open_image(tmp_path / "case.nii")


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd", ".", "..", "case.mhd", "a\0b", "sub/case.raw"])
def test_data_files_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "case.mhd").write_text(f"ObjectType = Image\nNDims = 3\nElementDataFile = {name}\n")
    with pytest.raises(FormatError, match=r"is not beside it|cannot be read"):
        read_content(tmp_path / "case.mhd")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "case.nii")
    with pytest.raises(FormatError, match="no regular file"):
        read_labels(tmp_path / "case.nii")
