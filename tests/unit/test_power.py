"""What a study could have shown: textbook values, laws, and the error of equivalence."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medseg.compare.permutation import max_t
from medseg.compare.power import (
    can_be_shown,
    equivalence,
    fewest_subjects,
    method_equivalence,
    signed_rank,
    smallest_difference,
    smallest_method_difference,
)
from medseg.compare.training_variance import method_difference


def test_smallest_difference_by_tables() -> None:
    # n = 10, sd = 1: t(0.975, 9) = 2.262157, t(0.8, 9) = 0.883404.
    gaps = np.arange(10.0)
    gaps = (gaps - gaps.mean()) / gaps.std(ddof=1)
    assert smallest_difference(gaps) == pytest.approx((2.262157 + 0.883404) / 10**0.5, abs=1e-6)
    # Five comparisons: t(0.995, 9) = 3.249836.
    assert smallest_difference(gaps, 5) == pytest.approx((3.249836 + 0.883404) / 10**0.5, abs=1e-6)


def test_smallest_difference_knows_scale_and_not_shift() -> None:
    gaps = np.random.default_rng(0).random(12)
    assert smallest_difference(3 * gaps + 1, 3) == pytest.approx(3 * smallest_difference(gaps, 3))
    assert smallest_difference(np.append(gaps, np.nan), 3) == smallest_difference(gaps, 3)
    assert smallest_difference(gaps, 3) > smallest_difference(gaps, 1)
    assert np.isnan(smallest_difference([0.1]))


def test_smallest_difference_is_shown_four_times_in_five() -> None:
    # 600 studies, binomial error 1.6 %.
    generator = np.random.default_rng(0)
    shift = (stats.t.ppf(0.975, 24) + stats.t.ppf(0.8, 24)) / 5.0
    shown = [max_t(generator.normal(shift, 1.0, 25), flips=400)[0].p <= 0.05 for _ in range(600)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize(
    ("n", "comparisons", "possible"),
    [(5, 1, False), (6, 1, True), (6, 3, False), (7, 3, True), (10, 45, False), (11, 45, True), (0, 1, False)],
)
def test_what_can_be_shown(n: int, comparisons: int, possible: bool) -> None:
    assert can_be_shown(n, comparisons) is possible


@pytest.mark.parametrize("comparisons", [1, 3, 10, 45])
def test_fewest_subjects_is_where_the_test_can_reach_five_percent(comparisons: int) -> None:
    n = fewest_subjects(comparisons)
    assert can_be_shown(n, comparisons)
    assert not can_be_shown(n - 1, comparisons)
    # The test agrees: the clearest data there can be.
    assert max_t(np.ones((n, comparisons)))[0].p_adjusted <= 0.05 < max_t(np.ones((n - 1, comparisons)))[0].p_adjusted


def test_equivalence_is_the_inner_interval() -> None:
    gaps = 0.01 * np.random.default_rng(0).standard_normal((30, 1))
    found = equivalence(gaps, 0.02)
    assert found.equivalent
    assert not equivalence(gaps, max(abs(found.low), abs(found.high))).equivalent
    assert equivalence(gaps, max(abs(found.low), abs(found.high)) + 1e-6).equivalent
    mirrored = equivalence(-gaps, 0.02)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=2e-4)
    family = equivalence(gaps, 0.02, comparisons=10)
    assert family.low < found.low < found.high < family.high


def test_equal_predictions_are_equivalent_and_few_subjects_are_refused() -> None:
    assert equivalence(np.zeros((6, 1)), 0.001).equivalent
    few = equivalence(np.zeros((5, 1)), 0.001)
    assert not few.equivalent
    assert few.refused == "5 subjects; an interval needs 6"


@pytest.mark.parametrize("margin", [0.0, -0.1, float("nan"), float("inf")])
def test_a_margin_is_a_number_above_zero(margin: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        equivalence(np.zeros((9, 1)), margin)


def test_equivalence_errs_once_in_twenty_at_the_margin() -> None:
    # 400 studies whose true difference is the margin; binomial error 1.1 %.
    generator = np.random.default_rng(2)
    found = [equivalence(generator.normal(0.02, 0.03, (20, 1)), 0.02, resamples=400, seed=k) for k in range(400)]
    assert np.mean([f.equivalent for f in found]) <= 0.09


@pytest.mark.parametrize(
    "gaps",
    [
        [0.1, -0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.0],  # a zero
        [0.1, -0.1, 0.1, 0.2, 0.2, 0.3, -0.4, 0.5],  # ties
        [0.11, -0.12, 0.13, 0.24, 0.25, 0.36, -0.47, 0.58, 0.8],  # neither
        [*np.random.default_rng(0).normal(0.3, 1.0, 30), 0.0, 0.0],  # many
    ],
)
def test_signed_rank_is_scipys_with_zeros_ranked(gaps: list[float]) -> None:
    assert signed_rank(gaps)[0] == pytest.approx(stats.wilcoxon(gaps, zero_method="pratt").pvalue)


def test_rank_biserial_correlation_by_hand() -> None:
    effect = signed_rank([0.1, -0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.0])[1]
    assert effect == pytest.approx((2 + 4 + 5 + 6 + 7 + 8 - 3) / (2 + 3 + 4 + 5 + 6 + 7 + 8))


def test_signed_rank_refuses_few_and_knows_equality() -> None:
    assert signed_rank(np.zeros(9)) == (1.0, 0.0)
    assert np.isnan(signed_rank([0.1] * 5 + [0.0] * 9)).all()
    assert np.isnan(signed_rank([])).all()
    assert signed_rank([0.1] * 6) == pytest.approx((2 / 2**6, 1.0))


def test_luck_of_trainings_counts_in_what_two_methods_could_have_shown() -> None:
    generator = np.random.default_rng(0)
    common = 0.8 + 0.05 * generator.standard_normal((20, 1))
    noise = 0.005 * generator.standard_normal((2, 20, 1))
    # No luck: one fold, seeds alike, so the paired t's numbers.
    still = [np.stack([common + part] * 2) for part in noise]
    found = method_difference(*still, [0] * 20)
    gaps = (still[0] - still[1]).mean(axis=0)
    assert smallest_method_difference(found, 3) == pytest.approx(smallest_difference(gaps, 3))
    assert method_equivalence(*still, [0] * 20, 0.01).equivalent
    # Luck of 0.02 between seeds: the same mean difference, and no longer equivalent.
    luck = np.array([0.02, -0.02])[:, None, None]
    moved = [table + luck for table in still]
    assert smallest_method_difference(method_difference(*moved, [0] * 20)) > 10 * smallest_method_difference(found)
    assert not method_equivalence(*moved, [0] * 20, 0.01).equivalent
    refused = method_equivalence(still[0][:1], still[1], [0] * 20, 0.01)
    assert (refused.equivalent, refused.refused) == (False, "1 training in a fold; a statement about methods needs 2")
    assert np.isnan(smallest_method_difference(method_difference(still[0][:1], still[1], [0] * 20)))
