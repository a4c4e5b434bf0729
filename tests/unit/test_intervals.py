"""Macro means over subjects and their bootstrap-t intervals: hand-computed values, laws, and how often they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from medseg.compare.interval import (
    caution,
    contributions,
    influences,
    macro_mean,
    mean_interval,
    standard_error,
    subject_means,
    unseen_share,
)
from tests.threads import printed

NAN = float("nan")


def skewed(generator: np.random.Generator, n: int, classes: int = 1) -> Any:
    return 1.0 / (1.0 + np.exp(-2.2 - 0.7 * generator.standard_normal((n, classes))))


def test_subject_means_by_hand() -> None:
    names, table = subject_means([[1.0, NAN], [0.5, 0.2], [0.9, NAN], [0.0, 0.4]], ["b", "a", "b", "a"])
    assert names == ("a", "b")
    assert_allclose(table, [[0.25, 0.3], [0.95, NAN]])


def test_macro_mean_is_the_mean_of_class_means_and_of_contributions() -> None:
    table = [[0.8, 0.5], [0.6, NAN], [1.0, NAN], [NAN, NAN]]
    assert macro_mean(table) == pytest.approx((0.8 + 0.5) / 2)
    # Three subjects, two classes: x_1 = (0.8 + 3 * 0.5) / 2, then 0.6 / 2 and 1.0 / 2; the last has no class.
    assert_allclose(contributions(table), [1.15, 0.3, 0.5, NAN])


def test_a_class_that_nobody_has_changes_nothing() -> None:
    table = np.array([[0.8, NAN], [0.6, NAN]])
    assert macro_mean(table) == pytest.approx(0.7)
    assert_allclose(contributions(table), table[:, 0])


def test_nothing_at_all_has_no_mean() -> None:
    assert np.isnan(macro_mean(np.full((3, 2), NAN)))
    assert mean_interval(np.full((3, 2), NAN)).reason == "0 subjects; an interval needs 6"


def test_standard_error_of_one_class_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).random((9, 1))
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / 3.0)


def test_standard_error_of_ratios_agrees_with_the_spread_over_many_samples() -> None:
    generator = np.random.default_rng(3)
    means, errors = [], []
    for _ in range(2000):
        table = 0.7 + 0.1 * generator.standard_normal((40, 2)) + [0.2, -0.2]
        table[generator.random(40) < 0.5, 1] = NAN
        means.append(macro_mean(table))
        errors.append(standard_error(table))
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.06)


def test_influences_add_up_to_nothing() -> None:
    table = np.random.default_rng(0).random((9, 2))
    table[4:, 1] = NAN
    assert influences(table).sum() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("n", [1, 5])
def test_below_six_subjects_there_is_a_mean_and_no_interval(n: int) -> None:
    found = mean_interval(np.linspace(0.5, 0.9, n)[:, None])
    assert found.mean == pytest.approx(np.linspace(0.5, 0.9, n).mean())
    assert np.isnan([found.low, found.high]).all()
    assert found.reason == f"{n} subject{'s' if n > 1 else ''}; an interval needs 6"


def test_equal_values_have_an_interval_without_width() -> None:
    found = mean_interval(np.full((6, 1), 0.05))
    assert found.low == found.mean == found.high == pytest.approx(0.05)
    assert found.reason == "all 6 subjects have the same value"


def test_a_class_that_one_subject_shows_leaves_no_interval() -> None:
    table = np.random.default_rng(0).random((20, 2))
    table[1:, 1] = NAN
    assert mean_interval(table).reason == "a class is shown by one subject only, so its scatter is unknown"


def test_one_failure_among_equal_subjects_does_not_bound_the_mean_below() -> None:
    # A third of the resamples lack the failure and have no spread, so the data bound the mean on one side only.
    scores = np.full((12, 1), 0.9)
    scores[0] = 0.0
    found = mean_interval(scores)
    assert found.low == 0.0
    assert found.mean < found.high < 1.0


def test_interval_agrees_with_scipys_studentised_quantiles() -> None:
    # scipy has no bootstrap-t; its resampling gives the same quantiles of the studentised mean.
    from scipy import stats

    values = skewed(np.random.default_rng(5), 25)[:, 0]

    def ratio(x: Any, axis: int) -> Any:
        return (x.mean(axis=axis) - values.mean()) / (x.std(axis=axis, ddof=1) / 5.0)

    drawn = stats.bootstrap((values,), ratio, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1))
    low, high = np.quantile(drawn.bootstrap_distribution, [0.025, 0.975])
    found, error = mean_interval(values[:, None], resamples=20_000), values.std(ddof=1) / 5.0
    assert found.low == pytest.approx(values.mean() - high * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean() - low * error, abs=0.1 * error)


def test_shift_scale_and_mirror_carry_over() -> None:
    values = skewed(np.random.default_rng(2), 15, 2)
    values[9:, 1] = NAN
    wide = {"bounds": (-np.inf, np.inf), "resamples": 2000}
    plain, moved, turned = (mean_interval(t, **wide) for t in (values, 3.0 * values + 1.0, -values))
    assert_allclose([moved.low, moved.high], [3 * plain.low + 1, 3 * plain.high + 1], atol=1e-9)
    assert_allclose([turned.low, turned.high], [-plain.high, -plain.low], atol=2e-3)


def test_repeated_columns_are_one_column() -> None:
    values = skewed(np.random.default_rng(2), 15)
    assert mean_interval(np.hstack([values, values])).low == pytest.approx(mean_interval(values).low)


def test_interval_stays_within_the_metric_and_around_the_mean() -> None:
    for seed in range(30):
        generator = np.random.default_rng(seed)
        values = np.where(generator.random((8, 1)) < 0.3, 0.0, 0.99)
        found = mean_interval(values, resamples=500)
        assert 0.0 <= found.low <= found.mean <= found.high <= 1.0


def test_a_higher_level_is_wider() -> None:
    values = skewed(np.random.default_rng(4), 20)
    narrow, wide = (mean_interval(values, level=level) for level in (0.9, 0.95))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_same_bytes_whatever_the_number_of_threads() -> None:
    code = (
        "import numpy as np; from medseg.compare.interval import mean_interval;"
        "t = np.random.default_rng(0).random((300, 40)); f = mean_interval(t, resamples=300);"
        "print(f.low.hex(), f.high.hex())"
    )
    assert len({printed(code, threads) for threads in (1, 2)}) == 1


def test_intervals_hold_where_percentiles_do_not() -> None:
    # 600 studies of 10 skewed subjects: bootstrap-t holds in about 94 %, the percentile method in about 88 %; a
    # binomial error of 600 studies is 1 %.
    generator = np.random.default_rng(11)
    truth = skewed(np.random.default_rng(1), 400_000).mean()
    studies = [skewed(generator, 10) for _ in range(600)]
    found = [mean_interval(table, resamples=500, seed=k) for k, table in enumerate(studies)]
    held = np.mean([f.low <= truth <= f.high for f in found])
    assert 0.915 <= held <= 0.97
    drawn = [t[:, 0][generator.integers(0, 10, (500, 10))].mean(axis=1) for t in studies]
    ends = np.quantile(np.array(drawn), [0.025, 0.975], axis=1)
    assert np.mean((ends[0] <= truth) & (truth <= ends[1])) < 0.915


def test_cautions() -> None:
    many, few = np.random.default_rng(0).random((60, 2)), np.random.default_rng(0).random((20, 1))
    assert caution(many) == ""
    assert caution(few) == (
        "with 20 subjects, misses in up to 14% of subjects can go unseen, and the interval holds only if there are none"
    )
    many[4:, 1] = NAN
    assert caution(many).startswith("one class is shown by 4 subjects only")
    assert caution(few[:4]) == ""  # there is no interval to be cautious about


def test_unseen_share_is_missed_once_in_twenty() -> None:
    assert (1.0 - unseen_share(20)) ** 20 == pytest.approx(0.05)
