"""Scores of objects: against MONAI, scikit-image and loops over masks; laws; merged and split; not annotated."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information

from medseg.image.labels import IGNORE
from medseg.late import resolve
from medseg.metrics.counts import overlap_counts
from medseg.metrics.matching import THRESHOLDS, Matching
from medseg.metrics.object_errors import ObjectRow, object_rows
from medseg.metrics.object_quantities import object_quantities
from medseg.metrics.object_table import OBJECT_METRICS
from medseg.metrics.pair import Pair, annotated, pairs, value_of
from medseg.metrics.quantities import HUNDREDTHS, QUANTITIES

Maps = tuple[np.ndarray, np.ndarray]


@st.composite
def maps(draw: st.DrawFn, most: int = 4) -> Maps:
    shape = draw(st.lists(st.integers(2, 5), min_size=1, max_size=3).map(tuple))
    one, other = (draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, most))) for _ in range(2))
    assume(one.any())
    assume(other.any())
    return one, other


def values(pair: Maps, spacing: tuple[float, ...] | None = None) -> dict[str, float]:
    """Every metric of objects."""
    made = Pair(*pair, spacing or (1.0,) * pair[0].ndim, numbers=pair)
    return {name: value_of(metric, made) for name, metric in OBJECT_METRICS.items()}


def masks(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers == n for n in np.unique(numbers) if n]


def blobs(seed: int, shape: tuple[int, ...] = (64, 64)) -> Maps:
    """Touching objects, and the same ones with rough borders, some merged and some missing."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, min(shape), (18, len(shape)))
    points = np.moveaxis(np.indices(shape), 0, -1)
    distance = np.linalg.norm(points[..., None, :] - centres, axis=-1)
    reference = np.where(distance.min(-1) < 9, distance.argmin(-1) + 1, 0)
    rough = distance + rng.normal(0, 1, distance.shape)
    prediction = np.where(rough.min(-1) < 9, rough.argmin(-1) + 1, 0)
    prediction[prediction == 3] = 4
    prediction[prediction == 7] = 0
    return reference, prediction


# Oracles


@given(maps())
def test_ap_and_f1_are_those_of_their_matches(pair: Maps) -> None:
    found, matching = values(pair), Matching.of(*pair)
    counted = [matching.at(t) for t in THRESHOLDS]
    ap = [m.tp / (m.tp + m.fp + m.fn) for m in counted]
    assert [found["ap50"], found["ap75"]] == pytest.approx([ap[0], ap[5]])
    assert [found["map"], found["map95"]] == pytest.approx([np.mean(ap[:-1]), np.mean(ap)])
    assert found["f1_50"] == pytest.approx(2 * counted[0].tp / (2 * counted[0].tp + counted[0].fp + counted[0].fn))
    assert tuple(k / 100 for k in HUNDREDTHS) == THRESHOLDS


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_quality_is_that_of_monai(seed: int) -> None:
    import torch
    from monai.metrics import compute_panoptic_quality

    pair = blobs(seed)
    found = values(pair)
    tensors = [torch.from_numpy(m.astype(np.int64)) for m in pair[::-1]]
    for name in ("pq", "sq", "rq"):
        assert found[name] == pytest.approx(float(compute_panoptic_quality(*tensors, metric_name=name)), abs=1e-5)
    assert 0.2 < found["pq"] < 1


@given(maps())
def test_rand_error_and_information_are_those_of_scikit_image(pair: Maps) -> None:
    found = values(pair)
    # By their own formula, which is 0 / 0 where no two voxels are in one object.
    with np.errstate(invalid="ignore", divide="ignore"):
        error, precision, recall = adapted_rand_error(*pair, ignore_labels=(0,))
    if np.isfinite([error, precision, recall]).all():
        assert found["are"] == pytest.approx(error)
    split, merge = variation_of_information(*pair, ignore_labels=(0,))
    assert (found["vi_split"], found["vi_merge"]) == (pytest.approx(split, abs=1e-9), pytest.approx(merge, abs=1e-9))


@given(maps())
def test_aji_is_that_of_a_loop_over_masks(pair: Maps) -> None:
    true, said = masks(pair[0]), masks(pair[1])
    shared = unions = 0
    used = set()
    for mask in true:
        overlaps = [((mask & m).sum() / (mask | m).sum(), (mask & m).sum(), -np.flatnonzero(m)[0]) for m in said]
        best = max(range(len(said)), key=lambda k: overlaps[k])
        if overlaps[best][0]:
            shared += int((mask & said[best]).sum())
            unions += int((mask | said[best]).sum())
            used.add(best)
        else:
            unions += int(mask.sum())
    unions += sum(int(m.sum()) for k, m in enumerate(said) if k not in used)
    assert values(pair)["aji"] == pytest.approx(shared / unions)


@given(maps(most=3))
def test_aji_plus_is_that_of_the_best_of_all_assignments(pair: Maps) -> None:
    true, said = masks(pair[0]), masks(pair[1])
    if len(true) > len(said):
        true, said = said, true
    found = []
    for chosen in itertools.permutations(range(len(said)), len(true)):
        overlaps = [(int((m & said[k]).sum()), int((m | said[k]).sum())) for m, k in zip(true, chosen, strict=True)]
        shared = sum(i for i, _ in overlaps)
        alone = sum(int(m.sum()) for k, m in enumerate(said) if k not in chosen)
        found.append((math.fsum(i / u for i, u in overlaps), shared / (sum(u for _, u in overlaps) + alone)))
    best = max(total for total, _ in found)
    assert any(values(pair)["aji_plus"] == pytest.approx(v) for total, v in found if total >= best - 1e-9)


@given(maps())
def test_merged_and_split_are_those_of_a_loop_over_masks(pair: Maps) -> None:
    true, said = masks(pair[0]), masks(pair[1])
    merged, split = set(), set()
    for p in said:
        inside = [k for k, r in enumerate(true) if 2 * (r & p).sum() > r.sum()]
        merged |= set(inside) if len(inside) > 1 else set()
    for k, r in enumerate(true):
        if sum(2 * (r & p).sum() > p.sum() for p in said) > 1:
            split.add(k)
    found = values(pair)
    assert (found["merge_rate"], found["split_rate"]) == pytest.approx(
        (len(merged) / len(true), len(split) / len(true))
    )
    counted = object_quantities(Matching.of(*pair))
    assert (counted["n_merged"], counted["n_split"]) == (len(merged), len(split))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 3.0)])
def test_boundary_f1_is_that_of_all_pairs_of_boundary_voxels(spacing: tuple[float, float]) -> None:
    pair = blobs(5, (40, 40))

    def outline(numbers: np.ndarray) -> np.ndarray:
        around = np.pad(numbers, 1)
        differ = np.zeros(numbers.shape, bool)
        for axis, step in itertools.product((0, 1), (-1, 1)):
            differ |= np.roll(around, step, axis)[1:-1, 1:-1] != numbers
        return np.argwhere(differ & (numbers > 0)) * spacing

    true, said = (outline(m) for m in pair)
    distance = np.linalg.norm(true[:, None] - said, axis=-1)
    precision, recall = (distance.min(0) <= 2).mean(), (distance.min(1) <= 2).mean()
    assert values(pair, spacing)["boundary_f1"] == pytest.approx(2 * precision * recall / (precision + recall))


def test_a_line_between_touching_objects_is_a_boundary() -> None:
    """Two large touching objects, and the same as one: masks agree, outlines do not."""
    reference = np.zeros((40, 40), int)
    reference[5:35, 5:20], reference[5:35, 20:35] = 1, 2
    found = values((reference, (reference > 0).astype(int)))
    assert found["boundary_f1"] < 1
    assert (found["merge_rate"], found["split_rate"]) == (1.0, 0.0)
    # An IoU of 0.5 is a match, though one of two halves only can have it, and for PQ it is none.
    assert (found["ap50"], found["pq"]) == (0.5, 0.0)
    # Half of each lies in the other one: a merged pair is one object split, seen from the other side.
    found = values(((reference > 0).astype(int), reference))
    assert (found["merge_rate"], found["split_rate"], found["vi_merge"]) == (0.0, 1.0, 0.0)
    assert found["vi_split"] == pytest.approx(1.0)


# Laws


@given(maps(), st.permutations([3, 17, 1, 60_000]), st.permutations([2, 5, 40_000, 9]))
def test_numbers_are_only_names(pair: Maps, one: list[int], other: list[int]) -> None:
    renamed = np.array([0, *one], np.uint16)[pair[0]], np.array([0, *other], np.uint16)[pair[1]]
    assert values(renamed) == values(pair)
    assert object_quantities(Matching.of(*renamed)) == object_quantities(Matching.of(*pair))


@given(maps())
def test_perfect_is_best_and_nothing_is_worse_than_the_worst(pair: Maps) -> None:
    perfect, found = values((pair[0], pair[0])), values(pair)
    nothing = values((pair[0], np.zeros_like(pair[0])))
    for name, metric in OBJECT_METRICS.items():
        assert perfect[name] == pytest.approx(1.0 if metric.better == "higher" else 0.0, abs=1e-12)
        assert metric.low <= found[name] <= metric.high
        better = found[name] - nothing[name] if metric.better == "higher" else nothing[name] - found[name]
        assert better >= 0
        assert nothing[name] == metric.worst_of(0, int(np.count_nonzero(pair[0])))


@given(maps(), st.integers(1, 3))
def test_each_axis_and_a_mirror_change_nothing(pair: Maps, width: int) -> None:
    turned = tuple(np.pad(m.T[..., ::-1], width) for m in pair)
    one, other = (object_quantities(Matching.of(*p)) for p in (pair, turned))
    # Ties go to the first voxel, so only what no tie decides is compared.
    for name in (
        "n_objects_ref",
        "n_objects_pred",
        "n_merged",
        "n_split",
        "pq_tp",
        *(f"matched_{k}" for k in HUNDREDTHS),
    ):
        assert one[name] == other[name]
    assert one["pq_iou"] == pytest.approx(other["pq_iou"])


@given(st.lists(maps(), min_size=1, max_size=3))
def test_scores_of_sums_are_those_of_the_cases_side_by_side(cases: list[Maps]) -> None:
    """Pooled scores are exact: those of one large map that holds all cases apart from one another."""
    flat: list[list[np.ndarray]] = [[], []]
    for k, pair in enumerate(cases):
        for side in (0, 1):
            numbers = pair[side].ravel().astype(np.int64)
            flat[side] += [np.where(numbers > 0, numbers + 10 * k, 0), np.zeros(1, np.int64)]
    whole = tuple(np.concatenate(parts) for parts in flat)
    counted = [object_quantities(Matching.of(*pair)) for pair in cases]
    sums = {name: math.fsum(one[name] for one in counted) for name in counted[0]}
    assert sums == pytest.approx(object_quantities(Matching.of(*whole)))
    found = values(whole)
    for name, metric in OBJECT_METRICS.items():
        if metric.pooled:
            assert resolve(metric.pooled)(sums) == pytest.approx(found[name])


def test_every_quantity_of_objects_is_counted() -> None:
    wanted = [name for name, one in QUANTITIES.items() if "objects" in one.needs]
    found = object_quantities(Matching.of(*blobs(0)))
    assert list(found) == wanted
    assert all(isinstance(value, float) for value in found.values())


def test_masks_alone_have_no_scores_of_objects() -> None:
    pair = Pair(np.ones((2, 2)), np.ones((2, 2)), (1, 1))
    with pytest.raises(ValueError, match="need object numbers"):
        value_of(OBJECT_METRICS["pq"], pair)


# Object by object


def test_rows_of_objects_say_what_became_of_each() -> None:
    reference = np.array([5] * 9 + [6] * 7 + [0] * 2 + [7] * 10 + [0] * 2 + [8] * 6 + [0] * 6 + [2] * 4)
    prediction = np.array([1] * 16 + [0] * 2 + [2] * 6 + [3] * 4 + [0] * 2 + [0] * 6 + [4] * 6 + [9] * 4)
    rows = object_rows(reference, prediction)
    assert rows == [
        ObjectRow(5, 1, 9 / 16, "tp", True, False),
        ObjectRow(6, 0, 7 / 16, "merged", True, False),
        ObjectRow(7, 2, 0.6, "tp", False, True),
        ObjectRow(8, 0, 0.0, "fn", False, False),
        ObjectRow(2, 9, 1.0, "tp", False, False),
        ObjectRow(0, 3, 0.4, "split", False, True),
        ObjectRow(0, 4, 0.0, "fp", False, False),
    ]


@given(maps(), st.sampled_from([0.1, *THRESHOLDS]))
def test_rows_of_objects_have_every_object_once_and_the_counts_of_the_matching(pair: Maps, threshold: float) -> None:
    rows, found = object_rows(*pair, threshold), Matching.of(*pair).at(threshold)
    assert sorted(r.reference for r in rows if r.reference) == sorted(set(pair[0].ravel().tolist()) - {0})
    assert sorted(r.prediction for r in rows if r.prediction) == sorted(set(pair[1].ravel().tolist()) - {0})
    assert sum(r.status == "tp" for r in rows) == found.tp
    assert sum(not r.prediction for r in rows) == found.fn
    assert sum(not r.reference for r in rows) == found.fp
    assert math.fsum(r.iou for r in rows if r.status == "tp") == pytest.approx(found.iou_sum)
    counted = object_quantities(Matching.of(*pair))
    assert sum(r.merged for r in rows if r.reference) == counted["n_merged"]
    assert sum(r.split for r in rows if r.reference) == counted["n_split"]


# Where nobody annotated, and several classes


def test_an_object_mostly_where_nobody_annotated_is_left_out_and_others_are_cropped() -> None:
    numbers = np.array([1, 1, 1, 2, 2, 2, 3, 3, 0, 0, 4])
    left_out = np.array([0, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0], bool)
    # 1: a third; 2: two thirds; 3: half, which is not more than half.
    assert annotated(numbers, left_out).tolist() == [1, 1, 0, 0, 0, 0, 3, 0, 0, 0, 4]
    assert annotated(numbers, np.zeros(11, bool)) is numbers


@given(maps(), st.data())
def test_objects_are_those_of_their_class_where_somebody_annotated(pair: Maps, data: st.DataObject) -> None:
    classes: list[Any] = [np.array([0, *data.draw(st.lists(st.integers(1, 2), min_size=4, max_size=4))]) for _ in "rp"]
    gone = data.draw(hnp.arrays(bool, pair[0].shape))
    reference = np.where(gone, 0, pair[0])
    channels = np.where(gone, IGNORE, classes[0][reference]).astype(np.uint8)
    said = classes[1][pair[1]].astype(np.uint8)
    counts = overlap_counts(channels, said, 3)
    spacing = (1.0,) * reference.ndim
    found = list(pairs(channels, said, [(1,), (2,)], spacing, [None] * 2, counts, (reference, pair[1])))
    for k, mine in enumerate(found, start=1):
        left = annotated(np.where(said == k, pair[1], 0), gone)
        expected = Matching.of(np.where(channels == k, reference, 0), left)
        assert mine.object_quantities == object_quantities(expected)
    assert sum(f.objects.n_reference for f in found) == len(set(reference.ravel().tolist()) - {0})


def test_predicted_objects_that_all_lie_where_nobody_annotated_are_none() -> None:
    channels, said = np.array([[1, 1, 0, IGNORE, IGNORE]], np.uint8), np.array([[0, 0, 1, 1, 1]], np.uint8)
    (pair,) = pairs(
        channels,
        said,
        [(1,)],
        (1, 1),
        [None],
        overlap_counts(channels, said, 2),
        (np.array([[1, 1, 0, 0, 0]]), said.astype(int)),
    )
    assert pair.counts.predicted == 1
    for metric in OBJECT_METRICS.values():
        assert value_of(metric, pair) == metric.worst_of(pair.diagonal, 2)


def test_connected_components_of_a_perfect_foreground_merge_what_touches() -> None:
    reference, _ = blobs(1)
    found = values((reference, ndimage.label(reference > 0)[0]))
    assert found["split_rate"] == 0
    assert found["merge_rate"] > 0.3
    assert found["vi_split"] == pytest.approx(0)
