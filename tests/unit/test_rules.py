"""Planning rules: published plans, the sources' own examples, and laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.plan import rules

KEYS = sorted(rules.START_VOXELS)
spacings = st.lists(st.floats(0.3, 6.0), min_size=2, max_size=3).map(tuple)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[float, ...], tuple[float, ...]]:
    spacing = draw(spacings)
    return spacing, tuple(float(draw(st.integers(1, 400))) for _ in spacing)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_hippocampus_gets_the_published_plan(device: str) -> None:
    """Medical Segmentation Decathlon task 4 as nnU-Net plans it: patch 40x56x40, four stages."""
    spacing, shape = (1.0, 1.0, 1.0), (36.0, 50.0, 35.0)
    patch = rules.initial_patch(spacing, shape, rules.START_VOXELS[device, 3])
    strides, kernels, padded = rules.topology(patch, spacing)
    assert padded == (40, 56, 40)
    assert strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert kernels == ((3, 3, 3),) * 4


def test_coarse_axes_are_convolved_and_halved_later() -> None:
    strides, kernels, padded = rules.topology((20, 160, 160), (5.0, 1.0, 1.0))
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert padded == (20, 160, 160)


@pytest.mark.parametrize(
    ("median", "p10", "shape", "expected"),
    [
        ((1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (30, 40, 50), (1.0, 1.0, 1.0)),
        # Coarse and thin: the 10th percentile of that axis.
        ((5.0, 1.0, 1.0), (3.0, 0.8, 0.8), (20, 200, 200), (3.0, 1.0, 1.0)),
        ((1.0, 1.0, 6.0), (0.8, 0.8, 0.2), (200, 200, 20), (1.0, 1.0, 1.0)),
        # Coarse but not thin; thin but not coarse; exactly three times is not more than three times.
        ((5.0, 1.0, 1.0), (3.0, 0.8, 0.8), (100, 200, 200), (5.0, 1.0, 1.0)),
        ((2.5, 1.0, 1.0), (1.5, 0.8, 0.8), (20, 200, 200), (2.5, 1.0, 1.0)),
        ((3.0, 1.0, 1.0), (1.5, 0.8, 0.8), (20, 200, 200), (3.0, 1.0, 1.0)),
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


@pytest.mark.parametrize(
    ("channel", "unit", "expected"),
    [
        ("CT", "mm", "ct"),
        (" ct ", "mm", "ct"),
        ("CT", "px", "ct"),
        ("ct_pet", "mm", "zscore"),
        ("T1", "mm", "zscore"),
        ("DAPI", "um", "percentile"),
        ("0", "px", "percentile"),
    ],
)
def test_normalization_by_name_and_unit(channel: str, unit: str, expected: str) -> None:
    assert rules.normalization_of(channel, unit) == expected


@given(scenes(), st.integers(64, 10**6))
def test_initial_patch_fits_into_image_and_budget(scene: tuple, voxels: int) -> None:
    spacing, shape = scene
    patch = rules.initial_patch(spacing, shape, voxels)
    assert all(1 <= p <= max(1, n) for p, n in zip(patch, shape, strict=True))
    # Up to rounding, the budget is kept; and spent, unless the image is smaller.
    slack = math.prod((p + 0.51) / p for p in patch)
    assert math.prod(patch) <= voxels * slack + 1
    grown = math.prod(p + 0.51 for p in patch)
    assert grown >= min(voxels, math.prod(shape)) * 0.99 or any(v < 1.5 for v in patch)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0), (3.0, 0.4, 0.4)])
def test_unclipped_patch_is_a_cube_in_the_world(spacing: tuple[float, ...]) -> None:
    patch = rules.initial_patch(spacing, (10_000.0,) * 3, 128**3)
    sides = [p * s for p, s in zip(patch, spacing, strict=True)]
    assert max(sides) / min(sides) < 1.03
    assert math.prod(patch) == pytest.approx(128**3, rel=0.02)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=3).map(tuple), st.data())
def test_topology_is_one_that_networks_can_have(patch: tuple[int, ...], data: st.DataObject) -> None:
    spacing = tuple(data.draw(st.floats(0.3, 6.0)) for _ in patch)
    strides, kernels, padded = rules.topology(patch, spacing)
    divisor = rules.total_stride(strides)
    assert len(strides) == len(kernels) <= rules.MAX_STAGES
    assert set(strides[0]) == {1}
    assert all(set(s) <= {1, 2} and 2 in s for s in strides[1:])
    assert set(kernels[-1]) == {3}
    for axis in range(len(patch)):
        line = [k[axis] for k in kernels]
        assert line == sorted(line)
        assert set(line) <= {1, 3}
    for p, q, d in zip(patch, padded, divisor, strict=True):
        assert q % d == 0
        assert p <= q
        assert q < p + d or q == rules.smallest(d)
        # An image too small for three stages is padded until two voxels remain.
        assert q // d >= (2 if len(strides) == rules.MIN_STAGES else rules.MIN_FEATURES) or d == 1


@given(scenes(), st.data())
def test_shrinking_ends_and_keeps_divisibility(scene: tuple, data: st.DataObject) -> None:
    _, shape = scene
    divisor = tuple(data.draw(st.sampled_from([1, 2, 8, 16])) for _ in shape)
    patch = tuple(d * data.draw(st.integers(1, 9)) for d in divisor)
    seen = [patch]
    while (smaller := rules.shrink(patch, shape, divisor)) != patch:
        drops = [a - b for a, b in zip(patch, smaller, strict=True)]
        axis = next(i for i, v in enumerate(drops) if v)
        assert drops == [d if i == axis else 0 for i, d in enumerate(divisor)]
        ratios = [p / max(n, 1) for p, n, d in zip(patch, shape, divisor, strict=True) if p - d >= rules.smallest(d)]
        assert patch[axis] / max(shape[axis], 1) == max(ratios)
        patch = smaller
        seen.append(patch)
    assert seen[-1] == tuple(min(p, rules.smallest(d)) for p, d in zip(seen[0], divisor, strict=True))


def test_widths_double_up_to_the_cap() -> None:
    assert rules.widths(6, 32, 320) == (32, 64, 128, 256, 320, 320)
    assert rules.widths(1, 16, 256) == (16,)


def test_memory_of_the_reference() -> None:
    """nnU-Net: 5.6e8 feature-map voxels at batch 2 are 8 GB in 16 bits."""
    for precision, factor in {"bf16": 1, "fp16": 1, "fp32": 2}.items():
        assert rules.memory_bytes(5.6e8, 2, precision) == pytest.approx(8e9 * factor)


@given(st.floats(1e6, 1e12), st.floats(1e3, 1e10), st.floats(1e3, 1e12), st.sampled_from([None, 2, 4, 8]))
def test_batch_is_bounded_by_memory_data_and_cap(memory: float, per_patch: float, data: float, cap: int | None) -> None:
    patch = (16, 16, 16)
    batch = rules.batch_size(memory, per_patch, patch, data, cap)
    bounds = [memory / per_patch, 0.05 * data / 16**3, cap or math.inf]
    assert batch >= 2
    assert batch == 2 or all(batch <= b for b in bounds)
    assert batch + 1 > min(bounds), "nothing is left unused"


@given(st.floats(0.05, 600), st.floats(1e-3, 50), st.floats(0, 500))
def test_steps_fit_into_the_minutes(minutes: float, step_s: float, fixed_s: float) -> None:
    steps = rules.minutes_to_steps(minutes, step_s, fixed_s)
    assert steps >= 1
    assert steps == 1 or steps * step_s + fixed_s <= minutes * 60
    assert (steps + 1) * step_s > (minutes * 60 - fixed_s) * 0.97 - 1e-6


@given(st.integers(1, 50), st.integers(2, 300), st.integers(2, 10), st.integers(1, 16))
def test_epochs_are_whole_passes(epochs: int, cases: int, folds: int, batch: int) -> None:
    steps = rules.epochs_to_steps(epochs, cases, folds, batch)
    patches = epochs * cases * (folds - 1) / folds
    assert (steps - 1) * batch < patches + 1e-6
    assert steps * batch >= patches - 1e-6


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_tables_have_a_row_for_every_device_and_dimension(key: tuple[str, int]) -> None:
    assert KEYS == sorted(rules.WIDTH_CAP) == [(d, n) for d in ("cpu", "cuda") for n in (2, 3)]
    assert rules.BASE_WIDTH[key[0]] <= rules.WIDTH_CAP[key]
