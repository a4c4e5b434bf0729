"""JPEG, BMP and GIF in detail, and colour tables; Pillow is the oracle."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg.formats import limits
from medseg.formats.channels import choose_channels
from medseg.formats.errors import FormatError
from medseg.formats.read import open_image, read_image, read_labels
from medseg.formats.source import Source
from medseg.reading import Reading
from tests.pictures import indexed, picture

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 255, (41, 31, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]
TABLE = RNG.integers(0, 255, (16, 3))
SUFFIXES = (".jpg", ".bmp", ".gif")


def opened(suffix: str, data: bytes) -> Source:
    return open_image(Path(f"case{suffix}"), data)


def by_pillow(data: bytes, mode: str) -> np.ndarray:
    """(C, rows, columns)."""
    array = np.array(Image.open(io.BytesIO(data)).convert(mode))
    return array[np.newaxis] if array.ndim == 2 else np.moveaxis(array, -1, 0)


PIXELS = {
    "grey": (Image.fromarray(GREY), "L"),
    "colour": (Image.fromarray(COLOUR), "RGB"),
    "table": (indexed(GREY % 16, TABLE), "RGB"),
    "bits": (Image.fromarray(GREY > 99), "L"),
    "one row": (Image.fromarray(GREY[:1]), "L"),
    "one column": (Image.fromarray(COLOUR[:, :1]), "RGB"),
}


@pytest.mark.parametrize("kind", PIXELS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pictures_are_what_pillow_sees(suffix: str, kind: str) -> None:
    image, mode = PIXELS[kind]
    if suffix == ".jpg" and kind in ("table", "bits"):
        return  # no such JPEG
    data = picture(suffix, image)
    np.testing.assert_array_equal(opened(suffix, data).image(), by_pillow(data, mode))


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"optimize": True}, {"quality": 100}])
def test_kinds_of_jpeg(options: dict[str, object]) -> None:
    data = picture(".jpg", COLOUR, **options)
    np.testing.assert_array_equal(opened(".jpg", data).image(), by_pillow(data, "RGB"))


def test_jpeg_is_no_label_map() -> None:
    with pytest.raises(FormatError, match="labels in a lossy compression; store them without loss"):
        read_labels(Path("case.jpg"), picture(".jpg", GREY))


def test_what_follows_a_jpeg_is_left_aside_and_recorded() -> None:
    data = picture(".jpg", COLOUR)
    found = opened(".jpg", data + picture(".jpg", GREY))
    np.testing.assert_array_equal(found.image(), by_pillow(data, "RGB"))
    assert found.remarks == (f"{len(picture('.jpg', GREY))} bytes behind the end of the picture left aside",)


def with_frame(**fields: int) -> bytes:
    """A JPEG with other numbers in its frame header."""
    data = bytearray(picture(".jpg", COLOUR))
    at = data.find(b"\xff\xc0")
    places = {"marker": (at + 1, ">B"), "bits": (at + 4, ">B"), "rows": (at + 5, ">H"), "columns": (at + 7, ">H")}
    for name, value in fields.items():
        struct.pack_into(places[name][1], data, places[name][0], value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (picture(".jpg", Image.fromarray(COLOUR).convert("CMYK")), r"4 numbers per pixel \(CMYK, for printing\)"),
        (with_frame(bits=12), "JPEG of 12 bits, expected 8; export it as PNG or TIFF"),
        (with_frame(marker=0xC3), "lossless JPEG, expected baseline or progressive"),
        (with_frame(marker=0xC9), "arithmetically coded JPEG"),
        (with_frame(marker=0xF7), "JPEG-LS JPEG"),
        (with_frame(rows=0), "damaged JPEG: 0 x 31 pixels"),
        (with_frame(rows=65000, columns=65000), "header claims 4225000000 bytes"),
        (picture(".jpg", COLOUR)[:-2], "truncated"),
        (picture(".jpg", COLOUR).replace(b"\xff\xda", b"\xff\xd9", 1), "1 frames in 0 scans"),
        (b"\xff\xd8\xff\xe0\0\1" + bytes(99), "truncated"),
        (b"\xff\xd8\xff\x01" + bytes(99), "no marker at byte 4"),
    ],
)
def test_jpeg_that_is_not_read_says_why(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        opened(".jpg", data)


def test_a_jpeg_that_is_shown_turned_is_refused() -> None:
    exif = Image.Exif()
    exif[274] = 6
    with pytest.raises(FormatError, match="EXIF orientation 6, expected 1; rotate the pixels themselves"):
        opened(".jpg", picture(".jpg", COLOUR, exif=exif))
    exif[274] = 1
    assert opened(".jpg", picture(".jpg", COLOUR, exif=exif)).shape == (3, 41, 31)


def test_the_memory_of_a_progressive_jpeg_is_counted() -> None:
    with limits.file_limit(41 * 31 * 3 * 3):
        assert opened(".jpg", picture(".jpg", COLOUR)).shape == (3, 41, 31)
        with pytest.raises(FormatError, match="needs 15252 bytes of memory"):
            opened(".jpg", picture(".jpg", COLOUR, progressive=True))


# Greys and colour tables


@pytest.mark.parametrize("suffix", [".bmp", ".gif"])
def test_greys_are_the_numbers_that_were_meant(suffix: str) -> None:
    """Pillow numbers the greys of a GIF anew: 0, 5, 200 are stored as 0, 1, 2."""
    labels = np.zeros((20, 20), np.uint8)
    labels[3:5], labels[7:9] = 5, 200
    path, data = Path(f"case{suffix}"), picture(suffix, labels)
    np.testing.assert_array_equal(read_labels(path, data)[0], labels)
    np.testing.assert_array_equal(read_image(path, data)[0][0], labels)
    np.testing.assert_array_equal(read_labels(path, picture(suffix, labels > 0))[0], 255 * (labels > 0))


@pytest.mark.parametrize("suffix", [".bmp", ".gif"])
def test_colours_are_rgb_as_image_and_indices_as_labels(suffix: str) -> None:
    data = picture(suffix, indexed(GREY % 16, TABLE))
    found = opened(suffix, data)
    assert (found.shape, found.dtype) == ((3, 41, 31), np.uint8)
    np.testing.assert_array_equal(np.moveaxis(found.image(), 0, -1), TABLE[GREY % 16])
    np.testing.assert_array_equal(found.read([slice(3, 9), slice(2, 5)]), found.image()[:, 3:9, 2:5])
    np.testing.assert_array_equal(found.labels(), GREY % 16)


def test_channels_of_a_colour_table_are_red_green_and_blue() -> None:
    found = opened(".bmp", picture(".bmp", indexed(GREY % 16, TABLE)))
    np.testing.assert_array_equal(choose_channels(found, Reading(channels=(2, 0))).image(), found.image()[[2, 0]])
    grey = choose_channels(found, Reading(colour="grey"))
    expected = choose_channels(Source.from_array(found.image(), found.geometry), Reading(colour="grey"))
    np.testing.assert_array_equal(grey.image(), expected.image())


def test_greys_that_do_not_differ_stay_indices() -> None:
    data = picture(".bmp", indexed(GREY % 16, np.zeros((16, 3))))
    assert opened(".bmp", data).shape == (1, 41, 31)
    np.testing.assert_array_equal(read_labels(Path("case.bmp"), data)[0], GREY % 16)


# BMP


def bmp(
    rows: int, columns: int, bits: int, body: bytes, compression: int = 0, header: int = 40, extra: bytes = b""
) -> bytes:
    start = 14 + header + len(extra)
    head = struct.pack("<IiiHHIIiiII", header, columns, rows, 1, bits, compression, 0, 0, 0, 0, 0)
    head = head[:header] + bytes(header - len(head[:header]))
    return struct.pack("<2sIII", b"BM", start + len(body), 0, start) + head + extra + body


TABLE_OF_4 = b"".join(bytes([k, 2 * k, 3 * k, 0]) for k in range(4))


def test_rows_from_below_and_from_above() -> None:
    body = bytes([0, 1, 2, 0, 3, 0, 1, 0])
    table = TABLE_OF_4 + bytes(4 * 252)
    np.testing.assert_array_equal(opened(".bmp", bmp(2, 3, 8, body, extra=table)).labels(), [[3, 0, 1], [0, 1, 2]])
    np.testing.assert_array_equal(opened(".bmp", bmp(-2, 3, 8, body, extra=table)).labels(), [[0, 1, 2], [3, 0, 1]])


@pytest.mark.parametrize(("bits", "body"), [(1, b"\xa0\0\0\0"), (2, b"\x44\0\0\0"), (4, b"\x10\x10\0\0")])
def test_small_depths(bits: int, body: bytes) -> None:
    table = bytes([0, 0, 0, 0, 1, 2, 3, 0]) + bytes(4 * (2**bits - 2))
    np.testing.assert_array_equal(opened(".bmp", bmp(1, 4, bits, body, extra=table)).labels(), [[1, 0, 1, 0]])


def test_the_fourth_byte_is_nothing_unless_a_mask_says_so() -> None:
    body = bytes([1, 2, 3, 9, 4, 5, 6, 0])
    np.testing.assert_array_equal(opened(".bmp", bmp(1, 2, 32, body)).image()[:, 0], [[3, 6], [2, 5], [1, 4]])
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    opaque = bmp(1, 2, 32, bytes([1, 2, 3, 255, 4, 5, 6, 255]), 3, 56)
    opaque = opaque[:54] + masks + opaque[70:]
    found = opened(".bmp", opaque)
    np.testing.assert_array_equal(found.image()[:, 0], [[3, 6], [2, 5], [1, 4]])
    assert found.remarks == ("a fully opaque alpha channel was dropped",)
    with pytest.raises(FormatError, match="1 of 2 pixels not opaque"):
        opened(".bmp", opaque[:-1] + b"\0")
    with pytest.raises(FormatError, match="BMP with masks 0xff, 0xff00"):
        opened(".bmp", opaque[:54] + struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0) + opaque[70:])


def test_the_oldest_header() -> None:
    table = bytes([0, 0, 0, 9, 5, 1] + [0] * 762)
    head = struct.pack("<IHHHH", 12, 3, 1, 1, 8)
    start = 14 + 12 + 768
    data = struct.pack("<2sIII", b"BM", start + 4, 0, start) + head + table + bytes([1, 0, 1, 0])
    np.testing.assert_array_equal(opened(".bmp", data).image()[:, 0], [[1, 0, 1], [5, 0, 5], [9, 0, 9]])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            bmp(2, 3, 8, bytes(8), 1, extra=TABLE_OF_4),
            r"BMP compressed as run lengths \(RLE8\), expected none; save it",
        ),
        (bmp(2, 3, 16, bytes(16)), "BMP of 16 bits per pixel; save it"),
        (bmp(2, 3, 24, bytes(24))[:-1], "truncated: pixels end at byte 78 of 77"),
        (bmp(2, 3, 24, bytes(24)) + b"x", "79 bytes, expected 78"),
        (bmp(2, -3, 24, bytes(24)), "impossible BMP header"),
        (bmp(0, 3, 24, bytes(24)), "impossible BMP header"),
        (bmp(2, 3, 8, bytes(8)), "indexed colours without a table"),
        (bmp(1, 3, 8, bytes([9, 0, 0, 0]), extra=TABLE_OF_4), "colour 9 of a table of 4"),
        (bmp(2, 3, 24, bytes(24), header=41), "a header of 41 bytes"),
    ],
)
def test_bmp_that_is_not_read_says_why(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        opened(".bmp", data).image()


# GIF


def test_an_interlaced_gif() -> None:
    data = picture(".gif", indexed(GREY % 16, TABLE), interlace=1)
    np.testing.assert_array_equal(opened(".gif", data).labels(), by_pillow_indices(data))


def by_pillow_indices(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)))


def test_films_and_small_pictures_on_a_large_canvas_are_refused() -> None:
    frames = [Image.fromarray(RNG.integers(0, 255, (9, 9)).astype(np.uint8)) for _ in range(3)]
    with pytest.raises(FormatError, match="a GIF of 3 pictures, expected one; store one picture per file, as PNG"):
        opened(".gif", picture(".gif", frames[0], save_all=True, append_images=frames[1:]))
    data = bytearray(picture(".gif", GREY))
    data[6:8] = struct.pack("<H", 50)
    with pytest.raises(FormatError, match="a picture of 31 x 41 on a canvas of 50 x 41"):
        opened(".gif", bytes(data))


def without_first_block(data: bytes) -> bytes:
    """A GIF whose codes lack their first 255 bytes."""
    at = data.rindex(b"\x08\xff") + 1
    return data[:at] + data[at + 256 :]


def test_a_transparent_colour_is_a_colour() -> None:
    data = picture(".gif", indexed(GREY % 16, TABLE), transparency=3)
    np.testing.assert_array_equal(np.moveaxis(opened(".gif", data).image(), 0, -1), TABLE[GREY % 16])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-1], "truncated"),
        (lambda data: data + b";", "1 bytes follow the end of the GIF"),
        (lambda data: data[:10] + b"\0" + data[11:], "damaged GIF|truncated|GIF of 0"),
        (without_first_block, "damaged GIF data"),
    ],
)
def test_a_damaged_gif(change: object, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        opened(".gif", change(picture(".gif", GREY)))  # type: ignore[operator]
