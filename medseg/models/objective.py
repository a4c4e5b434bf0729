"""Networks that make their own loss in training, since what they learn are not maps of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class OwnObjective(Protocol):
    """A network whose outputs in training mode only itself can judge."""

    def objective(self, outputs: Sequence[Tensor], codes: Tensor) -> Tensor:
        """The loss, a scalar that is finite whatever objects there are, none included.

        What it draws comes from torch's global generator and nothing else. It is also called with tensors that have
        sizes and no content, by which the memory of a step is estimated: no size may depend on what objects there are.

        Args:
            outputs: what ``forward`` gave in training mode for images (N, C, S), the whole batch.
            codes: (N, S) int64, of ``medseg.image.objects.encode``.
        """


def own_objective(network: nn.Module) -> OwnObjective | None:
    """The network, if it makes its own loss in training; None: its outputs are logits, for any loss."""
    return network if isinstance(network, OwnObjective) else None
