"""Bootstrap-t intervals of many means and differences, all in one set of resamples.

Every number is that of :func:`medseg.compare.interval.mean_interval`, the definition; only the way is another. Tables
of one pattern of undefined entries are drawn together: what a resample needs of them are sums over its subjects, of
values and of products of values, and the sums of all tables are one matrix product with the counts of the resamples.
Classes that are shown by the same subjects have the same weights in every resample and count as one. Where a resample
has next to no spread, its variance is taken from the deviations themselves, since a difference of sums holds no digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.compare.ends import Ends, joined
from medseg.compare.interval import (
    LEVEL,
    RESAMPLES,
    TIE,
    Array,
    Interval,
    centred_by_class,
    drawn_counts,
    macro_mean,
    places_of,
    refusal,
    resample_counts,
    studentised,
    weighted,
)
from medseg.compare.product import product
from medseg.compare.weights import Weights

Places = NDArray[np.intp]
# Rows of matrices and of results at once, by the numbers that they hold together.
_BLOCK = 4_000_000
# Sums of single tables that are kept for the pairs among them.
_KEPT = 12_000_000
# From so many subjects on, sums are taken in single precision, of values less their mean. An end of an interval then
# differs by less than a hundred-thousandth of its width (tests/unit/test_resampled.py); another seed moves it by 1 %.
_MANY = 500
# So small is the variance of a class's share among resamples where what counts with its square is taken at its mean.
_STEADY = 2e-4
# A resample whose variance is a smaller share of its mean square than this is computed from the deviations; in single
# precision the second.
_CANCELLED = (1e-6, 1e-2)
# Numbers of a (tables, resamples) array that stay in the processor's cache.
_CACHED = 40_000


class Stack:
    """M tables of S subjects x C classes with one pattern of undefined entries.

    Attributes:
        present: (n, C) where values are defined, of the n subjects that have any class.
        places: which of the S subjects these are.
        contributions: (M, n) what each subject adds to the macro mean (``interval.contributions``).
    """

    def __init__(self, tables: Array) -> None:
        present = np.isfinite(tables)
        if not (present == present[:1]).all():
            raise ValueError("tables are resampled together only if the same entries are undefined in all of them")
        self.places = np.flatnonzero(present[0].any(axis=1))
        self.present = present[0][self.places]
        values = np.where(self.present, tables[:, self.places], 0.0)
        _, _, weights = weighted(tables[0])
        self.contributions = np.einsum("msc,sc->ms", values, weights)
        self._means = np.array([macro_mean(table) for table in tables])
        self._centred = np.stack([centred_by_class(table, self.present) for table in values])
        patterns, member = np.unique(self.present, axis=1, return_inverse=True)
        shown = patterns.any(axis=0)
        groups = [np.flatnonzero(member.ravel() == k) for k in np.flatnonzero(shown)]
        self._here = patterns[:, shown].T.astype(np.float64)
        self._sizes = np.array([len(group) for group in groups], dtype=np.float64)
        sums = [self._centred[:, :, group].sum(axis=2) for group in groups]
        self._sums = np.stack(sums, axis=1) if sums else np.zeros((len(tables), 0, len(self.places)))

    def __len__(self) -> int:
        return len(self._centred)

    @property
    def n(self) -> int:
        """Subjects with any class."""
        return len(self.places)

    def means(self, bounds: Sequence[tuple[float, float]], *, resamples: int = RESAMPLES, seed: int = 0) -> Ends:
        """The tables' own means, each within the bounds of its metric."""
        every, found = np.arange(len(self)), []
        for part in _parts(len(self), self._room()):
            mine = [bounds[k] for k in every[part]]
            found += self._ends(self._sums[part], every[part], None, mine, [LEVEL], resamples, seed)
        return joined(found, 1)[0]

    def differences(
        self,
        first: Places,
        second: Places,
        bounds: Sequence[tuple[float, float]],
        levels: Sequence[float] = (LEVEL,),
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> list[Ends]:
        """Means of the differences of pairs of tables, first minus second; one ``Ends`` for each level.

        Args:
            first, second: (P,) places of the tables of each pair.
            bounds: of each pair.
            levels: coverages that the intervals aim at.
            resamples, seed: as of ``interval.mean_interval``.
        """
        found: list[list[Ends]] = []
        order = []
        for tile in self._tiles(first, second):
            # Sums are linear: those of a difference are differences of sums that are made once for each table.
            used, inverse = np.unique(np.concatenate([first[tile], second[tile]]), return_inverse=True)
            one, two = inverse[: len(tile)], inverse[len(tile) :]
            linear = self._linear(self._sums[used], resamples, seed) if self._has_intervals() else None
            for part in _parts(len(tile), self._room()):
                gaps = self._sums[first[tile[part]]] - self._sums[second[tile[part]]]
                mine = None if linear is None else linear[one[part]] - linear[two[part]]
                pairs = (first[tile[part]], second[tile[part]])
                limits = [bounds[k] for k in tile[part]]
                found += [self._ends(gaps, pairs, mine, limits, levels, resamples, seed)]
            order.append(tile)
        whole = joined([end for ends in found for end in ends], len(levels))
        back = np.argsort(np.concatenate(order))
        return [Ends(e.mean[back], e.low[back], e.high[back], [e.reasons[k] for k in back], self.n) for e in whole]

    def gaps(self, first: Places, second: Places) -> Array:
        """(K, n) contributions of the subjects to the differences of pairs."""
        return np.asarray(self.contributions[first] - self.contributions[second])

    def _has_intervals(self) -> bool:
        return not refusal(self.present)

    def _room(self) -> int:
        """Tables whose sums of products are made at once."""
        groups = len(self._sizes)
        each = groups if self._is_steady() else groups * (groups + 1) // 2
        return max(1, _BLOCK // max(self.n, RESAMPLES) // max(each, 1))

    def _tiles(self, first: Places, second: Places) -> Iterator[Places]:
        """Places of pairs among few enough tables that the sums of all of them can be kept."""
        side = max(1, _KEPT // max(self.n, RESAMPLES) // max(len(self._sizes), 1) ** 2 // 2)
        tile = np.stack([first // side, second // side])
        for which in np.unique(tile, axis=1).T:
            yield np.flatnonzero((tile == which[:, None]).all(axis=0))

    def _linear(self, sums: Array, resamples: int, seed: int) -> Array:
        """(K, G, G, R) sums over resampled subjects of the values of group h, where group g is shown."""
        groups = len(self._sizes)
        rows = sums[:, None] * self._here[:, None]
        return self._resampled(rows.reshape(-1, self.n), resamples, seed).reshape(len(sums), groups, groups, resamples)

    def _resampled(self, rows: Array, resamples: int, seed: int) -> Array:
        """(rows, n) -> (rows, R) sums over the subjects of each resample, of which there are always n."""
        kind = np.float64 if self.n < _MANY else np.float32
        mean = rows.mean(axis=1, keepdims=True)
        rows, out, start = (rows - mean).astype(kind), np.empty((len(rows), resamples)), 0
        for block in drawn_counts(self.n, resamples, seed):
            out[:, start : start + len(block)] = product(rows, block.T.astype(kind))
            start += len(block)
        out += mean * self.n
        return out

    def _ends(
        self,
        sums: Array,
        which: Places | tuple[Places, Places],
        linear: Array | None,
        bounds: Sequence[tuple[float, float]],
        levels: Sequence[float],
        resamples: int,
        seed: int,
    ) -> list[Ends]:
        """Intervals of K tables from their (K, G, n) grouped values and the linear sums of these."""
        if isinstance(which, np.ndarray):
            mean = self._means[which]
        else:
            mean = self.gaps(*which).mean(axis=1) if self.n else np.full(len(sums), np.nan)
        nothing = np.full(len(sums), np.nan)
        if why := refusal(self.present):
            return [Ends(mean, nothing, nothing, [why] * len(sums), self.n)] * len(levels)
        flat = np.array([self._is_flat(k, sums[k], which) for k in range(len(sums))])
        if linear is None:
            linear = self._linear(sums, resamples, seed)
        ratios = self._ratios(sums, which, linear, flat, resamples, seed)
        influence = np.einsum("kgs,g->ks", sums, self._sizes_weight())
        error = np.sqrt(np.einsum("ks,ks->k", influence, influence) / (self.n * (self.n - 1)))
        reasons = [f"all {self.n} subjects have the same value" if yes else "" for yes in flat]
        limits = np.array(bounds, dtype=np.float64).reshape(-1, 2)
        found = []
        for level in levels:
            first, last = places_of(level, resamples)
            ends = np.partition(ratios, (first, last), axis=1)[:, [last, first]]
            raw = np.where(flat[:, None], mean[:, None], mean[:, None] - ends * np.where(flat, 1.0, error)[:, None])
            clipped = np.clip(raw, limits[:, :1], limits[:, 1:])
            low = np.where(flat, mean, np.minimum(clipped[:, 0], mean))
            high = np.where(flat, mean, np.maximum(clipped[:, 1], mean))
            found.append(Ends(mean, low, high, reasons, self.n))
        return found

    def _sizes_weight(self) -> Array:
        """(G,) weight of each group's values in the macro mean."""
        return np.asarray(self.n / (self._sizes.sum() * self._here.sum(axis=1)))

    def _values(self, k: int, which: Places | tuple[Places, Places]) -> Array:
        """(n, C) values of a table, or of a difference, less the mean of their class."""
        if isinstance(which, np.ndarray):
            return np.asarray(self._centred[which[k]])
        return np.asarray(self._centred[which[0][k]] - self._centred[which[1][k]])

    def _is_flat(self, k: int, sums: Array, which: Places | tuple[Places, Places]) -> bool:
        """Whether all subjects have the same value in every class."""
        if np.abs(sums).max() > TIE * self._sizes.max():  # the sum over a group's classes, of which one is larger
            return False
        return not bool(np.abs(self._values(k, which)).max() > TIE)

    def _ratios(
        self,
        sums: Array,
        which: Places | tuple[Places, Places],
        linear: Array,
        flat: NDArray[np.bool_],
        resamples: int,
        seed: int,
    ) -> Array:
        """(K, R) deviations of resampled macro means over their own standard errors; see ``interval.studentised``."""
        shared = self._shared(resamples, seed)
        steady = self._is_steady()
        pairs = list(itertools.combinations_with_replacement(range(len(self._sizes)), 2))
        if steady:
            weighted_sums = sums * self._sizes_weight()[:, None]
            products = weighted_sums.sum(axis=1)[:, None] * weighted_sums
            usual = np.einsum("kgs,khs->kgh", weighted_sums, weighted_sums)
        else:
            products = np.stack([sums[:, g] * sums[:, h] for g, h in pairs], axis=1)
        squares = self._resampled(products.reshape(-1, self.n), resamples, seed).reshape(len(sums), -1, resamples)
        ratios = np.empty((len(sums), resamples))
        for part in _parts(len(sums), max(1, _CACHED // resamples)):
            if steady:
                left, scale, deviations = shared.steady_variances(linear[part], squares[part], usual[part])
            else:
                left, scale, deviations = shared.variances(linear[part], squares[part])
            doubtful = left <= _CANCELLED[self.n >= _MANY] * scale
            ratios[part] = shared.studentised(np.where(doubtful, 1.0, left), deviations)
            doubtful &= ~flat[part, None]
            for k in np.flatnonzero(doubtful.any(axis=1)):
                picked, place = np.flatnonzero(doubtful[k]), part.start + k
                ratios[place, picked] = self._direct(self._values(place, which), picked, resamples, seed)
        return ratios

    def _is_steady(self) -> bool:
        """Whether the number of subjects who show a class hardly differs between resamples, for every class."""
        if self.n < _MANY or len(self._sizes) < 2:
            return False
        return bool((1.0 / self._here.sum(axis=1) - 1.0 / self.n).max() <= _STEADY)

    def _direct(self, values: Array, picked: Places, resamples: int, seed: int) -> Array:
        """Ratios of single resamples of one table, from its values."""
        out, start = np.empty(len(picked)), 0
        for times in resample_counts(self.n, resamples, seed):
            mine = (picked >= start) & (picked < start + len(times))
            if mine.any():
                out[mine] = studentised(times[picked[mine] - start], values, self.present)
            start += len(times)
        return out

    def _shared(self, resamples: int, seed: int) -> Weights:
        """What the weights of classes are in each resample."""
        groups, rows = len(self._sizes), (self._here[:, None] * self._here).reshape(-1, self.n)
        # Whole numbers, and exact.
        sums = [product(rows, times.T) for times in resample_counts(self.n, resamples, seed)]
        both = np.concatenate(sums, axis=1).reshape(groups, groups, resamples)
        return Weights.of(both, self._sizes, self._sizes_weight(), self.n)


def mean_intervals(tables: Sequence[Array], bounds: Sequence[tuple[float, float]]) -> list[Interval]:
    """``interval.mean_interval`` of each of many (S, C) tables of the same subjects, each within its bounds."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for k, table in enumerate(tables):
        alike.setdefault((table.shape, np.isfinite(table).tobytes()), []).append(k)
    found: list[Interval | None] = [None] * len(tables)
    # Those of as many subjects one after the other: they take the same resamples.
    for places in sorted(alike.values(), key=lambda places: int(np.isfinite(tables[places[0]]).any(axis=1).sum())):
        ends = Stack(np.stack([tables[k] for k in places])).means([bounds[k] for k in places])
        for k, one in zip(places, ends.intervals(), strict=True):
            found[k] = one
    return [one for one in found if one is not None]


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
