"""Windows that hold one value per channel, as air beyond a body does once it is clipped, are computed once."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medseg.predict.members import Network

# Outputs of different blank windows that are kept: air has one value, and a large window's maps take memory.
KEPT = 1


@dataclass(slots=True)
class BlankOnce:
    """A network that computes each blank window once and remembers its output: equal windows have equal outputs.

    Attributes:
        network: maps (N, C, S) to (N, K, S), each window for itself.
        windows, blank: how many it was given, and how many of these were blank.
    """

    network: Network
    windows: int = 0
    blank: int = 0
    _known: OrderedDict[tuple[float, ...], Tensor] = field(default_factory=OrderedDict)

    def __call__(self, x: Tensor) -> Tensor:
        """The network's output (N, K, S) for windows (N, C, S)."""
        self.windows += len(x)
        low, high = x.flatten(2).aminmax(dim=2)
        values = [tuple(value) if one else None for value, one in zip(low.tolist(), (low == high).all(1), strict=True)]
        rest = [n for n, value in enumerate(values) if value is None]
        if len(rest) == len(x):
            return self.network(x)
        self.blank += len(x) - len(rest)
        found = dict(zip(rest, self.network(x[rest]), strict=True)) if rest else {}
        for n, value in enumerate(values):
            if value is not None:
                found[n] = self._output(value, x[n : n + 1])
        return torch.stack([found[n] for n in range(len(x))])

    def _output(self, value: tuple[float, ...], window: Tensor) -> Tensor:
        """The output (K, S) of a blank window (1, C, S).

        It has a call of its own: what else is computed together must not depend on which windows came before, since the
        last bits of outputs may depend on it, and a prediction that is resumed has seen others.
        """
        if value not in self._known:
            self._known[value] = self.network(window)[0]
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return self._known[value]
