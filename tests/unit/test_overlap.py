"""Overlap counts against brute force, and the rules for empty masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.image.labels import IGNORE
from medseg.metrics.counts import OverlapCounts, dice_of_counts, overlap_counts
from medseg.metrics.overlap import iou_of_counts

K = 4
dtypes = st.sampled_from([np.uint8, np.int16, np.uint16, np.int64])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    return tuple(draw(hnp.arrays(draw(dtypes), shape, elements=st.integers(0, K - 1))) for _ in range(2))


def brute(reference: np.ndarray, prediction: np.ndarray, k: int) -> OverlapCounts:
    tp = fp = fn = 0
    for r, p in zip(reference.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        tp += r == k == p
        fp += p == k != r
        fn += r == k != p
    return OverlapCounts(tp, fp, fn)


@given(pairs())
def test_counts_are_those_of_a_loop(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert overlap_counts(*pair, K) == [brute(*pair, k) for k in range(1, K)]


@given(pairs())
def test_swapping_the_maps_swaps_fp_and_fn_and_keeps_the_scores(pair: tuple[np.ndarray, np.ndarray]) -> None:
    for there, back in zip(overlap_counts(*pair, K), overlap_counts(*pair[::-1], K), strict=True):
        assert (there.tp, there.fp, there.fn) == (back.tp, back.fn, back.fp)
        assert dice_of_counts(there) == pytest.approx(dice_of_counts(back), nan_ok=True)
        assert iou_of_counts(there) == pytest.approx(iou_of_counts(back), nan_ok=True)


@given(pairs(), st.permutations([1, 2, 3]))
def test_renaming_classes_renames_the_scores(pair: tuple[np.ndarray, np.ndarray], order: list[int]) -> None:
    table = np.array([0, *order])
    plain, renamed = overlap_counts(*pair, K), overlap_counts(*[table[m] for m in pair], K)
    assert [renamed[order[k - 1] - 1] for k in range(1, K)] == plain


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_scores_are_bounded_and_bound_to_each_other(tp: int, fp: int, fn: int) -> None:
    counts = OverlapCounts(tp, fp, fn)
    d, j = dice_of_counts(counts), iou_of_counts(counts)
    if tp + fp + fn == 0:
        assert math.isnan(d)
        assert math.isnan(j)
    else:
        assert 0 <= j <= d <= 1
        assert d == pytest.approx(2 * j / (1 + j))
        assert (d == 1) == (fp + fn == 0)
        assert (d == 0) == (tp == 0)


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"), [(0, 0, math.nan), (1, 0, 0.0), (0, 1, 0.0), (1, 1, 1.0)]
)
def test_rules_for_empty_masks(reference: int, prediction: int, expected: float) -> None:
    (counts,) = overlap_counts(np.full((2, 3), reference), np.full((2, 3), prediction), 2)
    assert dice_of_counts(counts) == pytest.approx(expected, nan_ok=True)
    assert iou_of_counts(counts) == pytest.approx(expected, nan_ok=True)


def test_counts_do_not_wrap_in_small_integer_types() -> None:
    big = np.full((300, 300), 200, dtype=np.uint8)
    assert overlap_counts(big, big, 201)[199] == OverlapCounts(90_000, 0, 0)


@pytest.mark.parametrize(
    ("reference", "prediction", "cause"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "differ in shape"),
        (np.zeros((2, 2), int), np.zeros((2, 2), float), "prediction of type float64"),
        (np.zeros((2, 2), bool), np.zeros((2, 2), int), "reference of type bool"),
        (np.full((2, 2), 2), np.zeros((2, 2), int), r"reference has values 2\.\.2; expected 0\.\.1"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), r"prediction has values -1\.\.-1"),
    ],
)
def test_maps_that_are_no_label_channels_are_refused(reference: np.ndarray, prediction: np.ndarray, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        overlap_counts(reference, prediction, 2)


# Regions, and voxels without annotation


@given(pairs())
def test_region_counts_are_those_of_the_united_masks(pair: tuple[np.ndarray, np.ndarray]) -> None:
    members = [(1, 2, 3), (3, 1), (2,)]
    found = overlap_counts(*pair, K, members)
    for counts, inside in zip(found, members, strict=True):
        reference, prediction = (np.isin(m, inside).astype(int) for m in pair)
        assert [counts] == overlap_counts(reference, prediction, 2)
    assert overlap_counts(*pair, K, [(k,) for k in range(1, K)]) == overlap_counts(*pair, K)


@given(pairs(), st.data())
def test_what_nobody_annotated_is_not_counted(pair: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    reference, prediction = pair
    gone = data.draw(hnp.arrays(bool, reference.shape))
    sparse = np.where(gone, IGNORE, reference)
    assert overlap_counts(sparse, prediction, K) == overlap_counts(reference[~gone], prediction[~gone], K)
    whatever = np.where(gone, data.draw(st.integers(0, K - 1)), prediction)
    assert overlap_counts(sparse, whatever, K) == overlap_counts(sparse, prediction, K)


def test_not_annotated_is_no_prediction() -> None:
    with pytest.raises(ValueError, match="prediction has values"):
        overlap_counts(np.zeros((2, 2), np.uint8), np.full((2, 2), IGNORE, np.uint8), K)
