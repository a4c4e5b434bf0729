"""Random numbers of a batch: those of a sample depend on the key and on its position, not on its neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers that a sample draws in one go: most of what the recipes take.
AT_ONCE = 128


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
    """One random generator per sample, on the CPU whatever the device, so that a run on any device draws the same.

    Args:
        count: samples in the batch; a sample draws the same numbers in a larger batch.
        generator: source of the samples' seeds.
        rows: the samples that numbers are wanted for; what they are does not depend on which.
    """

    def __init__(self, count: int, generator: torch.Generator, rows: slice = slice(None)) -> None:
        seeds = torch.randint(2**62, (count,), generator=generator)[rows]
        self._generators = [_seeded(s) for s in seeds.tolist()]
        self._ahead = torch.empty(len(seeds), 0)

    def uniform(self, *shape: int) -> Tensor:
        """(N, *shape) numbers from 0 to 1."""
        wanted = math.prod(shape)
        if self._ahead.shape[1] < wanted:
            # Many at once: a call costs as much as a hundred numbers.
            fresh = [torch.rand(max(wanted, AT_ONCE), generator=g) for g in self._generators]
            self._ahead = torch.cat([self._ahead, torch.stack(fresh)], dim=1)
        taken, self._ahead = self._ahead[:, :wanted], self._ahead[:, wanted:]
        return taken.reshape(-1, *shape)

    def chance(self, probability: float) -> Tensor:
        """(N,) booleans that are true with ``probability``."""
        return self.uniform() < probability

    def normal(self, index: Tensor, shape: tuple[int, ...]) -> Tensor:
        """(len(index), *shape) standard normal numbers for some of the samples; what follows does not depend on which.

        Args:
            index: their places among the samples that numbers are wanted for.
            shape: of one sample.
        """
        # Two numbers of 24 bits make a seed.
        halves = (self.uniform(2) * 2**24).long()
        out = torch.empty(len(index), *shape)
        for row, (high, low) in zip(out, halves[index].tolist(), strict=True):
            row.normal_(generator=_seeded(high << 24 | low))
        return out


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
