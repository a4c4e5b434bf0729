"""Files of objects are read back: they hold the objects, and equal objects give equal bytes."""

from __future__ import annotations

import io
import json
import math
import uuid
import zipfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from roifile import ROI_TYPE, ImagejRoi, roiread
from scipy import ndimage

from medseg.image.labels import COLOURS
from medseg.measure.files import OBJECT_FILES, Measured, write_object_files
from medseg.measure.tables import csv_of, summary_csv
from medseg.objects.colouring import neighbours, rgb_of
from medseg.objects.scene import Scene


def scene(shape: tuple[int, ...] = (30, 40), unit: str = "um", **more: Any) -> Scene:
    """Objects of many shapes, some with holes, some in several pieces."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 1.3)
    numbers, _ = ndimage.label(noise > np.median(noise))
    # Two objects become one in two pieces; numbers have gaps.
    numbers[numbers == 2] = 1
    return Scene((numbers * 3).astype(np.uint16), (0.5,) * len(shape), unit, **more)


def with_image(of: Scene, channels: int = 1, name: str = "well A1.png") -> Measured:
    image = np.random.default_rng(1).integers(0, 4000, (channels, *of.numbers.shape)).astype(np.uint16)
    return Measured(name, of, image)


def inside(points: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels whose centres lie inside a ring of (x, y) points, by the even-odd rule, any direction of edges."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    odd = np.zeros(shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd


def drawn(rings: list[NDArray[Any]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    covered = np.zeros(shape, dtype=bool)
    for ring in rings:
        covered ^= inside(np.asarray(ring, dtype=float), shape)
    return covered


def regions(data: bytes, folder: Path) -> dict[str, ImagejRoi]:
    (folder / "a.zip").write_bytes(data)
    found = roiread(folder / "a.zip")
    assert isinstance(found, list)
    return {roi.name: roi for roi in found}


def test_every_kind_is_written_under_its_suffix_and_twice_the_same(tmp_path: Path) -> None:
    written = write_object_files(with_image(scene()), tmp_path / "a.b", OBJECT_FILES)
    assert [path.name for path in written] == [f"a.b{row.suffix}" for row in OBJECT_FILES.values()]
    again = write_object_files(with_image(scene()), tmp_path / "b", OBJECT_FILES)
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_regions_cover_the_pixels_of_their_objects(tmp_path: Path) -> None:
    of = scene()
    found = regions(OBJECT_FILES["rois"].bytes_of(with_image(of)), tmp_path)
    assert sorted(map(int, found)) == sorted(of.boxes)
    assert {roi.roitype for roi in found.values()} == {ROI_TYPE.TRACED, ROI_TYPE.RECT}
    for name, roi in found.items():
        mask = of.numbers == int(name)
        np.testing.assert_array_equal(drawn(roi.coordinates(multi=True), of.numbers.shape), mask)
        rows, columns = np.nonzero(mask)
        assert (roi.top, roi.left, roi.bottom, roi.right) == (min(rows), min(columns), max(rows) + 1, max(columns) + 1)
        assert roi.position == 0 and "class: object" in roi.props and roi.group == 0


def test_regions_of_a_volume_lie_in_their_slices(tmp_path: Path) -> None:
    of = scene((5, 14, 16))
    found = regions(OBJECT_FILES["rois"].bytes_of(with_image(of)), tmp_path)
    shown = np.zeros(of.numbers.shape, dtype=int)
    for name, roi in found.items():
        shown[roi.position - 1] += int(name.split("-z")[0]) * drawn(roi.coordinates(multi=True), (14, 16))
        assert int(name.split("-z")[1]) == roi.position and roi.z_position == 0
    np.testing.assert_array_equal(shown, of.numbers)
    # Beside channels, slices are counted by themselves.
    several = regions(OBJECT_FILES["rois"].bytes_of(with_image(of, channels=2)), tmp_path)
    assert all((roi.position, roi.z_position) == (0, found[name].position) for name, roi in several.items())


def test_classes_are_groups_and_colours_of_regions(tmp_path: Path) -> None:
    of = Scene(np.array([[3, 0, 5]]), (1.0, 1.0), class_names=("tumour", "stroma"), classes={3: 2, 5: 1})
    found = regions(OBJECT_FILES["rois"].bytes_of(Measured("a", of)), tmp_path)
    assert [(roi.group, roi.stroke_color) for _, roi in sorted(found.items())] == [
        (2, bytes([255, *rgb_of(COLOURS[1])])),
        (1, bytes([255, *rgb_of(COLOURS[0])])),
    ]
    assert found["3"].props == "class: stroma\n"


@pytest.mark.parametrize("far", [40_000, 70_000])
def test_regions_far_from_the_corner(far: int, tmp_path: Path) -> None:
    numbers = np.zeros((4, far + 10), dtype=np.uint8)
    numbers[1:3, far : far + 4], numbers[0, 5:] = 1, 2
    found = regions(OBJECT_FILES["rois"].bytes_of(Measured("a", Scene(numbers, (1.0, 1.0)))), tmp_path)
    assert found["1"].coordinates().tolist() == [[far, 1], [far + 4, 1], [far + 4, 3], [far, 3]]
    # Too wide for offsets of 16 bits.
    assert found["2"].coordinates().tolist() == [[5, 0], [far + 10, 0], [far + 10, 1], [5, 1]]


def test_detections_cover_the_pixels_of_their_objects() -> None:
    of = scene(class_names=("nucleus",))
    measured = with_image(of)
    found = json.loads(OBJECT_FILES["geojson"].bytes_of(measured))
    assert found["type"] == "FeatureCollection" and len(found["features"]) == len(of.boxes)
    kinds = set()
    for feature, (_, row) in zip(found["features"], measured.table.iterrows(), strict=True):
        uuid.UUID(feature["id"])
        properties, geometry = feature["properties"], feature["geometry"]
        assert feature["type"] == "Feature" and properties["objectType"] == "detection"
        assert properties["classification"] == {"name": "nucleus", "color": list(rgb_of(COLOURS[0]))}
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        kinds.add((geometry["type"], max(map(len, polygons)) > 1))
        rings = [np.array(ring) for polygon in polygons for ring in polygon]
        assert all((ring[0] == ring[-1]).all() for ring in rings)
        np.testing.assert_array_equal(
            drawn([ring[:-1] for ring in rings], of.numbers.shape), of.numbers == int(properties["name"])
        )
        assert properties["measurements"]["area_um2"] == row["area_um2"]
        assert properties["measurements"]["intensity_mean"] == row["intensity_mean"]
        assert "plane" not in geometry and not {"id", "image", "class"} & properties["measurements"].keys()
    assert {("Polygon", False), ("Polygon", True), ("MultiPolygon", False)} <= kinds
    assert len({feature["id"] for feature in found["features"]}) == len(of.boxes)


def test_detections_of_a_volume_name_their_slices() -> None:
    of = scene((5, 14, 16))
    shown = np.zeros(of.numbers.shape, dtype=int)
    for feature in json.loads(OBJECT_FILES["geojson"].bytes_of(with_image(of)))["features"]:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        rings = [np.array(ring)[:-1] for polygon in polygons for ring in polygon]
        assert geometry["plane"]["c"] == -1 and geometry["plane"]["t"] == 0
        shown[geometry["plane"]["z"]] += int(feature["properties"]["name"]) * drawn(rings, (14, 16))
    np.testing.assert_array_equal(shown, of.numbers)


def test_undefined_measurements_are_left_out_of_json_and_empty_in_csv() -> None:
    image = np.full((1, 1, 4), np.nan, dtype=np.float32)
    measured = Measured("a.png", Scene(np.array([[0, 1, 1, 0]]), (1.0, 1.0)), image)
    (feature,) = json.loads(OBJECT_FILES["geojson"].bytes_of(measured))["features"]
    assert "intensity_mean" not in feature["properties"]["measurements"]
    read = pd.read_csv(io.BytesIO(OBJECT_FILES["csv"].bytes_of(measured)))
    assert math.isnan(read["intensity_mean"][0]) and read["pixels"][0] == 2


def test_tables_are_read_back() -> None:
    measured = with_image(scene(), channels=2)
    table = pd.read_parquet(io.BytesIO(OBJECT_FILES["parquet"].bytes_of(measured)))
    pd.testing.assert_frame_equal(table, measured.table)
    assert table.columns[:3].tolist() == ["image", "id", "class"] and set(table["image"]) == {"well A1.png"}
    read = pd.read_csv(io.BytesIO(OBJECT_FILES["csv"].bytes_of(measured)))
    pd.testing.assert_frame_equal(read, measured.table, check_dtype=False, rtol=1e-8)
    assert (read["touches_border"] == measured.table["touches_border"]).all()


def test_names_from_data_are_no_formulas() -> None:
    of = Scene(np.array([[1]]), (1.0, 1.0), class_names=("=1+1",))
    measured = Measured('=cmd|"/c".png', of, np.zeros((1, 1, 1)), ("@actin",))
    text = csv_of(measured.table)
    header, row = text.splitlines()
    assert row.startswith("\"'=cmd") and ",'=1+1," in row and "intensity_@actin_mean" in header
    assert summary_csv([{"image": "=a", "count": 1}, {"image": "b", "density": 2.5}]) == (
        "image,count,density\n'=a,1,\nb,,2.5\n"
    )


def test_an_image_without_objects_has_all_files(tmp_path: Path) -> None:
    empty = with_image(Scene(np.zeros((20, 30), dtype=np.uint8), (1.0, 1.0)))
    files = {path.name: path.read_bytes() for path in write_object_files(empty, tmp_path / "a", OBJECT_FILES)}
    assert zipfile.ZipFile(io.BytesIO(files["a.rois.zip"])).namelist() == []
    assert json.loads(files["a.geojson"])["features"] == []
    assert len(pd.read_parquet(io.BytesIO(files["a.objects.parquet"]))) == 0
    assert files["a.objects.csv"].decode().count("\n") == 1


def overlay(measured: Measured) -> NDArray[np.uint8]:
    return np.asarray(imagecodecs.png_decode(OBJECT_FILES["overlay"].bytes_of(measured)))


def outline_colours(picture: NDArray[np.uint8], numbers: NDArray[Any]) -> dict[int, set[tuple[int, ...]]]:
    """Colours of pixels at the edge of each object, where it meets anything."""
    found = {}
    for number in np.unique(numbers[numbers > 0]).tolist():
        mask = numbers == number
        edge = mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1)
        found[number] = {tuple(colour) for colour in picture[edge].tolist()}
    return found


def test_an_overlay_outlines_every_object_in_a_colour_that_no_neighbour_has() -> None:
    numbers = scene((1200, 50)).numbers
    picture = overlay(with_image(Scene(numbers, (1.0, 1.0))))
    assert picture.shape == (1200, 50, 3)
    colours = outline_colours(picture, numbers)
    assert all(len(found) == 1 for found in colours.values())
    assert set().union(*colours.values()) <= {rgb_of(colour) for colour in COLOURS}
    for one, others in neighbours(numbers).items():
        assert all(colours[one] != colours[other] for other in others)


def test_an_overlay_shows_classes_by_colour_and_neighbours_by_shade() -> None:
    numbers = np.kron(np.arange(1, 31).reshape(5, 6), np.ones((240, 30), dtype=int)).astype(np.uint8)
    classes = {number: 1 + number % 2 for number in range(1, 31)}
    of = Scene(numbers, (1.0, 1.0), class_names=("a", "b"), classes=classes)
    colours = outline_colours(overlay(Measured("a", of, np.zeros((1, *numbers.shape), np.uint8))), numbers)
    of_class = [{next(iter(colours[n])) for n in colours if classes[n] == k} for k in (1, 2)]
    assert not of_class[0] & of_class[1]
    for one, others in neighbours(numbers).items():
        assert all(colours[one] != colours[other] for other in others)


def test_small_images_are_enlarged_large_ones_thinned_and_contrast_is_stretched() -> None:
    image = np.full((1, 100, 60), 1000, dtype=np.uint16)
    image[0, :50] = 1010
    small = overlay(Measured("a", Scene(np.zeros((100, 60), np.uint8), (1.0, 1.0)), image))
    assert small.shape == (600, 360, 3)
    assert (small[:300] == 255).all() and (small[300:] == 0).all()
    wide = overlay(Measured("a", Scene(np.zeros((3, 9000), np.uint8), (1.0, 1.0)), np.zeros((1, 3, 9000), np.uint8)))
    assert wide.shape == (1, 3000, 3)


@pytest.mark.parametrize(
    ("channels", "dtype", "expected"),
    [(2, np.uint16, (0, 255, 0)), (3, np.uint16, (255, 0, 0)), (3, np.uint8, (7, 0, 0)), (5, np.uint8, (255,) * 3)],
)
def test_channels_as_colours(channels: int, dtype: Any, expected: tuple[int, ...]) -> None:
    image = np.zeros((channels, 40, 40), dtype=dtype)
    image[0, :20] = 7
    picture = overlay(Measured("a", Scene(np.zeros((40, 40), np.uint8), (1.0, 1.0)), image))
    assert tuple(picture[0, 0]) == expected and tuple(picture[-1, 0]) == (0, 0, 0)


def test_the_slice_with_most_objects_is_drawn() -> None:
    numbers = np.zeros((20, 30, 4), dtype=np.uint8)
    numbers[2:5, 2:9, 1], numbers[4:16, 6:24, 2] = 1, 2
    image = np.zeros((1, 20, 30, 4), dtype=np.float32)
    image[..., 3] = 1
    picture = overlay(Measured("a", Scene(numbers, (1.0, 1.0, 1.0), "mm", axes="xyz"), image))
    # Columns are x, rows are y.
    assert picture.shape == (180, 120, 3)
    shown = picture.any(axis=2)
    assert shown[36:144, 24:96].all() and shown.sum() == 108 * 72
