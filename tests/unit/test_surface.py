"""Distances between boundary voxels: against all pairs, against MONAI, exact on boxes, and where masks are odd."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.formats.read import open_content, read_labels
from medseg.metrics import surface
from medseg.metrics.edges import edge_voxels
from medseg.metrics.pair import Pair, pairs, value_of
from medseg.metrics.table import METRICS

NAMES = ("hd", "hd95", "assd", "masd", "nsd")


def edge_points(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Voxels with a face neighbour outside the mask or the array, one by one."""
    found = []
    for place in np.argwhere(mask):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            other = place.copy()
            other[axis] += step
            if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                found.append(place)
                break
    return np.array(found) * spacing


def brute(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    one, two = edge_points(a, spacing), edge_points(b, spacing)
    table = np.linalg.norm(one[:, None] - two[None], axis=-1)
    there, back = table.min(axis=1), table.min(axis=0)
    both = np.concatenate([there, back])
    return {
        "hd": both.max(),
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": both.mean(),
        "masd": (there.mean() + back.mean()) / 2,
        "nsd": np.mean(both <= tolerance * (1 + 1e-9)),
    }


def values(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float) -> dict[str, float]:
    pair = Pair(a, b, spacing, tolerance=tolerance)
    return {name: value_of(METRICS[name], pair) for name in NAMES}


def random_masks(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[float, ...], float]:
    dims = int(rng.integers(2, 4))
    shape = tuple(rng.integers(1, 7, dims))
    spacing = tuple(rng.choice([0.5, 0.7, 1.0, 2.5, 5.0], dims))
    masks = [rng.random(shape) < rng.choice([0.1, 0.5, 0.9, 1.0]) for _ in range(2)]
    for mask in masks:
        mask.flat[rng.integers(mask.size)] = True
    return masks[0], masks[1], spacing, float(rng.choice([0.5, 1.0, 2.0, 2.5]))


def test_all_five_are_those_of_all_pairs_on_200_random_volumes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        case = random_masks(rng)
        assert values(*case) == pytest.approx(brute(*case), rel=1e-9, abs=1e-9), case


def test_monai_agrees_where_the_definition_is_the_same() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.metrics as peer
        import torch
    rng = np.random.default_rng(1)
    for _ in range(5):
        spacing = tuple(rng.choice([0.6, 0.8, 2.5], 3))
        masks = [rng.random((7, 8, 9)) < p for p in (0.7, 0.6)]
        batch = [torch.from_numpy(m)[None, None] for m in masks]
        mine = values(*masks, spacing, 1.3)
        common = {"include_background": True, "spacing": spacing}
        theirs = {
            "hd": peer.compute_hausdorff_distance(*batch, **common),
            "hd95": peer.compute_hausdorff_distance(*batch, percentile=95, **common),
            "assd": peer.compute_average_surface_distance(*batch, symmetric=True, **common),
            "nsd": peer.compute_surface_dice(*batch, [1.3], **common),
        }
        assert {k: float(v) for k, v in theirs.items()} == pytest.approx({k: mine[k] for k in theirs}, rel=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 0.8, 0.7), (0.1, 3.0, 1.0)])
def test_boxes_have_exact_distances(spacing: tuple[float, ...]) -> None:
    outer, inner = np.zeros((12, 13, 14), bool), np.zeros((12, 13, 14), bool)
    outer[1:11, 1:12, 1:13] = True
    inner[2:10, 3:10, 4:10] = True
    margin = np.array([1, 2, 3]) * spacing
    found = values(outer, inner, spacing, float(margin.max()))
    # The corners of the outer box are farthest; every side of the inner one is at most its margin away.
    assert found["hd"] == pytest.approx(np.linalg.norm(margin))
    assert values(inner, outer, spacing, 1.0)["hd"] == pytest.approx(found["hd"])
    # A plate against the same plate, moved along its normal.
    one, two = np.zeros((9, 5, 4), bool), np.zeros((9, 5, 4), bool)
    one[2], two[5] = True, True
    step = 3 * spacing[0]
    assert values(one, two, spacing, step) == pytest.approx(dict.fromkeys(NAMES[:4], step) | {"nsd": 1.0})
    assert values(one, two, spacing, step * 0.999)["nsd"] == 0.0


def test_percentiles_are_interpolated_and_the_larger_one_counts() -> None:
    one, two = np.zeros((1, 30), bool), np.zeros((1, 30), bool)
    one[0, :11] = True
    two[0, 0] = True
    # From the reference 0, 1, ..., 10; from the prediction 0.
    found = values(one, two, (1.0, 1.0), 4.0)
    assert found == pytest.approx({"hd": 10, "hd95": 9.5, "assd": 55 / 12, "masd": 2.5, "nsd": 6 / 12})
    # Pooling both sides would give the 95th percentile of 12 distances.
    assert np.percentile([*range(11), 0], 95) != found["hd95"]


def test_a_distance_that_equals_the_tolerance_is_within_it_in_any_unit() -> None:
    one, two = np.zeros((1, 9), bool), np.zeros((1, 9), bool)
    one[0, 0], two[0, 3] = True, True
    assert 3 * 0.1 > 0.3
    assert values(one, two, (1.0, 0.1), 0.3)["nsd"] == 1.0


@pytest.mark.parametrize("name", ["nsd", "nsd_faces"])
@pytest.mark.parametrize("side", [0.3, 0.7, 0.8])
def test_a_spacing_that_a_file_rounded_changes_no_share(name: str, side: float, tmp_path: Path) -> None:
    one = np.zeros((12, 9, 5), np.uint8)
    one[2:6, 2:7, 1:4] = 1
    path = tmp_path / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(one, np.diag([side, side, 2.5, 1.0])), path)
    _, grid = read_labels(path, open_content(path))
    assert grid.spacing[0] != side
    assert grid.spacing[0] == pytest.approx(side, rel=1e-7)

    def share(spacing: tuple[float, ...], tolerance: float) -> float:
        return value_of(METRICS[name], Pair(one, np.roll(one, 2, axis=0), spacing, tolerance=tolerance))

    # Two voxels are 2 * side; the smaller tolerance leaves out what is so far away.
    written = share((side, side, 2.5), 2 * side)
    assert written > share((side, side, 2.5), 1.99 * side) + 0.1
    assert share(grid.spacing, 2 * side) == pytest.approx(written, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_odd_shape(name: str) -> None:
    best = 1.0 if METRICS[name].better == "higher" else 0.0
    full, dot = np.ones((4, 5, 6), bool), np.zeros((4, 5, 6), bool)
    dot[3, 4, 5] = True
    for mask in (full, dot, full[0], dot[3], full[:1], full[:1, :1]):
        spacing = (1.5, 0.5, 2.0)[: mask.ndim]
        assert values(mask, mask, spacing, 1.0)[name] == best
    # The rim of a full volume is a boundary: outside the field of view is background.
    assert edge_voxels(full).sum() == full.sum() - 2 * 3 * 4
    assert values(full, dot, (1.0, 1.0, 1.0), 1.0)["hd"] == pytest.approx(math.sqrt(9 + 16 + 25))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if "objects" not in metric.needs])
def test_one_empty_mask_is_the_worst_and_an_empty_reference_is_none(name: str) -> None:
    some, none = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    some[1, 1] = True
    worst = 0.0 if METRICS[name].better == "higher" else math.hypot(3 * 2.0, 4 * 1.5)

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return value_of(METRICS[name], Pair(a, b, (2.0, 1.5), tolerance=1.0))

    assert value(some, none) == pytest.approx(worst)
    assert math.isnan(value(none, some))
    assert math.isnan(value(none, none))
    # No case that was predicted is worse than one that was missed.
    corner, other = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    corner[0, 0], other[2, 3] = True, True
    sign = 1 if METRICS[name].better == "higher" else -1
    assert sign * value(corner, other) >= sign * worst


def test_pairs_of_label_maps_are_those_of_whole_masks() -> None:
    rng = np.random.default_rng(2)
    reference, prediction = rng.integers(0, 4, (2, 6, 7, 5)).astype(np.uint8)
    reference[0] = 255
    prediction[:, :3] = 0
    members = [(1,), (2, 3), (3,)]
    counts = [
        Pair(np.isin(reference, m), np.isin(prediction, m) & (reference != 255), (1, 1, 2)).counts for m in members
    ]
    found = list(pairs(reference, prediction, members, (1.0, 1.0, 2.0), [None, 1.0, 2.0], counts))
    for pair, inside in zip(found, members, strict=True):
        whole = Pair(np.isin(reference, inside), np.isin(prediction, inside) & (reference != 255), (1.0, 1.0, 2.0))
        np.testing.assert_array_equal(pair.reference, whole.reference)
        np.testing.assert_array_equal(pair.prediction, whole.prediction)
        assert pair.diagonal == pytest.approx(math.hypot(6, 7, 10))
    assert [pair.tolerance for pair in found] == [None, 1.0, 2.0]


@pytest.mark.parametrize("function", [surface.nsd, surface.nsd_faces])
def test_nsd_has_no_default_tolerance(function: Callable[[Pair], float]) -> None:
    mask = np.ones((2, 2), bool)
    with pytest.raises(ValueError, match="without a tolerance"):
        function(Pair(mask, mask, (1.0, 1.0)))


@pytest.mark.parametrize(
    ("shape", "spacing", "cause"),
    [((2, 3), (1.0, 1.0), "differ in shape"), ((2, 2), (1.0,), "2 positive"), ((2, 2), (1.0, 0.0), "2 positive")],
)
def test_pairs_that_are_none_are_refused(shape: tuple[int, ...], spacing: tuple[float, ...], cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        Pair(np.ones((2, 2), bool), np.ones(shape, bool), spacing)
