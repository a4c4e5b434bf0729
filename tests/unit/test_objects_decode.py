"""From maps to objects: worked examples for each head, laws, the ceiling on maps without errors, and linked slices."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.bounds import OutOfBounds
from medseg.objects.decode import SPLITTERS, classify, decode
from medseg.objects.decoding import ONE, Decoding, grid
from medseg.objects.linking import link_slices
from tests.object_scenes import blobs, cells, maps_of, noise, same_objects

FOLDER = os.environ.get("MEDSEG_REALDATA", "")
ALL = Decoding(min_size=1)


def maps(*values: list) -> np.ndarray:
    """Maps written in tenths."""
    return np.rint(np.array(values) * ONE / 10).astype(np.int16)


@pytest.mark.parametrize("head", SPLITTERS)
@pytest.mark.parametrize("shape", [(9, 8), (1, 1), (5, 6, 4), (1, 7, 1)])
def test_nothing_gives_nothing_and_everything_gives_one(head: str, shape: tuple[int, ...]) -> None:
    nothing = np.zeros((len(shape) + 1, *shape), dtype=np.int16)
    spacing = (1.0,) * len(shape)
    out = decode(head, nothing, spacing, ALL)
    assert out.dtype == np.uint32
    assert not out.any()
    everything = maps_of(head, np.ones(shape), spacing)
    assert (decode(head, everything, spacing, ALL) == 1).all()


@pytest.mark.parametrize("head", ["boundary", "flows", "distance"])
@pytest.mark.parametrize("shape", [(60, 60), (24, 30, 28)])
def test_touching_cells_that_leave_the_image_are_told_apart(head: str, shape: tuple[int, ...]) -> None:
    axes = np.meshgrid(*(np.arange(n) // 12 for n in shape), indexing="ij")
    numbers = 1 + sum(a * 10**i for i, a in enumerate(axes))
    numbers[:4] = 0
    found = decode(head, maps_of(head, numbers, (1,) * len(shape)), (1,) * len(shape), ALL)
    if head == "distance":
        # Both sides of a border are equally near to it: single voxels at corners can go to either.
        whole = len(np.unique(numbers)) - 1
        assert found.max() == whole
        agree = sum(np.bincount(found[numbers == n]).max() for n in set(numbers.ravel().tolist()) - {0})
        assert agree >= 0.95 * (numbers > 0).sum()
    else:
        assert same_objects(found, numbers)


def test_components_share_faces() -> None:
    found = decode("classes", maps([[9, 9, 0, 9], [0, 0, 9, 0], [5, 0, 9, 9]]), (1, 1), ALL)
    assert found.tolist() == [[1, 1, 0, 2], [0, 0, 3, 0], [4, 0, 3, 3]]


def test_thresholds_are_reached_or_passed() -> None:
    # Foreground is where F reaches its threshold; seeds are where F - B is above theirs.
    settings = Decoding(foreground=0.5, seed=0.5, min_size=1)
    f = [[10] * 9]
    assert decode("boundary", maps(f, [[0, 0, 0, 0, 5, 0, 0, 0, 0]]), (1, 1), settings).max() == 2
    assert decode("boundary", maps(f, [[0, 0, 0, 0, 4, 0, 0, 0, 0]]), (1, 1), settings).max() == 1
    assert decode("classes", maps([[5, 4]]), (1, 1), settings).tolist() == [[1, 0]]


def test_seeds_of_fewer_than_four_pixels_are_none_but_each_component_is_an_object() -> None:
    f = [[9, 9, 9, 9, 9, 9, 9, 9, 9, 0, 9]]
    b = [[0, 0, 0, 0, 9, 9, 0, 0, 0, 0, 9]]
    found = decode("boundary", maps(f, b), (1, 1), Decoding(seed=0.5, min_size=1))
    assert found.tolist() == [[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2]]


def test_the_watershed_parts_two_seeds_at_the_boundary_and_ties_go_to_the_first() -> None:
    f = [[10] * 12]
    b = [[0, 0, 0, 0, 6, 7, 8, 6, 0, 0, 0, 0]]
    # The dearest voxel is reached last, by the front from the right, which has come so far at the lower price.
    assert decode("boundary", maps(f, b), (1, 1), ALL).tolist() == [[1] * 6 + [2] * 6]
    b = [[0, 0, 0, 0, 7, 7, 7, 7, 7, 0, 0, 0, 0]]
    found = decode("boundary", maps([[10] * 13], b), (1, 1), ALL)
    assert found.tolist() == [[1] * 7 + [2] * 6]


def test_holes_below_the_limit_are_filled_and_those_at_the_edge_are_none() -> None:
    f = np.full((7, 9), 9)
    f[2:4, 2:4] = f[2, 6] = f[0, 4] = 0
    filled = [decode("classes", maps(f), (1, 1), Decoding(min_size=1, max_hole=n)) == 0 for n in (0, 1, 2, 4, 5)]
    assert [int(x.sum()) for x in filled] == [6, 6, 5, 5, 1]
    assert filled[4][0, 4]


def test_small_objects_are_removed_and_numbers_have_no_gaps() -> None:
    f = [[9, 0, 9, 9, 0, 9, 9, 9], [9, 0, 0, 0, 0, 0, 0, 9]]
    assert decode("classes", maps(f), (1, 1), Decoding(min_size=3)).tolist() == [[0] * 5 + [1] * 3, [0] * 7 + [1]]
    assert decode("classes", maps(f), (1, 1), Decoding(min_size=2)).max() == 3


def test_flows_that_part_make_two_objects_of_one_component() -> None:
    rows = np.zeros((5, 24))
    towards = np.where(np.arange(24) < 12, np.sign(6 - np.arange(24)), np.sign(18 - np.arange(24)))
    found = decode("flows", maps(np.full((5, 24), 9), rows, np.tile(10 * towards, (5, 1))), (1, 1), ALL)
    assert found.tolist() == [[1] * 12 + [2] * 12] * 5


def test_flows_are_in_physical_units() -> None:
    # Two balls in a volume of coarse planes.
    grid_mm = np.stack(np.meshgrid(np.arange(10) * 3.0, np.arange(34), np.arange(60), indexing="ij"), axis=-1)
    numbers = np.zeros(grid_mm.shape[:3], dtype=int)
    for number, x in enumerate((16.0, 38.0), start=1):
        numbers[np.linalg.norm(grid_mm - (13.5, 16.0, x), axis=-1) < 12] = number
    spacing = (3.0, 1.0, 1.0)
    assert same_objects(decode("flows", maps_of("flows", numbers, spacing), spacing, ALL), numbers)


@given(st.sampled_from(sorted(SPLITTERS)), st.integers(0, 2**32 - 1))
def test_objects_lie_in_the_foreground_in_raster_order_and_are_no_smaller_than_allowed(head: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dims = int(rng.integers(2, 4))
    shape = tuple(rng.integers(1, 30 if dims == 2 else 12, dims).tolist())
    values = noise(rng, dims + 1, shape)
    settings = Decoding(seed=float(rng.choice([0.1, 0.6])), min_size=float(rng.integers(0, 9)))
    found = decode(head, values, rng.choice([1.0, 2.5], dims).tolist(), settings)
    numbers, first, sizes = np.unique(found, return_index=True, return_counts=True)
    assert numbers.tolist() == list(range(len(numbers))) if 0 in numbers else numbers.tolist() == [1]
    assert (np.diff(first[numbers > 0]) > 0).all()
    assert (sizes[numbers > 0] >= settings.min_size).all()
    assert not found[values[0] < ONE / 2].any()
    if settings.min_size <= 1 and head != "flows":
        assert (found > 0).tolist() == (values[0] >= ONE / 2).tolist()


@pytest.mark.parametrize(("head", "least"), [("boundary", 0.95), ("flows", 0.95), ("distance", 0.9)])
def test_maps_without_errors_give_the_objects_back(head: str, least: float) -> None:
    rng = np.random.default_rng(1)
    found = whole = 0
    for shape, radii in (((120, 130), (5.0, 14.0)), ((30, 40, 36), (4.0, 9.0))):
        numbers = cells(rng, shape, 25, radii)
        spacing = (1.0,) * len(shape)
        out = decode(head, maps_of(head, numbers, spacing), spacing, ALL)
        for number in set(numbers.ravel().tolist()) - {0}:
            own = numbers == number
            if own.sum() >= 30:
                best = np.bincount(out[own]).argmax()
                iou = (own & (out == best)).sum() / (own | (out == best)).sum()
                found, whole = found + (best > 0 and iou >= 0.5), whole + 1
    assert found >= least * whole, (found, whole)


@pytest.mark.realdata
@pytest.mark.skipif(not FOLDER, reason="MEDSEG_REALDATA names no folder with real data")
@pytest.mark.parametrize(("head", "ceiling"), [("boundary", 0.995), ("flows", 0.995), ("distance", 0.98)])
def test_ceiling_on_nuclei(head: str, ceiling: float) -> None:
    from skimage.io import imread

    matched = reference = predicted = 0
    for path in sorted((Path(FOLDER) / "nuclei_fluo/masks").glob("*.png"))[::6]:
        numbers = imread(path).astype(np.int64)
        out = decode(head, maps_of(head, numbers, (1, 1)), (1, 1), Decoding(min_size=7))
        pairs, shared = np.unique(np.stack([numbers, out])[:, (numbers > 0) & (out > 0)], axis=1, return_counts=True)
        union = np.bincount(numbers.ravel())[pairs[0]] + np.bincount(out.ravel())[pairs[1]] - shared
        matched += int((2 * shared > union).sum())
        reference += len(np.unique(numbers)) - 1
        predicted += int(out.max())
    assert matched / (reference + predicted - matched) >= ceiling


def test_the_class_of_an_object_has_the_largest_sum_and_ties_go_to_the_lower() -> None:
    numbers = np.array([[1, 1, 2, 2, 0, 3]], dtype=np.uint32)
    class_maps = maps([[6, 2, 5, 5, 9, 0]], [[4, 8, 5, 5, 0, 0]], [[0, 0, 0, 0, 0, 1]])
    assert classify(numbers, class_maps).tolist() == [0, 2, 1, 3]
    assert classify(np.zeros((2, 2), dtype=np.uint32), class_maps[:, :, :2].repeat(2, axis=1)).tolist() == [0]


def test_boundaries_are_decoded_without_torch() -> None:
    code = (
        "import sys, numpy as np, medseg.objects.tiles\n"
        "from medseg.objects.decode import Decoding, decode\n"
        "for head in ('boundary', 'flows', 'distance', 'classes'):\n"
        "    decode(head, np.full((3, 9, 9), 1024, dtype=np.int16), (1, 1), Decoding())\n"
        "print({'torch', 'monai', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True)
    assert done.stdout.strip() == "set()"


def test_settings_come_back_from_json_and_bad_ones_are_named() -> None:
    settings = Decoding(foreground=0.4, seed=0.7, min_size=12.5, max_hole=40)
    assert Decoding.from_json(settings.to_json()) == settings
    for key, value in (("foreground", 1), ("foreground", "high"), ("seed", 2), ("min_size", -1), ("max_hole", True)):
        with pytest.raises(OutOfBounds, match=key if value != "high" else "decoding"):
            Decoding.from_json({**settings.to_json(), key: value})
    with pytest.raises(OutOfBounds, match="colour"):
        Decoding.from_json({**settings.to_json(), "colour": 1} | {"seed": 0.5})
    with pytest.raises(OutOfBounds, match="keys"):
        Decoding.from_json({"seed": 0.5})
    with pytest.raises(OutOfBounds, match="min_size"):
        Decoding(min_size=float("nan"))


def test_defaults_follow_the_sizes_of_objects() -> None:
    assert Decoding.of_sizes([1000] * 9, 2) == Decoding(min_size=500, max_hole=100)
    assert Decoding.of_sizes([20] * 9, 2) == Decoding(min_size=15, max_hole=2)
    assert Decoding.of_sizes([20] * 9, 3) == Decoding(min_size=20, max_hole=2)
    assert Decoding.of_sizes([], 3) == Decoding(min_size=30)


def test_the_grid_begins_with_the_default_and_goes_away_from_it() -> None:
    default = Decoding(min_size=20, max_hole=5)
    settings = grid("boundary", default)
    assert settings[0] == default
    assert len(settings) == len(set(settings)) == 30
    away = [abs(s.foreground - 0.5) + abs(s.seed - 0.6) for s in settings]
    assert all(b >= a - 0.1001 for a, b in zip(away, away[1:], strict=False))
    assert {s.min_size for s in settings} == {10, 20}
    assert len(grid("flows", default)) == len(grid("classes", default)) == 6
    assert dataclasses.replace(default, foreground=0.45) in grid("flows", dataclasses.replace(default, foreground=0.45))


def test_slices_are_linked_by_the_largest_overlap_once() -> None:
    slices = np.array([[[1, 1, 1, 0, 2, 2]], [[5, 5, 5, 0, 0, 0]], [[3, 4, 4, 0, 7, 7]]])
    # 7 has nothing in the slice before: it is new, though 2 lies two slices away.
    assert link_slices(slices)[:, 0].tolist() == [[1, 1, 1, 0, 2, 2], [1, 1, 1, 0, 0, 0], [3, 1, 1, 0, 4, 4]]
    assert link_slices(slices, least_iou=0.9).max() == 5
    assert (link_slices(np.moveaxis(slices, 0, 2), axis=2) == link_slices(np.moveaxis(slices, 0, 2), axis=2)).all()


@given(st.integers(0, 2**32 - 1))
def test_linking_keeps_what_is_one_and_does_not_depend_on_the_numbers_of_slices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    volume = blobs(rng, (6, 12, 13), 3, sigma=2.5)
    linked = link_slices(volume)
    assert ((linked > 0) == (volume > 0)).all()
    renamed = np.stack([np.where(s > 0, 1000 - 7 * s + z, 0) for z, s in enumerate(volume)])
    # Names decide ties only; without ties nothing changes.
    assert (link_slices(renamed) > 0).tolist() == (linked > 0).tolist()
    for plane, own in zip(linked, volume, strict=True):
        assert len(np.unique(np.stack([plane.ravel(), own.ravel()]), axis=1).T) == len(np.unique(own))
    alike = np.repeat(volume[:1], 4, axis=0)
    assert (link_slices(alike) == link_slices(alike)[:1]).all()
