"""What is computed for all models and pairs at once is what is computed for each alone: intervals, tests, ranks.

The oracles draw the same resamples and flips, so nothing but rounding may differ.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy import stats

from medseg.compare.interval import Interval, mean_interval
from medseg.compare.objects import pooled_interval, pooled_intervals
from medseg.compare.pair_tests import Scored, max_t_pairs
from medseg.compare.permutation import max_t
from medseg.compare.power import signed_rank, signed_ranks, smallest_difference, smallest_differences
from medseg.compare.resampled import Stack, mean_intervals
from medseg.compare.training_variance import Methods, method_difference
from tests.threads import printed

Tables = NDArray[np.float64]
RESAMPLES = 600
WIDE = (-np.inf, np.inf)


def tables(seed: int, subjects: int | None = None) -> Tables:
    """(M, S, C) scores of one pattern of undefined entries, of a kind that the seed decides."""
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(2, 5)), subjects or int(generator.integers(3, 40)), int(generator.integers(1, 5)))
    drawn = generator.random(shape)
    kinds = [
        drawn,
        np.round(drawn, 1),  # many ties
        np.where(drawn < 0.1, 0.0, 0.9),  # misses: a third of the resamples have no spread
        np.where(drawn < 0.05, 30.0, 5.0),  # distances
        0.8 + 1e-9 * drawn,  # next to nothing
        np.full(shape, 0.8),  # nothing at all
    ]
    chosen = kinds[seed % len(kinds)]
    undefined = generator.random(shape[1:]) < (0.3 if seed % 2 else 0.0)
    if seed % 4 == 3:
        undefined[:, 1:] = undefined[:, :1]  # subjects that have nothing, and classes that are shown together
    chosen[:, undefined] = np.nan
    return chosen


def ends(interval: Interval) -> list[float]:
    return [interval.mean, interval.low, interval.high]


def require_same(found: Interval, expected: Interval) -> None:
    assert (found.n_subjects, found.reason) == (expected.n_subjects, expected.reason)
    assert_allclose(ends(found), ends(expected), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("seed", range(24))
def test_intervals_of_many_are_those_of_each(seed: int) -> None:
    many = tables(seed)
    stack, first, second = Stack(many), *np.triu_indices(len(many), 1)
    found = stack.differences(first, second, [WIDE] * len(first), [0.95, 0.999], resamples=RESAMPLES)
    for level, of_pairs in zip([0.95, 0.999], found, strict=True):
        for k, j, one in zip(first, second, of_pairs.intervals(), strict=True):
            more = {"bounds": WIDE, "level": level, "resamples": RESAMPLES}
            require_same(one, mean_interval(many[k] - many[j], **more))
    for table, one in zip(many, stack.means([(0.0, 50.0)] * len(many), resamples=RESAMPLES).intervals(), strict=True):
        require_same(one, mean_interval(table, bounds=(0.0, 50.0), resamples=RESAMPLES))


@pytest.mark.parametrize(("subjects", "absent", "scale"), [(600, 0.3, 1.0), (600, 0.0, 50.0), (2000, 0.1, 50.0)])
def test_of_many_subjects_ends_are_exact_to_a_hundred_thousandth_of_the_width(
    subjects: int, absent: float, scale: float
) -> None:
    """Single precision, and of classes that most subjects show, means in place of what counts a ten-thousandth."""
    generator = np.random.default_rng(3)
    many = scale * (0.6 + 0.35 * generator.beta(4, 1.5, size=(2, subjects, 3)))
    many[:, generator.random((subjects, 3)) < absent] = np.nan
    assert Stack(many)._is_steady() == (absent == 0.1)
    first, second = np.triu_indices(2, 1)
    found = Stack(many).differences(first, second, [WIDE])[0].intervals()
    for k, j, one in zip(first, second, found, strict=True):
        alone = mean_interval(many[k] - many[j], bounds=WIDE)
        assert_allclose(ends(one), ends(alone), rtol=0, atol=1e-5 * (alone.high - alone.low))


def test_tables_of_several_patterns_and_few_tables_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [*tables(0, 20), *tables(1, 20), *tables(3, 20)]
    expected = [mean_interval(table) for table in both]
    for found, alone in zip(mean_intervals(both, [(0.0, 1.0)] * len(both)), expected, strict=True):
        require_same(found, alone)
    many = tables(7, 30)
    first, second = np.triu_indices(len(many), 1)
    whole = Stack(many).differences(first, second, [WIDE] * len(first), resamples=RESAMPLES)[0]
    monkeypatch.setattr("medseg.compare.resampled._BLOCK", 1)
    monkeypatch.setattr("medseg.compare.resampled._KEPT", 1)
    parts = Stack(many).differences(first, second, [WIDE] * len(first), resamples=RESAMPLES)[0]
    assert_allclose(parts.low, whole.low, rtol=1e-9)


def test_tables_without_a_value_have_no_interval() -> None:
    nothing = np.full((2, 5, 3), np.nan)
    stack = Stack(nothing)
    (one,) = stack.differences(np.array([0]), np.array([1]), [WIDE])[0].intervals()
    require_same(one, mean_interval(nothing[0]))
    require_same(stack.means([WIDE] * 2).intervals()[0], mean_interval(nothing[0]))


def test_tables_that_differ_in_what_is_undefined_are_refused() -> None:
    many = np.random.default_rng(0).random((2, 8, 2))
    many[0, 3, 1] = np.nan
    with pytest.raises(ValueError, match="only if the same entries are undefined"):
        Stack(many)


@pytest.mark.parametrize("seed", range(24))
def test_a_family_of_pairs_is_the_family_of_their_differences(seed: int) -> None:
    generator = np.random.default_rng(seed)
    models, subjects = int(generator.integers(2, 6)), int(generator.integers(2, 40))
    first, second = np.triu_indices(models, 1)
    kinds, columns = [], []
    for _ in range(int(generator.integers(1, 4))):
        places = np.flatnonzero(generator.random(subjects) < (0.9 if seed % 2 else 1.0))
        drawn = generator.random((models, len(places)))
        shown = [drawn, np.round(drawn, 1), 0.8 + 1e-7 * drawn, 0.8 + 3e-9 * drawn][seed % 4]
        if seed % 5 == 2:
            shown[1] = shown[0]
        kinds.append(Scored(places, shown))
        gaps = np.full((subjects, len(first)), np.nan)
        gaps[places] = (shown[first] - shown[second]).T
        columns.append(gaps)
    found = max_t_pairs(kinds, first, second, flips=400)
    alone = max_t(np.concatenate(columns, axis=1), flips=400)
    assert_array_equal(found.p.ravel(), [test.p for test in alone])
    assert_array_equal(found.p_adjusted.ravel(), [test.p_adjusted for test in alone])
    assert (found.exact, found.flips) == (alone[0].exact, max(test.flips for test in alone))
    assert np.repeat(found.n_subjects, len(first)).tolist() == [test.n_subjects for test in alone]


@pytest.mark.parametrize("subjects", [5, 7, 9, 14, 30, 50, 51, 400])
@pytest.mark.parametrize("kind", ["smooth", "ties", "zeros", "one side"])
def test_signed_ranks_are_scipys(kind: str, subjects: int) -> None:
    generator = np.random.default_rng(subjects)
    gaps = generator.normal(0.2, 1.0, size=(6, subjects))
    gaps[0] = 0.0
    if kind == "ties":
        gaps = np.round(gaps, 1)
    elif kind == "zeros":
        gaps = np.where(generator.random(gaps.shape) < 0.3, 0.0, gaps)
    elif kind == "one side":
        gaps = np.abs(gaps)
    p, effect = signed_ranks(gaps)
    assert_allclose([signed_rank(row)[0] for row in gaps], p, rtol=0)
    for row, found, correlation in zip(gaps, p, effect, strict=True):
        if np.count_nonzero(row) >= 6:
            assert found == pytest.approx(stats.wilcoxon(row, zero_method="pratt").pvalue, rel=1e-9)
            ranks = stats.rankdata(np.abs(row))
            above, below = ranks[row > 0].sum(), ranks[row < 0].sum()
            assert correlation == pytest.approx((above - below) / (above + below))


def test_smallest_differences_are_those_of_each_row() -> None:
    gaps = np.random.default_rng(0).normal(0, 0.01, size=(4, 20))
    gaps[1] = 0.3
    assert_allclose(smallest_differences(gaps, 6), [smallest_difference(row, 6) for row in gaps], rtol=1e-12)


def test_methods_of_many_are_those_of_two() -> None:
    generator = np.random.default_rng(5)
    many = [generator.random((seeds, 24, 2)) for seeds in (2, 3, 2, 1)]
    undefined = generator.random((24, 2)) < 0.2
    for one in many:
        one[:, undefined] = np.nan
    many[1][2, :6] = np.nan  # a seed that was not trained in every fold
    folds = np.repeat(range(4), 6).tolist()
    methods = Methods(many, folds)
    for k, j in [(0, 1), (1, 2), (0, 3)]:
        expected = method_difference(many[k], many[j], folds)
        (found,) = methods.differences(k, j, (-1.0, 1.0))
        assert (found.reason, found.n_seeds, found.n_folds) == (expected.reason, expected.n_seeds, expected.n_folds)
        names = ("mean", "low", "high", "p", "freedom", "subject_variance", "training_variance")
        assert_allclose([getattr(found, n) for n in names], [getattr(expected, n) for n in names], rtol=1e-12)


def test_pooled_intervals_are_those_of_each_row() -> None:
    generator = np.random.default_rng(6)
    total = generator.integers(0, 40, size=(5, 25)).astype(float)
    found = np.floor(total * generator.random((5, 25)))
    found[1], total[2] = total[1], 0.0
    found[2] = 0.0
    for k, one in enumerate(pooled_intervals(found, total, resamples=RESAMPLES)):
        require_same(one, pooled_interval(found[k], total[k], resamples=RESAMPLES))


def test_the_same_bytes_on_any_number_of_threads() -> None:
    code = (
        "import numpy as np; from medseg.compare.resampled import Stack; from medseg.compare.pair_tests import *;"
        "t = np.random.default_rng(0).random((12, 700, 3)); f, s = np.triu_indices(12, 1); k = Stack(t);"
        "e = k.differences(f, s, [(-1, 1)] * len(f), resamples=300)[0];"
        "p = max_t_pairs([Scored(k.places, k.contributions)], f, s, flips=500).p_adjusted;"
        "print([x.hex() for x in [*e.low, *e.high, *p.ravel()]])"
    )
    assert len({printed(code, threads) for threads in (1, 2)}) == 1
