"""What the planes of a TIFF are: as its writer says, as the configuration declares, and by the advice of faults."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from medseg.formats.errors import FormatError
from medseg.formats.read import open_image
from medseg.formats.source import Source
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.faults import FAULTS
from medseg.reading import Reading

PATH = Path("case.tif")
RNG = np.random.default_rng(0)


def tiff(array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def stack(*shape: int, dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(0, 250, (*shape, 20, 24)).astype(dtype)


def opened(data: bytes, axes: str = "") -> Source:
    return open_image(PATH, data, reading=Reading(axes=axes))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("planes", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_recipe_of_the_fault_is_read_as_it_says(planes: int, dtype: Any, tmp_path: Path) -> None:
    """tifffile takes 3 or 4 planes for colours, and one of them for alpha, unless it is told otherwise."""
    (recipe,) = re.findall(r"tifffile\.imwrite\(.*?\)(?=\s|$|`|,|;)", FAULTS["tiff-pages"].fix)
    voxels = stack(planes, dtype=dtype)
    for axes, expected in (("ZYX", voxels[None]), ("CYX", voxels)):
        path = tmp_path / f"{axes}.tif"
        exec(recipe.replace("ZYX", axes), {"tifffile": tifffile, "path": path, "array": voxels})
        found = open_image(path)
        np.testing.assert_array_equal(found.image(), expected)
        assert found.notes == ()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("planes", [3, 4])
@pytest.mark.parametrize("axes", ["ZYX", "CYX", "ZCYX", "CZYX"])
def test_samples_are_what_the_axes_say(axes: str, planes: int) -> None:
    """Written without `photometric`: one page of 3 or 4 samples per stack."""
    voxels = stack(*([2] if len(axes) == 4 else []), planes)
    data = tiff(voxels, metadata={"axes": axes})
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert file.pages[0].samplesperpixel == planes
    found = opened(data)
    expected = {"ZYX": voxels[None], "CYX": voxels, "CZYX": voxels}.get(axes, voxels.swapaxes(0, 1))
    np.testing.assert_array_equal(found.image(), expected)
    box = [slice(1, 2)] * (found.image().ndim - 3) + [slice(3, 9), slice(2, 20)]
    np.testing.assert_array_equal(found.read(box), expected[(slice(None), *box)])


@pytest.mark.parametrize(
    ("shape", "axes", "moved"),
    [
        ((2,), "CYX", "CYX"),
        ((2,), "ZYX", "ZYX"),
        ((2,), "Z2YX", "ZYX"),
        ((3, 2), "ZC2YX", "ZCYX"),
        ((3, 2), "Z3CYX", "ZCYX"),
        ((2, 3), "C2ZYX", "CZYX"),
        ((2, 3), "CZ3YX", "CZYX"),
        ((1, 2), "T1CYX", "TCYX"),
    ],
)
def test_plain_pages_are_what_is_declared(shape: tuple[int, ...], axes: str, moved: str) -> None:
    voxels = stack(*shape)
    data = tiff(voxels.reshape(-1, 20, 24), photometric="minisblack", metadata=None)
    found = opened(data, axes)
    wanted = [letter for letter in "CZYX" if letter in moved]
    letters = moved.replace("T", "")
    expected = np.transpose(voxels.reshape(voxels.shape[-len(letters) :]), [letters.index(w) for w in wanted])
    np.testing.assert_array_equal(found.image(), expected if "C" in moved else expected[None])
    assert found.notes == ()


def test_what_is_declared_comes_before_what_the_file_says() -> None:
    """Time and depth are mixed up by many programs; lengths that are left open are the file's."""
    voxels = stack(3, 2)
    for options in ({"imagej": True}, {"ome": True}, {}):
        data = tiff(voxels[:, 0], photometric="minisblack", metadata={"axes": "TYX"}, **options)
        with pytest.raises(FormatError, match="3 time points"):
            opened(data)
        np.testing.assert_array_equal(opened(data, "ZYX").image(), voxels[None, :, 0])
        np.testing.assert_array_equal(opened(data, "CYX").image(), voxels[:, 0])
        data = tiff(voxels, photometric="minisblack", metadata={"axes": "ZCYX"}, **options)
        np.testing.assert_array_equal(opened(data, "ZCYX").image(), voxels.swapaxes(0, 1))


def test_declared_axes_keep_the_sizes_of_the_file() -> None:
    metadata = {"axes": "TYX", "unit": "um"}
    data = tiff(stack(3), imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    assert opened(data, "CYX").geometry.spacing == (0.5, 0.25)
    assert opened(data, "ZYX").geometry.spacing == (1.0, 0.5, 0.25)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_that_are_declared(planar: str) -> None:
    voxels = stack(4)
    stored_as = voxels if planar == "separate" else np.moveaxis(voxels, 0, -1)
    options = {"photometric": "rgb", "planarconfig": planar, "metadata": None, "extrasamples": ["unassalpha"]}
    data = tiff(stored_as, **options)
    for axes in ("CYX", "YXC"):
        np.testing.assert_array_equal(opened(data, axes).image(), voxels)
    np.testing.assert_array_equal(opened(data, "ZYX").image(), voxels[None])
    with pytest.raises(FormatError, match="4 samples"):
        opened(data, "YX")


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("YX", r"6 pages are not one plane, which `axes: YX` declares"),
        ("C4ZYX", r"6 pages are not C 4 x Z 1, which"),
        ("ZCYX", r"leaves open how 6 pages are divided into Z, C; write .* as in `axes: ZC2YX`"),
        ("TYX", r"6 time points"),
    ],
)
def test_axes_that_are_not_those_of_the_pages(axes: str, words: str) -> None:
    data = tiff(stack(6), photometric="minisblack", metadata=None)
    with pytest.raises(FormatError, match=words):
        opened(data, axes)


def test_a_single_page_is_whatever_is_declared() -> None:
    data = tiff(stack(), metadata=None)
    for axes, shape in (("YX", (1, 20, 24)), ("CYX", (1, 20, 24)), ("ZYX", (1, 1, 20, 24)), ("ZCYX", (1, 1, 20, 24))):
        assert opened(data, axes).shape == shape


def test_axes_of_space_are_those_of_other_formats_too(tmp_path: Path) -> None:
    path = tmp_path / "axes.png"
    write_labels(path, np.eye(8, 9, dtype=np.uint8), Geometry.from_spacing((8, 9), (1.0, 1.0)))
    with pytest.raises(FormatError, match=r"`axes: ZYX` has the spatial axes Z, Y, X, the file has \(8, 9\)"):
        open_image(path, reading=Reading(axes="ZYX"))


# Channels


def named(voxels: np.ndarray, names: list[str]) -> bytes:
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    return tiff(voxels, ome=True, photometric="minisblack", metadata=metadata)


def test_channels_by_name_and_number_in_any_order() -> None:
    voxels = stack(3)
    data = named(voxels, ["DAPI", "GFP", "mCherry"])
    assert open_image(PATH, data).channel_names == ("DAPI", "GFP", "mCherry")
    for wanted, rows in ((("GFP",), [1]), ((2, 0), [2, 0]), (("mCherry", 0), [2, 0])):
        found = open_image(PATH, data, reading=Reading(channels=wanted))
        np.testing.assert_array_equal(found.image(), voxels[rows])
        assert found.channel_names == tuple(("DAPI", "GFP", "mCherry")[row] for row in rows)
        np.testing.assert_array_equal(found.read([slice(2, 9), slice(3, 4)]), voxels[rows, 2:9, 3:4])
    for wanted in ((3,), ("dapi",), ("Cy5",)):
        with pytest.raises(FormatError, match=r"no channel .*there are 3: 0 'DAPI', 1 'GFP', 2 'mCherry'") as caught:
            open_image(PATH, data, reading=Reading(channels=wanted))
        assert caught.value.code == "channels"


def test_names_in_another_order_than_the_file_s() -> None:
    """A list of names is an order where the file names its channels, and a new name where it does not."""
    voxels = stack(2)
    swapped = Reading(names=("GFP", "DAPI"))
    np.testing.assert_array_equal(
        open_image(PATH, named(voxels, ["DAPI", "GFP"]), reading=swapped).image(), voxels[::-1]
    )
    for data in (named(voxels, ["a", "b"]), tiff(voxels, photometric="minisblack", metadata={"axes": "CYX"})):
        np.testing.assert_array_equal(open_image(PATH, data, reading=swapped).image(), voxels)


def test_grey_beside_rgb() -> None:
    grey, colours = stack(), stack(3)
    one = tiff(grey, metadata=None)
    three = tiff(np.moveaxis(colours, 0, -1), photometric="rgb", metadata=None)
    equal = tiff(np.repeat(grey[..., None], 3, axis=-1), photometric="rgb", metadata=None)
    for data, expected in ((one, grey), (equal, grey)):
        np.testing.assert_array_equal(open_image(PATH, data, reading=Reading(colour="grey")).image(), expected[None])
    found = open_image(PATH, three, reading=Reading(colour="grey"))
    weighted = np.rint(np.tensordot((0.299, 0.587, 0.114), colours.astype(float), 1)).astype(np.uint8)
    np.testing.assert_array_equal(found.image()[0], weighted)
    np.testing.assert_array_equal(found.read([slice(4, 9), slice(1, 3)])[0], weighted[4:9, 1:3])
    for data, expected in ((one, np.stack([grey] * 3)), (three, colours)):
        np.testing.assert_array_equal(open_image(PATH, data, reading=Reading(colour="rgb")).image(), expected)
    with pytest.raises(FormatError, match="2 channels, `channels: grey` takes"):
        open_image(
            PATH, tiff(stack(2), photometric="minisblack", metadata={"axes": "CYX"}), reading=Reading(colour="grey")
        )


def test_sizes_that_are_declared_come_before_those_of_the_file() -> None:
    data = tiff(stack(), imagej=True, resolution=(4.0, 2.0), metadata={"unit": "um"})
    for reading, unit, spacing in (
        (Reading(), "um", (0.5, 0.25)),
        (Reading(spacing=(9.0, 9.0)), "um", (0.5, 0.25)),
        (Reading(spacing=(9.0, 8.0), sizes="spacing"), "um", (9.0, 8.0)),
        (Reading(spacing=(0.009, 0.008), unit="mm", sizes="spacing"), "um", (9.0, 8.0)),
        (Reading(sizes="pixels"), "px", (1.0, 1.0)),
    ):
        grid = open_image(PATH, data, reading=reading).geometry
        assert (grid.unit, grid.spacing) == (unit, pytest.approx(spacing))


def test_fill_stands_for_what_is_not_finite() -> None:
    voxels = stack(dtype=np.float32)
    voxels[3, 4], voxels[5, 6] = np.nan, np.inf
    found = open_image(PATH, tiff(voxels, metadata=None), reading=Reading(fill=-7.0))
    assert found.image()[0, 3, 4] == found.read([slice(3, 4), slice(4, 5)])[0, 0, 0] == -7.0
    assert (found.image() == -7.0).sum() == 2
