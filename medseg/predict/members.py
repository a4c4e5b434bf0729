"""The members of a prediction: networks of checkpoints, each with its mirror images; their outputs are averaged."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Maps (N, C, S) to (N, K, S).
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Member:
    """The network of one checkpoint and whether it sees mirror images too; itself a ``Network``.

    Attributes:
        network: on its device, in evaluation mode.
        mirror: whether its output is the mean over all 2^d mirror images of the input, each output mirrored back
            (test-time augmentation, Isensee et al. 2021). Then outputs are 32-bit, and mirroring the input along any
            axis mirrors the output.
        vector: the output map that is the first component of a vector along the axes: mirrored back, a vector changes
            its sign along the axis; 0: there is none.
    """

    network: Network
    mirror: bool = False
    vector: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        """The member's output (N, K, S) for windows (N, C, S)."""
        if not self.mirror:
            return self.network(x)
        total, count = None, 0
        for output in self.outputs(x):
            total, count = output if total is None else total + output, count + 1
        assert total is not None
        return total / float(count)

    def outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The outputs (N, K, S) of which the member's is the mean, 32-bit: of the windows and their mirror images."""
        yield self.network(x).float()
        axes = range(2, x.ndim) if self.mirror else ()
        for count in range(1, len(axes) + 1):
            for flip in itertools.combinations(axes, count):
                yield self._turned(self.network(x.flip(flip)).float().flip(flip), flip)

    def _turned(self, maps: Tensor, flip: Sequence[int]) -> Tensor:
        """Maps that were mirrored back along some axes, with vectors that point the right way again."""
        if self.vector:
            signs = torch.ones(maps.shape[1], device=maps.device)
            signs[[self.vector + axis - 2 for axis in flip]] = -1
            maps = maps * signs.view(1, -1, *[1] * (maps.ndim - 2))
        return maps


def mean_of(members: Sequence[Member]) -> Network:
    """The mean of the members' logits, 32-bit; a single member is taken as it is.

    All members have the same classes, grid and window. Equal members give the bits of one of them: sums of two equal
    numbers and halves are exact.
    """
    if len(members) == 1:
        return members[0]

    def mean(x: Tensor) -> Tensor:
        total = members[0](x).float()
        for member in members[1:]:
            total = total + member(x).float()
        return total / float(len(members))

    return mean
