"""Paired comparisons of every two models of a data set, in a primary and in secondary families of tests.

Primary: the mean over classes of the score that models are ranked by, all pairs of models; it alone gives verdicts.
Secondary, each with a correction of its own: the families of the table of metrics (overlap, surface distances); in each
the mean over classes of every metric, and in the family of the ranked metric that one class by class.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.compare.block import Block, Values
from medseg.compare.interval import TIE, contributions, macro_mean, mean_interval, subject_means
from medseg.compare.permutation import Test, holm, max_t, test_caution
from medseg.compare.power import (
    ALPHA,
    Equivalence,
    equivalence,
    method_equivalence,
    signed_rank,
    smallest_difference,
    smallest_method_difference,
)
from medseg.compare.quantity import MEAN, SCORE, Quantity, families, quantity
from medseg.compare.summary import number
from medseg.compare.training_variance import FEWEST_SEEDS, MethodInterval, method_difference
from medseg.compare.trainings import by_seed, folds_of
from medseg.compare.verdict import (
    ABOUT_NETWORKS,
    BETTER,
    CANNOT,
    EQUIVALENT,
    METHODS,
    NETWORKS,
    Evidence,
    Verdict,
    verdict,
)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two models of one data set, the better ranked first."""

    first: Block
    second: Block

    def table(self, name: str, columns: Sequence[int] | None = None) -> Values:
        """(S, C) differences of subject means of the score or a metric."""
        one, two = (subject_means(b.values[name], self.first.subjects)[1] for b in (self.first, self.second))
        gap = one - two
        return gap if columns is None else gap[:, list(columns)]

    @property
    def names(self) -> dict[str, Any]:
        """What the pair is called in a row."""
        one = self.first
        return {"dataset": one.dataset, "split": one.split, "first": one.model, "second": self.second.model}

    @property
    def scope(self) -> str:
        """Whether both models were trained often enough to speak of methods."""
        seeds = min(len(b.seeds) for b in (self.first, self.second))
        return METHODS if seeds >= FEWEST_SEEDS else NETWORKS

    @property
    def difference_of(self) -> str:
        """What differs, in words: the score is the ranked metric where every reference shows every class."""
        lacking = self.first.lacking & self.first.shown.any(axis=0)
        return quantity(SCORE if lacking.any() else self.first.ranked).mean_title

    def wins(self) -> dict[str, int]:
        """Cases in which the first model is better, equal, worse, by the mean of a case's scores."""
        means = [_row_means(b.score) for b in (self.first, self.second)]
        gap = means[0] - means[1]
        gap = gap[np.isfinite(gap)]
        won, lost = int((gap > TIE).sum()), int((gap < -TIE).sum())
        return {"wins": won, "ties": len(gap) - won - lost, "losses": lost}


def pair_rows(
    blocks: Sequence[Block], ranking: Sequence[dict[str, Any]], margin: float | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare every two models of every data set and split.

    Args:
        blocks: the scores.
        ranking: rows of the leaderboard.
        margin: largest difference of the mean score that does not matter; none: equivalence is not tested.

    Returns:
        Rows of the primary family, with their verdicts, and rows of the secondary family.
    """
    by_name = {(b.dataset, b.split, b.model): b for b in blocks}
    primary, secondary = [], []
    for dataset, split in dict.fromkeys((r["dataset"], r["split"]) for r in ranking):
        names = [r["model"] for r in ranking if (r["dataset"], r["split"]) == (dataset, split)]
        ranked = [by_name[dataset, split, name] for name in names]
        pairs = [_Pair(one, two) for one, two in itertools.combinations(ranked, 2)]
        if pairs:
            primary += _primary(pairs, margin)
            for family, members in families().items():
                computed = [one for one in members if one.name in pairs[0].first.values]
                secondary += _secondary(pairs, family, computed) if computed else []
    return primary, secondary


def _primary(pairs: Sequence[_Pair], margin: float | None) -> list[dict[str, Any]]:
    tables = [pair.table(SCORE) for pair in pairs]
    tests = max_t(np.stack([contributions(table) for table in tables], axis=1))
    methods = [_method(pair) if pair.scope == METHODS else None for pair in pairs]
    adjusted = holm([method.p if method is not None else math.nan for method in methods])
    rows = []
    for pair, table, test, method, p_method in zip(pairs, tables, tests, methods, adjusted, strict=True):
        interval = mean_interval(table, bounds=quantity(SCORE).difference_bounds)
        ends = (interval.low, interval.high)
        if method is not None:
            # The wider ends: rare failures show in the bootstrap's, the luck of trainings in the method's.
            ends = wider(ends, (method.low, method.high))
        # The flips of subjects do not see the luck of trainings; the test of methods must agree as well.
        p = test.p_adjusted if method is None else float(np.maximum(test.p_adjusted, p_method))
        smallest = smallest_difference(contributions(table), len(pairs))
        if method is not None:
            smallest = smallest_method_difference(method, len(pairs))
        allowed = None if margin is None else _equivalence(pair, table, margin, len(pairs))
        found = verdict(
            Evidence(
                pair.first.model,
                pair.second.model,
                interval.mean,
                *ends,
                test.statistic,
                p,
                test.n_subjects,
                len(pairs),
                smallest,
                (len(pair.first.trainings), len(pair.second.trainings)),
                pair.scope,
                pair.difference_of,
                allowed,
            )
        )
        row = {**pair.names, "metric": f"{SCORE}_subject", "label": MEAN, "difference": number(interval.mean)}
        row |= {"low": number(ends[0]), "high": number(ends[1]), **pair.wins(), **_tested(test, contributions(table))}
        # Where nothing can be shown, no difference is the smallest that could be.
        smallest = math.nan if found.kind == CANNOT else smallest
        row |= {"p": number(p), "smallest": number(smallest), "comparisons": len(pairs), "scope": pair.scope}
        row |= {"verdict": found.kind, "sentence": found.sentence, "notes": _notes(pair, found), "margin": margin}
        reasons = [interval.reason, test.reason, method.reason if method is not None else ""]
        note = "; ".join(dict.fromkeys(filter(None, reasons)))
        rows.append({**row, "points": _points(table, interval.low), "note": note})
    return rows


def _tested(test: Test, gaps: Values) -> dict[str, Any]:
    """What a row says of the test, and of the typical case beside it."""
    p_typical, effect = signed_rank(gaps)
    row = {"n_subjects": test.n_subjects, "p_alone": number(test.p), "exact": test.exact, "flips": test.flips}
    return {**row, "p_typical": number(p_typical), "effect_typical": number(effect)}


def _notes(pair: _Pair, found: Verdict) -> list[str]:
    """What the reader of a verdict must not overlook."""
    if found.kind not in (BETTER, EQUIVALENT):
        return []
    notes = [ABOUT_NETWORKS] if pair.scope == NETWORKS else []
    name = pair.first.ranked
    ranked = macro_mean(pair.table(name))
    if found.kind == BETTER and ranked < -TIE:
        notes.append(
            f"where the reference shows the class, {pair.second.model} has the higher {quantity(name).title} (by "
            f"{-ranked:.3f}); the verdict counts invented objects as well"
        )
    caution = test_caution(contributions(pair.table(SCORE)))
    return [*notes, caution] if caution else notes


def _points(table: Values, low: float) -> list[float]:
    """The subjects' differences, where there are too few for an interval."""
    gaps = contributions(table)
    return [] if math.isfinite(low) else sorted(number(v) or 0.0 for v in gaps[np.isfinite(gaps)])


def _equivalence(pair: _Pair, table: Values, margin: float, comparisons: int) -> Equivalence:
    """Two one-sided tests against the margin; of methods by the wider of two intervals, as for ``better``."""
    found = equivalence(table, margin, comparisons=comparisons)
    if pair.scope == NETWORKS:
        return found
    one, two = (by_seed(b, SCORE) for b in (pair.first, pair.second))
    other = method_equivalence(one, two, folds_of(pair.first).tolist(), margin, comparisons=comparisons)
    low, high = wider((found.low, found.high), (other.low, other.high))
    both, refused = found.equivalent and other.equivalent, found.refused or other.refused
    return Equivalence(margin, low, high, both, refused)


def wider(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The interval that holds both; NaN if either has no ends."""
    return float(np.minimum(one[0], other[0])), float(np.maximum(one[1], other[1]))


def _method(pair: _Pair) -> MethodInterval:
    """The difference of two methods, training variance in its interval."""
    one, two = (by_seed(b, SCORE) for b in (pair.first, pair.second))
    return method_difference(one, two, folds_of(pair.first).tolist(), bounds=quantity(SCORE).difference_bounds)


def _secondary(pairs: Sequence[_Pair], family: str, members: Sequence[Quantity]) -> list[dict[str, Any]]:
    """Rows of one secondary family.

    A row's ``difference`` is the first model's value minus the second's, in the unit of the metric; ``better`` names
    the model that it favours, by the metric's direction, where interval and adjusted test both show a difference.
    """
    labels, ranked = pairs[0].first.labels, pairs[0].first.ranked
    wanted = [(one, MEAN, list(range(len(labels)))) for one in members]
    if len(labels) > 1:
        wanted += [(one, name, [c]) for one in members if one.name == ranked for c, name in enumerate(labels)]
    asked = [(pair, *what) for pair in pairs for what in wanted]
    tables = [pair.table(one.name, columns) for pair, one, _, columns in asked]
    tests = max_t(np.stack([contributions(table) for table in tables], axis=1))
    rows = []
    for (pair, one, label, _), table, test in zip(asked, tables, tests, strict=True):
        low, high = pair.first.bounds[one.name]
        interval = mean_interval(table, bounds=(low - high, high - low))
        row = {**pair.names, "family": family, "metric": f"{one.name}_subject", "label": label}
        row |= {"unit": pair.first.units[one.name], "difference": number(interval.mean)}
        row |= {"low": number(interval.low), "high": number(interval.high), **_tested(test, contributions(table))}
        shown = bool(test.p_adjusted < ALPHA and (interval.low > 0 or interval.high < 0))
        winner = pair.first if one.is_better(interval.mean) else pair.second
        row |= {"p": number(test.p_adjusted), "comparisons": len(asked), "shown": shown}
        rows.append({**row, "better": winner.model if shown else None})
    return rows


def _row_means(values: Values) -> Values:
    """(N,) means over the classes that have a value; NaN where none has."""
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=1) / np.maximum(counts, 1), np.nan)
