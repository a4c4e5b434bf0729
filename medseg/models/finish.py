"""Networks of which one part is not learnt by gradients but fitted after the last step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Finishing(Protocol):
    """A module that is fitted at the end of training.

    Attributes:
        fitted: whether it is; else it is trained by gradients alone.
    """

    fitted: bool

    def finish(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Fit to batches of images (N, C, S) and labels (N, S), in place and without drawing anything."""


def finishing(network: nn.Module) -> Finishing | None:
    """The part of a network that is fitted at the end of training; None: none."""
    return next((m for m in network.modules() if isinstance(m, Finishing) and m.fitted), None)
