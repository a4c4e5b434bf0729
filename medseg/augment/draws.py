"""Random numbers of a batch: those of a sample depend on the key and on its position, not on its neighbours.

They are few: what is computed from them is quicker in numpy than in torch, whose calls cost more than the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float32]
Flags = NDArray[np.bool_]

# Numbers that a sample draws in one go: most of what the recipes take.
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Share:
    """The samples of a batch that are at hand, where several processes hold one batch between them.

    Attributes:
        batch: samples in the whole batch.
        positions: those at hand, ascending, in the order of the tensors that hold them.
    """

    batch: int
    positions: range

    @classmethod
    def whole(cls, batch: int) -> Share:
        """All samples of a batch."""
        return cls(batch, range(batch))

    @property
    def rows(self) -> slice:
        """Where they stand in what is drawn for the whole batch."""
        return slice(self.positions.start, self.positions.stop, self.positions.step)


class Draws:
    """One random generator per sample, on the CPU for any device, so that a run on any device draws the same.

    Args:
        count: samples in the batch; a sample draws the same numbers in a larger batch.
        generator: source of the samples' seeds.
        rows: the samples that numbers are drawn for; their values do not depend on which others are drawn.
    """

    def __init__(self, count: int, generator: torch.Generator, rows: slice = slice(None)) -> None:
        seeds = torch.randint(2**62, (count,), generator=generator)[rows]
        self._generators = [_seeded(s) for s in seeds.tolist()]
        self._ahead = np.empty((len(seeds), 0), dtype=np.float32)

    def uniform(self, *shape: int) -> Numbers:
        """(N, *shape) numbers from 0 to 1."""
        wanted = math.prod(shape)
        if self._ahead.shape[1] < wanted:
            # Many at once: a call costs as much as a hundred numbers.
            fresh = [torch.rand(max(wanted, AT_ONCE), generator=g).numpy() for g in self._generators]
            self._ahead = np.concatenate([self._ahead, np.stack(fresh)], axis=1)
        taken, self._ahead = self._ahead[:, :wanted], self._ahead[:, wanted:]
        return taken.reshape(len(taken), *shape)

    def chance(self, probability: float) -> Flags:
        """(N,) booleans that are true with ``probability``."""
        return self.uniform() < probability

    def normal(self, deviations: Numbers, shape: tuple[int, ...], where: Flags) -> Iterator[tuple[int, Tensor]]:
        """Places of some samples, one after the other, and normal numbers (*shape) for each.

        Args:
            deviations: (N,) one per sample.
            shape: of one sample.
            where: (N,) the samples that get numbers; what is drawn later does not depend on which.
        """
        # Two numbers of 24 bits make a seed.
        seeds = (self.uniform(2) * 2**24).astype(np.int64) @ [2**24, 1]
        return (
            (n, torch.empty(shape).normal_(0.0, float(deviations[n]), generator=_seeded(int(seeds[n]))))
            for n in np.flatnonzero(where).tolist()
        )


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
