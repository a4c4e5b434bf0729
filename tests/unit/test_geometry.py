"""Grids in the world, against nibabel and against plain matrix arithmetic on voxel centres."""

from __future__ import annotations

import itertools
import json

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.errors import ConfigError, GeometryError
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry, canonical_axes, require_same_grid
from medseg.image.labels import LabelTable
from medseg.image.resample import crop, reorient, reorient_back


def world(geometry: Geometry) -> np.ndarray:
    """World coordinates (d, S) of every voxel centre."""
    index = np.indices(geometry.shape).reshape(geometry.dims, -1)
    points = geometry.affine[:-1, :-1] @ index + geometry.affine[:-1, -1:]
    return points.reshape(geometry.dims, *geometry.shape)


def rotation(angles: np.ndarray) -> np.ndarray:
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        out = out @ turn
    return out


@st.composite
def grids(draw: st.DrawFn, dims: int | None = None) -> Geometry:
    dims = dims or draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(1, 7)] * dims))
    spacing = np.array(draw(st.tuples(*[st.floats(0.2, 6.0)] * dims)))
    angles = np.array(draw(st.tuples(*[st.floats(-3.1, 3.1)] * 3)))
    turn = rotation(angles) if dims == 3 else rotation(np.array([0, 0, angles[2]]))[:2, :2]
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = turn @ np.diag(spacing * np.array(draw(st.tuples(*[st.sampled_from([1, -1])] * dims))))
    affine[:-1, -1] = draw(st.tuples(*[st.floats(-100, 100)] * dims))
    return Geometry.create(shape, affine)


def outer_corners(geometry: Geometry) -> np.ndarray:
    """World coordinates of the outer corners of the grid's box: half a voxel beyond the first and last centres."""
    corners = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in geometry.shape])))
    return corners @ geometry.affine[:-1, :-1].T + geometry.affine[:-1, -1]


@given(grids(), st.data())
def test_reorienting_moves_voxels_not_the_world(geometry: Geometry, data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(geometry.dims)))
    flips = data.draw(st.tuples(*[st.booleans()] * geometry.dims))
    turned = geometry.reoriented(axes, flips)
    there = reorient(world(geometry), axes, flips)
    assert turned.shape == there.shape[1:]
    np.testing.assert_allclose(world(turned), there, atol=1e-9)
    np.testing.assert_array_equal(reorient_back(there, axes, flips), world(geometry))
    assert turned.voxel_volume == pytest.approx(geometry.voxel_volume)


@given(grids(), st.data())
def test_cropping_keeps_every_voxel_where_it_is(geometry: Geometry, data: st.DataObject) -> None:
    start = [data.draw(st.integers(0, n - 1)) for n in geometry.shape]
    shape = [data.draw(st.integers(1, n - s)) for n, s in zip(geometry.shape, start, strict=True)]
    np.testing.assert_allclose(world(geometry.cropped(start, shape)), crop(world(geometry), start, shape), atol=1e-9)


@given(grids(), st.data())
def test_resampling_keeps_the_extent(geometry: Geometry, data: st.DataObject) -> None:
    shape = [data.draw(st.integers(1, 12)) for _ in geometry.shape]
    new = geometry.resampled(shape)
    assert new.shape == tuple(shape)
    np.testing.assert_allclose(outer_corners(new), outer_corners(geometry), atol=1e-8)
    extent = np.array(geometry.shape) * geometry.spacing
    np.testing.assert_allclose(np.array(shape) * new.spacing, extent)
    np.testing.assert_allclose(new.resampled(geometry.shape).affine, geometry.affine, atol=1e-8)


@given(grids(dims=3))
def test_canonical_axes_are_nibabels(geometry: Geometry) -> None:
    data = np.arange(np.prod(geometry.shape), dtype=np.int32).reshape(geometry.shape)
    expected = nibabel.as_closest_canonical(nibabel.Nifti1Image(data, geometry.affine))
    axes, flips = canonical_axes(geometry)
    np.testing.assert_array_equal(reorient(data, axes, flips), np.asanyarray(expected.dataobj))
    np.testing.assert_allclose(geometry.reoriented(axes, flips).affine, expected.affine, atol=1e-9)


@given(grids(dims=2))
def test_pictures_are_never_turned(geometry: Geometry) -> None:
    assert canonical_axes(geometry) == ((0, 1), (False, False))


@given(grids(), st.data())
def test_corner_distance_is_the_largest_in_voxels(geometry: Geometry, data: st.DataObject) -> None:
    assert geometry.corner_distance_voxels(geometry) == pytest.approx(0, abs=1e-9)
    axis = data.draw(st.integers(0, geometry.dims - 1))
    by = data.draw(st.floats(-3, 3))
    step = np.eye(geometry.dims)[axis] * by
    moved = geometry.cropped(step, geometry.shape)
    assert geometry.corner_distance_voxels(moved) == pytest.approx(abs(by), abs=1e-7)
    # A grid that is scaled about its first voxel is off by most at the far corner.
    factor = data.draw(st.floats(0.9, 1.1))
    affine = geometry.affine
    affine[:-1, :-1] *= factor
    far = np.linalg.norm([n - 1 for n in geometry.shape]) * abs(factor - 1)
    assert geometry.corner_distance_voxels(Geometry.create(geometry.shape, affine)) == pytest.approx(far, abs=1e-7)


@pytest.mark.parametrize("by", [0.99, 1.01])
def test_grids_may_differ_by_a_tenth_of_a_voxel(oblique: np.ndarray, by: float) -> None:
    grid = Geometry.create((9, 8, 7), oblique)
    moved = grid.cropped((0, AFFINE_TOLERANCE_VOXELS * by, 0), grid.shape)
    if by < 1:
        require_same_grid(moved, grid, "label")
    else:
        with pytest.raises(GeometryError, match=r"label.*0\.10 voxels"):
            require_same_grid(moved, grid, "label")
    with pytest.raises(GeometryError, match=r"\(9, 8, 6\).*\(9, 8, 7\)"):
        require_same_grid(grid.cropped((0, 0, 0), (9, 8, 6)), grid, "label")


@given(grids())
def test_spacing_and_volume(geometry: Geometry) -> None:
    steps = [np.diff(world(geometry), axis=a + 1) for a in range(geometry.dims)]
    for axis, step in enumerate(steps):
        if step.size:
            np.testing.assert_allclose(np.linalg.norm(step, axis=0), geometry.spacing[axis], rtol=1e-7)
    assert geometry.voxel_volume == pytest.approx(np.prod(geometry.spacing), rel=1e-9)


@given(grids())
def test_json_round_trip_is_exact(geometry: Geometry) -> None:
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry


@pytest.mark.parametrize("size_mm", [4e-6, 1e-4, 0.5, 1e4])
def test_any_voxel_size_is_a_grid(size_mm: float) -> None:
    """Electron microscopy in millimetres has voxels of nanometres: small is not singular."""
    affine = np.diag([size_mm, size_mm, size_mm, 1.0])
    assert Geometry.create((5, 4, 3), affine).spacing == pytest.approx((size_mm,) * 3)


@pytest.mark.parametrize(
    ("affine", "cause"),
    [
        (np.eye(3), "expected 4 x 4"),
        (np.diag([1, 1, 0, 1.0]), "singular"),
        (np.diag([1, np.nan, 1, 1.0]), "not finite"),
        (np.array([[1, 2, 0, 0], [2, 4, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
    ],
)
def test_impossible_grids_are_refused(affine: np.ndarray, cause: str) -> None:
    with pytest.raises(GeometryError, match=cause):
        Geometry.create((5, 4, 3), affine)


# Label tables

TABLES = [
    LabelTable.create({"a": 1}),
    LabelTable.create({"background": 0, "b": 7, "a": 2}),
    LabelTable.create({"a": 300, "b": 255}),
]


@pytest.mark.parametrize("table", TABLES, ids=lambda t: str(t.values))
def test_label_values_and_channels_are_inverse(table: LabelTable) -> None:
    channels = np.arange(table.channels, dtype=np.uint8).reshape(1, -1).repeat(3, axis=0)
    values = table.to_values(channels)
    assert values.dtype.kind == "u"
    np.testing.assert_array_equal(values[0], [0, *table.values])
    np.testing.assert_array_equal(table.to_channels(values), channels)
    assert table.to_channels(values).dtype == np.uint8
    assert list(table.values) == sorted(table.values)
    assert LabelTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_channels_follow_the_values_not_the_order_of_names() -> None:
    assert TABLES[1].class_names == ("a", "b")
    np.testing.assert_array_equal(TABLES[1].to_channels(np.array([0, 2, 7])), [0, 1, 2])


def test_object_numbers_are_one_class() -> None:
    table = LabelTable.create({"cell": 1}, instances=True)
    np.testing.assert_array_equal(table.to_channels(np.array([0, 1, 70_000])), [0, 1, 1])


@pytest.mark.parametrize("names", [{}, {"a": 0}, {"a": -1}, {"a": 1, "b": 1}])
def test_impossible_label_tables_are_refused(names: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="labels"):
        LabelTable.create(names)
