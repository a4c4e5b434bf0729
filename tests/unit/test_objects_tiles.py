"""Any size: decoding tile by tile gives what decoding the whole gives, number for number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medseg.objects import tiles
from medseg.objects.decode import SPLITTERS, decode
from medseg.objects.decoding import Decoding
from medseg.objects.seams import grid_of, join
from medseg.objects.tiles import decode_tiled
from tests.object_scenes import blobs, cells, maps_of, noise


def tiled(
    head: str, maps: np.ndarray, spacing: Sequence[float], settings: Decoding, tile: Sequence[int]
) -> tuple[np.ndarray, list[tuple[slice, ...]]]:
    """What ``decode_tiled`` writes, and the boxes that it reads."""
    shape, reads = maps.shape[1:], []
    out = np.full(shape, 2**32 - 1, dtype=np.uint32)
    written: list[tuple[slice, ...]] = []

    def read(box: tuple[slice, ...]) -> np.ndarray:
        assert all(0 <= s.start < s.stop <= n for s, n in zip(box, shape, strict=True))
        reads.append(box)
        return maps[(slice(None), *box)].copy()

    def write(box: tuple[slice, ...], numbers: np.ndarray) -> None:
        assert numbers.dtype == np.uint32
        written.append(box)
        out[box] = numbers

    count = decode_tiled(head, read, shape, spacing, settings, write, tile)
    assert written == grid_of(shape, tile)
    assert count == out.max(initial=0)
    return out, reads


@pytest.mark.parametrize("head", SPLITTERS)
@given(st.integers(0, 2**32 - 1))
@example(20)
def test_tiles_give_what_the_whole_gives(head: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(2, 4))
    shape = tuple(rng.integers(1, 44 if dims == 2 else 16, dims).tolist())
    spacing = rng.choice([1.0, 2.5], dims).tolist()
    kind = rng.integers(3)
    if kind == 0:
        maps = noise(rng, dims + 1, shape)
    elif kind == 1:
        maps = maps_of(head, blobs(rng, shape, 3), spacing)
    else:
        maps = maps_of(head, cells(rng, shape, 8, (1.0, 8.0)), spacing)
    settings = Decoding(
        seed=float(rng.choice([0.1, 0.4, 0.6])),
        min_size=float(rng.integers(0, 12)),
        max_hole=float(rng.choice([0, 3, 20, 1000])),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "KEPT", int(rng.choice([0, 1000, 2**28])))
        found, _ = tiled(head, maps, spacing, settings, rng.integers(1, 20, dims).tolist())
    assert (found == decode(head, maps, spacing, settings)).all()


@pytest.mark.parametrize("head", SPLITTERS)
def test_a_snake_through_all_tiles_and_a_sheet_without_gaps(head: str) -> None:
    snake = np.zeros((41, 40), dtype=int)
    for row in range(1, 41, 4):
        snake[row, 1:39] = 1
        snake[row : row + 5, 38 if row % 8 == 1 else 1] = 1
    sheet = 1 + np.add.outer(10 * (np.arange(41) // 9), np.arange(40) // 9)
    for numbers in (snake, sheet):
        maps, settings = maps_of(head, numbers, (1, 1)), Decoding(min_size=1, max_hole=30)
        for tile in ((7, 6), (40, 1), (100, 100)):
            assert (tiled(head, maps, (1, 1), settings, tile)[0] == decode(head, maps, (1, 1), settings)).all()


def test_sinks_on_both_sides_of_a_gap_of_one_voxel_see_one_another_in_tiles_too() -> None:
    # 40 voxels flow to the left side of the gap and 25 to the right side, where they are no sink beside so large a one.
    column = np.concatenate([np.full(8, 7), [0], np.full(5, 9), np.full(11, 24)]) - np.arange(25)
    maps = np.zeros((3, 5, 25), dtype=np.int16)
    maps[0], maps[1], maps[2] = 1024, 700 * np.sign(2 - np.arange(5))[:, None], 700 * np.sign(column)
    maps[:, :, 8] = 0
    settings = Decoding(min_size=1)
    whole = decode("flows", maps, (1, 1), settings)
    assert whole.max() == 2
    assert not whole[:, 9:13].any()
    for tile in ((5, 8), (5, 9), (2, 3), (9, 99)):
        assert (tiled("flows", maps, (1, 1), settings, tile)[0] == whole).all()


def test_a_hole_across_four_tiles_is_filled_by_its_whole_size() -> None:
    ring = np.zeros((1, 20, 20), dtype=np.int16)
    ring[0, 4:16, 4:16] = 1024
    ring[0, 7:13, 7:13] = 0  # 36 voxels, 9 in each tile
    for limit, inside in ((36, 0), (37, 1)):
        found, _ = tiled("classes", ring, (1, 1), Decoding(min_size=1, max_hole=limit), (10, 10))
        assert found[9, 9] == inside


@pytest.mark.parametrize("head", SPLITTERS)
def test_what_is_read_at_once_is_a_tile_and_the_objects_that_begin_in_it(head: str) -> None:
    rng = np.random.default_rng(3)
    numbers = np.zeros((300, 310), dtype=int)
    for number in range(1, 250):
        y, x = rng.integers(0, 290, 2)
        if not numbers[max(y - 3, 0) : y + 13, max(x - 3, 0) : x + 13].any():
            numbers[y : y + 10, x : x + 10] = number
    found, reads = tiled(head, maps_of(head, numbers, (1, 1)), (1, 1), Decoding(min_size=1, max_hole=9), (50, 50))
    assert found.max() == len(np.unique(numbers)) - 1
    # A structure may begin to the right of where it is first seen, and end in the next tile.
    assert max(math.prod(s.stop - s.start for s in box) for box in reads) <= 76**2


@pytest.mark.parametrize("shape", [(30, 31), (9, 10, 11)])
def test_components_are_joined_whatever_the_tiles(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.45
    seen = []
    for tile in ([5, 4, 3], [2, 30, 4], [50, 50, 50]):
        boxes = grid_of(shape, tile[: len(shape)])
        found = join(boxes, shape, [mask[b] for b in boxes].__getitem__)
        order = np.argsort(found.first[1:]) + 1
        seen.append([x[order].tolist() for x in (found.sizes, found.first, found.low, found.high)])
    assert seen[0] == seen[1] == seen[2]
    assert sum(seen[0][0]) == mask.sum()
