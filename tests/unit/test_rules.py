"""Planning rules on the data: the sources' own examples, boundaries, and laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.image.intensity import NORMALIZATIONS
from medseg.plan import rules

spacings = st.lists(st.floats(0.3, 6.0), min_size=2, max_size=3).map(tuple)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[float, ...], tuple[float, ...]]:
    spacing = draw(spacings)
    return spacing, tuple(float(draw(st.integers(1, 400))) for _ in spacing)


@pytest.mark.parametrize(
    ("median", "p10", "shape", "expected"),
    [
        ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (30, 40, 50), (1.0, 1.0, 1.0)),
        # Coarse and thin: the 10th percentile of that axis.
        ((5.0, 1.0, 1.0), (3.0, 0.8, 0.8), (20, 200, 200), (3.0, 1.0, 1.0)),
        # Not finer than the others, and still the coarsest.
        ((1.0, 1.0, 6.0), (0.8, 0.8, 0.2), (200, 200, 20), (1.0, 1.0, 1.0 + rules.STILL_COARSEST)),
        # Coarse but not thin; thin but not coarse; exactly three times is not more than three times.
        ((5.0, 1.0, 1.0), (3.0, 0.8, 0.8), (100, 200, 200), (5.0, 1.0, 1.0)),
        ((2.5, 1.0, 1.0), (1.5, 0.8, 0.8), (20, 200, 200), (2.5, 1.0, 1.0)),
        ((3.0, 1.0, 1.0), (1.5, 0.8, 0.8), (20, 200, 200), (3.0, 1.0, 1.0)),
        ((5.0, 1.0, 1.0), (3.0, 0.8, 0.8), (60, 180, 200), (5.0, 1.0, 1.0)),
        ((0.5, 0.5), (0.2, 0.2), (300, 300), (0.5, 0.5)),
    ],
)
def test_target_spacing(median: tuple, p10: tuple, shape: tuple, expected: tuple) -> None:
    assert rules.target_spacing(median, p10, shape) == expected


@given(scenes(), st.floats(0.1, 1.0))
def test_target_spacing_changes_one_axis_at_most_and_never_below_the_others(scene: tuple, share: float) -> None:
    median, shape = scene
    out = rules.target_spacing(median, [v * share for v in median], shape)
    changed = [a for a, (new, old) in enumerate(zip(out, median, strict=True)) if new != old]
    assert len(changed) <= 1
    for a in changed:
        assert median[a] == max(median)
        assert max(v for i, v in enumerate(out) if i != a) <= out[a] <= median[a]
        assert rules.coarsest_axis(out) == a


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((1.0, 1.0, 1.0), 2), ((1.0, 2.0, 1.0), 1), ((2.0, 1.0, 2.0), 2), ((3.0, 1.0, 1.0), 0)],
)
def test_slices_lie_along_the_coarsest_axis_the_last_of_equals(spacing: tuple, axis: int) -> None:
    assert rules.coarsest_axis(spacing) == axis


@pytest.mark.parametrize(
    ("channel", "unit", "kept", "expected"),
    [
        ("CT", "mm", 1.0, "ct"),
        (" ct ", "mm", 0.5, "ct"),
        ("CT", "px", 1.0, "ct"),
        ("ct_pet", "mm", 1.0, "zscore"),
        ("T1", "mm", 0.75, "zscore"),
        ("T1", "mm", 0.7499, "zscore_nonzero"),
        ("zscore", "um", 0.5, "zscore_nonzero"),
        ("DAPI", "um", 0.5, "percentile"),
        ("0", "px", 1.0, "percentile"),
        ("RGB", "px", 1.0, "rgb"),
        ("g", "um", 1.0, "rgb"),
        ("rgb_to_0_1", "mm", 1.0, "rgb"),
        ("rescale_to_0_1", "mm", 1.0, "rescale"),
        ("noNorm", "mm", 0.5, "none"),
    ],
)
def test_normalization_by_name_unit_and_crop(channel: str, unit: str, kept: float, expected: str) -> None:
    assert rules.normalization_of(channel, unit, kept) == expected
    assert expected in NORMALIZATIONS


def test_every_name_that_chooses_a_scaling_chooses_one_there_is() -> None:
    assert set(rules.BY_NAME.values()) <= set(NORMALIZATIONS)


# Low resolution


def test_no_low_resolution_where_a_patch_covers_a_quarter() -> None:
    shape = (100.0, 100.0, 100.0)
    assert rules.lowres_spacing((1.0, 1.0, 1.0), shape, lambda *_: 250_000.0) is None
    assert rules.lowres_spacing((1.0, 1.0, 1.0), shape, lambda *_: 240_000.0) is None, "not worth it: not halved"
    assert rules.lowres_spacing((1.0, 1.0, 1.0), shape, lambda *_: 100_000.0) is not None


@given(st.tuples(*[st.floats(0.4, 3.0)] * 3), st.tuples(*[st.integers(100, 700)] * 3), st.floats(1e5, 4e6))
def test_low_resolution_covers_a_quarter_and_evens_out_the_axes(spacing: tuple, shape: tuple, patch: float) -> None:
    low = rules.lowres_spacing(spacing, shape, lambda *_: patch)
    if low is None:
        return
    voxels = math.prod(s / v * n for s, v, n in zip(spacing, low, shape, strict=True))
    # One step less would not have been enough.
    assert rules.COVERED <= patch / voxels < rules.COVERED * rules.LOWRES_STEP**3 * 1.0001
    assert math.prod(shape) / voxels >= rules.LOWRES_GAIN
    growth = [v / s for s, v in zip(spacing, low, strict=True)]
    assert min(growth) >= 1
    assert max(low) / min(low) <= max(2 * 1.0001, max(spacing) / min(spacing))
    # Only axes that were finer than half of the coarsest grow more than it does.
    worst = rules.coarsest_axis(spacing)
    assert all(
        g == pytest.approx(growth[worst]) or s * 2 < spacing[worst] for g, s in zip(growth, spacing, strict=True)
    )


# Batch and steps


@given(st.floats(1e6, 1e12), st.floats(1e3, 1e10), st.floats(1e3, 1e12), st.sampled_from([None, 2, 4, 8]))
def test_batch_is_bounded_by_memory_data_and_cap(room: float, per_patch: float, data: float, cap: int | None) -> None:
    patch = 16**3
    batch = rules.batch_size(room, per_patch, patch, data, cap)
    bounds = [room / per_patch, 0.05 * data / patch, cap or math.inf]
    assert batch >= 2
    assert batch == 2 or all(batch <= b + 0.5 for b in bounds)
    assert batch + 0.5 >= min(bounds), "nothing is left unused"


@given(st.integers(1, 50), st.integers(2, 300), st.integers(2, 10), st.integers(1, 16))
def test_epochs_are_whole_passes(epochs: int, cases: int, folds: int, batch: int) -> None:
    steps = rules.epochs_to_steps(epochs, cases, folds, batch)
    patches = epochs * cases * (folds - 1) / folds
    assert (steps - 1) * batch < patches + 1e-6
    assert steps * batch >= patches - 1e-6
