"""NRRD: worlds, kinds of axes, encodings, and headers that make no sense."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest

from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.nrrd import TYPES
from medseg.formats.read import open_image
from medseg.formats.source import Source
from medseg.formats.world import About
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry

PATH = Path("case.nrrd")
VOXELS = np.random.default_rng(0).integers(0, 99, (3, 4, 5)).astype("<i2")
FIELDS = {
    "type": "short",
    "dimension": "3",
    "space": "right-anterior-superior",
    "sizes": "3 4 5",
    "space directions": "(0,2,0) (-1.5,0,0) (0,0,3)",
    "space origin": "(10,20,30)",
    "endian": "little",
    "encoding": "raw",
}
AFFINE = np.array([[0.0, -1.5, 0.0, 10.0], [2.0, 0.0, 0.0, 20.0], [0.0, 0.0, 3.0, 30.0], [0.0, 0.0, 0.0, 1.0]])


def nrrd(body: bytes | None = None, **changes: str | None) -> bytes:
    """A file with some fields changed (`_` for the space in a name) or left out (None)."""
    fields = FIELDS | {name.replace("_", " "): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\n".join(["NRRD0004", *lines, "", ""]).encode() + (VOXELS.tobytes(order="F") if body is None else body)


def read(data: bytes) -> Source:
    return open_image(PATH, data)


def test_values_and_world() -> None:
    found = read(nrrd())
    np.testing.assert_array_equal(found.voxels[0], VOXELS)
    np.testing.assert_allclose(found.geometry.affine, AFFINE)
    assert (found.unit, found.notes) == ("mm", ())


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
    ],
)
def test_worlds_come_out_as_ras(space: str, signs: tuple[int, ...]) -> None:
    found = read(nrrd(space=space))
    np.testing.assert_allclose(found.geometry.affine, np.diag([*signs, 1.0]) @ AFFINE)
    assert found.notes == ()


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-left-handed", None])
def test_worlds_without_a_direction_are_a_doubt(space: str | None) -> None:
    found = read(nrrd(space=space, space_dimension=None if space else "3"))
    np.testing.assert_allclose(found.geometry.affine, AFFINE)
    assert [code for code, _ in found.notes] == ["no-orientation"]


def test_spacings_alone_and_nothing_at_all() -> None:
    nowhere: dict[str, str | None] = {"space": None, "space_directions": None, "space_origin": None}
    found = read(nrrd(**nowhere, spacings="1.5 2 3"))
    assert found.geometry.spacing == (1.5, 2.0, 3.0)
    assert [code for code, _ in found.notes] == ["no-orientation"]
    found = read(nrrd(**nowhere))
    assert found.spaced((2.0, 0.5, 0.25)).geometry.spacing == (2.0, 0.5, 0.25)
    assert found.geometry.unit == "px"


@pytest.mark.parametrize(("unit", "factor"), [("cm", 10.0), ("m", 1000.0), ("Millimetre", 1.0), ("nm", 1e-6)])
def test_other_units_of_length_are_converted(unit: str, factor: float) -> None:
    here, there = read(nrrd()).geometry, read(nrrd(space_units=" ".join([f'"{unit}"'] * 3))).geometry
    assert there.unit == "mm"
    assert there.spacing == pytest.approx([size * factor for size in here.spacing])


@pytest.mark.parametrize(("field", "unit"), [("space_units", "um"), ("units", "um"), ("units", "mm"), ("units", "")])
def test_units(field: str, unit: str) -> None:
    assert read(nrrd(**{field: " ".join([f'"{unit}"'] * 3)})).unit == (unit or "mm")
    with pytest.raises(FormatError, match="expected one unit of length for all axes"):
        read(nrrd(**{field: '"mm" "um"'}))
    with pytest.raises(FormatError, match="units mm, mm, furlong, expected units of length"):
        read(nrrd(**{field: '"mm" "mm" "furlong"'}))


def test_axes_may_have_units_of_their_own() -> None:
    """Micrometres in the plane, millimetres along the axis, as of stacks; what is no length is refused."""
    um = np.diag([1e-3, 1e-3, 1.0, 1.0])
    found = read(nrrd(space_units='"um" "um" "mm"'))
    assert found.unit == "mm"
    np.testing.assert_allclose(found.geometry.affine, um @ AFFINE, rtol=1e-12)
    nowhere: dict[str, str | None] = {"space": None, "space_directions": None, "space_origin": None}
    found = read(nrrd(**nowhere, spacings="1.5 2 3", units='"nm" "um" "cm"'))
    assert found.geometry.spacing == pytest.approx((1.5e-6, 2e-3, 30.0))
    # Beside directions, units of axes are those of no axis of the space.
    for changes in ({"units": '"um" "um" "mm"'}, {"space_units": '"um" "mm"'}, {"space_units": '"um" "mm" "day"'}):
        with pytest.raises(FormatError, match="units um, "):
            read(nrrd(**changes))


def test_labels_come_back_into_units_of_their_own(tmp_path: Path) -> None:
    source = read(nrrd(space_units='"um" "um" "mm"'))
    write_labels(tmp_path / "a.nrrd", VOXELS.astype(np.uint8), source.geometry, About(source.world))
    back = open_image(tmp_path / "a.nrrd")
    assert back.geometry == source.geometry
    assert b'space units: "um" "um" "mm"' in (tmp_path / "a.nrrd").read_bytes()


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("endian", ["little", "big"])
def test_types_and_byte_order(name: str, endian: str) -> None:
    dtype = np.dtype(TYPES[name]).newbyteorder("<" if endian == "little" else ">")
    found = read(nrrd(VOXELS.astype(dtype).tobytes(order="F"), type=name, endian=endian))
    np.testing.assert_array_equal(found.voxels[0], VOXELS)
    assert found.voxels.dtype == dtype.newbyteorder("=")


@pytest.mark.parametrize("kind", ["list", "vector", "2-vector", "RGB-color"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_axis_of_channels_may_lie_anywhere(kind: str, place: int) -> None:
    channels = 3 if kind == "RGB-color" else 2
    voxels = np.stack([VOXELS + k for k in range(channels)])
    kinds, directions = ["domain"] * 3, FIELDS["space directions"].split()
    kinds.insert(place, kind)
    directions.insert(place, "none")
    moved = np.moveaxis(voxels, 0, place)
    data = nrrd(
        moved.tobytes(order="F"),
        dimension="4",
        sizes=" ".join(map(str, moved.shape)),
        kinds=" ".join(kinds),
        space_directions=" ".join(directions),
    )
    found = read(data)
    np.testing.assert_array_equal(found.voxels, voxels)
    np.testing.assert_allclose(found.geometry.affine, AFFINE)


def test_alpha_must_be_opaque() -> None:
    colours = np.stack([VOXELS.astype(np.uint8)] * 3 + [np.full(VOXELS.shape, 255, np.uint8)])
    fields = {"type": "uchar", "dimension": "4", "sizes": "4 3 4 5", "kinds": "RGBA-color domain domain domain"}
    fields |= {"space_directions": f"none {FIELDS['space directions']}"}
    np.testing.assert_array_equal(read(nrrd(colours.tobytes(order="F"), **fields)).voxels, colours[:3])
    colours[3, 0, 0, 0] = 0
    with pytest.raises(FormatError, match="1 of 60 pixels not opaque"):
        read(nrrd(colours.tobytes(order="F"), **fields))


def test_encodings_and_skips() -> None:
    plain = VOXELS.tobytes(order="F")
    for data in (
        nrrd(gzip.compress(plain), encoding="gzip"),
        nrrd(gzip.compress(plain), encoding="GZ"),
        nrrd(bz2.compress(plain), encoding="bzip2"),
        nrrd(b"x" * 7 + plain, byte_skip="7"),
        nrrd(b"x" * 7 + plain, byte_skip="-1"),
        nrrd().replace(b"\n", b"\r\n", nrrd().index(b"\n\n") and 9),
        nrrd().replace(b"encoding: raw", b"encoding: raw\n# a remark\nkey:=a value"),
        nrrd(content="only line feeds\x0cend\u2028lines"),
    ):
        np.testing.assert_array_equal(read(data).voxels[0], VOXELS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (nrrd(sizes="3 4"), "impossible sizes"),
        (nrrd(sizes="3 4 0"), "impossible sizes"),
        (nrrd(sizes="3 4 -5"), "impossible sizes"),
        (nrrd(sizes="3 4 five"), "expected integers"),
        (nrrd(sizes="3 4 1e1"), "expected integers"),
        (nrrd(sizes="3 4 6"), "can hold 120"),
        (nrrd(sizes="3 4 4"), "needs exactly 96"),
        (nrrd(sizes=None), "without 'sizes'"),
        (nrrd(type="block"), "NRRD type 'block'"),
        (nrrd(endian=None), "without 'endian'"),
        (nrrd(endian="middle"), "endian 'middle'"),
        (nrrd(encoding="ascii"), "encoding 'ascii'"),
        (nrrd(encoding="gzip"), "damaged gzip"),
        (nrrd(bz2.compress(bytes(99)), encoding="bzip2"), "99 bytes of content"),
        (nrrd(bz2.compress(bytes(200)), encoding="bzip2"), "more than the 120"),
        (nrrd(bz2.compress(bytes(120))[:-4], encoding="bzip2"), "breaks off"),
        (nrrd(bz2.compress(bytes(120)) + b"x", encoding="bzip2"), "1 bytes follow"),
        (nrrd(gzip.compress(bytes(120)) * 2, encoding="gzip"), "more than the 120"),
        (nrrd(line_skip="1"), "skips lines"),
        (nrrd(byte_skip="5"), "needs exactly"),
        (nrrd(space="Mars"), "space 'mars'"),
        (nrrd(space_directions="(1,0,0) (0,1,0)"), "for 3 axes"),
        (nrrd(space_directions="(1,0) (0,1) (1,1)"), "expected 3 finite"),
        (nrrd(space_directions="(1,0,0) (0,1,0) (0,0,inf)"), "expected 3 finite"),
        (nrrd(space_directions="(1,0,0) (0,1,0) none"), "expected 2 or 3 of space"),
        (nrrd(space_origin="1 2 3"), "space origin"),
        (nrrd(space_origin="(1,2)"), "expected 3 finite"),
        (nrrd(kinds="domain domain"), "2 kinds for 3 axes"),
        (nrrd(kinds="domain domain time", space_directions=None), "5 .time.; expected"),
        (nrrd(kinds="domain domain complex", space_directions=None), "5 .complex.; expected"),
        (nrrd(dimension="4", sizes="1 3 4 5", space_directions=None), "declare `kinds`"),
        (nrrd(colour="red"), "no known field"),
        (nrrd().replace(b"endian: little", b"endian: little\nendian: big"), "'endian' twice"),
        (nrrd().replace(b"short", b"sh\xffrt"), "no text"),
        (nrrd(data_file="case.raw"), "rename it to .nhdr"),
    ],
)
def test_headers_that_make_no_sense_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=f"case.nrrd: .*{words}"):
        assert read(data).geometry


def test_flat_axes_are_refused_as_no_grid() -> None:
    with pytest.raises(FormatError, match="singular"):
        assert read(nrrd(space_directions="(1,0,0) (2,0,0) (0,0,3)")).geometry


def test_detached_headers(tmp_path: Path) -> None:
    path = tmp_path / "case.nhdr"
    path.write_bytes(nrrd(b"", data_file="./Case data.raw"))
    (tmp_path / "Case data.raw").write_bytes(VOXELS.tobytes(order="F"))
    np.testing.assert_array_equal(open_image(path).voxels[0], VOXELS)
    for data, words in (
        (nrrd(b"", data_file="LIST"), "several files"),
        (nrrd(b"", data_file="slice%03d.raw 1 9 1"), "several files"),
        (nrrd(b""), "rename it to .nrrd"),
        (nrrd(b"more", data_file="Case data.raw"), "4 bytes follow"),
    ):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=words):
            open_image(path)


def test_written_headers_hold_geometry_and_nothing_else(tmp_path: Path) -> None:
    write_labels(tmp_path / "case.nrrd", VOXELS.astype(np.uint8), Geometry.create(VOXELS.shape, AFFINE))
    header, _, _ = (tmp_path / "case.nrrd").read_bytes().partition(b"\n\n")
    names = [line.partition(":")[0] for line in header.decode().splitlines()[1:]]
    geometry = ["space directions", "kinds", "endian", "encoding", "space units", "space origin"]
    assert names == ["type", "dimension", "space", "sizes", *geometry]


def test_the_digest_covers_header_and_data(tmp_path: Path) -> None:
    first = Content({"a.nhdr": b"1", "a.raw": b"2"})
    assert len({first.sha256, Content({"a.nhdr": b"1", "a.raw": b"3"}).sha256, Content({"a.nhdr": b"1"}).sha256}) == 3
