"""Paired comparisons of every two models of a data set, in a primary and in secondary families of tests.

Primary: the mean over classes of the score that models are ranked by, all pairs of models; it alone gives verdicts.
Secondary, each with a correction of its own: the families of the table of metrics (overlap, surface distances); in each
the mean over classes of every metric, and in the family of the ranked metric that one class by class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg.compare.block import Block
from medseg.compare.interval import LEVEL, TIE, Interval
from medseg.compare.pair_models import Models, Pair, Statistics
from medseg.compare.pair_tests import Scored, Tests, max_t_pairs
from medseg.compare.permutation import NO_SUBJECT, holm, rare_failures
from medseg.compare.power import (
    ALPHA,
    Equivalence,
    equivalent_within,
    smallest_method_difference,
)
from medseg.compare.quantity import MEAN, SCORE, Quantity, families, quantity
from medseg.compare.summary import number
from medseg.compare.training_variance import MethodInterval
from medseg.compare.verdict import (
    ABOUT_NETWORKS,
    BETTER,
    CANNOT,
    EQUIVALENT,
    METHODS,
    NETWORKS,
    Evidence,
    Verdict,
    about_ensemble,
    verdict,
)


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
        models = Models.of([by_name[dataset, split, name] for name in names])
        if len(names) < 2:
            continue
        primary += _primary(models, margin)
        for family, members in families().items():
            computed = [one for one in members if one.name in models.blocks[0].values]
            secondary += _secondary(models, family, computed) if computed else []
    return primary, secondary


def _primary(models: Models, margin: float | None) -> list[dict[str, Any]]:
    pairs, stack = models.pairs(), models.stack(SCORE)
    bounds = quantity(SCORE).difference_bounds
    levels = (LEVEL,) if margin is None else (LEVEL, 1.0 - 2.0 * ALPHA / len(pairs))
    ends = stack.differences(models.first, models.second, [bounds] * len(pairs), levels)
    intervals = [one.intervals() for one in ends]
    tests = max_t_pairs([Scored(stack.places, stack.contributions)], models.first, models.second)
    said, wins = Statistics.of(stack, models), models.wins()
    ranked = models.stack(models.blocks[0].ranked)
    groups = models.methods()
    every = zip(models.first.tolist(), models.second.tolist(), strict=True)
    methods = [None if groups is None else groups.of(one, two, levels) for one, two in every]
    adjusted = holm([math.nan if method is None else method[0].p for method in methods])
    rows = []
    for k, (pair, method) in enumerate(zip(pairs, methods, strict=True)):
        interval, p = intervals[0][k], float(tests.p_adjusted[0, k])
        low, high, smallest = interval.low, interval.high, float(said.smallest[k])
        if method is not None:
            # The wider ends: rare failures show in the bootstrap's, the luck of trainings in the method's.
            low, high = wider((low, high), (method[0].low, method[0].high))
            # The flips of subjects do not see the luck of trainings; the test of methods must agree as well.
            p = float(np.maximum(p, adjusted[k]))
            smallest = smallest_method_difference(method[0], len(pairs))
        allowed = None
        if margin is not None:
            allowed = _equivalence(margin, intervals[1][k], None if method is None else method[1])
        found = verdict(
            Evidence(
                pair.first.model,
                pair.second.model,
                interval.mean,
                low,
                high,
                float(said.statistic[k]),
                p,
                stack.n,
                len(pairs),
                smallest,
                (len(pair.first.trainings), len(pair.second.trainings)),
                NETWORKS if method is None else METHODS,
                _difference_of(pair.first),
                allowed,
            )
        )
        row = {**pair.names, "metric": f"{SCORE}_subject", "label": MEAN, "difference": number(interval.mean)}
        row |= {"low": number(low), "high": number(high), **wins[k], **_tested(tests, 0, k), **said.row(k)}
        # Where nothing can be shown, no difference is the smallest that could be.
        smallest = math.nan if found.kind == CANNOT else smallest
        row |= {"p": number(p), "smallest": number(smallest), "comparisons": len(pairs)}
        row |= {"scope": NETWORKS if method is None else METHODS, "verdict": found.kind, "sentence": found.sentence}
        gaps = ranked.gaps(models.first[k : k + 1], models.second[k : k + 1])
        by_metric = float(gaps.mean()) if ranked.n else math.nan
        row |= {"notes": _notes(pair, found, method is None, by_metric, float(said.mean[k]), stack.n)}
        row |= {"margin": margin}
        reasons = [interval.reason, "" if stack.n else NO_SUBJECT, "" if method is None else method[0].reason]
        note = "; ".join(dict.fromkeys(filter(None, reasons)))
        rows.append({**row, "points": list(said.points[k]), "note": note})
    return rows


def _difference_of(first: Block) -> str:
    """What differs, in words: the score is the ranked metric where every reference shows every class."""
    lacking = first.lacking & first.shown.any(axis=0)
    return quantity(SCORE if lacking.any() else first.ranked).mean_title


def _tested(tests: Tests, kind: int, k: int) -> dict[str, Any]:
    """What a row says of the test."""
    n = int(tests.n_subjects[kind])
    row = {"n_subjects": n, "p_alone": number(tests.p[kind, k])}
    return {**row, "exact": tests.exact, "flips": tests.flips if n else 0}


def _notes(pair: Pair, found: Verdict, networks: bool, ranked: float, mean: float, n: int) -> list[str]:
    """What the reader of a verdict must not overlook.

    Args:
        pair: the models.
        found: the verdict on them.
        networks: whether it is about networks, not methods.
        ranked: difference of the mean of the metric that the score extends.
        mean: difference of the score, over ``n`` subjects.
        n: subjects.
    """
    if found.kind not in (BETTER, EQUIVALENT):
        return []
    together = [one for one in (pair.first, pair.second) if one.members]
    notes = [about_ensemble(one.model, one.members) for one in together]
    if networks and not together:
        notes = [ABOUT_NETWORKS]
    if found.kind == BETTER and ranked < -TIE:
        notes.append(
            f"where the reference shows the class, {pair.second.model} has the higher "
            f"{quantity(pair.first.ranked).title} (by {-ranked:.3f}); the verdict counts invented objects as well"
        )
    caution = rare_failures(mean, n)
    return [*notes, caution] if caution else notes


def _equivalence(margin: float, interval: Interval, method: MethodInterval | None) -> Equivalence:
    """Two one-sided tests against the margin; of methods by the wider of two intervals, as for ``better``."""
    found = equivalent_within(margin, interval)
    if method is None:
        return found
    other = equivalent_within(margin, method)
    low, high = wider((found.low, found.high), (other.low, other.high))
    both, refused = found.equivalent and other.equivalent, found.refused or other.refused
    return Equivalence(margin, low, high, both, refused)


def wider(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The interval that holds both; NaN if either has no ends."""
    return float(np.minimum(one[0], other[0])), float(np.maximum(one[1], other[1]))


def _secondary(models: Models, family: str, members: Sequence[Quantity]) -> list[dict[str, Any]]:
    """Rows of one secondary family.

    A row's ``difference`` is the first model's value minus the second's, in the unit of the metric; ``better`` names
    the model that it favours, by the metric's direction, where interval and adjusted test both show a difference.
    """
    labels, ranked = models.blocks[0].labels, models.blocks[0].ranked
    wanted = [(one, MEAN, list(range(len(labels)))) for one in members]
    if len(labels) > 1:
        wanted += [(one, name, [c]) for one in members if one.name == ranked for c, name in enumerate(labels)]
    kinds, intervals, said = [], [], []
    for one, _, columns in wanted:
        stack = models.stack(one.name, columns)
        lowest, highest = zip(*(models.blocks[k].bounds[one.name] for k in models.first), strict=True)
        bounds = [(low - high, high - low) for low, high in zip(lowest, highest, strict=True)]
        intervals.append(stack.differences(models.first, models.second, bounds)[0])
        said.append(Statistics.of(stack, models))
        kinds.append(Scored(stack.places, stack.contributions))
    tests = max_t_pairs(kinds, models.first, models.second)
    rows = []
    for k, pair in enumerate(models.pairs()):
        for place, (one, label, _) in enumerate(wanted):
            difference, low, high = (getattr(intervals[place], name)[k] for name in ("mean", "low", "high"))
            row = {**pair.names, "family": family, "metric": f"{one.name}_subject", "label": label}
            row |= {"unit": pair.first.units[one.name], "difference": number(difference)}
            row |= {"low": number(low), "high": number(high), **_tested(tests, place, k), **said[place].row(k)}
            p = tests.p_adjusted[place, k]
            shown = bool(p < ALPHA and (low > 0 or high < 0))
            winner = pair.first if one.is_better(float(difference)) else pair.second
            row |= {"p": number(p), "comparisons": len(models.first) * len(wanted), "shown": shown}
            rows.append({**row, "better": winner.model if shown else None})
    return rows
