"""Sign-flip tests of every two of many models, in several kinds of scores, as one family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.compare.interval import TIE, Array
from medseg.compare.permutation import FLIPS, family, normalised, pair_parts, without_ties
from medseg.compare.product import product

# Differences of sums are wrong by this share of what is summed, at most; statistics may be by a hundredth of a tie.
_ROUNDING, _DIGITS = 1e-15, TIE / 100


@dataclass(frozen=True, slots=True)
class Tests:
    """The tests of a family, of K kinds of comparisons of P pairs; arrays are (K, P), and as of ``permutation.Test``.

    Attributes:
        p, p_adjusted: NaN where refused.
        n_subjects: (K,).
        exact, flips: of all.
    """

    p: Array
    p_adjusted: Array
    n_subjects: NDArray[np.int64]
    exact: bool
    flips: int


@dataclass(frozen=True, slots=True)
class Scored:
    """What M models have in one kind of comparison, for :func:`max_t_pairs`.

    Attributes:
        places: (n,) which of the subjects have a value.
        contributions: (M, n) of them.
    """

    places: NDArray[np.intp]
    contributions: Array


def max_t_pairs(
    kinds: Sequence[Scored],
    first: NDArray[np.intp],
    second: NDArray[np.intp],
    *,
    flips: int = FLIPS,
    seed: int = 0,
) -> Tests:
    """``permutation.max_t`` of all differences of pairs of models, in several kinds of scores, as one family.

    A sum of flipped differences is the difference of two sums, so what is flipped are the models' contributions, not
    those of all pairs. Where that leaves too few digits, the differences themselves are.

    Args:
        kinds: what is compared.
        first, second: (P,) places of the models of each pair.
        flips, seed: as of ``max_t``.
    """
    subjects = 1 + max((int(kind.places.max(initial=-1)) for kind in kinds), default=-1)
    differ, observed, direct = np.zeros(subjects, dtype=bool), [], []
    lengths, models = [], np.zeros((subjects, 0))
    for place, kind in enumerate(kinds):
        # What all models have in common is in no difference.
        own = kind.contributions - kind.contributions.mean(axis=0, keepdims=True)
        size = np.abs(own).sum(axis=1)
        length, sums, lost = (np.zeros(len(first)) for _ in range(3))
        for part in pair_parts(len(first), own.shape[1]):
            raw = kind.contributions[first[part]] - kind.contributions[second[part]]
            gaps = without_ties(raw)
            differ[kind.places] |= (gaps != 0.0).any(axis=0)
            scaled = normalised(gaps.T)
            sums[part] = np.abs(np.einsum("sp->p", scaled))
            largest = np.abs(gaps).max(axis=1, initial=0.0)
            length[part] = largest * np.sqrt(np.einsum("ps,ps->p", gaps, gaps) / np.where(largest > 0, largest, 1) ** 2)
            lost[part] = np.abs(raw - gaps).sum(axis=1) + _ROUNDING * (size[first[part]] + size[second[part]])
        doubtful = (length > 0) & (lost > _DIGITS * length)
        direct += [(place, int(pair)) for pair in np.flatnonzero(doubtful)]
        observed.append(sums)
        lengths.append(length)
        spread = np.zeros((subjects, len(own)))
        spread[kind.places] = own.T
        models = np.concatenate([models, spread], axis=1)
    every = np.concatenate(
        [k * kind.contributions.shape[0] + np.stack([first, second]) for k, kind in enumerate(kinds)], axis=1
    )
    chosen = np.flatnonzero(differ)
    columns = _Differences(models[chosen], every[0], every[1], _inverse(np.concatenate(lengths)))
    for place, pair in direct:
        gaps = np.zeros(subjects)
        kind = kinds[place]
        gaps[kind.places] = without_ties(kind.contributions[first[pair]] - kind.contributions[second[pair]])
        columns.replaced[place * len(first) + pair] = normalised(gaps[chosen][:, None])[:, 0]
    counts = np.repeat([len(kind.places) for kind in kinds], len(first))
    p, adjusted, exact, total = family(columns, np.concatenate(observed), counts, flips, seed)
    shape = (len(kinds), len(first))
    return Tests(
        p.reshape(shape), adjusted.reshape(shape), np.array([len(kind.places) for kind in kinds]), exact, total
    )


class _Differences:
    """``permutation.Columns`` from differences of models' contributions.

    Attributes:
        replaced: column -> its normalised differences, where those of sums have too few digits.
    """

    def __init__(self, models: Array, first: NDArray[np.intp], second: NDArray[np.intp], factor: Array) -> None:
        self._models, self._first, self._second, self._factor = models, first, second, factor
        self.replaced: dict[int, Array] = {}

    @property
    def subjects(self) -> int:
        return len(self._models)

    def of(self, order: NDArray[np.intp]) -> Callable[[Array], Array]:
        first, second, factor = self._first[order], self._second[order], self._factor[order]
        back = np.argsort(order)
        places = np.array([back[column] for column in self.replaced], dtype=np.intp)
        exact = np.stack(list(self.replaced.values()), axis=1) if self.replaced else np.zeros((self.subjects, 0))

        def sums(signs: Array) -> Array:
            found = product(signs, self._models)
            out = found[:, first]
            out -= found[:, second]
            out *= factor
            if len(places):
                out[:, places] = product(signs, exact)
            return np.abs(out, out=out)

        return sums


def _inverse(lengths: Array) -> Array:
    return np.where(lengths > 0, 1.0 / np.where(lengths > 0, lengths, 1.0), 0.0)
