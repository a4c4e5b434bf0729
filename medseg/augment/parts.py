"""How much of a batch is worked on at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Where = slice | Tensor


def parts(index: Tensor, device: torch.device) -> Iterator[tuple[Where, Where]]:
    """Positions, as indices of tensors on ``device`` and of tensors on the CPU.

    All at once on a GPU; one after the other on a CPU, whose caches then hold what is worked on. The results are equal.

    Args:
        index: positions, on the CPU.
        device: where the batch is.
    """
    if device.type == "cpu":
        for position in index.tolist():
            yield (slice(position, position + 1),) * 2
    elif len(index):
        yield index.to(device), index
