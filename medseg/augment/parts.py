"""How much of a batch is worked on at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.augment.draws import Flags

# In tensors on a device, and in arrays of drawn numbers.
Where = slice | Tensor
Drawn = slice | NDArray[np.int64]
# Numbers in a row that is small: a call costs as much as it, and three of them with their results still fit the caches.
SMALL = 2**16


def parts(chosen: Flags, device: torch.device) -> Iterator[tuple[Where, Drawn]]:
    """Positions, as indices of tensors on ``device`` and of arrays.

    All at once on a GPU; one after the other on a CPU, whose caches then hold what is worked on. The results are equal.

    Args:
        chosen: (N,) which positions.
        device: where the batch is.
    """
    index = np.flatnonzero(chosen)
    if device.type == "cpu":
        for position in index.tolist():
            yield (slice(position, position + 1),) * 2
    elif len(index):
        yield torch.from_numpy(index).to(device), index


def chosen_rows(chosen: Flags, size: int, device: torch.device) -> Iterator[tuple[Where, Drawn]]:
    """As ``parts``, for the rows n C + c that ``chosen`` (N, C) names, on a CPU; those of a small sample at once.

    Args:
        chosen: channels of samples.
        size: numbers in a row.
        device: where the batch is.
    """
    if device.type != "cpu" or chosen.shape[1] == 1 or size > SMALL:
        yield from parts(chosen.ravel(), device)
        return
    channels = chosen.shape[1]
    for sample in np.flatnonzero(chosen.any(axis=1)).tolist():
        first, there = sample * channels, chosen[sample].tolist()
        if all(there):
            yield (slice(first, first + channels),) * 2
        else:
            yield from ((slice(first + c, first + c + 1),) * 2 for c in range(channels) if there[c])
