"""TIFF: kinds of pictures, what pages mean, pixel sizes, and claims that do not hold."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_image, read_labels
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry, canonical_axes
from tests.pictures import BITS, bits


def tiff(picture: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, picture, **options)
    return out.getvalue()


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, ">u2"])
def test_tiff_grey(dtype: str, compression: str | None) -> None:
    picture = np.random.default_rng(0).integers(0, 120, (23, 17)).astype(dtype)
    order = ">" if dtype == ">u2" else None
    data = tiff(picture, compression=compression, photometric="minisblack", byteorder=order)
    image, _ = read_image(Path("case.tif"), data)
    np.testing.assert_array_equal(image, picture[np.newaxis])
    assert image.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_colours_become_channels(planar: str) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (3, 23, 17)).astype(np.uint8)
    stored_as = picture if planar == "separate" else np.moveaxis(picture, 0, -1)
    image, _ = read_image(Path("case.tif"), tiff(stored_as, photometric="rgb", planarconfig=planar))
    np.testing.assert_array_equal(image, picture)


def test_half_and_bit_pictures_widen() -> None:
    assert read_image(Path("case.tif"), tiff(np.ones((5, 4), np.float16)))[0].dtype == np.float32
    diagonal = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(read_labels(Path("case.tif"), tiff(diagonal))[0], np.eye(8, dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff(np.zeros((23, 17), np.complex64)), "pixel type complex64"),
        (tiff(np.zeros((23, 17), np.uint8), extratags=[(274, 3, 1, 6, True)]), "orientation tag 6"),
        (
            tiff(np.zeros((23, 17), np.uint8), photometric="minisblack", compression="jpeg")[:-200],
            "truncated",
        ),
    ],
    ids=["complex", "rotated", "cut"],
)
def test_doubtful_tiff_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read_image(Path("case.tif"), data)


def test_labels_in_lossy_compression_are_refused() -> None:
    data = tiff(np.zeros((32, 32), np.uint8), photometric="minisblack", compression="jpeg")
    assert read_image(Path("case.tif"), data)[0].shape == (1, 32, 32)
    with pytest.raises(FormatError, match="lossy"):
        read_labels(Path("case.tif"), data)


def test_missing_pieces_are_not_filled_in() -> None:
    data = bytearray(tiff(np.ones((23, 17), np.uint8), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[0].tags["ImageLength"]
    struct.pack_into("<I" if int(tag.dtype) == 4 else "<H", data, tag.valueoffset, 46)
    with pytest.raises(FormatError, match="1 of 2 pieces"):
        read_image(Path("case.tif"), bytes(data))


def test_tiff_size_claims_are_refused() -> None:
    data = bytearray(tiff(np.zeros((23, 17), np.uint8), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        places = {name: file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength", "RowsPerStrip")}
        kinds = {name: file.pages[0].tags[name].dtype for name in places}
    for name, at in places.items():
        struct.pack_into("<H" if int(kinds[name]) == 3 else "<I", data, at, 60000)
    with pytest.raises(FormatError):
        read_image(Path("case.tif"), bytes(data))


PATH = Path("case.tif")
RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 99, (2, 3, 5, 7)).astype(np.uint16)  # C, Z, Y, X


def shape_and_sizes(data: bytes, path: Path = PATH) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    found = open_image(path, data)
    return found.voxels.shape, None if found.stated is None else found.geometry.spacing


# What pages mean


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX", "ZYX", "CYX", "TZCYX"])
@pytest.mark.parametrize("kind", ["tifffile", "ome", "imagej"])
def test_declared_axes_are_followed(kind: str, axes: str) -> None:
    if kind == "imagej" and axes == "CZYX":
        pytest.skip("ImageJ has its own order, ZCYX")
    volume = {"CZYX": STACK, "ZCYX": STACK.swapaxes(0, 1), "ZYX": STACK[0], "CYX": STACK[:, 0]}
    voxels = volume.get(axes, STACK.swapaxes(0, 1)[np.newaxis])
    options = {"tifffile": {}, "ome": {"ome": True}, "imagej": {"imagej": True}}[kind]
    found = open_image(PATH, tiff(voxels, photometric="minisblack", metadata={"axes": axes}, **options))
    expected = {"ZYX": STACK[:1], "CYX": STACK[:, 0]}.get(axes, STACK)
    np.testing.assert_array_equal(found.voxels, expected)
    assert found.notes == ()
    assert found.stated is None or kind == "imagej"


def test_undeclared_pages_are_slices_and_a_doubt() -> None:
    for metadata in (None, {}):
        found = open_image(PATH, tiff(STACK[0], photometric="minisblack", metadata=metadata))
        np.testing.assert_array_equal(found.voxels, STACK[:1])
        ((code, text),) = found.notes
        assert code == "tiff-pages"
        assert "3 pages" in text
    assert open_image(PATH, tiff(STACK[0, 0], metadata=None)).notes == ()


def test_colour_pages_are_slices_of_channels() -> None:
    voxels = RNG.integers(0, 255, (4, 5, 7, 3)).astype(np.uint8)
    for options in ({"metadata": {"axes": "ZYXS"}}, {"metadata": {"axes": "ZYXS"}, "ome": True}):
        found = open_image(PATH, tiff(voxels, photometric="rgb", **options))
        np.testing.assert_array_equal(found.voxels, voxels.transpose(3, 0, 1, 2))


@pytest.mark.parametrize("kind", ["tifffile", "ome", "imagej"])
def test_time_points_are_refused(kind: str) -> None:
    options = {"tifffile": {}, "ome": {"ome": True}, "imagej": {"imagej": True}}[kind]
    data = tiff(STACK[0], photometric="minisblack", metadata={"axes": "TYX"}, **options)
    with pytest.raises(FormatError, match="3 time points, 1 slices, 1 channels"):
        open_image(PATH, data)


def test_several_series_are_refused() -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out, ome=True) as file:
        file.write(STACK[0, 0])
        file.write(STACK[0, 1])
    with pytest.raises(FormatError, match="2 images in this file, expected one"):
        open_image(PATH, out.getvalue())


@pytest.mark.parametrize("order", ["XYZCT", "XYCZT", "XYTZC"])
def test_ome_order_of_planes(order: str) -> None:
    sizes = {"Z": 3, "C": 2, "T": 1}
    by_axis = STACK.transpose(["CZ".index(axis) for axis in reversed(order) if axis in "CZ"] + [2, 3])
    xml = ome_xml("".join(f' Size{axis}="{n}"' for axis, n in sizes.items()) + f' DimensionOrder="{order}"')
    data = tiff(by_axis.reshape(-1, 5, 7), photometric="minisblack", metadata=None, description=xml)
    np.testing.assert_array_equal(open_image(PATH, data).voxels, STACK)


def ome_xml(attributes: str, inside: str = "") -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels Type="uint16" SizeX="7" SizeY="5"{attributes}>{inside}</Pixels></Image></OME>'
    )


def ome(attributes: str, inside: str = "", pages: int = 3) -> bytes:
    xml = ome_xml(attributes, inside)
    return tiff(STACK[0, :pages], photometric="minisblack", metadata=None, description=xml)


VOLUME = ' SizeZ="3" SizeC="1" SizeT="1" DimensionOrder="XYZCT"'


def test_ome_planes_may_lie_in_any_page() -> None:
    inside = "".join(f'<TiffData IFD="{page}" FirstZ="{z}" PlaneCount="1"/>' for page, z in ((0, 2), (1, 0), (2, 1)))
    np.testing.assert_array_equal(open_image(PATH, ome(VOLUME, inside)).voxels[0], STACK[0, [1, 2, 0]])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ome(VOLUME, pages=2), "2 pages do not match the 3 planes"),
        (ome(VOLUME.replace('"3"', '"2"')), "3 pages do not match the 2 planes"),
        (ome(VOLUME, '<TiffData IFD="1" PlaneCount="3"/>'), "do not match"),
        (ome(VOLUME, '<TiffData FirstZ="1" PlaneCount="3"/>'), "do not match"),
        (ome(VOLUME, '<TiffData><UUID FileName="a"/></TiffData><TiffData><UUID FileName="b"/></TiffData>'), "2 files"),
        (ome(VOLUME.replace('SizeZ="3"', 'SizeZ="0"')), "SizeZ '0'"),
        (ome(VOLUME.replace('SizeZ="3"', "")), "SizeZ ''"),
        (ome(VOLUME.replace("XYZCT", "XYZZT")), "DimensionOrder"),
        (
            tiff(STACK[0], photometric="minisblack", metadata=None, description="<?xml version='1.0'?><OME>"),
            "damaged OME",
        ),
        (tiff(STACK[0, 0], metadata=None, description="<?xml version='1.0'?><OME/>"), "0 images"),
        (tiff(STACK[0, 0, 1:], metadata=None, description=ome_xml(VOLUME)), "OME-XML has 5 x 7"),
        (
            tiff(STACK[0], photometric="minisblack", metadata=None, description="ImageJ=1\nimages=3\nslices=2"),
            "2 planes",
        ),
        (tiff(STACK[0, 0], metadata=None, description="ImageJ=1\nslices=-2"), "slices=-2"),
        (tiff(STACK[0, 0], metadata=None, description='{"shape": "x"}'), "no shape"),
        (tiff(STACK[0, 0], metadata=None, description='{"shape": [5, 9], "axes": "YX"}'), "axes YX"),
    ],
)
def test_descriptions_that_contradict_the_pages_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=f"case.tif: .*{words}"):
        open_image(PATH, data)


def test_an_entity_in_the_xml_is_refused() -> None:
    bomb = "<?xml version='1.0'?><OME><!DOCTYPE a [<!ENTITY b 'c'>]>&b;</OME>"
    with pytest.raises(FormatError, match="entities of its own"):
        open_image(PATH, tiff(STACK[0, 0], metadata=None, description=bomb))


# Pixel sizes


@pytest.mark.parametrize(("unit", "factor"), [("µm", 1.0), ("nm", 1e-3), ("mm", 1e3), (None, 1.0)])
def test_ome_sizes_become_micrometres(unit: str | None, factor: float) -> None:
    metadata: dict[str, Any] = {"axes": "ZYX"}
    for axis, size in zip("ZYX", (2.0, 0.5, 0.25), strict=True):
        metadata[f"PhysicalSize{axis}"] = size
        if unit:
            metadata[f"PhysicalSize{axis}Unit"] = unit
    data = tiff(STACK[0], ome=True, photometric="minisblack", metadata=metadata)
    shape, sizes = shape_and_sizes(data)
    assert shape == (1, 3, 5, 7)
    assert sizes == pytest.approx((2.0 * factor, 0.5 * factor, 0.25 * factor))
    geometry = open_image(PATH, data).spaced((9.0, 9.0, 9.0)).geometry
    assert (geometry.unit, geometry.spacing) == ("um", sizes)
    assert canonical_axes(geometry) == ((0, 1, 2), (False, False, False))


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m"])
def test_imagej_sizes(unit: str) -> None:
    metadata = {"axes": "ZYX", "spacing": 2.0, "unit": unit}
    data = tiff(STACK[0], imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    assert shape_and_sizes(data) == ((1, 3, 5, 7), (2.0, 0.5, 0.25))


def test_sizes_of_some_axes_are_left_aside_with_a_remark() -> None:
    found = open_image(PATH, ome(VOLUME + ' PhysicalSizeX="0.5" PhysicalSizeY="0.5"'))
    assert found.stated is None
    assert found.remarks == ("pixel size known for some axes only: not used",)


@pytest.mark.parametrize(
    ("words", "remark"),
    [
        ('PhysicalSizeX="-1"', "pixel size '-1' along X: not used"),
        ('PhysicalSizeX="0"', "pixel size '0' along X: not used"),
        ('PhysicalSizeX="nan"', "pixel size 'nan' along X: not used"),
        ('PhysicalSizeX="wide"', "pixel size 'wide' along X: not used"),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="furlong"', "unit 'furlong' is no length: no pixel size along X"),
    ],
)
def test_what_is_no_size_leaves_a_remark_and_the_pixels(words: str, remark: str) -> None:
    found = open_image(PATH, ome(f'{VOLUME} PhysicalSizeY="1" PhysicalSizeZ="1" {words}'))
    assert found.shape == (1, 3, 5, 7)
    assert found.stated is None
    assert found.remarks[0] == remark


def imagej(lines: str, resolution: tuple[float, float] = (4.0, 2.0), pages: int = 3, **options: Any) -> bytes:
    description = f"ImageJ=1.54f\n{lines}\n"
    stack = STACK[0, :pages] if pages > 1 else STACK[0, 0]
    return tiff(
        stack, photometric="minisblack", metadata=None, description=description, resolution=resolution, **options
    )


@pytest.mark.parametrize("spacing", ["", "\nspacing=0", "\nspacing=0.0", "\nspacing=1.0", "\nspacing=-1"])
def test_a_step_of_one_that_imagej_does_not_write(spacing: str) -> None:
    """``ij.io.FileSaver`` writes `spacing` unless it is exactly 1."""
    data = imagej(f"images=3\nslices=3\nunit=um{spacing}")
    assert shape_and_sizes(data) == ((1, 3, 5, 7), (1.0, 0.5, 0.25))


@pytest.mark.parametrize("tag", ["none", "inch", "centimeter"])
def test_the_unit_of_imagej_counts_beside_the_tag(tag: str) -> None:
    data = imagej("images=1\nunit=micron", pages=1, resolutionunit=tag)
    assert shape_and_sizes(data) == ((1, 5, 7), (0.5, 0.25))
    for nothing in ("images=1", "images=1\nunit=pixel", "images=1\nunit=Pixels", "images=1\nunit= "):
        found = open_image(PATH, imagej(nothing, pages=1, resolutionunit=tag))
        assert (found.stated, found.remarks) == (None, ())
    found = open_image(PATH, imagej("images=1\nunit=sec", pages=1, resolutionunit=tag))
    assert (found.stated, found.remarks) == (None, ("unit 'sec' is no length: no pixel size",))


def test_axes_of_imagej_may_have_units_of_their_own() -> None:
    data = imagej("images=3\nslices=3\nunit=um\nyunit=nm\nzunit=mm\nspacing=0.002")
    assert shape_and_sizes(data)[1] == pytest.approx((2.0, 0.0005, 0.25))
    found = open_image(PATH, imagej("images=3\nslices=3\nunit=um\nspacing=x"))
    assert (found.stated, found.remarks[0]) == (None, "pixel size 'x' along Z: not used")


def test_units_of_the_json_of_tifffile() -> None:
    sizes = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    data = tiff(STACK[0, 0], photometric="minisblack", metadata={"axes": "YX", **sizes})
    assert shape_and_sizes(data)[1] == pytest.approx((0.5, 0.25))


def test_resolution_tags_alone_are_left_aside() -> None:
    found = open_image(PATH, tiff(STACK[0, 0], metadata=None, resolution=(300, 300), resolutionunit="inch"))
    assert found.stated is None
    assert found.spaced((0.5, 0.25)).geometry.spacing == (0.5, 0.25)
    with pytest.raises(FormatError, match="3 numbers, the image has axes"):
        assert found.spaced((1.0, 0.5, 0.25)).geometry


# Kinds of pictures


def test_white_is_zero_is_refused_unless_tifffile_wrote_it() -> None:
    diagonal = np.eye(8, dtype=bool)
    assert read_labels(PATH, tiff(diagonal, photometric="miniswhite"))[0].sum() == 8
    # Others mean the brightness.
    assert read_labels(PATH, tiff(diagonal, photometric="miniswhite", metadata=None))[0].sum() == 56


@pytest.mark.parametrize("extra", ["assocalpha", "unassalpha"])
@pytest.mark.parametrize("colours", [1, 3])
def test_only_opaque_alpha_is_dropped(colours: int, extra: str) -> None:
    voxels = RNG.integers(0, 255, (5, 7, colours + 1)).astype(np.uint8)
    voxels[..., -1] = 255
    options = {
        "photometric": "rgb" if colours == 3 else "minisblack",
        "planarconfig": "contig",
        "extrasamples": [extra],
    }
    found = open_image(PATH, tiff(voxels, **options))
    np.testing.assert_array_equal(found.voxels, voxels[..., :-1].transpose(2, 0, 1))
    assert found.remarks == ("a fully opaque alpha channel was dropped",)
    voxels[1, 1, -1] = 9
    with pytest.raises(FormatError, match="1 of 35 pixels not opaque"):
        open_image(PATH, tiff(voxels, **options))


def test_unspecified_samples_are_channels() -> None:
    voxels = RNG.integers(0, 255, (5, 7, 6)).astype(np.uint16)
    data = tiff(voxels, photometric="minisblack", planarconfig="contig", extrasamples=["unspecified"] * 5)
    np.testing.assert_array_equal(open_image(PATH, data).voxels, voxels.transpose(2, 0, 1))


def test_palette_gives_indices_for_labels_and_colours_for_images() -> None:
    indices = RNG.integers(0, 4, (5, 7)).astype(np.uint8)
    table = RNG.integers(0, 65535, (3, 256)).astype(np.uint16)
    data = tiff(indices, photometric="palette", colormap=table)
    np.testing.assert_array_equal(read_labels(PATH, data)[0], indices)
    np.testing.assert_array_equal(read_image(PATH, data)[0], (table >> 8)[:, indices])
    # Some writers fill the lower half of an entry alone.
    data = tiff(indices, photometric="palette", colormap=table >> 8)
    np.testing.assert_array_equal(read_image(PATH, data)[0], (table >> 8)[:, indices])
    greys = np.tile(table[:1], (3, 1))
    data = tiff(indices, photometric="palette", colormap=greys)
    np.testing.assert_array_equal(read_image(PATH, data)[0], (greys[:1] >> 8)[:, indices])


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize(
    "compression", [None, "group4", "group3", "tiff_ccitt", "packbits", "tiff_deflate", "tiff_lzw"]
)
def test_one_bit_is_black_or_white(
    compression: str | None, white_is_zero: bool, fill_order: int, tmp_path: Path
) -> None:
    tags = {262: 0 if white_is_zero else 1} | ({266: fill_order} if compression else {})
    data = bits(compression, tiffinfo=tags)
    found = open_image(PATH, data)
    np.testing.assert_array_equal(found.labels(), BITS)
    np.testing.assert_array_equal(found.read([slice(3, 20), slice(5, 6)])[0], BITS[3:20, 5:6])
    assert [remark for remark in found.remarks if "white is zero" in remark] == list(found.remarks)
    assert len(found.remarks) == white_is_zero
    path = tmp_path / "case.tif"
    path.write_bytes(data)
    np.testing.assert_array_equal(open_image(path).labels(), BITS)


def test_impossible_claims_of_ccitt_are_refused() -> None:
    data = bits("group4")
    for tag, value, words in ((257, 60_000, "header claims 60000"), (256, 70_000, "expected 1 bit, 65536 columns")):
        at = data.index(struct.pack("<H", tag), 8)
        form = struct.unpack_from("<H", data, at + 2)[0]
        changed = bytearray(data)
        struct.pack_into("<HI", changed, at + 2, 4, 1)
        struct.pack_into("<I", changed, at + 8, value)
        assert form in (3, 4)
        rows = changed.index(struct.pack("<H", 278), 8)
        struct.pack_into("<HII", changed, rows + 2, 4, 1, max(value, 37))
        with pytest.raises(FormatError, match=words):
            open_image(PATH, bytes(changed))


def test_eight_bits_with_white_as_zero_are_refused() -> None:
    with pytest.raises(FormatError, match="white is zero"):
        open_image(PATH, tiff(RNG.integers(0, 9, (5, 7)).astype(np.uint8), photometric="miniswhite", description="x"))


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zstd"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("predictor", [False, True])
def test_strips_tiles_and_predictors(tile: Any, compression: str | None, bigtiff: bool, predictor: bool) -> None:
    voxels = RNG.integers(0, 999, (3, 37, 45)).astype(np.int32)
    options = {
        "tile": tile,
        "compression": compression,
        "bigtiff": bigtiff,
        "predictor": predictor and bool(compression),
    }
    data = tiff(voxels, photometric="minisblack", metadata={"axes": "ZYX"}, byteorder=">", **options)
    np.testing.assert_array_equal(open_image(PATH, data).voxels[0], voxels)


def test_pages_of_different_kinds_are_refused() -> None:
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(STACK[0, 0], metadata=None)
        file.write(STACK[0, 0, 1:], metadata=None)
    with pytest.raises(FormatError, match="pages of different kinds"):
        open_image(PATH, out.getvalue())


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", None])
@pytest.mark.parametrize("name", ["ImageWidth", "ImageLength", "RowsPerStrip", "BitsPerSample"])
def test_a_header_that_does_not_fit_its_pixels_is_refused(name: str, compression: str | None) -> None:
    data = bytearray(tiff(STACK[0, 0], compression=compression, metadata=None))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[0].tags[name]
    form = "<I" if int(tag.dtype) == 4 else "<H"
    for value in (tag.value // 2, tag.value - 1, tag.value + 1, tag.value * 2):
        if (name == "RowsPerStrip" and value > tag.value) or (name == "BitsPerSample" and value % 8):
            continue  # more rows than the picture has are its rows; odd bits may fill as many bytes
        struct.pack_into(form, data, tag.valueoffset, value)
        with pytest.raises(FormatError, match=r"case\.tif"):
            open_image(PATH, bytes(data))


def test_a_chain_of_pages_must_end() -> None:
    data = bytearray(tiff(STACK[0], photometric="minisblack", metadata=None))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        first, last = file.pages[0].offset, file.pages[2]
        end = last.offset + 2 + 12 * len(last.tags)
    for target, words in ((first, "does not end"), (len(data) - 1, "truncated"), (1 << 31, "truncated")):
        struct.pack_into("<I", data, end, target)
        with pytest.raises(FormatError, match=words):
            open_image(PATH, bytes(data))


# Written files


def test_what_tiff_cannot_hold_is_refused(tmp_path: Path) -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    turned = np.diag([1.0, 1.0, -1.0, 1.0])
    moved = np.eye(4)
    moved[0, 3] = 5.0
    for geometry in (
        Geometry.create(labels.shape, np.eye(4), "mm"),
        *(Geometry.create(labels.shape, a, "um") for a in (turned, moved)),
    ):
        with pytest.raises(FormatError, match="TIFF cannot hold"):
            write_labels(tmp_path / "case.tif", labels, geometry)
    with pytest.raises(FormatError, match="one slice"):
        write_labels(tmp_path / "case.ome.tif", labels[:1], Geometry.from_spacing((1, 4, 5), (1, 1, 1), "um"))
    with pytest.raises(FormatError, match="OME-TIFF holds 32 bits"):
        write_labels(
            tmp_path / "case.tif", labels.astype(np.int64) + 2**40, Geometry.from_spacing((3, 4, 5), (1, 1, 1), "um")
        )
    assert list(tmp_path.iterdir()) == []


def test_ome_suffix_needs_ome_content() -> None:
    with pytest.raises(FormatError, match=r"a TIFF without OME-XML; rename it to \.tif"):
        open_image(Path("case.ome.tif"), tiff(STACK[0, 0]))


def test_the_description_of_a_single_slice(tmp_path: Path) -> None:
    write_labels(
        tmp_path / "case.tif", np.ones((1, 4, 5), np.uint8), Geometry.from_spacing((1, 4, 5), (2, 0.5, 0.25), "um")
    )
    with tifffile.TiffFile(tmp_path / "case.tif") as file:
        told = json.loads(file.pages[0].description)
    assert told == {
        "shape": [1, 4, 5],
        "axes": "ZYX",
        "PhysicalSizeZ": 2.0,
        "PhysicalSizeY": 0.5,
        "PhysicalSizeX": 0.25,
    }
