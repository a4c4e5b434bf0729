"""Measurements against analytic shapes, scikit-image and loops over voxels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import perimeter_crofton, regionprops

from medseg.errors import DataError, GeometryError
from medseg.objects.measure import SIZE_UNITS, joined, measure, size_column, summary
from medseg.objects.scene import LISTED, Scene
from medseg.objects.shape import solidity

SPACINGS = [(1.0, 1.0), (2.0, 0.5), (1.0, 1.0, 1.0), (2.0, 0.5, 1.0)]


def ellipsoid(radii: tuple[float, ...], spacing: tuple[float, ...], turn: float = 0.0) -> NDArray[np.uint8]:
    """An ellipse or ellipsoid whose centre is no voxel's, turned within the last two axes."""
    reach = max(radii) + 3
    axes = [np.arange(-reach, reach, s) + 0.3 * s for s in spacing]
    places = list(np.meshgrid(*axes, indexing="ij"))
    places[-2:] = [
        math.cos(turn) * places[-2] - math.sin(turn) * places[-1],
        math.sin(turn) * places[-2] + math.cos(turn) * places[-1],
    ]
    return (sum((p / r) ** 2 for p, r in zip(places, radii, strict=True)) < 1).astype(np.uint8)


@pytest.mark.parametrize("turn", [0.0, 0.4, 1.2])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.8), (2.0, 0.7)])
def test_ellipses(spacing: tuple[float, ...], turn: float) -> None:
    a, b = 40.0, 25.0
    row = measure(Scene(ellipsoid((a, b), spacing, turn), spacing, "um")).iloc[0]
    assert row["area_um2"] == pytest.approx(math.pi * a * b, rel=0.005)
    assert row["major_axis_um"] == pytest.approx(2 * a, rel=0.005)
    assert row["minor_axis_um"] == pytest.approx(2 * b, rel=0.005)
    assert row["eccentricity"] == pytest.approx(math.sqrt(1 - (b / a) ** 2), abs=0.005)
    assert row["equivalent_diameter_um"] == pytest.approx(2 * math.sqrt(a * b), rel=0.005)
    # Ramanujan's perimeter of an ellipse.
    h = ((a - b) / (a + b)) ** 2
    around = math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))
    assert row["perimeter_um"] == pytest.approx(around, rel=0.035)
    assert row["solidity"] == 1


@pytest.mark.parametrize("radius", [15.0, 40.0])
@pytest.mark.parametrize("coarse", [1.0, 2.0, 3.0])
def test_the_perimeter_of_a_circle(coarse: float, radius: float) -> None:
    found = measure(Scene(ellipsoid((radius, radius), (coarse, 1.0)), (coarse, 1.0), "um"))
    assert found["perimeter_um"][0] == pytest.approx(2 * math.pi * radius, rel=0.014)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (1.0, 0.6, 2.0)])
def test_ellipsoids(spacing: tuple[float, ...]) -> None:
    radii = (20.0, 16.0, 12.0)
    row = measure(Scene(ellipsoid(radii, spacing), spacing, "um")).iloc[0]
    assert row["volume_um3"] == pytest.approx(4 / 3 * math.pi * math.prod(radii), rel=0.01)
    for name, radius in zip(("major", "middle", "minor"), radii, strict=True):
        assert row[f"{name}_axis_um"] == pytest.approx(2 * radius, rel=0.01)
    assert row["equivalent_diameter_um"] == pytest.approx(2 * math.prod(radii) ** (1 / 3), rel=0.01)
    # Thomsen's surface of an ellipsoid, right within 1.2 %.
    p, (a, b, c) = 1.6075, radii
    surface = 4 * math.pi * (((a * b) ** p + (a * c) ** p + (b * c) ** p) / 3) ** (1 / p)
    assert row["surface_um2"] == pytest.approx(surface, rel=0.03)
    assert row["solidity"] == 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_boxes_are_exact(spacing: tuple[float, ...]) -> None:
    shape = (6, 10, 8)[: len(spacing)]
    numbers = np.zeros([n + 4 for n in shape], dtype=np.int32)
    numbers[tuple(slice(1, n + 1) for n in shape)] = 7
    row = measure(Scene(numbers, spacing, "um")).iloc[0]
    lengths = sorted((n * s for n, s in zip(shape, spacing, strict=True)), reverse=True)
    assert row["id"] == 7 and row["class"] == "object" and not row["touches_border"]
    assert row[size_column("um", len(spacing))] == pytest.approx(math.prod(lengths))
    # The second moment of a box of length l is l^2 / 12.
    names = ("major", "minor") if len(spacing) == 2 else ("major", "middle", "minor")
    for name, length in zip(names, lengths, strict=True):
        assert row[f"{name}_axis_um"] == pytest.approx(2 * math.sqrt((len(spacing) + 2) / 12) * length)
    for axis, n, s in zip("zyx"[-len(spacing) :], shape, spacing, strict=True):
        assert row[f"centroid_{axis}_px"] == pytest.approx((n + 1) / 2)
        assert row[f"centroid_{axis}_um"] == pytest.approx((n + 1) / 2 * s)
    assert row["solidity"] == 1


def blobs(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.int32]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2.0)
    numbers, _ = ndimage.label(noise > np.quantile(noise, 0.6))
    return np.asarray(numbers, dtype=np.int32)


@pytest.mark.parametrize("shape", [(60, 70), (20, 24, 22)])
def test_everything_of_scikit_image_in_isotropic_voxels(shape: tuple[int, ...]) -> None:
    numbers, spacing = blobs(shape), (0.5,) * len(shape)
    image = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    table = measure(Scene(numbers, spacing, "um"), image, ("DAPI", "actin"))
    props = regionprops(numbers, np.moveaxis(image, 0, -1), spacing=spacing)
    assert len(table) == len(props) > 3
    for (_, row), prop in zip(table.iterrows(), props, strict=True):
        assert row["id"] == prop.label
        assert row[size_column("um", len(shape))] == pytest.approx(prop.area)
        for k, axis in enumerate("zyx"[-len(shape) :]):
            assert row[f"centroid_{axis}_um"] == pytest.approx(prop.centroid[k])
        assert row["equivalent_diameter_um"] == pytest.approx(prop.equivalent_diameter_area)
        for k, channel in enumerate(("DAPI", "actin")):
            for name in ("mean", "std", "min", "max", "median"):
                expected = getattr(prop, f"intensity_{name}")[k]
                assert row[f"intensity_{channel}_{name}"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
            assert row[f"intensity_{channel}_sum"] == pytest.approx(image[k][numbers == prop.label].sum(), rel=1e-5)
        if len(shape) == 2:
            assert row["perimeter_um"] == pytest.approx(perimeter_crofton(numbers == prop.label, 4) * 0.5)
            # There a voxel is its centre, here it is a square: a twelfth of its squared length more in each variance.
            for name in ("major", "minor"):
                points = getattr(prop, f"axis_{name}_length") ** 2 + 16 * 0.5**2 / 12
                assert row[f"{name}_axis_um"] == pytest.approx(math.sqrt(points))


@pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)])
def test_solidity_is_a_count_of_voxels_within_the_hull(shape: tuple[int, ...]) -> None:
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(0)
    for _ in range(25):
        mask = np.zeros(shape, dtype=bool)
        mask[tuple(rng.integers(0, n, 8) for n in shape)] = True
        every = np.stack(np.nonzero(np.ones(shape)), axis=1)
        # Delaunay triangles fill the hull of the points they are made of.
        inside = Delaunay(np.argwhere(mask)).find_simplex(every, tol=1e-9) >= 0
        assert solidity(mask) == pytest.approx(mask.sum() / inside.sum())


@pytest.mark.parametrize(
    ("points", "shape", "expected"),
    [
        ([(0, 0)], (1, 1), 1.0),
        ([(0, 0), (0, 3)], (1, 4), 0.5),
        ([(0, 0), (1, 1), (2, 2)], (3, 3), 1.0),
        ([(0, 0), (2, 2)], (3, 3), 2 / 3),
        ([(0, 0, 0), (2, 2, 2)], (3, 3, 3), 2 / 3),
        ([(0, 0, 0), (2, 2, 0), (0, 0, 2), (2, 2, 2)], (3, 3, 3), 4 / 9),
        ([(0, 0, 0), (0, 2, 0), (0, 0, 2)], (1, 3, 3), 1 / 2),
        ([(0, 0, 0), (0, 0, 1)], (1, 1, 2), 1.0),
    ],
)
def test_solidity_of_points_lines_and_planes(points: list[Any], shape: tuple[int, ...], expected: float) -> None:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(np.array(points).T)] = True
    assert solidity(mask) == pytest.approx(expected)


def test_a_voxel_at_the_border_and_nothing_at_all() -> None:
    numbers = np.zeros((3, 5), dtype=np.uint8)
    full = np.array([[1, 0, 0, 0, 0], [0, 0, 2, 0, 0], [0, 0, 0, 0, 3]], dtype=np.uint8)
    table = measure(Scene(full, (1.0, 1.0)), full[None])
    assert table["touches_border"].tolist() == [True, False, True]
    assert table["intensity_std"].tolist() == [0, 0, 0] and table["eccentricity"].tolist() == [0, 0, 0]
    empty = measure(Scene(numbers, (1.0, 1.0)), numbers[None])
    assert len(empty) == 0 and (empty.dtypes == table.dtypes).all()
    found = summary(empty, Scene(numbers, (1.0, 1.0)))
    assert found["count"] == 0 and found["confluence"] == 0 and math.isnan(found["median_area_px2"])


def test_numbers_with_gaps_and_very_large_ones_keep_their_names() -> None:
    numbers = np.zeros((4, 6), dtype=np.uint32)
    numbers[0, :2], numbers[2:, 4:] = 4_000_000_000, LISTED + 5
    for values in (numbers, np.where(numbers == 0, np.uint32(LISTED + 9), numbers)):
        table = measure(Scene(values, (1.0, 1.0)))
        pixels = dict(zip(table["id"], table["pixels"], strict=True))
        assert pixels.items() >= {4_000_000_000: 2, LISTED + 5: 4}.items()
        assert sum(pixels.values()) == np.count_nonzero(values)


def test_classes_by_array_and_by_mapping() -> None:
    numbers = np.array([[1, 1, 0, 4]], dtype=np.uint16)
    names = ("tumour", "stroma")
    for classes in (np.array([0, 2, 0, 0, 1], dtype=np.uint8), {1: 2, 4: 1}):
        scene = Scene(numbers, (1.0, 1.0), class_names=names, classes=classes)
        table = measure(scene)
        assert table["class"].tolist() == ["stroma", "tumour"]
        found = summary(table, scene)
        assert (found["count"], found["count_tumour"], found["count_stroma"]) == (2, 1, 1)
    for classes in (np.array([0, 2, 0]), {1: 2}, {1: 3, 4: 1}):
        with pytest.raises(DataError, match="class"):
            measure(Scene(numbers, (1.0, 1.0), class_names=names, classes=classes))


def test_a_summary_in_square_millimetres() -> None:
    numbers = np.zeros((100, 200), dtype=np.uint8)
    numbers[10:20, 10:20], numbers[50:70, 50:60] = 1, 2
    scene = Scene(numbers, (0.5, 0.5), "um")
    found = summary(measure(scene), scene)
    assert found["image_mm2"] == pytest.approx(0.005)
    assert found["density_per_mm2"] == pytest.approx(400)
    assert found["confluence"] == pytest.approx(300 / 20_000)
    assert found["mean_area_um2"] == pytest.approx(37.5)
    assert summary(measure(scene), scene, np.ones_like(numbers, dtype=bool))["confluence"] == 1


def test_units_are_those_of_scores() -> None:
    from medseg.evaluate.score import VOLUME_UNITS

    for (unit, dims), (named, factor) in VOLUME_UNITS.items():
        assert size_column(unit, dims).endswith(f"_{named}")
        assert SIZE_UNITS.get((unit, dims), (named, 1.0))[1] == factor
    row = measure(Scene(np.ones((2, 2, 2), dtype=np.uint8), (10.0, 10.0, 5.0), "mm", axes="xyz")).iloc[0]
    assert row["volume_ml"] == pytest.approx(4)
    assert row["centroid_z_mm"] == pytest.approx(2.5)


def test_what_cannot_be_measured_is_an_error() -> None:
    numbers = np.ones((2, 2), dtype=np.uint8)
    for bad in (numbers.astype(np.float32), numbers[0], -numbers.astype(np.int16)):
        with pytest.raises(DataError):
            Scene(bad, (1.0, 1.0))
    for spacing in ((1.0,), (1.0, 0.0), (1.0, float("nan"))):
        with pytest.raises(DataError):
            Scene(numbers, spacing)
    with pytest.raises(DataError, match="axes"):
        Scene(numbers, (1.0, 1.0), axes="yz")
    with pytest.raises(GeometryError):
        measure(Scene(numbers, (1.0, 1.0)), np.zeros((1, 2, 3)))
    for channels in (("a",), ("a", "a")):
        with pytest.raises(DataError):
            measure(Scene(numbers, (1.0, 1.0)), np.zeros((2, 2, 2)), channels)


def test_measurements_beside_matches() -> None:
    from medseg.metrics.object_errors import object_rows

    # 5 is found as 8, 2 is missed, 9 is invented.
    reference = np.array([[5, 5, 5, 0, 2, 0, 0, 0]])
    prediction = np.array([[8, 8, 0, 0, 0, 0, 9, 9]])
    rows = object_rows(reference, prediction)
    found = joined(measure(Scene(prediction, (1.0, 1.0))), rows)
    assert found["id"].tolist() == [8, 9] and found["match"].tolist() == [5, 0]
    assert found["status"].tolist() == ["tp", "fp"] and found["iou"].tolist() == [pytest.approx(2 / 3), 0]
    table = measure(Scene(reference, (1.0, 1.0)))
    found = joined(table, rows, "reference")
    assert found["id"].tolist() == [2, 5] and found["match"].tolist() == [0, 8]
    assert found["status"].tolist() == ["fn", "tp"]
    assert found.columns.tolist() == [*table.columns, "status", "iou", "match", "merged", "split"]
    assert joined(table.iloc[:0], []).columns.tolist() == found.columns.tolist()
    for bad in (rows[:1], [*rows, *rows]):
        with pytest.raises(DataError, match="objects"):
            joined(table, bad, "reference")
