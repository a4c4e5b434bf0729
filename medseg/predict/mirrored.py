"""Predictions averaged over mirror images (test-time augmentation)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch import Tensor

Network = Callable[[Tensor], Tensor]


def mirrored(network: Network) -> Network:
    """The mean of a network's outputs for all 2^d mirror images of its input, each turned back (Isensee et al. 2021).

    Args:
        network: maps (N, C, S) to (N, K, S).

    Returns:
        A function of the same kind, of 32-bit outputs. Mirroring its input along any axis mirrors its output.
    """

    def mean(x: Tensor) -> Tensor:
        axes = range(2, x.ndim)
        total = network(x).float()
        for count in range(1, len(axes) + 1):
            for flip in itertools.combinations(axes, count):
                total = total + network(x.flip(flip)).float().flip(flip)
        return total / float(2 ** len(axes))

    return mean
