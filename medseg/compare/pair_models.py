"""Every two models of a data set, and what their differences say beside interval and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.compare.block import Block
from medseg.compare.interval import FEWEST_SUBJECTS, TIE, Array, subject_means
from medseg.compare.permutation import pair_parts, student, without_ties
from medseg.compare.power import signed_ranks, smallest_differences
from medseg.compare.quantity import SCORE, quantity
from medseg.compare.resampled import Places, Stack
from medseg.compare.summary import number, row_means
from medseg.compare.training_variance import FEWEST_SEEDS, MethodInterval, Methods
from medseg.compare.trainings import by_seed, folds_of


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one data set and split, best ranked first, and every two of them.

    Attributes:
        blocks: their scores.
        first, second: (P,) places of the better and the worse ranked model of each pair.
    """

    blocks: Sequence[Block]
    first: Places
    second: Places

    @classmethod
    def of(cls, blocks: Sequence[Block]) -> Models:
        """Every two of these."""
        first, second = np.triu_indices(len(blocks), 1)
        return cls(blocks, first, second)

    def stack(self, name: str, columns: Sequence[int] | None = None) -> Stack:
        """Subject means of the score or a metric, of some classes or all."""
        every = slice(None) if columns is None else list(columns)
        return Stack(np.stack([subject_means(b.values[name][:, every], b.subjects)[1] for b in self.blocks]))

    def pairs(self) -> list[Pair]:
        """Every two, in ranked order."""
        return [Pair(self.blocks[k], self.blocks[j]) for k, j in zip(self.first, self.second, strict=True)]

    def wins(self) -> list[dict[str, int]]:
        """Cases in which the first model of each pair is better, equal, worse, by the mean of a case's scores."""
        means, found = np.stack([row_means(b.score) for b in self.blocks]), []
        for part in pair_parts(len(self.first), means.shape[1]):
            gaps = means[self.first[part]] - means[self.second[part]]
            won, lost, known = ((x.sum(axis=1).tolist()) for x in (gaps > TIE, gaps < -TIE, np.isfinite(gaps)))
            found += [
                {"wins": w, "ties": n - w - lost_, "losses": lost_}
                for w, lost_, n in zip(won, lost, known, strict=True)
            ]
        return found

    def methods(self) -> MethodPairs | None:
        """The models that were trained often enough to speak of methods; None if no two were."""
        places = {k: j for j, k in enumerate(k for k, b in enumerate(self.blocks) if len(b.seeds) >= FEWEST_SEEDS)}
        if len(places) < 2:
            return None
        tables = [by_seed(self.blocks[k], SCORE) for k in places]
        return MethodPairs(places, Methods(tables, folds_of(self.blocks[0]).tolist()))


@dataclass(frozen=True, slots=True)
class MethodPairs:
    """Methods, and the place of a model among them."""

    places: dict[int, int]
    methods: Methods

    def of(self, first: int, second: int, levels: Sequence[float]) -> list[MethodInterval] | None:
        """The difference of two models with the training variance in it, at each level; None: one has too few seeds."""
        if first not in self.places or second not in self.places:
            return None
        bounds = quantity(SCORE).difference_bounds
        return self.methods.differences(self.places[first], self.places[second], bounds, levels)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models of one data set, the better ranked first."""

    first: Block
    second: Block

    @property
    def names(self) -> dict[str, Any]:
        """What the pair is called in a row."""
        one = self.first
        return {"dataset": one.dataset, "split": one.split, "first": one.model, "second": self.second.model}


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the differences of P pairs say, beside interval and test; arrays are (P,).

    Attributes:
        statistic: Student's t.
        p_typical, effect_typical: signed-rank test.
        smallest: smallest difference that the test would show.
        mean: of the differences.
        points: of each pair the subjects' differences, where there are too few for an interval.
    """

    statistic: Array
    p_typical: Array
    effect_typical: Array
    smallest: Array
    mean: Array
    points: Sequence[Sequence[float]]

    @classmethod
    def of(cls, stack: Stack, models: Models) -> Statistics:
        """Of the differences of every two models."""
        pairs, columns = len(models.first), []
        points: list[Sequence[float]] = []
        for part in pair_parts(pairs, stack.n):
            gaps = stack.gaps(models.first[part], models.second[part])
            known = without_ties(gaps)
            mean = gaps.mean(axis=1) if stack.n else np.full(len(gaps), np.nan)
            columns.append((student(known), *signed_ranks(known), smallest_differences(known, pairs), mean))
            few = 0 < stack.n < FEWEST_SUBJECTS
            points += [sorted(number(v) or 0.0 for v in row) for row in gaps] if few else [()] * len(gaps)
        statistic, p, effect, smallest, mean = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(statistic, p, effect, smallest, mean, points)

    def row(self, k: int) -> dict[str, Any]:
        """What a row says of the typical case of a pair."""
        return {"p_typical": number(self.p_typical[k]), "effect_typical": number(self.effect_typical[k])}
