"""What networks learn of objects: worked examples, brute-force oracles, laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg.objects import diffusion
from medseg.objects.diffusion import flow_field
from medseg.objects.targets import BACKGROUND, BAND, CORE, RING, boundary_codes, inner_distance
from tests.object_scenes import blobs, cells

SPACINGS = {2: ((1.0, 1.0), (0.5, 0.8), (1.0, 4.0)), 3: ((1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (0.9, 0.9, 4.0))}


def one(numbers: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(numbers, dtype=np.int64))[None]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[float, ...]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dims = draw(st.sampled_from([2, 3]))
    shape = tuple(rng.integers(1, 26 if dims == 2 else 12, dims).tolist())
    kind = draw(st.sampled_from(["cells", "blobs", "specks"]))
    if kind == "cells":
        numbers = cells(rng, shape, int(rng.integers(1, 8)), (1.0, 8.0))
    elif kind == "blobs":
        numbers = blobs(rng, shape, int(rng.integers(1, 5)))
    else:
        numbers = rng.integers(0, 4, shape)
    return numbers, draw(st.sampled_from(SPACINGS[dims]))


def test_codes_of_a_square() -> None:
    numbers = np.zeros((7, 7))
    numbers[1:6, 1:6] = 1
    expected = [
        [0, 3, 3, 3, 3, 3, 0],
        [3, 2, 2, 2, 2, 2, 3],
        [3, 2, 1, 1, 1, 2, 3],
        [3, 2, 1, 1, 1, 2, 3],
        [3, 2, 1, 1, 1, 2, 3],
        [3, 2, 2, 2, 2, 2, 3],
        [0, 3, 3, 3, 3, 3, 0],
    ]
    assert boundary_codes(one(numbers), (1, 1))[0].tolist() == expected


def test_codes_of_two_that_touch_and_leave_the_array() -> None:
    # No band along the array's edge; both sides of the contact have one; the middle row survives in a flat object.
    numbers = [[1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 3]]
    assert boundary_codes(one(numbers), (1, 1))[0].tolist() == [
        [1, 1, 2, 2, 1, 1],
        [2, 2, 2, 2, 2, 2],
        [3, 3, 3, 3, 3, 1],
    ]


@pytest.mark.parametrize(("side", "width"), [(17, 1), (18, 2), (44, 2), (45, 3)])
def test_the_band_grows_with_the_area(side: int, width: int) -> None:
    numbers = np.pad(np.ones((side, side)), 1)
    row = boundary_codes(one(numbers), (1, 1))[0, side // 2].tolist()
    assert row == [RING] + [BAND] * width + [CORE] * (side - 2 * width) + [BAND] * width + [RING]


@pytest.mark.parametrize(("side", "width"), [(20, 1), (21, 2), (30, 2), (31, 3), (40, 3)])
def test_the_band_of_volumes_is_a_share_of_the_diameter(side: int, width: int) -> None:
    # 0.08 times the diameter of a ball of the volume is 0.0993 times the side.
    codes = boundary_codes(one(np.pad(np.ones((side, side, side)), 1)), (1, 1, 1))[0]
    row = [RING] + [BAND] * width + [CORE] * (side - 2 * width) + [BAND] * width + [RING]
    assert codes[side // 2, side // 2].tolist() == row


def test_a_coarse_axis_has_a_band_only_where_objects_touch() -> None:
    numbers = np.zeros((8, 9, 9))
    numbers[1:4, 1:8, 1:8], numbers[4:7, 1:8, 1:8] = 1, 2
    assert boundary_codes(one(numbers), (4, 1, 1))[0, :, 4, 4].tolist() == [
        RING,
        CORE,
        CORE,
        BAND,
        BAND,
        CORE,
        CORE,
        RING,
    ]


def test_a_neck_keeps_the_core_in_one_piece() -> None:
    numbers = np.zeros((30, 70))
    numbers[2:28, 2:28], numbers[2:28, 42:68], numbers[13:16, 28:42] = 1, 1, 1
    codes = boundary_codes(one(numbers), (1, 1))[0].numpy()
    assert ndimage.label(codes == CORE)[1] == 1
    numbers[13:16, 35] = 0  # two pieces: each has its own core, at full width
    assert ndimage.label(boundary_codes(one(numbers), (1, 1))[0].numpy() == CORE)[1] == 2


def surroundings(numbers: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(S) distance to another label in units of the finest spacing, and whether another object shares a face."""
    points = np.argwhere(np.ones(numbers.shape)) * np.array(spacing) / min(spacing)
    flat = numbers.ravel()
    between = cdist(points, points)
    between[flat[:, None] == flat[None]] = np.inf
    steps = cdist(np.argwhere(np.ones(numbers.shape)), np.argwhere(np.ones(numbers.shape)), "cityblock")
    faces = (steps == 1) & (flat[:, None] != flat[None])
    touches = (faces & (flat[None] > 0)).any(axis=1)
    return between.min(axis=1).reshape(numbers.shape), touches.reshape(numbers.shape)


def width_of(numbers: np.ndarray, number: int, spacing: tuple[float, ...]) -> float:
    dims, volume = numbers.ndim, (numbers == number).sum() * math.prod(spacing) / min(spacing) ** numbers.ndim
    if dims == 2:
        return 1.0 if volume < 300 else 2.0 if volume < 2000 else 3.0
    return min(max(0.08 * (6 * volume / math.pi) ** (1 / 3), 1.0), 3.0)


def codes_by_hand(numbers: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The rule of the docstring from all pairs of voxels."""
    away, touches = surroundings(numbers, spacing)
    codes = np.where((numbers == 0) & touches, RING, np.where(numbers > 0, BAND, BACKGROUND))
    for number in set(numbers.ravel().tolist()) - {0}:
        own, full = numbers == number, width_of(numbers, number, spacing)
        for width in (full, 2.0, 1.0, 0.0):
            core = own & (away > min(width, full) + 1e-6) & ~touches
            seeds = np.bincount(ndimage.label(core)[0].ravel())[1:] >= (4 if numbers.ndim == 2 else 8)
            if seeds.sum() <= max(1, ndimage.label(own)[1]):
                break
        if not core.any():
            core = own & (away >= away[own].max() - 1e-6)
        codes[core] = CORE
    return codes


@given(scenes())
def test_codes_are_those_of_all_pairs(scene: tuple) -> None:
    numbers, spacing = scene
    assert (boundary_codes(one(numbers), spacing)[0].numpy() == codes_by_hand(numbers, spacing)).all()


@given(scenes())
def test_no_object_is_erased_and_only_cores_of_objects_that_are_all_band_touch(scene: tuple) -> None:
    numbers, spacing = scene
    codes = boundary_codes(one(numbers), spacing)[0].numpy()
    assert set(numbers[codes == CORE].tolist()) == set(numbers[numbers > 0].tolist())
    assert ((codes == CORE) | (codes == BAND)).tolist() == (numbers > 0).tolist()
    for axis in range(numbers.ndim):
        a, b = (np.moveaxis(x, axis, 0) for x in (numbers, codes))
        meet = (a[1:] != a[:-1]) & (b[1:] == CORE) & (b[:-1] == CORE)
        for number in set(a[1:][meet].tolist()) & set(a[:-1][meet].tolist()):
            away, touches = (x[numbers == number] for x in surroundings(numbers, spacing))
            assert ((away <= width_of(numbers, number, spacing) + 1e-6) | touches).all()


@given(scenes(), st.integers(0, 2**16))
def test_turned_and_mirrored_objects_have_turned_and_mirrored_targets(scene: tuple, draw: int) -> None:
    numbers, spacing = scene
    rng = np.random.default_rng(draw)
    axes = rng.permutation(numbers.ndim)
    flips = [a for a in range(numbers.ndim) if rng.random() < 0.5]

    def moved(x: np.ndarray) -> np.ndarray:
        return np.flip(x.transpose(axes), flips).copy()

    turned = tuple(spacing[a] for a in axes)
    for target in (boundary_codes, inner_distance):
        expected = moved(target(one(numbers), spacing)[0].numpy())
        np.testing.assert_allclose(target(one(moved(numbers)), turned)[0].numpy(), expected, atol=1e-6)


@given(scenes())
def test_items_of_a_batch_have_nothing_to_do_with_one_another(scene: tuple) -> None:
    numbers, spacing = scene
    other = np.flip(numbers).copy() * 7
    batch = torch.cat([one(numbers), one(other)])
    for target in (boundary_codes, flow_field, inner_distance):
        together, alone = target(batch, spacing), torch.cat([target(one(x), spacing) for x in (numbers, other)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_an_object_that_fills_the_array_is_all_core() -> None:
    for shape, spacing in (((6, 5), (1, 1)), ((4, 5, 3), (2, 1, 1))):
        whole = torch.ones((1, *shape), dtype=torch.int32)
        assert (boundary_codes(whole, spacing) == CORE).all()
        assert (inner_distance(whole, spacing) == 1).all()
        assert (boundary_codes(whole * 0, spacing) == BACKGROUND).all()
        assert not flow_field(whole * 0, spacing).any()
        assert not inner_distance(whole * 0, spacing).any()


@given(scenes())
def test_inner_distance_is_that_of_all_pairs(scene: tuple) -> None:
    numbers, spacing = scene
    points, flat = np.argwhere(np.ones(numbers.shape)) * np.array(spacing), numbers.ravel()
    between = cdist(points, points)
    between[flat[:, None] == flat[None]] = np.inf
    away = between.min(axis=1) - min(spacing) / 2
    expected = np.zeros(flat.shape)
    for number in set(flat.tolist()) - {0}:
        own = flat == number
        expected[own] = away[own] / away[own].max() if np.isfinite(away[own]).any() else 1
    np.testing.assert_allclose(inner_distance(one(numbers), spacing)[0].numpy().ravel(), expected, atol=1e-6)


@given(scenes())
def test_flows_have_length_one_in_objects_but_at_one_voxel(scene: tuple) -> None:
    numbers, spacing = scene
    lengths = flow_field(one(numbers), spacing)[0].norm(dim=0).numpy()
    assert not lengths[numbers == 0].any()
    for number in set(numbers.ravel().tolist()) - {0}:
        own = np.sort(lengths[numbers == number])
        assert own[0] == 0
        np.testing.assert_allclose(own[1:], 1, atol=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.0), (3.0, 1.0, 1.0)])
def test_flows_of_a_ball_point_at_its_centre(spacing: tuple[float, ...]) -> None:
    shape = [round(24 / s) + 3 for s in spacing]
    away = [np.arange(n) * s - (n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)]
    toward = -np.stack(np.meshgrid(*away, indexing="ij"))
    distance = np.linalg.norm(toward, axis=0)
    flow = flow_field(one(distance < 12), spacing)[0].numpy()
    where = (distance < 12) & (distance > 4)
    cosine = (flow * toward).sum(axis=0)[where] / distance[where]
    assert cosine.min() > math.cos(math.radians(25))
    assert cosine.mean() > math.cos(math.radians(7))


def followed(flow: np.ndarray, start: tuple[int, ...], steps: int) -> np.ndarray:
    """Where a path ends that follows a field (d, S) in half voxels."""
    at = np.array(start, dtype=float)
    for _ in range(steps):
        at += 0.5 * flow[(slice(None), *np.rint(at).astype(int))]
    return at


def test_flows_lead_around_a_bend() -> None:
    numbers = np.zeros((40, 40))
    numbers[2:38, 2:9], numbers[31:38, 2:38] = 1, 1
    flow = flow_field(one(numbers), (1, 1))[0].numpy()
    centre = np.argwhere((np.abs(flow).sum(axis=0) == 0) & (numbers > 0))[0]
    for start in map(tuple, np.argwhere(numbers > 0)[::7]):
        assert np.abs(followed(flow, start, 200) - centre).max() <= 1.5, start


def test_flows_of_rods_side_by_side_point_away_from_the_other() -> None:
    numbers = np.zeros((14, 60))
    numbers[2:7, 2:58], numbers[7:12, 2:58] = 1, 2
    flow = flow_field(one(numbers), (1, 1))[0, 0].numpy()
    assert (flow[6, 4:56] < 0).all()
    assert (flow[7, 4:56] > 0).all()


def test_large_objects_that_begin_on_a_coarse_grid_have_the_flows_of_many_iterations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    scene = one(cells(rng, (150, 140), 6, (25, 60)))
    quick = flow_field(scene, (1, 1))
    monkeypatch.setattr(diffusion, "LARGE", 10**9)
    full = flow_field(scene, (1, 1))
    cosine = (quick * full).sum(dim=1)[scene > 0]
    assert cosine.mean() > 0.99
    assert (cosine > 0.95).float().mean() > 0.98


def test_a_long_thread_is_heated_to_its_ends() -> None:
    numbers = np.zeros((41, 41))
    for row in range(1, 41, 4):
        numbers[row, 1:40] = 1
        numbers[row : row + 5, 39 if row % 8 == 1 else 1] = 1
    flow = flow_field(one(numbers), (1, 1))[0].numpy()
    inside = [tuple(p) for p in np.argwhere(numbers > 0)]
    # Each voxel of a thread points to a neighbour in it: straight lines to the centre would not.
    ends = 0
    for place in inside:
        ahead = tuple(np.rint(np.array(place) + flow[(slice(None), *place)] * 1.01).astype(int))
        ends += ahead == place or numbers[ahead] == 0
    assert ends <= 12


def test_all_whole_number_types_and_large_numbers() -> None:
    numbers = np.zeros((12, 12), dtype=np.int64)
    numbers[1:6, 1:11], numbers[6:11, 1:11] = 40_000, 65_535
    for target in (boundary_codes, flow_field, inner_distance):
        expected = target(one(numbers > 0) + one(numbers == 65_535), (1, 1))
        for kind in (torch.int32, torch.int64):
            assert (target(one(numbers).to(kind), (1, 1)) == expected).all()


def test_axes_of_a_voxel_or_two() -> None:
    for shape in itertools.product((1, 2, 5), repeat=3):
        numbers = np.arange(math.prod(shape)).reshape(shape) % 3
        for target in (boundary_codes, flow_field, inner_distance):
            assert target(one(numbers), (2.0, 1.0, 1.0)).isfinite().all()
