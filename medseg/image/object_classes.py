"""What class each object of a map of numbers has: from a table of them, and from a map of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError

# Greatest number up to which classes are looked up in a list of that length; larger ones are searched.
LISTED = 1 << 24


def looked_up(numbers: NDArray[Any], channels: Mapping[int, int]) -> NDArray[np.uint8]:
    """The channel index (n,) of each of some object numbers (n,), all above 0.

    Args:
        numbers: integers.
        channels: number -> channel index 1..K of its class.

    Raises:
        DataError: for a number that has none.
    """
    known = np.array(sorted(channels), dtype=np.int64)
    values = np.array([channels[int(number)] for number in known], dtype=np.uint8)
    if not numbers.size:
        return np.zeros(0, dtype=np.uint8)
    if not known.size:
        found = np.zeros(numbers.shape, dtype=np.uint8)
    elif max(int(known[-1]), int(numbers.max())) <= LISTED:
        table = np.zeros(max(int(known[-1]), int(numbers.max())) + 1, dtype=np.uint8)
        table[known] = values
        found = table[numbers]
    else:
        wide = numbers.astype(np.int64)
        places = np.minimum(np.searchsorted(known, wide), len(known) - 1)
        found = np.where(known[places] == wide, values[places], np.uint8(0))
    lacking = np.unique(numbers[found == 0])
    if lacking.size:
        raise DataError(f"objects {lacking[:5].tolist()} have no class; run `medseg ingest` again, which says why")
    return found


def majority(numbers: NDArray[Any], channels: NDArray[Any], count: int) -> tuple[dict[int, int], list[int]]:
    """The class that most voxels of each object have, and the objects that have voxels of several classes.

    Args:
        numbers: (n,) object number of each voxel of an object.
        channels: (n,) channel index 0..K of its class; 0: this voxel says nothing.
        count: K.

    Returns:
        Number -> channel index, in the order of numbers: the lower of equally frequent ones, 0 if no voxel says
        anything; and the numbers of objects with voxels of several classes.
    """
    found, of_voxel = np.unique(numbers, return_inverse=True)
    votes = np.bincount(of_voxel * (count + 1) + channels, minlength=len(found) * (count + 1))
    votes = votes.reshape(len(found), count + 1)[:, 1:]
    best = np.where(votes.any(axis=1), 1 + votes.argmax(axis=1), 0)
    mixed = found[(votes > 0).sum(axis=1) > 1]
    return dict(zip(found.tolist(), best.tolist(), strict=True)), mixed.tolist()
