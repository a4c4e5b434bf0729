"""Change of grid: world coordinates as the oracle for images, membership and exactness for labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.image.geometry import Geometry
from medseg.image.resample import (
    crop,
    nonzero_box,
    reorient,
    reorient_back,
    resample_image,
    resample_labels,
    resampled_shape,
)

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

    out = resample_image(ramps(old), new, order=order)
    assert out.dtype == np.float32
    # The border is clamped, and cubic splines ring a little before they have forgotten it.
    edge = [max(1, round(6 * n / m)) for n, m in zip(new, shape, strict=True)]
    inner = (slice(None), *[slice(e, n - e) for e, n in zip(edge, new, strict=True)])
    assert out[inner].size
    np.testing.assert_allclose(out[inner], ramps(target)[inner], atol=3e-3)


@given(st.lists(st.integers(1, 8), min_size=2, max_size=3), st.data())
def test_resampling_keeps_constants_and_identity(shape: list[int], data: st.DataObject) -> None:
    new = [data.draw(st.integers(1, 12)) for _ in shape]
    np.testing.assert_allclose(resample_image(np.full((2, *shape), -3.25), new), -3.25, rtol=1e-5)
    image = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    np.testing.assert_array_equal(resample_image(image, shape), image)


def test_channels_are_resampled_apart() -> None:
    image = np.random.default_rng(0).standard_normal((3, 8, 9))
    both = resample_image(image, (12, 5))
    for channel, alone in zip(both, image, strict=True):
        np.testing.assert_array_equal(channel, resample_image(alone[None], (12, 5))[0])


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
