"""Where patches are taken: functions of a key, fair to every case and voxel, true to their promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.patches.sampling import case_of, fold_seed, forced_foreground, generator, patch_start


def test_equal_keys_draw_equal_numbers_whatever_was_drawn_before() -> None:
    first = generator(3, 1, 2).random(5)
    other = generator(3, 1, 3)
    other.random(1000)
    np.testing.assert_array_equal(generator(3, 1, 2).random(5), first)
    keys = [(3, 1, 2), (3, 2, 1), (3, 1, 3), (0, 1, 2), (3, 1), (3, 1, 2, 1)]
    assert len({tuple(generator(*key).random(3)) for key in keys}) == len(keys)


def test_draws_are_those_of_the_studies_made_so_far() -> None:
    """If these numbers change, by our doing or numpy's, no earlier training can be repeated: tell the changelog."""
    np.testing.assert_array_equal(generator(0, 1, 2).integers(0, 1000, 5), [555, 881, 293, 289, 554])
    assert [case_of(step, 0, 2, 7, seed=1) for step in range(7)] == [6, 4, 3, 5, 5, 4, 6]


def test_no_two_trainings_share_a_stream() -> None:
    """Keys are filled with zeros and run into one another: (0, fold 1) must not be (1, fold 0), whatever follows."""
    seeds = [0, 1, 2, 5, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**64, 2**200 + 1]
    # What a training draws: first weights, the order of cases, patches, augmentation, dropout (of the second process).
    uses = [(0,), (1, 0), (1, 1), (2, 0, 0), (2, 0, 1), (2, 1, 0), (4, 0), (4, 1), (5, 0), (5, 1), (5, 1, 1)]
    keys = [(fold_seed(seed, fold), *use) for seed in seeds for fold in range(6) for use in uses]
    assert len({tuple(generator(*key).integers(2**62, size=2)) for key in keys}) == len(keys)


def test_streams_of_folds_are_those_of_the_studies_made_so_far() -> None:
    """As above: fold 0 draws by the seed alone, the others by the SHA-256 of 'seed S fold F'."""
    assert [fold_seed(seed, 0) for seed in (0, 7, 2**32 - 1)] == [0, 7, 2**32 - 1]
    np.testing.assert_array_equal(generator(fold_seed(0, 1), 0).integers(0, 1000, 4), [895, 214, 735, 813])


@given(st.integers(1, 9), st.integers(1, 13), st.integers(0, 3), st.randoms(use_true_random=False))
def test_every_case_comes_once_per_epoch_in_any_order_of_asking(batch: int, cases: int, seed: int, random) -> None:
    asked = [(step, position) for step in range(3 * cases) for position in range(batch)]
    random.shuffle(asked)
    drawn = {(s, p): case_of(s, p, batch, cases, seed) for s, p in asked}
    line = [drawn[key] for key in sorted(drawn)]
    for epoch in range(len(line) // cases):
        assert sorted(line[epoch * cases : (epoch + 1) * cases]) == list(range(cases))


def test_epochs_and_seeds_are_shuffled_apart() -> None:
    def epoch(seed: int, number: int) -> tuple[int, ...]:
        return tuple(case_of(number * 20 + i, 0, 1, 20, seed) for i in range(20))

    assert len({epoch(seed, number) for seed in range(3) for number in range(3)}) == 9


@pytest.mark.parametrize(
    ("batch", "share", "count"), [(2, 0.33, 1), (9, 0.33, 3), (4, 0.0, 0), (4, 1.0, 4), (1, 0.33, 0)]
)
def test_share_of_foreground_patches(batch: int, share: float, count: int) -> None:
    forced = [forced_foreground(i, batch, share) for i in range(batch)]
    assert sum(forced) == count
    assert forced == sorted(forced)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    dims = draw(st.sampled_from([2, 3]))
    return draw(st.tuples(*[st.integers(1, 40)] * dims)), draw(st.tuples(*[st.integers(1, 24)] * dims))


@given(scenes(), st.integers(0, 1000), st.data())
def test_forced_patch_contains_its_foreground_voxel(
    scene: tuple[tuple[int, ...], tuple[int, ...]], seed: int, data: st.DataObject
) -> None:
    shape, patch = scene
    voxel = [data.draw(st.integers(0, n - 1)) for n in shape]
    start = patch_start(shape, patch, generator(seed), np.array([[2, *voxel]], dtype=np.int32))
    assert all(s <= v < s + p for s, v, p in zip(start, voxel, patch, strict=True))


@given(scenes(), st.integers(0, 1000), st.booleans())
def test_patch_overlaps_the_image_and_hangs_over_by_little(
    scene: tuple[tuple[int, ...], tuple[int, ...]], seed: int, forced: bool
) -> None:
    shape, patch = scene
    voxels = np.argwhere(np.ones(shape))[:: max(1, int(np.prod(shape)) // 7)]
    locations = np.column_stack([np.ones(len(voxels)), voxels]).astype(np.int32) if forced else None
    start = patch_start(shape, patch, generator(seed), locations)
    for s, n, p in zip(start, shape, patch, strict=True):
        if n <= p:
            assert s <= 0 < n <= s + p, "a small image lies whole in the patch"
        else:
            assert -(p // 8) <= s <= n - p + p // 8
    assert start == patch_start(shape, patch, generator(seed), locations)


def test_free_patches_reach_every_voxel() -> None:
    shape, patch = (30, 11), (8, 8)
    seen = np.zeros(shape, dtype=int)
    for seed in range(600):
        s = patch_start(shape, patch, generator(seed))
        seen[tuple(slice(max(0, a), a + p) for a, p in zip(s, patch, strict=True))] += 1
    # Overhang exists so that corners are not starved: they are seen about as often as elsewhere, within a factor.
    assert seen.min() > 0
    assert seen[0, 0] * 20 > seen.max()


def test_classes_are_drawn_evenly_however_rare_their_voxels() -> None:
    rare = np.array([[2, 25, 25]])
    common = np.column_stack([np.ones(400, dtype=int), np.argwhere(np.ones((20, 20)))])
    locations = np.concatenate([common, rare]).astype(np.int32)
    starts = [patch_start((30, 30), (4, 4), generator(seed), locations) for seed in range(400)]
    hits = sum(all(s <= 25 < s + 4 for s in start) for start in starts)
    assert 150 < hits < 250


def test_no_foreground_falls_back_to_a_free_patch() -> None:
    empty = np.zeros((0, 3), dtype=np.int32)
    assert patch_start((30, 30), (8, 8), generator(1), empty) == patch_start((30, 30), (8, 8), generator(1))
