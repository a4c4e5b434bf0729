"""Sign-flip max-T: values by hand, scipy as oracle, laws, and family-wise error."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from medseg.compare import permutation
from medseg.compare.permutation import holm, max_t

NAN = float("nan")


def adjusted(differences: Any, **options: Any) -> list[float]:
    return [found.p_adjusted for found in max_t(differences, **options)]


def test_four_subjects_by_hand() -> None:
    # |sum| is 8 as seen; of the 8 flips up to a common sign, only that one reaches 8, and flipping 1 gives 6.
    found = max_t(np.array([1.0, 2.0, 2.0, 3.0]))[0]
    assert (found.p, found.exact, found.flips, found.n_subjects) == (1 / 8, True, 8, 4)
    assert found.statistic == pytest.approx(2.0 / (np.std([1, 2, 2, 3], ddof=1) / 2.0))


@pytest.mark.parametrize("seed", range(3))
def test_exact_p_is_scipys(seed: int) -> None:
    gaps = np.random.default_rng(seed).normal(0.4, 1.0, 9)
    oracle = stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert max_t(gaps)[0].p == pytest.approx(oracle.pvalue)


def test_random_flips_approach_the_exact_p() -> None:
    gaps = np.random.default_rng(3).normal(0.35, 1.0, 16)
    oracle = stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=np.inf)
    found = max_t(gaps)[0]
    assert (found.exact, found.flips) == (False, 10_001)
    assert found.p == pytest.approx(oracle.pvalue, abs=4 * np.sqrt(oracle.pvalue / 10_000))


def test_single_pair_is_not_adjusted() -> None:
    gaps = np.random.default_rng(0).normal(0.2, 1.0, 10)
    found = max_t(gaps)[0]
    assert found.p_adjusted == found.p


def test_three_models_always_the_same_distance_apart() -> None:
    models = np.array([0.90, 0.85, 0.80])
    gaps = np.tile([models[a] - models[b] for a, b in itertools.combinations(range(3), 2)], (6, 1))
    for found in max_t(gaps):
        assert found.p == 2 / 2**6
        assert found.p_adjusted == 3 * 2 / 2**6  # max-T alone would say 2 / 2^6: all three rise and fall together
        assert found.statistic == np.inf


def test_rounding_makes_no_p_value() -> None:
    # 0.9 - 0.85 is not 0.85 - 0.8 in floating point; mathematically equal statistics count as equal.
    gaps = np.array([0.9 - 0.85, 0.85 - 0.8, 0.3 - 0.25, 0.1 - 0.15, 0.2 - 0.15, 0.7 - 0.65])
    exact = np.array([1, 1, 1, -1, 1, 1]) * 0.05
    assert max_t(gaps)[0].p == max_t(exact)[0].p == 14 / 64


def test_no_difference_is_p_one() -> None:
    found = max_t(np.zeros((8, 2)))
    assert [f.p for f in found] == [1.0, 1.0]
    assert found[0].statistic == 0.0
    assert max_t(np.full((8, 1), 1e-12))[0].p == 1.0


def test_zeros_carry_no_evidence() -> None:
    gaps = np.array([0.1, 0.2, 0.15, 0.3, -0.02])
    assert max_t(np.append(gaps, np.zeros(20)))[0].p == max_t(gaps)[0].p


def test_pair_without_common_subject_is_refused_alone() -> None:
    gaps = np.random.default_rng(0).normal(1.0, 1.0, (10, 2))
    refused, kept = max_t(np.column_stack([np.full(10, NAN), gaps[:, 0]]))
    assert refused.reason == "no common subject"
    assert np.isnan([refused.p, refused.p_adjusted]).all()
    assert kept == max_t(gaps[:, 0])[0]


def test_missing_subjects_do_not_take_part() -> None:
    gaps = np.random.default_rng(0).normal(0.5, 1.0, 11)
    found = max_t(np.append(gaps, [NAN, NAN]))[0]
    assert (found.p, found.n_subjects) == (max_t(gaps)[0].p, 11)


def test_laws_of_symmetry() -> None:
    gaps = np.random.default_rng(1).normal(0.3, 1.0, (11, 3))
    plain = max_t(gaps)
    order = np.random.default_rng(0).permutation(11)
    assert adjusted(gaps[order]) == adjusted(gaps)
    assert adjusted(gaps[:, [2, 0, 1]]) == [plain[k].p_adjusted for k in (2, 0, 1)]
    for factor in (-1.0, 1000.0, 1e-3):
        assert adjusted(gaps * factor) == adjusted(gaps)
    turned = max_t(gaps * [1, -1, 1])
    assert turned[1].statistic == -plain[1].statistic
    assert [f.p_adjusted for f in turned] == adjusted(gaps)
    # Comparisons are studentised: the unit of one does not weigh on the others.
    assert adjusted(gaps * [1, 50, 1]) == adjusted(gaps)


def test_adjusted_p_is_not_below_raw_and_grows_with_the_family() -> None:
    gaps = np.random.default_rng(4).normal(0.5, 1.0, (12, 4))
    found = max_t(gaps)
    assert all(f.p <= f.p_adjusted <= 1.0 for f in found)
    assert all(a >= b for a, b in zip(adjusted(gaps)[:2], adjusted(gaps[:, :2]), strict=True))
    by_statistic = sorted(found, key=lambda f: -abs(f.statistic))
    assert [f.p_adjusted for f in by_statistic] == sorted(f.p_adjusted for f in found)


def test_dependent_comparisons_cost_less_than_holm() -> None:
    one = np.random.default_rng(7).normal(0.6, 1.0, 13)
    copies = np.column_stack([one, one, one])
    assert adjusted(copies)[0] == max_t(one)[0].p
    assert holm([f.p for f in max_t(copies)])[0] == pytest.approx(3 * max_t(one)[0].p)


def test_step_down_by_enumeration() -> None:
    gaps = np.random.default_rng(9).normal(0.4, 1.0, (8, 3))
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    t = np.abs(stats.ttest_1samp(signs[:, :, None] * gaps, 0.0, axis=1).statistic)
    order = np.argsort(-t[0])
    expected, running = np.zeros(3), 0.0
    for step, pair in enumerate(order):
        running = max(running, np.mean(t[:, order[step:]].max(axis=1) >= t[0, pair] - 1e-9))
        expected[pair] = running
    assert_allclose(adjusted(gaps), np.maximum(expected, 3 / 2**7))


def test_family_wise_error_of_equal_models_with_ties() -> None:
    # 400 studies of 5 equal models, 12 unequal subjects, scores to two digits: at most 5 %, binomial error 1.1 %.
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        noise = 0.04 * generator.standard_normal((12, 5)) / np.sqrt(generator.geometric(0.3, (12, 1)))
        scores = np.round(0.85 + noise, 2)
        wrong += (
            min(adjusted(np.stack([scores[:, a] - scores[:, b] for a, b in itertools.combinations(range(5), 2)], 1)))
            <= 0.05
        )
    assert 0.01 <= wrong / 400 <= 0.08  # without adjustment: about 0.25


def test_power_of_symmetric_differences_is_not_below_signed_rank() -> None:
    generator = np.random.default_rng(1)
    studies = generator.normal(0.6, 1.0, (300, 20))
    flips = np.mean([max_t(g, flips=500)[0].p <= 0.05 for g in studies])
    assert flips >= np.mean(stats.wilcoxon(studies, axis=1).pvalue <= 0.05) - 0.02


def test_a_rare_failure_is_not_outvoted() -> None:
    # +0.01 in 51 of 60 subjects, -0.07 in 9: signed rank calls the first better, the mean says the opposite.
    gaps = np.array([0.01] * 51 + [-0.07] * 9)
    assert stats.wilcoxon(gaps).pvalue < 0.01
    assert max_t(gaps)[0].p > 0.2


def test_cautions_name_what_would_reverse_the_order() -> None:
    gaps = np.full(20, 0.02)
    share = 1 - 0.05 ** (1 / 20)
    said = permutation.test_caution(gaps)
    assert said == (
        "with 20 subjects, failures in up to 14% of subjects can go unseen; "
        f"a loss of {0.02 * (1 - share) / share:.2f} there by the better model reverses the order"
    )
    assert permutation.test_caution(-gaps) == said
    assert permutation.test_caution(np.full(20, 0.5)) == ""  # no loss of at most 1 undoes that
    assert permutation.test_caution(np.zeros(20)) == permutation.test_caution([]) == ""


def test_holm_by_hand() -> None:
    assert holm([0.01, NAN, 0.04, 0.03]) == pytest.approx([0.03, NAN, 0.06, 0.06], nan_ok=True)
