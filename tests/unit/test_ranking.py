"""How stable a ranking is: values by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.compare.ranking import first_places, rank_agreement, schemes, winners_excess

NAN = float("nan")


def models(means: list[float], n: int = 20, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    common = 0.05 * generator.standard_normal((n, 1))
    return np.array(means)[:, None, None] + common + noise * generator.standard_normal((len(means), n, 1))


def test_a_clear_winner_is_always_first() -> None:
    tables = models([0.9, 0.5, 0.3])
    assert first_places(tables) == pytest.approx([1.0, 0.0, 0.0])
    assert rank_agreement(tables) == 1.0


def test_equal_models_share_the_first_place() -> None:
    table = models([0.8])[0]
    assert first_places([table, table, table]) == pytest.approx([1 / 3] * 3)
    assert rank_agreement([table, table, table]) == 0.0


def test_two_models_by_hand() -> None:
    # The first is better by 1 in one subject of three and worse by 0.4 in two: it wins unless it is never drawn.
    tables = np.array([[[1.0], [0.0], [0.0]], [[0.0], [0.4], [0.4]]])
    assert first_places(tables, resamples=20_000)[0] == pytest.approx(1 - (2 / 3) ** 3, abs=0.01)


def test_shares_add_up_and_follow_the_models() -> None:
    tables = models([0.80, 0.81, 0.805])
    tables[:, 10:] = np.where(np.arange(10)[None, :, None] < 3, NAN, tables[:, 10:])
    share = first_places(tables)
    assert share.sum() == pytest.approx(1.0)
    assert first_places(tables[[2, 0, 1]]) == pytest.approx(share[[2, 0, 1]])


def test_schemes_can_disagree() -> None:
    # The first is a little better in four subjects and fails in one: better by median and rank, worse by mean.
    tables = np.array([[[0.91], [0.92], [0.93], [0.94], [0.1]], [[0.90], [0.91], [0.92], [0.93], [0.9]]])
    found = schemes(tables)
    assert (found.mean, found.rank, found.median, found.agree) == ((1,), (0,), (0,), False)
    assert schemes(tables[:, :4]).agree


def test_ties_name_all_winners() -> None:
    table = models([0.8])[0]
    found = schemes([table, table - 0.1, table])
    assert (found.mean, found.rank, found.median, found.agree) == ((0, 2), (0, 2), (0, 2), True)


def test_classes_weigh_alike_in_every_scheme() -> None:
    # The second class is shown by one subject of four, and decides there by a wide margin.
    tables = np.full((2, 4, 2), NAN)
    tables[:, :, 0] = [[0.90] * 4, [0.91] * 4]
    tables[:, 0, 1] = [0.9, 0.5]
    found = schemes(tables)
    assert (found.mean, found.rank, found.median) == ((0,), (0, 1), (0,))


def test_winners_excess_is_what_the_best_of_equals_gains() -> None:
    # Five equal models: the expected maximum of five normal means is 1.163 standard errors above the truth.
    found = [winners_excess(models([0.8] * 5, 40, 0.03, seed), resamples=300) for seed in range(40)]
    assert np.mean(found) == pytest.approx(1.163 * 0.03 / 40**0.5, rel=0.07)


def test_winners_excess_does_not_depend_on_who_is_better() -> None:
    tables = models([0.8, 0.8, 0.8])
    moved = tables + np.array([0.0, -0.3, 0.1])[:, None, None]
    assert winners_excess(moved) == pytest.approx(winners_excess(tables))
    assert winners_excess(tables[:1]) == pytest.approx(0.0)
    assert winners_excess([tables[0], tables[0]]) == pytest.approx(0.0)
    assert np.isnan(winners_excess(tables[:, :1]))


def test_tables_that_differ_in_what_is_undefined_are_refused() -> None:
    tables = models([0.8, 0.9])
    tables[0, 3] = NAN
    with pytest.raises(ValueError, match="same subjects and classes"):
        first_places(tables)
