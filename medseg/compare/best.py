"""The best configuration, chosen without the cases that it is then scored on; and what the winner owes to its luck.

For each fold, the model is taken that has the best score on the other folds' cases, and the fold's own cases are scored
with it (nnU-Net chooses on all folds at once, and shows that score: Isensee et al. 2021). The mean of what was so
chosen is that of a procedure, "try these, take the best", and free of the luck that the best of several has on the
very cases by which it is the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.compare.block import Block
from medseg.compare.interval import TIE, macro_mean, subject_means
from medseg.compare.quantity import SCORE
from medseg.compare.resampled import mean_intervals
from medseg.compare.summary import number
from medseg.compare.trainings import folds_of
from medseg.results.key import VALIDATION

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for each fold.

    Attributes:
        folds: their numbers.
        places: of the model that was chosen for each.
        inner: its mean over the other folds' subjects, by which it was chosen.
        table: (S, C) scores of the subjects, each by the model that was chosen for its fold.
    """

    folds: tuple[int, ...]
    places: tuple[int, ...]
    inner: tuple[float, ...]
    table: Array


def choose(tables: Array, folds: NDArray[np.int64]) -> Choice | None:
    """Choose a model for each fold by the scores on the others; None where there is one fold, or no score.

    Args:
        tables: (M, S, C) scores of S subjects under M models, the simplest first: of equal ones the first is taken.
        folds: (S,) the fold of each subject.
    """
    names = sorted(set(folds.tolist()))
    if len(names) < 2:
        return None
    table = np.full(tables.shape[1:], np.nan)
    places, inner = [], []
    for fold in names:
        own = folds == fold
        means = np.array([macro_mean(one[~own]) for one in tables])
        if not np.isfinite(means).any():
            return None
        place = int(np.flatnonzero(means >= np.nanmax(means) - TIE)[0])
        places.append(place)
        inner.append(float(means[place]))
        table[own] = tables[place][own]
    return Choice(tuple(names), tuple(places), tuple(inner), table)


def best_rows(blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """One row per data set with two models and two folds or more: what was chosen, its score, the winner's optimism."""
    rows = []
    for dataset, models in _by_dataset(blocks):
        # Ensembles after models: what is simpler is taken where both are equally good.
        models = sorted(models, key=lambda block: len(block.members))
        tables = np.stack([subject_means(block.score, block.subjects)[1] for block in models])
        choice = choose(tables, folds_of(models[0]))
        if choice is None:
            continue
        means = [macro_mean(table) for table in tables]
        winner = int(np.nanargmax(means))
        (interval,) = mean_intervals([choice.table], [models[0].bounds[SCORE]])
        row: dict[str, Any] = {"dataset": dataset, "split": VALIDATION, "models": len(models), "metric": SCORE}
        row["folds"] = {
            str(fold): {"model": models[place].model, "by": number(inner)}
            for fold, place, inner in zip(choice.folds, choice.places, choice.inner, strict=True)
        }
        row |= {"mean": number(interval.mean), "low": number(interval.low), "high": number(interval.high)}
        row |= {"winner": models[winner].model, "winner_mean": number(means[winner])}
        row |= {"optimism": number(means[winner] - interval.mean), "note": interval.reason}
        rows.append({**row, "sentence": _sentence(row)})
    return rows


def _by_dataset(blocks: Sequence[Block]) -> Iterator[tuple[str, list[Block]]]:
    """Data sets with two models or more on validation folds, and these."""
    found: dict[str, list[Block]] = {}
    for block in blocks:
        if block.split == VALIDATION:
            found.setdefault(block.dataset, []).append(block)
    yield from ((dataset, models) for dataset, models in found.items() if len(models) > 1)


def _sentence(row: dict[str, Any]) -> str:
    """The row in words."""
    of_folds: dict[str, list[str]] = {}
    for fold, chosen in row["folds"].items():
        of_folds.setdefault(chosen["model"], []).append(fold)
    which = ", ".join(
        f"{model} for fold{'s' * (len(folds) > 1)} {' '.join(folds)}" for model, folds in of_folds.items()
    )
    ends = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return (
        f"chosen for each fold by the scores on the others ({which}): {row['mean']:.3f}{ends}; {row['winner']}, the "
        f"best on all, has {row['winner_mean']:.3f}, an optimism of {row['optimism']:+.3f} that the choice by the same "
        "scores may explain"
    )
