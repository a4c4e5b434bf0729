"""What checks count, and what cases say about one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.formats.errors import FormatError
from medseg.formats.limits import check_size, file_limit, memory_budget
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest import counting
from medseg.ingest.checked import Checked
from medseg.ingest.cohort import fold_faults, swapped_channels
from medseg.ingest.counting import count_values, digest_voxels, field_of_view, right_angles, spread
from medseg.ingest.sources import Candidate

TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.int64]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=9),
        elements=st.integers(0, 120),
    ),
    st.sampled_from(["C", "F"]),
    st.sampled_from([0, -3, 1 << 25]),
)
def test_counts_are_those_of_numpy(labels: np.ndarray, order: str, shift: int) -> None:
    if shift and labels.dtype.itemsize >= 4:
        labels = labels + labels.dtype.type(shift)
    values, counts = np.unique(labels, return_counts=True)
    expected = dict(zip(values.tolist(), counts.tolist(), strict=True))
    assert count_values(np.asarray(labels, order=order)) == expected


def test_counting_goes_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "BLOCK", 7)
    labels = np.random.default_rng(0).integers(0, 4, (11, 13)).astype(np.uint8)
    assert sum(count_values(labels).values()) == labels.size


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 5, 6, 7)])
def test_a_digest_knows_voxels_and_shape_but_no_layout(shape: tuple[int, ...]) -> None:
    voxels = np.random.default_rng(0).integers(0, 99, shape).astype(np.int16)
    assert digest_voxels(voxels) == digest_voxels(np.asfortranarray(voxels))
    changed = voxels.copy()
    changed.flat[-1] += 1
    other = {digest_voxels(changed), digest_voxels(np.swapaxes(voxels, 1, 2)), digest_voxels(voxels[..., ::-1])}
    assert digest_voxels(voxels) not in other


def test_spread_ignores_what_is_not_finite_and_a_few_outliers() -> None:
    channel = np.linspace(0, 100, 10_000).reshape(100, 100)
    assert spread(channel) == pytest.approx(90, abs=0.2)
    channel[0, :5], channel[1, 0], channel[2, 0] = 1e9, np.nan, -np.inf
    assert spread(channel) == pytest.approx(90, abs=0.5)
    assert spread(np.full((4, 4), np.nan)) == 0.0


@pytest.mark.parametrize("shear", [0.0, 1e-6, 0.01, 0.5])
def test_the_angle_between_axes_is_that_of_the_shear(shear: float) -> None:
    linear = TURN @ np.diag([0.7, 0.7, 5.0]) @ (np.eye(3) + shear * np.eye(3, k=1))
    grid = Geometry.create((5, 5, 5), np.block([[linear, np.ones((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]]))
    # The first axis keeps its direction, the second gets ``shear`` of it; the third gets ``shear`` of the second.
    second, third = np.hypot(1, shear), np.hypot(1, shear * 0.7 / 5.0)
    assert right_angles(grid) == pytest.approx(max(shear / second, shear * 0.7 / 5.0 / second / third), abs=1e-9)


@pytest.mark.parametrize(("slices", "share"), [(10, 1.0), (9, 0.9), (5, 0.5), (20, 1.0)])
def test_field_of_view_is_the_share_of_voxels_inside(slices: int, share: float) -> None:
    affine = np.eye(4)
    affine[:3, :3] = TURN * 1.5
    first, other = Geometry.create((10, 10, 10), affine), Geometry.create((10, 10, slices), affine)
    assert field_of_view(first, first) == 1.0
    assert field_of_view(first, other) == pytest.approx(share)
    coarse = first.resampled((4, 4, 4))
    assert field_of_view(first, coarse) == 1.0


@given(
    st.integers(5, 60),
    st.lists(st.tuples(st.floats(-2, 4), st.floats(0.0, 1.0)), min_size=2, max_size=5),
    st.integers(0, 10_000),
)
def test_channels_in_order_never_look_swapped(cases: int, channels: list[tuple[float, float]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    logs = np.column_stack([rng.normal(mean, deviation, cases) for mean, deviation in channels])
    assert swapped_channels(logs) == {}


@given(st.integers(5, 60), st.floats(0.4, 4), st.floats(0.001, 0.04), st.integers(0, 10_000), st.data())
def test_swapped_channels_of_a_case_are_found(
    cases: int, gap: float, share: float, seed: int, data: st.DataObject
) -> None:
    rng, deviation = np.random.default_rng(seed), share * gap
    around = np.clip(rng.normal(0, deviation, (cases, 3)), -2 * deviation, 2 * deviation)
    logs = np.array([0.0, gap, 2.5 * gap]) + around
    victim = data.draw(st.integers(0, cases - 1))
    logs[victim, [0, 1]] = logs[victim, [1, 0]]
    assert swapped_channels(logs) == {victim: (0, 1)}


def checked(case: str, counts: dict[int, int] | None) -> Checked:
    return Checked(Candidate(case, case, (f"{case}.png",), (f"{case}.tif",)), label_counts=counts)


FOLDS = [{"train": ["a", "b"], "val": ["c", "d"]}, {"train": ["c", "d"], "val": ["a", "b"]}]
TABLE = LabelTable.create({"organ": 1, "lesion": 7})


def test_a_class_must_be_on_both_sides_of_each_fold() -> None:
    full, lacking = {0: 9, 1: 5, 7: 2}, {0: 9, 1: 5}
    everywhere = [checked(c, full) for c in "abcd"]
    assert fold_faults(everywhere, TABLE, FOLDS) == []
    one = fold_faults([checked("a", full), *(checked(c, lacking) for c in "bcd")], TABLE, FOLDS)
    assert [f.code for f in one] == ["class-absent"]
    assert "1 of 4 cases show class lesion (7)" in one[0].cause
    assert "no training case of fold 1 and no validation case of fold 0" in one[0].cause
    none = fold_faults([checked(c, lacking) for c in "abcd"], TABLE, FOLDS)
    assert "no training case of fold 0, 1 and no validation case of fold 0, 1" in none[0].cause


def test_a_label_that_could_not_be_read_may_show_anything() -> None:
    assert fold_faults([checked(c, None if c in "ac" else {0: 3, 1: 1}) for c in "abcd"], TABLE, FOLDS) == []


def test_objects_are_counted_by_their_classes() -> None:
    table = LabelTable.create({"nucleus": 5}, instances=True)
    assert fold_faults([checked(c, {0: 3, 5: 4}) for c in "abcd"], table, FOLDS) == []
    table = LabelTable.create({"nucleus": 5, "lymphocyte": 6}, instances=True)
    counts = {"a": {0: 3, 5: 4}, "b": {0: 3, 5: 4, 6: 1}, "c": {0: 1, 5: 2}, "d": {0: 1, 5: 2}}
    (one,) = fold_faults([checked(c, counts[c]) for c in "abcd"], table, FOLDS)
    assert (one.code, "class lymphocyte (6)" in one.cause) == ("class-absent", True)


def test_the_limit_of_a_file_holds_in_its_block_and_thread_only() -> None:
    from threading import Thread

    usual, elsewhere = memory_budget(), []
    with file_limit(1000):
        thread = Thread(target=lambda: elsewhere.append(memory_budget()))
        thread.start()
        thread.join()
        assert memory_budget() == 1000
        with pytest.raises(FormatError) as caught:
            check_size(Path("a.nii"), 1001, 10**6)
        assert caught.value.code == "too-large"
        assert "1001" in caught.value.cause
        assert "1000" in caught.value.cause
    assert memory_budget() == usual == elsewhere[0]
