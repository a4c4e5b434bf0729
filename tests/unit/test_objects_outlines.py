"""Outlines cover the pixels of their object and no others, and are valid polygons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from medseg.objects.outlines import Polygon, outlines, polygons, signed_area
from medseg.objects.scene import Scene

MASKS = st.integers(0, 2**32).map(
    lambda seed: np.random.default_rng(seed).random(np.random.default_rng(seed).integers(1, 12, 2)) < seed % 10 / 9
)


def rasterised(found: list[Polygon] | tuple[Polygon, ...], shape: tuple[int, ...]) -> NDArray[np.int_]:
    """How many polygons cover the centre of each pixel, by the number of edges to its left (even-odd)."""
    covered = np.zeros(shape, dtype=int)
    for polygon in found:
        inside = np.zeros(shape, dtype=int)
        for ring in (polygon.outer, *polygon.holes):
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                if x0 == x1:
                    inside[min(y0, y1) : max(y0, y1), x0:] += 1
        covered += inside % 2
    return covered


@settings(deadline=None, max_examples=300)
@given(MASKS)
def test_polygons_cover_just_the_pixels_of_a_mask(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(rasterised(polygons(mask), mask.shape), mask)


@settings(deadline=None, max_examples=300)
@given(MASKS)
def test_rings_are_simple_wound_by_the_rule_and_without_superfluous_points(mask: NDArray[np.bool_]) -> None:
    total = 0.0
    for polygon in polygons(mask):
        assert signed_area(polygon.outer) > 0
        assert all(signed_area(hole) < 0 for hole in polygon.holes)
        for ring in (polygon.outer, *polygon.holes):
            total += signed_area(ring)
            assert len({tuple(point) for point in ring.tolist()}) == len(ring) >= 4
            steps = np.roll(ring, -1, axis=0) - ring
            assert ((steps == 0).sum(axis=1) == 1).all()
            # Corners alternate between turns of a horizontal and a vertical edge.
            assert ((steps[:, 0] == 0) != (np.roll(steps, 1, axis=0)[:, 0] == 0)).all()
    assert total == mask.sum()


@settings(deadline=None, max_examples=100)
@given(arrays(np.uint8, (5, 4, 6), elements=st.integers(0, 3)), st.permutations("xyz"))
def test_outlines_of_volumes_are_those_of_their_slices(numbers: NDArray[np.uint8], axes: list[str]) -> None:
    scene = Scene(numbers, (1.0, 1.0, 1.0), axes="".join(axes))
    planes = numbers.transpose([axes.index(axis) for axis in "zyx"])
    drawn = np.zeros(planes.shape, dtype=int)
    for number, plane, found in outlines(scene):
        assert plane is not None
        drawn[plane] += number * rasterised(found, planes.shape[1:])
    np.testing.assert_array_equal(drawn, planes)


def test_a_ring_with_a_hole_and_two_pixels_that_meet_at_a_corner() -> None:
    ring = np.ones((3, 4), dtype=bool)
    ring[1, 1:3] = False
    (polygon,) = polygons(ring)
    assert polygon.outer.tolist() == [[0, 0], [4, 0], [4, 3], [0, 3]]
    assert [hole.tolist() for hole in polygon.holes] == [[[1, 1], [1, 2], [3, 2], [3, 1]]]
    assert len(polygons(np.eye(2, dtype=bool))) == 2


def test_a_ring_that_closes_at_a_corner_is_an_outer_ring_and_a_hole_that_touch() -> None:
    # The piece hangs together by edges and meets itself at a corner, around one pixel.
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    (polygon,) = polygons(mask)
    assert len(polygon.holes) == 1
    assert polygon.outer.tolist() == [[0, 0], [3, 0], [3, 2], [2, 2], [2, 3], [0, 3]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1)])
def test_a_full_box_has_four_corners(shape: tuple[int, int]) -> None:
    (polygon,) = polygons(np.ones(shape, dtype=bool))
    assert len(polygon.outer) == 4 and not polygon.holes


def test_places_are_those_of_the_image() -> None:
    numbers = np.zeros((10, 20), dtype=np.uint16)
    numbers[3:5, 7:11] = 9
    (outline,) = outlines(Scene(numbers, (1.0, 1.0)))
    assert outline.number == 9 and outline.plane is None
    assert outline.polygons[0].outer.tolist() == [[7, 3], [11, 3], [11, 5], [7, 5]]
    (turned,) = outlines(Scene(numbers, (1.0, 1.0), axes="xy"))
    assert turned.polygons[0].outer.tolist() == [[3, 7], [5, 7], [5, 11], [3, 11]]
