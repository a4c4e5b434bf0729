"""Intensity scaling: what each rule promises about its output."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medseg.image.intensity import LARGEST, NORMALIZATIONS, ct, none, percentile, rescale, rgb, zscore, zscore_nonzero

STATS = {"mean": 50.0, "std": 20.0, "p00_5": -100.0, "p99_5": 200.0}
channels = hnp.arrays(np.int16, (6, 7), elements=st.integers(-1024, 3071))


@given(channels)
def test_zscore_has_mean_0_and_deviation_1(channel: np.ndarray) -> None:
    out = zscore(channel, {})
    assert abs(out.mean(dtype=np.float64)) < 1e-3
    constant = channel.min() == channel.max()
    assert out.std(dtype=np.float64) == pytest.approx(0.0 if constant else 1.0, abs=1e-3)


@given(hnp.arrays(np.int16, (6, 7, 3), elements=st.integers(-3, 5)))
def test_zscore_nonzero_leaves_the_surroundings_at_0_and_scales_the_rest(channel: np.ndarray) -> None:
    from scipy import ndimage

    inside = ndimage.binary_fill_holes(channel != 0)
    out = zscore_nonzero(channel, {})
    assert not out[~inside].any()
    if inside.any() and channel[inside].std() > 0:
        assert abs(out[inside].mean(dtype=np.float64)) < 1e-3
        assert out[inside].std(dtype=np.float64) == pytest.approx(1.0, abs=1e-3)
    if inside.all():
        np.testing.assert_array_equal(out, zscore(channel, {}))


def test_zeros_inside_the_object_belong_to_it() -> None:
    channel = np.zeros((9, 9), dtype=np.float32)
    channel[2:7, 2:7] = 10
    channel[4, 4] = 0
    out = zscore_nonzero(channel, {})
    assert out[4, 4] < -1
    assert out[0, 0] == 0


@given(channels)
def test_rescale_goes_from_0_to_1(channel: np.ndarray) -> None:
    out = rescale(channel, {})
    assert out.min() == 0
    assert out.max() == (1 if channel.max() > channel.min() else 0)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 51, 255], np.uint8, [0, 0.2, 1]),
        # A dark picture stays dark.
        ([0, 0, 1], np.uint8, [0, 0, 1 / 255]),
        ([0, 255, 65535], np.uint16, [0, 255 / 65535, 1]),
        ([0, 51, 255], np.uint16, [0, 0.2, 1]),
        ([0, 0.5, 1], np.float32, [0, 0.5, 1]),
        ([0, 51, 255], np.float64, [0, 0.2, 1]),
    ],
)
def test_colours_are_scaled_alike_in_every_image(values: list, dtype: type, expected: list) -> None:
    np.testing.assert_allclose(rgb(np.array([values], dtype=dtype), {}), [expected], rtol=1e-6)


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


@pytest.mark.parametrize("sliver", [1e-12, 1e-3, 0.5, 30.0])
@pytest.mark.parametrize("bright", [1, 5, 500])
def test_a_sliver_of_range_beside_bright_pixels_stays_within_16_bits(sliver: float, bright: int) -> None:
    channel = np.linspace(0, sliver, 6400, dtype=np.float64).reshape(80, 80)
    channel.ravel()[:: 6400 // bright][:bright] = 60_000
    out = percentile(channel, {})
    assert np.isfinite(out.astype(np.float16)).all()
    assert out.max() - out.min() <= LARGEST * (1 + 1e-6)


@pytest.mark.parametrize("name", ["zscore", "percentile", "rescale"])
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
