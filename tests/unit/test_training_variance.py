"""Statements about methods: variance components by hand, laws, and error when trainings are a matter of luck."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from medseg.compare.interval import macro_mean
from medseg.compare.permutation import max_t
from medseg.compare.training_variance import method_difference, method_mean

NAN = float("nan")


def study(generator: np.random.Generator, n: int, folds: int, seeds: int, luck: float = 0.015) -> tuple[Any, Any, Any]:
    """Two equal methods: (seeds, n, 1) scores of both, and the folds."""
    fold = np.arange(n) % folds
    common = 0.9 + 0.05 * generator.standard_normal((n, 1))
    both = [
        common
        + luck * generator.standard_normal((seeds, folds))[:, fold, None]
        + 0.02 * generator.standard_normal((seeds, n, 1))
        for _ in range(2)
    ]
    return both[0], both[1], fold


def test_components_by_hand() -> None:
    # One method, one fold, two seeds that differ by 0.02 in every subject; subjects 0.85 and 0.95, four of each.
    subjects = np.array([0.85, 0.95] * 4)[:, None]
    found = method_mean(np.stack([subjects - 0.01, subjects + 0.01]), [0] * 8)
    v1, v2 = 0.05**2 / 7, 0.01**2 * 2 / 2
    assert found.mean == pytest.approx(0.9)
    assert (found.subject_variance, found.training_variance) == pytest.approx((v1, v2))
    freedom = (v1 + v2) ** 2 / (v1**2 / 7 + v2**2 / 1)
    assert found.freedom == pytest.approx(freedom)
    reach = stats.t.ppf(0.975, freedom) * (v1 + v2) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.9 - reach, 0.9 + reach))
    assert (found.n_subjects, found.n_folds, found.n_seeds) == (8, 1, 2)


def test_two_folds_share_the_luck() -> None:
    # The same luck in each of two equal folds: half the variance of the mean, and two degrees of freedom.
    subjects = np.array([0.85, 0.95] * 4)[:, None]
    turned = np.array([1.0, -1.0])[np.arange(8) // 4][:, None] * 0.01
    found = method_mean(np.stack([subjects - turned, subjects + turned]), np.arange(8) // 4)
    assert found.training_variance == pytest.approx(0.01**2 * 2 / (2 * 2))


def test_without_luck_and_with_one_fold_it_is_the_t_test_of_paired_subjects() -> None:
    generator = np.random.default_rng(0)
    first, second = (0.8 + 0.05 * generator.standard_normal((20, 1)) for _ in range(2))
    found = method_difference(np.stack([first] * 2), np.stack([second] * 2), [0] * 20)
    oracle = stats.ttest_rel(first[:, 0], second[:, 0])
    ends = oracle.confidence_interval(0.95)
    assert found.p == pytest.approx(oracle.pvalue)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


def test_difference_is_the_ranking_statistics() -> None:
    first, second, fold = study(np.random.default_rng(0), 20, 2, 3)
    classes = [np.concatenate([t, np.where(np.arange(20)[:, None] < 5, t / 2, NAN)], axis=2) for t in (first, second)]
    found = method_difference(*classes, fold)
    assert found.mean == pytest.approx(macro_mean(classes[0].mean(axis=0)) - macro_mean(classes[1].mean(axis=0)))
    turned = method_difference(*classes[::-1], fold)
    assert (turned.low, turned.high, turned.p) == pytest.approx((-found.high, -found.low, found.p))


def test_order_of_subjects_seeds_and_folds_does_not_matter() -> None:
    first, second, fold = study(np.random.default_rng(0), 20, 2, 3)
    plain = method_difference(first, second, fold)
    order = np.random.default_rng(1).permutation(20)
    for found in (
        method_difference(first[:, order], second[:, order], fold[order]),
        method_difference(first[::-1], second, fold),
        method_difference(first, second, 7 - fold),
    ):
        assert (found.low, found.high, found.p) == pytest.approx((plain.low, plain.high, plain.p))


def test_more_luck_and_fewer_seeds_widen_the_interval() -> None:
    width = {}
    for luck, seeds in ((0.0, 5), (0.02, 5), (0.02, 2)):
        found = [method_difference(*study(np.random.default_rng(k), 30, 2, seeds, luck)) for k in range(20)]
        width[luck, seeds] = np.mean([f.high - f.low for f in found])
    assert width[0.0, 5] < width[0.02, 5] < width[0.02, 2]


def test_a_seed_missing_in_one_fold_costs_one_degree_of_freedom() -> None:
    first, second, fold = study(np.random.default_rng(0), 20, 2, 3)
    first[2, fold == 1] = NAN
    found = method_difference(first, second, fold)
    assert found.n_seeds == 2
    assert found.mean == pytest.approx(np.nanmean(np.nanmean(first, axis=0) - second.mean(axis=0)))
    assert np.isfinite(found.p)


def test_refusals_say_why() -> None:
    first, second, fold = study(np.random.default_rng(0), 20, 2, 3)
    assert (
        method_difference(first[:1], second, fold).reason == "1 training in a fold; a statement about methods needs 2"
    )
    assert "an interval needs 6" in method_difference(first[:, :5], second[:, :5], fold[:5]).reason
    assert np.isnan(method_difference(first[:1], second, fold).p)


def test_nothing_varies() -> None:
    same = np.full((2, 8, 1), 0.9)
    found = method_difference(same, same - 0.05, [0] * 8)
    assert (found.low, found.high, found.p) == pytest.approx((0.05, 0.05, 0.0))
    assert method_difference(same, same, [0] * 8).p == 1.0


def test_three_trainings_of_one_model_are_no_two_methods() -> None:
    # Seeds 0, 1, 2 of one network reached 0.928, 0.896, 0.930 on the same subjects. Between two of them the test of
    # subjects sees a clear difference; as trainings of two methods nothing is shown.
    generator = np.random.default_rng(0)
    common = 0.04 * generator.standard_normal((30, 1))
    common -= common.mean()
    noise = 0.01 * generator.standard_normal((3, 30, 1))
    trainings = np.array([0.928, 0.896, 0.930])[:, None, None] + common + noise
    assert max_t((trainings[0] - trainings[1])[:, 0])[0].p < 0.0015
    assert method_difference(trainings[[0, 1]], trainings[[2, 0]], [0] * 30).p > 0.2
    assert method_difference(trainings[:1], trainings[1:2], [0] * 30).reason


@pytest.mark.parametrize(("folds", "seeds"), [(1, 3), (5, 2)])
def test_error_with_luck_where_the_test_of_networks_errs(folds: int, seeds: int) -> None:
    # 300 studies of two equal methods, binomial error 1.3 %.
    generator = np.random.default_rng(3)
    wrong = np.zeros(2)
    for k in range(300):
        first, second, fold = study(generator, 30, folds, seeds)
        gaps = (first.mean(axis=0) - second.mean(axis=0))[:, 0]
        wrong += [method_difference(first, second, fold).p <= 0.05, max_t(gaps, flips=300, seed=k)[0].p <= 0.05]
    methods, networks = wrong / 300
    assert methods <= 0.09
    assert networks >= 0.2
