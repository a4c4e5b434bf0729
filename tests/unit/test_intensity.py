"""Intensity scaling: what each rule promises about its output."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.image.intensity import NORMALIZATIONS, ct, none, percentile, zscore

STATS = {"mean": 50.0, "std": 20.0, "p00_5": -100.0, "p99_5": 200.0}
channels = hnp.arrays(np.int16, (6, 7), elements=st.integers(-1024, 3071))


@given(channels)
def test_zscore_has_mean_0_and_deviation_1(channel: np.ndarray) -> None:
    out = zscore(channel, {})
    assert abs(out.mean(dtype=np.float64)) < 1e-3
    constant = channel.min() == channel.max()
    assert out.std(dtype=np.float64) == pytest.approx(0.0 if constant else 1.0, abs=1e-3)


@given(channels)
def test_ct_clips_to_the_data_sets_percentiles(channel: np.ndarray) -> None:
    expected = (np.clip(channel.astype(np.float64), -100, 200) - 50) / 20
    np.testing.assert_allclose(ct(channel, STATS), expected, atol=1e-5)


def test_percentile_maps_1_and_99_8_percent_to_0_and_1() -> None:
    channel = np.arange(1001, dtype=np.uint16).reshape(7, 143)
    out = percentile(channel, {})
    assert out.ravel()[10] == pytest.approx(0.0, abs=1e-6)
    assert out.ravel()[998] == pytest.approx(1.0, abs=1e-6)
    # Bright pixels stay apart: nothing is clipped.
    assert out.max() > 1.0
    assert out.min() < 0.0


@pytest.mark.parametrize("name", ["zscore", "percentile"])
@pytest.mark.parametrize("bright", [1, 5, 500])
def test_a_few_bright_pixels_on_black_stay_numbers_that_can_be_stored(name: str, bright: int) -> None:
    """Fewer pixels than the upper percentile looks at: the range of the rest is 0 and must not be divided by."""
    channel = np.zeros((80, 80), dtype=np.uint8)
    channel.ravel()[:: 6400 // bright][:bright] = 200
    out = NORMALIZATIONS[name](channel, {})
    assert np.isfinite(out.astype(np.float16)).all()
    assert out.max() > out.min()


@pytest.mark.parametrize("name", ["zscore", "percentile"])
def test_per_image_rules_do_not_depend_on_the_scale_of_the_scanner(name: str) -> None:
    rule, channel = NORMALIZATIONS[name], np.random.default_rng(0).gamma(2.0, size=(20, 20))
    np.testing.assert_allclose(rule(channel * 37 + 500, {}), rule(channel, {}), atol=1e-3)


@pytest.mark.parametrize("name", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_every_rule_gives_finite_float32_and_leaves_its_input_alone(name: str, dtype: type) -> None:
    channel = np.random.default_rng(1).integers(0, 255, (5, 6, 7)).astype(dtype)
    for image in (channel, np.full_like(channel, 7)):
        before = image.copy()
        out = NORMALIZATIONS[name](image, STATS)
        assert out.dtype == np.float32
        assert out.shape == image.shape
        assert np.isfinite(out).all()
        np.testing.assert_array_equal(image, before)


def test_statistics_of_a_data_set_without_foreground_do_not_divide_by_zero() -> None:
    empty = dict.fromkeys(STATS, 0.0)
    assert np.isfinite(ct(np.arange(12.0).reshape(3, 4), empty)).all()


def test_none_is_the_identity() -> None:
    channel = np.arange(12, dtype=np.int16).reshape(3, 4)
    np.testing.assert_array_equal(none(channel, {}), channel)
