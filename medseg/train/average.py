"""The exponential mean of the weights (Polyak & Juditsky 1992), which often predicts better than the last.

The mean follows faster in the beginning, when the weights are still far from anything: at step t its decay is the
lesser of the given one and (1 + t) / (10 + t), as in TensorFlow's ``ExponentialMovingAverage``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """The mean of a network's trained parameters.

    Args:
        network: whose parameters are followed; frozen ones stay what they are.
        decay: of the mean, per step.

    Attributes:
        mean: by parameter name, on the network's device.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.mean = {name: p.detach().clone() for name, p in self._parameters.items()}

    def update(self, step: int) -> None:
        """Take the weights after ``step`` (from 0) into the mean."""
        decay = min(self._decay, (1 + step) / (10 + step))
        now = [p.detach() for p in self._parameters.values()]
        torch._foreach_lerp_(list(self.mean.values()), now, 1 - decay)

    def load(self, mean: Mapping[str, Tensor]) -> None:
        """Resume from a saved mean."""
        for name, tensor in self.mean.items():
            tensor.copy_(mean[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The network with the mean as its weights, while this lasts."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep(self) -> None:
        """Make the mean the weights of the network."""
        self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                kept = parameter.detach().clone()
                parameter.copy_(self.mean[name])
                self.mean[name].copy_(kept)
