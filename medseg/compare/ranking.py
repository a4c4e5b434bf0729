"""How stable a ranking is: first places in resamples, other schemes of aggregation, and the winner's luck.

Tables hold ranking scores, of which higher ones are better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.compare.interval import TIE, macro_mean, resample_counts
from medseg.compare.product import product

Array = NDArray[np.float64]

RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Schemes:
    """Who wins under three schemes of aggregation (Maier-Hein et al. 2018).

    Attributes:
        mean: indices of the models with the best macro mean over subjects (several if tied).
        rank: those with the best mean rank, subjects and classes being ranked first.
        median: those with the best mean over classes of the median over subjects.
        agree: whether all three name the same.
    """

    mean: tuple[int, ...]
    rank: tuple[int, ...]
    median: tuple[int, ...]
    agree: bool


def first_places(tables: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Share of subject-bootstrap resamples in which each of M models has the best macro mean; (M, S, C) -> (M,).

    Models that tie for the first place share it, so the shares add up to 1.
    """
    models = _models(tables)
    won = np.zeros(len(models))
    total = 0
    for means in _resampled_means(models, resamples, seed):
        best = means >= means.max(axis=1, keepdims=True) - TIE
        won += (best / best.sum(axis=1, keepdims=True)).sum(axis=0)
        total += len(means)
    return won / total


def rank_agreement(tables: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Mean Kendall tau between the ranking of M models and that of subject-bootstrap resamples; NaN for one model.

    1 if every resample ranks the models alike, about 0 if the ranking is chance. Tied pairs count 0 (tau-a).
    """
    models = _models(tables)
    if len(models) < 2:
        return float("nan")
    first, second = np.triu_indices(len(models), 1)
    means = np.array([macro_mean(table) for table in models])
    order = _sign(means[first] - means[second])
    found = [_agreement(means, order) for means in _resampled_means(models, resamples, seed)]
    return float(np.concatenate(found).mean() / len(order))


def schemes(tables: ArrayLike) -> Schemes:
    """Winners of (M, S, C) tables by mean of subjects, by mean of ranks and by median of subjects."""
    from scipy import stats  # a second to import, and only this function needs it

    models = _models(tables)
    present = np.isfinite(models[0])
    ranks = np.where(present, stats.rankdata(np.where(present, models, 0.0), axis=0), np.nan)
    classes = present.any(axis=0)
    medians = [float(np.nanmedian(table[:, classes], axis=0).mean()) if classes.any() else np.nan for table in models]
    found = [_winners([macro_mean(table) for table in scores]) for scores in (models, ranks)]
    found.append(_winners(medians))
    return Schemes(found[0], found[1], found[2], len(set(found)) == 1)


def winners_excess(tables: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """How much the best of M equal models would be flattered on these subjects; (M, S, C) -> number, at least 0.

    Expected maximum less mean of the M macro means, if all M had the same true mean: each table is centred to that
    end, and whole subjects are resampled (the same for all models, which keeps their correlation). The bootstrap's
    spread is widened by sqrt(S / (S - 1)), since resampling S subjects understates it. NaN below two subjects.
    """
    models = _models(tables)
    n = models.shape[1]
    if n < 2:
        return float("nan")
    centred = np.stack([table - macro_mean(table) for table in models])
    found = [means.max(axis=1) - means.mean(axis=1) for means in _resampled_means(centred, resamples, seed)]
    return float(np.concatenate(found).mean() * np.sqrt(n / (n - 1)))


def _models(tables: ArrayLike) -> Array:
    """The tables (M, S, C), of the subjects that have any class."""
    models = np.asarray(tables, dtype=np.float64)
    if models.ndim != 3:
        raise ValueError(f"tables of models x subjects x classes have three axes, not shape {models.shape}")
    present = np.isfinite(models)
    if not (present == present[:1]).all():
        raise ValueError("models are ranked on the same subjects and classes; the tables differ in what is undefined")
    return models[:, present[0].any(axis=1)]


def _resampled_means(models: Array, resamples: int, seed: int) -> Iterator[Array]:
    """Macro means of M models in the same resamples of subjects, as blocks of (resamples, M)."""
    present = np.isfinite(models[0]).astype(np.float64)
    values = np.where(np.isfinite(models), models, 0.0)
    for times in resample_counts(models.shape[1], resamples, seed):
        carriers = product(times, present)
        weights = np.where(carriers > 0, 1.0 / np.maximum(carriers, 1.0), 0.0)
        weights /= np.maximum((carriers > 0).sum(axis=1, keepdims=True), 1)
        sums = product(times, values.transpose(1, 0, 2).reshape(len(present), -1))
        yield np.einsum("rmc,rc->rm", sums.reshape(len(times), len(models), -1), weights)


def _agreement(means: Array, order: Array) -> Array:
    """(R,) sum over pairs of the (R, M) means of whether a pair is ordered as in ``order``: 1, 0 for a tie, or -1."""
    found, start = np.zeros(len(means)), 0
    for k in range(means.shape[1] - 1):
        later = means.shape[1] - 1 - k
        found += _sign(means[:, k : k + 1] - means[:, k + 1 :]) @ order[start : start + later]
        start += later
    return found


def _winners(means: list[float]) -> tuple[int, ...]:
    best = max(means)
    return tuple(index for index, mean in enumerate(means) if mean >= best - TIE)


def _sign(gaps: Array) -> Array:
    return np.where(np.abs(gaps) > TIE, np.sign(gaps), 0.0)
