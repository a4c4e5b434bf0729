"""How much of a batch is worked on at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Where = slice | Tensor
# Numbers in a row that is small: a call costs as much as it, and three of them with their results still fit the caches.
SMALL = 2**16


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


def chosen_rows(chosen: Tensor, size: int, device: torch.device) -> Iterator[tuple[Where, Where]]:
    """As ``parts``, for the rows n C + c that ``chosen`` (N, C) names, on a CPU; those of a small sample at once.

    Args:
        chosen: channels of samples, on the CPU.
        size: numbers in a row.
        device: where the batch is.
    """
    if device.type != "cpu" or chosen.shape[1] == 1 or size > SMALL:
        yield from parts(chosen.flatten().nonzero().flatten(), device)
        return
    channels = chosen.shape[1]
    for sample, there in enumerate(chosen.tolist()):
        first = sample * channels
        if all(there):
            yield (slice(first, first + channels),) * 2
        else:
            yield from ((slice(first + c, first + c + 1),) * 2 for c in range(channels) if there[c])
