"""Neighbouring objects never share a colour, and few colours are used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from medseg.image.labels import COLOURS
from medseg.objects.colouring import colouring, neighbours, palette, rgb_of


def near_by_loops(numbers: NDArray[np.uint8], near: int) -> dict[int, set[int]]:
    places = {int(n): np.argwhere(numbers == n) for n in np.unique(numbers) if n}
    return {
        one: {
            other
            for other, theirs in places.items()
            if other != one and np.abs(mine[:, None] - theirs[None]).max(axis=2).min() <= near
        }
        for one, mine in places.items()
    }


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(
        arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 0, 0, 1, 2, 5, 9])),
        arrays(np.uint8, (3, 4, 5), elements=st.sampled_from([0, 0, 0, 1, 2, 5, 9])),
        arrays(np.uint8, (1, 2), elements=st.sampled_from([0, 1, 2])),
    ),
    st.sampled_from([1, 2]),
)
def test_neighbours_are_those_of_a_loop_over_voxels(numbers: NDArray[np.uint8], near: int) -> None:
    assert neighbours(numbers, near) == near_by_loops(numbers, near)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_neighbours_have_different_colours(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    near: dict[int, set[int]] = {number: set() for number in range(1, count + 1)}
    for one, other in rng.integers(1, count + 1, (rng.integers(0, 5 * count), 2)).tolist():
        if one != other:
            near[one].add(other)
            near[other].add(one)
    colours = colouring(near)
    assert colours.keys() == near.keys()
    assert all(colours[one] != colours[other] for one, others in near.items() for other in others)
    assert max(colours.values()) < max(len(COLOURS), 1 + max(map(len, near.values())))


def test_a_crowd_of_cells_needs_no_further_colours_and_uses_all() -> None:
    # A mosaic of 400 touching cells: the graph is nearly planar.
    rng = np.random.default_rng(0)
    seeds = rng.random((400, 2)) * 300
    places = np.stack(np.meshgrid(np.arange(300), np.arange(300), indexing="ij"), axis=-1)
    numbers = np.empty((300, 300), dtype=np.uint16)
    for row, line in enumerate(places):
        numbers[row] = 1 + np.square(line[:, None] - seeds[None]).sum(axis=2).argmin(axis=1)
    colours = colouring(neighbours(numbers))
    assert set(colours.values()) == set(range(len(COLOURS)))


def test_a_clique_gets_a_colour_each() -> None:
    near = {number: set(range(12)) - {number} for number in range(12)}
    assert sorted(colouring(near).values()) == list(range(12))


@pytest.mark.parametrize("count", [0, 3, len(COLOURS), 40])
def test_colours_of_the_palette_are_distinct(count: int) -> None:
    made = palette(count)
    assert len(set(made)) == count
    assert made[: len(COLOURS)] == [rgb_of(colour) for colour in COLOURS][:count]
