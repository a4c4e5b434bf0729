"""Laws of the statistics: equivariance, symmetry, monotony."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.compare.statistics import Interval, bootstrap_macro_interval, compare_paired, holm

scores = st.floats(0, 1).map(lambda v: round(v, 4))
tables = st.integers(2, 12).flatmap(
    lambda n: st.lists(st.tuples(st.sampled_from("abcde"), scores, scores), min_size=n, max_size=n)
)
quick = settings(max_examples=40, deadline=None)


def interval(rows: list[tuple[str, float, float]], shift: float = 0.0, scale: float = 1.0) -> Interval:
    values = np.array([row[1:] for row in rows]) * scale + shift
    return bootstrap_macro_interval(values, [row[0] for row in rows], resamples=200)


@quick
@given(tables, st.floats(-5, 5), st.floats(0.1, 10))
def test_interval_follows_shift_and_scale(rows: list[tuple[str, float, float]], shift: float, scale: float) -> None:
    plain, moved = interval(rows), interval(rows, shift, scale)
    for name in ("mean", "low", "high"):
        expected = getattr(plain, name) * scale + shift
        assert getattr(moved, name) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@quick
@given(tables, st.randoms())
def test_interval_does_not_depend_on_the_order_of_cases(rows: list[tuple[str, float, float]], random) -> None:
    mixed = list(rows)
    random.shuffle(mixed)
    one, two = interval(rows), interval(mixed)
    assert (two.low, two.mean, two.high) == pytest.approx((one.low, one.mean, one.high), abs=1e-12, nan_ok=True)


@quick
@given(tables)
def test_interval_lies_within_the_values_and_counts_them(rows: list[tuple[str, float, float]]) -> None:
    found = interval(rows)
    values = [v for row in rows for v in row[1:]]
    assert min(values) - 1e-12 <= found.mean <= max(values) + 1e-12
    assert (found.n, found.n_groups, found.n_undefined) == (len(rows), len({r[0] for r in rows}), 0)
    if found.n_groups < 2:
        assert math.isnan(found.low)
        assert found.reason
    else:
        assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12


@quick
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=20))
def test_swapping_two_models_turns_every_sign_and_keeps_p(pairs: list[tuple[float, float]]) -> None:
    first, second = np.array(pairs).T
    subjects = [f"s{k:02d}" for k in range(len(pairs))]
    one, two = compare_paired(first, second, subjects), compare_paired(second, first, subjects)
    assert two.difference.mean == pytest.approx(-one.difference.mean)
    assert two.difference.low == pytest.approx(-one.difference.high, abs=1e-9, nan_ok=True)
    assert (two.wins, two.ties, two.losses) == (one.losses, one.ties, one.wins)
    assert two.p == pytest.approx(one.p, nan_ok=True)
    assert two.effect == pytest.approx(-one.effect, nan_ok=True)
    assert one.wins + one.ties + one.losses == len(pairs)


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
