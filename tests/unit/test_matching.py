"""Matches of objects: against all assignments, against StarDist's examples, and whatever numbers the files hold."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment
from skimage.draw import disk

from medseg.metrics.matching import THRESHOLDS, Matching

Maps = tuple[np.ndarray, np.ndarray]


@st.composite
def maps(draw: st.DrawFn, most: int = 4) -> Maps:
    """Two small maps, so small that IoUs are often equal."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple))
    kind = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.uint32, np.int64]))
    one, other = (draw(hnp.arrays(kind, shape, elements=st.integers(0, most))) for _ in range(2))
    return one, other


def table(reference: np.ndarray, prediction: np.ndarray) -> tuple[list[int], list[int], np.ndarray]:
    """Numbers of both maps and their IoU, one mask at a time."""
    true, said = (sorted(set(m.ravel().tolist()) - {0}) for m in (reference, prediction))
    iou = np.zeros((len(true), len(said)))
    for (i, r), (j, p) in itertools.product(enumerate(true), enumerate(said)):
        one, other = reference == r, prediction == p
        iou[i, j] = (one & other).sum() / (one | other).sum()
    return true, said, iou


def best(iou: np.ndarray, ok: np.ndarray, most_pairs: bool = True) -> tuple[int, float]:
    """The best of all assignments, by trying all."""
    if iou.shape[0] > iou.shape[1]:
        iou, ok = iou.T, ok.T
    found = []
    for columns in itertools.permutations(range(iou.shape[1]), iou.shape[0]):
        kept = [iou[i, j] for i, j in enumerate(columns) if ok[i, j]]
        found.append((len(kept), math.fsum(kept)) if most_pairs else (0, math.fsum(kept)))
    return max(found)


@given(maps(), st.sampled_from([0.0, 0.1, 0.25, 1 / 3, *THRESHOLDS, 1.0]), st.booleans())
def test_matches_are_the_best_of_all_assignments(pair: Maps, threshold: float, strict: bool) -> None:
    true, said, iou = table(*pair)
    found = Matching.of(*pair).at(threshold, strict)
    ok = (iou > threshold if strict else iou >= threshold) & (iou > 0)
    tp, total = best(iou, ok)
    assert (found.tp, found.fp, found.fn) == (tp, len(said) - tp, len(true) - tp)
    assert found.iou_sum == pytest.approx(total)
    matched = [(true.index(r), said.index(p)) for r, p in found.pairs.tolist()]
    assert len({i for i, _ in matched}) == len({j for _, j in matched}) == len(matched) == tp
    assert all(ok[i, j] for i, j in matched)
    assert math.fsum(iou[i, j] for i, j in matched) == pytest.approx(total)


@given(maps())
def test_the_closest_matches_have_the_largest_sum(pair: Maps) -> None:
    _, _, iou = table(*pair)
    matching = Matching.of(*pair)
    edges = matching.closest()
    assert len(set(matching.rows[edges])) == len(set(matching.columns[edges])) == len(edges)
    assert matching.iou[edges].sum() == pytest.approx(best(iou, iou > 0, most_pairs=False)[1])


@given(maps(most=60), st.sampled_from([0.01, 0.1, 0.2]))
def test_many_objects_match_as_by_a_dense_assignment(pair: Maps, threshold: float) -> None:
    """The costs of StarDist and Cellpose: [IoU >= t] first, then IoU / (2 n), of pairs below t as well."""
    _, _, iou = table(*pair)
    ok = iou >= threshold
    found = Matching.of(*pair).at(threshold)
    if not iou.size:
        assert found.tp == 0
        return
    theirs, ours = (
        linear_sum_assignment(-ok.astype(float) - weights / (2 * min(iou.shape)))
        for weights in (iou, np.where(ok, iou, 0))
    )
    assert found.tp == ok[theirs].sum() == ok[ours].sum()
    assert found.iou_sum == pytest.approx(iou[ours][ok[ours]].sum())


@given(maps())
def test_the_table_is_that_of_masks(pair: Maps) -> None:
    true, said, iou = table(*pair)
    found = Matching.of(*pair)
    dense = np.zeros_like(iou)
    rows = [true.index(int(n)) for n in found.reference_numbers[found.rows]]
    columns = [said.index(int(n)) for n in found.prediction_numbers[found.columns]]
    dense[rows, columns] = found.iou
    np.testing.assert_array_equal(dense, iou)
    for m, numbers, sizes in (
        (pair[0], found.reference_numbers, found.reference_sizes),
        (pair[1], found.prediction_numbers, found.prediction_sizes),
    ):
        assert dict(zip(numbers.tolist(), sizes.tolist(), strict=True)) == {
            n: int((m == n).sum()) for n in set(m.ravel().tolist()) - {0}
        }
        # Raster order of the first voxels.
        assert [int(np.flatnonzero(m == n)[0]) for n in numbers] == sorted(np.flatnonzero(m == n)[0] for n in numbers)


@given(maps(), st.permutations(range(1, 5)), st.permutations([7, 70_000, 4_000_000_000, 9]))
def test_numbers_are_only_names(pair: Maps, one: list[int], other: list[int]) -> None:
    renamed = np.array([0, *one])[pair[0]], np.array([0, *other], np.uint32)[pair[1]]
    before, after = Matching.of(*pair), Matching.of(*renamed)
    for field in ("reference_sizes", "prediction_sizes", "rows", "columns", "intersections", "iou"):
        np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
    for threshold in (0.1, 0.5, 0.75):
        np.testing.assert_array_equal(before.matched(threshold), after.matched(threshold))
    np.testing.assert_array_equal(before.closest(), after.closest())


@given(maps(), st.sampled_from(THRESHOLDS))
def test_swapping_the_maps_swaps_what_is_missed_and_invented(pair: Maps, threshold: float) -> None:
    there, back = Matching.of(*pair).at(threshold), Matching.of(*pair[::-1]).at(threshold)
    assert (there.tp, there.fp, there.fn) == (back.tp, back.fn, back.fp)
    assert there.iou_sum == pytest.approx(back.iou_sum)


@given(maps(), st.data())
def test_background_around_changes_nothing(pair: Maps, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 3))
    before, after = Matching.of(*pair), Matching.of(*(np.pad(m, width) for m in pair))
    np.testing.assert_array_equal(before.iou, after.iou)


def test_a_map_that_is_longer_than_a_block_is_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    pair = tuple(np.repeat(generator.integers(0, 9, 300), 5).reshape(30, 50) for _ in range(2))
    whole = Matching.of(*pair)
    monkeypatch.setattr("medseg.metrics.matching._VOXELS", 7)
    parts = Matching.of(*pair)
    for field in Matching.__slots__:
        np.testing.assert_array_equal(getattr(whole, field), getattr(parts, field))


def test_most_pairs_come_before_the_largest_sum() -> None:
    # IoU of 1 with 1: 10/14; of 1 with 2 and of 2 with 1: 2/12.
    reference = np.array([1] * 12 + [2] * 2)
    prediction = np.array([1] * 10 + [2] * 2 + [1] * 2)
    found = Matching.of(reference, prediction)
    assert found.at(0.1).pairs.tolist() == [[1, 2], [2, 1]]
    assert found.iou[found.closest()].tolist() == [10 / 14]
    assert found.at(0.5).pairs.tolist() == [[1, 1]]


def test_an_iou_on_the_threshold_counts_unless_it_must_exceed_it() -> None:
    for k, threshold in enumerate(THRESHOLDS, start=10):
        reference, prediction = np.ones(20, int), np.array([1] * k + [0] * (20 - k))
        found = Matching.of(reference, prediction)
        assert (found.at(threshold).tp, found.at(threshold, strict=True).tp) == (1, 0)


# StarDist's published examples (stardist/matching.py, tests/test_matching.py)


def test_the_example_of_stardists_documentation() -> None:
    reference = np.zeros((100, 100), np.uint16)
    reference[10:20, 10:20] = 1
    found = Matching.of(reference, np.roll(reference, 5, axis=0))
    assert found.at(0.5)[:4] == (0, 1, 1, 0.0)
    # Half of each lies in the other one.
    assert found.iou.tolist() == [1 / 3]


@pytest.mark.parametrize("shift", [0, 5, 10])
def test_stardists_test_of_five_disks(shift: int) -> None:
    reference = np.zeros((128, 128), np.uint16)
    for k, column in enumerate(np.linspace(0, 128, 7)[1:-1]):
        reference[disk((64, column), radius=128 // 15, shape=reference.shape)] = k + 1
    prediction = np.roll(reference, shift, axis=0)
    iou = np.sum((prediction == reference)[reference > 0]) / np.sum((reference + prediction) > 0)
    found = Matching.of(reference, prediction)
    assert found.at(0.5 * iou)[:3] == (5, 0, 0)
    assert found.at(2.0 * iou)[:3] == (0, 5, 5)


@pytest.mark.parametrize(
    ("reference", "prediction", "cause"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "differ in shape"),
        (np.zeros((2, 2), int), np.zeros((2, 2)), "prediction of type float64; expected integers"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), "reference has the number -1"),
    ],
)
def test_maps_that_are_no_object_numbers_are_refused(reference: np.ndarray, prediction: np.ndarray, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        Matching.of(reference, prediction)


def test_maps_without_objects_have_no_matches() -> None:
    empty, some = np.zeros((3, 3), int), np.eye(3, dtype=int)
    assert Matching.of(empty, empty).at(0.5)[:4] == (0, 0, 0, 0.0)
    assert Matching.of(some, empty).at(0.5)[:4] == (0, 0, 1, 0.0)
    assert Matching.of(empty, some).at(0.5)[:4] == (0, 1, 0, 0.0)
    assert Matching.of(np.zeros((0, 3), int), np.zeros((0, 3), int)).n_reference == 0
