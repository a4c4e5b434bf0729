"""Laws of the statistics: equivariance, symmetry, monotony."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.compare.interval import Interval, contributions, macro_mean, mean_interval, subject_means
from medseg.compare.permutation import holm, max_t

scores = st.floats(0, 1).map(lambda v: round(v, 4))
tables = st.integers(2, 20).flatmap(
    lambda n: st.lists(st.tuples(st.sampled_from("abcdefgh"), scores, scores), min_size=n, max_size=n)
)
quick = settings(max_examples=40, deadline=None)
ANY = (-math.inf, math.inf)


def interval(rows: list[tuple[str, float, float]], shift: float = 0.0, scale: float = 1.0) -> Interval:
    values = np.array([row[1:] for row in rows]) * scale + shift
    return mean_interval(subject_means(values, [row[0] for row in rows])[1], bounds=ANY, resamples=200)


@quick
@given(tables, st.floats(-5, 5), st.floats(0.1, 10))
def test_interval_follows_shift_and_scale(rows: list[tuple[str, float, float]], shift: float, scale: float) -> None:
    plain, moved = interval(rows), interval(rows, shift, scale)
    for name in ("mean", "low", "high"):
        expected = getattr(plain, name) * scale + shift
        assert getattr(moved, name) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@quick
@given(tables, st.randoms())
def test_interval_does_not_depend_on_the_order_of_cases(rows: list[tuple[str, float, float]], random) -> None:
    mixed = list(rows)
    random.shuffle(mixed)
    one, two = interval(rows), interval(mixed)
    assert (two.low, two.mean, two.high) == pytest.approx((one.low, one.mean, one.high), abs=1e-9, nan_ok=True)


@quick
@given(tables)
def test_interval_holds_the_mean_and_is_there_from_six_subjects_on(rows: list[tuple[str, float, float]]) -> None:
    found = interval(rows)
    subjects = len({row[0] for row in rows})
    assert found.n_subjects == subjects
    if subjects < 6:
        assert math.isnan(found.low)
        assert found.reason == f"{subjects} subject{'s' if subjects > 1 else ''}; an interval needs 6"
    else:
        assert found.low <= found.mean <= found.high


@quick
@given(tables, st.lists(st.booleans(), min_size=40, max_size=40))
def test_contributions_add_up_to_the_macro_mean(rows: list[tuple[str, float, float]], lost: list[bool]) -> None:
    values = np.array([row[1:] for row in rows])
    gone = np.array(lost[: 2 * len(rows)]).reshape(-1, 2)
    table = subject_means(np.where(gone, np.nan, values), [row[0] for row in rows])[1]
    found = contributions(table)
    known = found[np.isfinite(found)]
    expected = macro_mean(table)
    assert (float(known.mean()) if known.size else math.nan) == pytest.approx(expected, nan_ok=True)


@quick
@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=20))
def test_swapping_two_models_turns_every_sign_and_keeps_p(pairs: list[tuple[float, float]]) -> None:
    gaps = np.subtract(*np.array(pairs).T)
    (one,), (two,) = max_t(gaps), max_t(-gaps)
    assert two.p == one.p
    assert two.statistic == pytest.approx(-one.statistic)
    there, back = (mean_interval(g[:, None], bounds=(-1, 1), resamples=500) for g in (gaps, -gaps))
    assert back.mean == pytest.approx(-there.mean)


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_is_between_p_and_bonferroni_keeps_order_and_ignores_position(p: list[float], random) -> None:
    adjusted = holm(p)
    for raw, new in zip(p, adjusted, strict=True):
        assert raw <= new <= min(1.0, len(p) * raw) + 1e-12
    ranked = [new for _, new in sorted(zip(p, adjusted, strict=True))]
    assert ranked == sorted(ranked)
    assert adjusted[int(np.argmin(p))] == pytest.approx(min(1.0, len(p) * min(p)))
    order = list(range(len(p)))
    random.shuffle(order)
    assert holm([p[k] for k in order]) == pytest.approx([adjusted[k] for k in order])
