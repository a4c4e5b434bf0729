"""Change of grid: world coordinates as the oracle for images, membership and exactness for labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from medseg.errors import GeometryError
from medseg.image.geometry import Geometry
from medseg.image.resample import (
    coarse_axis,
    crop,
    nonzero_box,
    reorient,
    reorient_back,
    resample_channel,
    resample_labels,
    resample_to,
    resampled_shape,
)
from medseg.image.spline import BLOCK, AxisChange, cardinal_cubic, weight_blocks

shapes = st.lists(st.integers(1, 9), min_size=2, max_size=3).map(tuple)
label_maps = shapes.flatmap(
    lambda s: hnp.arrays(st.sampled_from([np.uint8, np.uint16, np.int32]), s, elements=st.integers(0, 200))
)


@given(label_maps, st.data())
def test_labels_stay_labels(labels: np.ndarray, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 14)) for _ in labels.shape)
    out = resample_labels(labels, shape)
    assert out.shape == shape
    assert out.dtype == labels.dtype
    assert set(np.unique(out)) <= set(np.unique(labels))
    np.testing.assert_array_equal(resample_labels(labels, labels.shape), labels)


@given(label_maps, st.data())
def test_new_label_is_the_old_voxel_under_its_centre(labels: np.ndarray, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 14)) for _ in labels.shape)
    old = Geometry.from_spacing(labels.shape, [1.0] * labels.ndim)
    centres = np.indices(shape).reshape(labels.ndim, -1).T @ old.resampled(shape).affine[:-1, :-1].T
    centres = centres + old.resampled(shape).affine[:-1, -1]
    # A centre that falls on the border of two voxels may go to either.
    clear = (np.abs(centres % 1 - 0.5) > 1e-9).all(axis=1)
    index = np.round(centres).astype(int)[clear]
    np.testing.assert_array_equal(resample_labels(labels, shape).ravel()[clear], labels[tuple(index.T)])


@given(label_maps, st.integers(1, 4))
def test_labels_on_a_finer_grid_come_back_exactly(labels: np.ndarray, factor: int) -> None:
    fine = resample_labels(labels, [n * factor for n in labels.shape])
    expected = labels
    for axis in range(labels.ndim):
        expected = expected.repeat(factor, axis=axis)
    np.testing.assert_array_equal(fine, expected)
    np.testing.assert_array_equal(resample_labels(fine, labels.shape), labels)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_])
def test_labels_that_are_no_integers_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="expected integers"):
        resample_labels(np.zeros((4, 4), dtype=dtype), (2, 2))


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("shape", "new"), [((24, 30), (36, 20)), ((14, 18, 14), (21, 18, 35)), ((30, 20), (13, 41))])
def test_image_values_stay_at_their_place_in_the_world(
    shape: tuple[int, ...], new: tuple[int, ...], order: int
) -> None:
    """A linear ramp is its own interpolation: away from the border every new voxel holds its world coordinate."""
    old = Geometry.from_spacing(shape, (1.5, 0.7, 2.0)[: len(shape)])
    target = old.resampled(new)

    def ramps(grid: Geometry) -> np.ndarray:
        index = np.indices(grid.shape).reshape(grid.dims, -1)
        points = grid.affine[:-1, :-1] @ index + grid.affine[:-1, -1:]
        return points.reshape(grid.dims, *grid.shape)

    out = np.stack([resample_channel(ramp, new, order) for ramp in ramps(old)])
    assert out.dtype == np.float32
    # The border is clamped, and cubic splines ring a little before they have forgotten it.
    edge = [max(1, round(6 * n / m)) for n, m in zip(new, shape, strict=True)]
    inner = (slice(None), *[slice(e, n - e) for e, n in zip(edge, new, strict=True)])
    assert out[inner].size
    np.testing.assert_allclose(out[inner], ramps(target)[inner], atol=3e-3)


@given(st.lists(st.integers(1, 8), min_size=2, max_size=3), st.data())
def test_resampling_keeps_constants_and_identity(shape: list[int], data: st.DataObject) -> None:
    new = [data.draw(st.integers(1, 12)) for _ in shape]
    np.testing.assert_allclose(resample_channel(np.full(shape, -3.25), new), -3.25, rtol=1e-5)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.testing.assert_array_equal(resample_channel(image, shape), image)


# The spline


def zoomed(channel: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """The oracle: the same promise, kept by a gather in double precision."""
    factors = [n / m for n, m in zip(shape, channel.shape, strict=True)]
    return ndimage.zoom(channel, factors, order=order, mode="nearest", grid_mode=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=3), st.sampled_from([1, 3]), st.data())
def test_separable_resampling_is_scipys_zoom(shape: list[int], order: int, data: st.DataObject) -> None:
    new = tuple(data.draw(st.integers(1, 60)) for _ in shape)
    channel = np.random.default_rng(len(shape)).uniform(-1, 1, shape).astype(np.float32)
    np.testing.assert_allclose(resample_channel(channel, new, order), zoomed(channel, new, order), atol=1e-5)


def test_blocks_of_long_axes_meet() -> None:
    channel = np.random.default_rng(0).uniform(-1, 1, (3 * BLOCK + 5, 6)).astype(np.float32)
    for new in (5 * BLOCK + 1, BLOCK, 2 * BLOCK - 1):
        np.testing.assert_allclose(resample_channel(channel, (new, 6)), zoomed(channel, (new, 6), 3), atol=1e-5)


def test_the_layout_in_memory_does_not_matter() -> None:
    image = np.random.default_rng(0).integers(-1000, 3000, (20, 30, 25)).astype(np.int16)
    expected = resample_channel(image, (31, 22, 25))
    for order in ("F", "C"):
        for flips in ((), (0,), (1, 2)):
            stored = np.flip(np.array(np.flip(image, flips), order=order), flips)
            np.testing.assert_array_equal(resample_channel(stored, (31, 22, 25)), expected)


def test_the_cardinal_spline_goes_through_the_samples() -> None:
    np.testing.assert_allclose(cardinal_cubic(np.arange(-12.0, 13.0)), np.arange(-12, 13) == 0, atol=1e-9)
    u = np.linspace(-3, 3, 101)
    np.testing.assert_allclose(cardinal_cubic(u), cardinal_cubic(-u), atol=1e-12)
    spread = sum(cardinal_cubic(u - k) for k in range(-13, 14))
    np.testing.assert_allclose(spread, 1, atol=1e-6)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("old", "new"), [(1, 7), (7, 1), (9, 9), (100, 260), (260, 100)])
def test_every_new_voxel_has_weights_that_add_up_to_one(old: int, new: int, order: int) -> None:
    seen = []
    for rows, columns, weights in weight_blocks(AxisChange(old, new, order)):
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
        assert weights.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert 0 <= columns.start < columns.stop <= old
        seen += range(rows.start, rows.stop)
    assert seen == list(range(new))


# Anisotropy


@pytest.mark.parametrize(
    ("spacing", "target", "axis"),
    [
        ((0.8, 0.8, 3.0), (1.0, 1.0, 1.0), 2),
        ((5.0, 0.8, 0.8), (1.0, 1.0, 1.0), 0),
        ((1.0, 1.0, 3.0), (1.0, 1.0, 1.0), None),  # three times is not more than three times
        ((1.0, 1.0, 3.00000012), (1.0, 1.0, 1.0), None),  # nor is it when a header rounds
        ((0.24, 1.25, 1.25000006), (1.0, 1.0, 1.0), None),
        ((1.0, 1.0, 1.0), (0.5, 4.0, 0.5), 1),  # the new grid alone is anisotropic
        ((0.5, 0.5, 4.0), (4.0, 0.5, 0.5), 2),  # the old grid's axis comes first
        ((0.24, 1.25, 1.25), (1.0, 1.0, 1.0), None),  # two coarse axes: none of them is the slice axis
        ((0.24, 1.25, 1.25), (1.0, 1.0, 9.0), None),
        ((1.0, 9.0), (1.0, 1.0), None),  # pictures have no slices
    ],
)
def test_the_coarse_axis_of_anisotropic_grids(
    spacing: tuple[float, ...], target: tuple[float, ...], axis: int | None
) -> None:
    assert coarse_axis(spacing, target) == axis


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_far_apart_are_resampled_one_by_one(axis: int) -> None:
    """As two steps of the oracle: cubic within each slice, then the slice whose voxels hold the new centres."""
    rng = np.random.default_rng(axis)
    old, new = [18, 15, 12], [25, 11, 16]
    channel = rng.uniform(-1, 1, old).astype(np.float32)
    flat = tuple(n for a, n in enumerate(new) if a != axis)
    slices = np.stack([zoomed(s, flat, 3) for s in np.moveaxis(channel, axis, 0)])
    index = resample_labels(np.arange(old[axis])[:, None], (new[axis], 1))[:, 0]
    expected = np.moveaxis(slices[index], 0, axis)
    np.testing.assert_allclose(resample_channel(channel, new, coarse=axis), expected, atol=1e-5)


@given(st.integers(1, 9), st.integers(1, 20))
def test_images_and_labels_take_the_same_slices(old: int, new: int) -> None:
    numbers = np.arange(old, dtype=np.int16)[:, None, None] * np.ones((1, 4, 4), np.int16)
    image = resample_channel(numbers, (new, 4, 4), coarse=0)
    np.testing.assert_array_equal(image, resample_labels(numbers, (new, 4, 4)))


def test_order_zero_is_what_labels_get() -> None:
    labels = np.random.default_rng(0).integers(0, 9, (7, 11, 5))
    np.testing.assert_array_equal(resample_channel(labels, (13, 4, 9), order=0), resample_labels(labels, (13, 4, 9)))


# Onto another grid

OBLIQUE = Geometry.create((12, 10, 8), np.array([[0, 1.2, 0, 3], [-0.9, 0, 0.1, 4], [0, 0.1, 2, -1], [0, 0, 0, 1]]))


def some_channels() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 900, (2, *OBLIQUE.shape)).astype(np.int16)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_same_grid_in_any_orientation_keeps_every_value(order: int) -> None:
    image = some_channels()
    for axes, flips in (((0, 1, 2), (False,) * 3), ((2, 0, 1), (True, False, True))):
        moved = resample_to(image, OBLIQUE, OBLIQUE.reoriented(axes, flips), order)
        assert moved.dtype == np.float32
        np.testing.assert_allclose(moved, reorient(image, axes, flips), atol=2e-3)


@pytest.mark.parametrize("lowest", [0, -1024])
def test_outside_of_what_was_measured_there_is_nothing(lowest: int) -> None:
    image = some_channels()
    image[0, 3, 3, 3] = lowest
    wide = resample_to(image, OBLIQUE, OBLIQUE.cropped((-2, 3, 1), (20, 5, 9)), 0)
    np.testing.assert_array_equal(wide[:, 2:14, :, :7], image[:, :, 3:8, 1:8])
    for part in (wide[0, :2], wide[0, 14:], wide[0, :, :, 7:]):
        assert (part == lowest).all()
    assert (wide[1, :2] == 0).all()


@pytest.mark.parametrize("order", [1, 3])
def test_channels_stay_at_their_place_in_the_world(order: int) -> None:
    target = Geometry.create((9, 9, 9), np.array([[0.8, 0.2, 0, 6], [-0.2, 0.9, 0, -2], [0, 0, 1.1, 4], [0, 0, 0, 1]]))

    def ramp(grid: Geometry) -> np.ndarray:
        points = grid.affine[:3, :3] @ np.indices(grid.shape).reshape(3, -1) + grid.affine[:3, 3:]
        return (np.array([3.0, -2.0, 1.5]) @ points + 500).reshape(grid.shape)

    found = resample_to(ramp(OBLIQUE)[None], OBLIQUE, target, order)[0]
    inside = resample_to(np.ones((1, *OBLIQUE.shape)), OBLIQUE, target, 0)[0] == 1
    assert 0.2 < inside.mean() < 1
    assert (found[~inside] == 0).all()
    deep = ndimage.binary_erosion(inside, iterations=3)
    assert deep.any()
    np.testing.assert_allclose(found[deep], ramp(target)[deep], atol=0.05)


def test_grids_without_a_common_world_are_refused() -> None:
    flat = Geometry.from_spacing((4, 4), (1, 1), "um")
    for other in (OBLIQUE, Geometry.from_spacing((4, 4), (1, 1), "px")):
        with pytest.raises(GeometryError, match="share no world"):
            resample_to(np.ones((1, 4, 4)), flat, other)


@given(shapes, st.data())
def test_nonzero_box_is_the_smallest_that_holds_all(shape: tuple[int, ...], data: st.DataObject) -> None:
    mask = data.draw(hnp.arrays(np.int8, (2, *shape), elements=st.sampled_from([0, 0, 0, 5, -5])))
    start, size = nonzero_box(mask)
    inside = crop(mask, start, size)
    assert np.count_nonzero(inside) == np.count_nonzero(mask)
    if mask.any():
        for axis in range(len(shape)):
            faces = inside.any(axis=0).take([0, -1], axis=axis)
            assert faces.any(axis=tuple(a for a in range(len(shape)) if a != axis)).all()
    else:
        assert (start, size) == ((0,) * len(shape), shape)


@given(st.data())
def test_leading_axes_are_left_alone(data: st.DataObject) -> None:
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    axes = data.draw(st.permutations(range(3)))
    flips = data.draw(st.tuples(*[st.booleans()] * 3))
    turned = reorient(array, axes, flips)
    np.testing.assert_array_equal(turned[1], reorient(array[1], axes, flips))
    np.testing.assert_array_equal(reorient_back(turned, axes, flips), array)


@given(st.integers(1, 400), st.floats(0.05, 8), st.floats(0.05, 8))
def test_shape_covers_the_extent_within_half_a_voxel(n: int, spacing: float, target: float) -> None:
    (new,) = resampled_shape([n], [spacing], [target])
    assert new >= 1
    assert abs(new * target - n * spacing) <= 0.5 * target + 1e-9 or new == 1
    assert resampled_shape([n], [spacing], [spacing]) == (n,)
