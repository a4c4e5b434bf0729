"""The best configuration, chosen on inner data: who is taken for which fold; its score owes nothing to luck."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.compare.best import choose
from medseg.compare.interval import macro_mean


def test_each_fold_is_scored_by_what_is_best_on_the_others() -> None:
    folds = np.array([0, 0, 1, 1, 2, 2])
    good, bad = 0.9, 0.5
    first = np.array([bad, bad, good, good, 0.7, 0.7])
    second = np.array([good, good, bad, bad, 0.7, 0.6])
    choice = choose(np.stack([first, second])[:, :, None], folds)
    assert choice is not None
    # Each is bad where the other is good, and is chosen for the fold on which it is bad.
    assert choice.places == (0, 1, 0)
    np.testing.assert_array_equal(choice.table[:, 0], [bad, bad, bad, bad, 0.7, 0.7])
    np.testing.assert_allclose(choice.inner, [0.8, 0.775, 0.7], atol=1e-12)


def test_of_equal_models_the_first_is_taken() -> None:
    table = np.full((4, 2), 0.8)
    choice = choose(np.stack([table, table + 1e-12]), np.array([0, 0, 1, 1]))
    assert choice is not None and choice.places == (0, 0)


@pytest.mark.parametrize("folds", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_with_one_fold_there_is_nothing_to_choose_by(folds: list[int]) -> None:
    assert choose(np.zeros((2, 4, 1)), np.array(folds)) is None


def test_scores_of_a_fold_have_no_part_in_its_choice() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    folds = np.repeat(np.arange(4), 5)
    tables = rng.uniform(size=(5, 20, 2))
    before = choose(tables, folds)
    tables[:, folds == 2] = rng.uniform(size=(5, 5, 2))
    after = choose(tables, folds)
    assert before is not None and after is not None
    assert before.places[2] == after.places[2] and before.inner[2] == after.inner[2]


def study(rng: np.random.Generator, models: int, subjects: int) -> np.ndarray:
    """(M, S, 1) scores of equal models: what is hard for one is hard for all, and each has luck of its own."""
    hard = rng.normal(0.0, 0.05, (1, subjects, 1))
    return np.asarray(0.8 + hard + rng.normal(0.0, 0.02, (models, subjects, 1)))


@pytest.mark.parametrize(("models", "subjects"), [(2, 10), (5, 30)])
def test_of_equal_models_the_chosen_one_is_unbiased_and_the_winner_is_not(models: int, subjects: int) -> None:
    rng = np.random.Generator(np.random.PCG64(7))
    folds = np.arange(subjects) % 5
    chosen, winners = [], []
    for _ in range(1500):
        tables = study(rng, models, subjects)
        choice = choose(tables, folds)
        assert choice is not None
        truth = float(tables.mean())
        chosen.append(macro_mean(choice.table) - truth)
        winners.append(max(macro_mean(one) for one in tables) - truth)
    for excess, biased in ((np.array(chosen), False), (np.array(winners), True)):
        error = excess.std() / np.sqrt(len(excess))
        assert (excess.mean() > 5 * error) == biased, (excess.mean(), error)
    assert abs(np.mean(chosen)) < 4 * np.std(chosen) / np.sqrt(len(chosen))
