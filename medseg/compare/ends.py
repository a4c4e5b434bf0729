"""Means of many tables with their intervals, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.compare.interval import Array, Interval


@dataclass(frozen=True, slots=True)
class Ends:
    """Means of K tables with an interval each; NaN where there is none.

    Attributes:
        mean, low, high: (K,).
        reasons: empty; or why there is no interval, or that all values are equal.
        n_subjects: of all of them.
    """

    mean: Array
    low: Array
    high: Array
    reasons: Sequence[str]
    n_subjects: int

    def intervals(self) -> list[Interval]:
        """One by one."""
        rows = zip(self.mean, self.low, self.high, self.reasons, strict=True)
        return [Interval(float(m), float(low), float(high), self.n_subjects, why) for m, low, high, why in rows]


def joined(found: Sequence[Ends], levels: int) -> list[Ends]:
    """Of parts that each have all levels in turn: one for each level."""
    out = []
    for level in range(levels):
        mine = found[level::levels]
        mean, low, high = (np.concatenate([getattr(end, name) for end in mine]) for name in ("mean", "low", "high"))
        out.append(Ends(mean, low, high, [why for end in mine for why in end.reasons], mine[0].n_subjects))
    return out
