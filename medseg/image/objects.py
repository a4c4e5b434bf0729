"""Label maps of objects: a number for each object, a class for each number, and both in one integer for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.image.labels import IGNORE

# A code is number + STEP * channel. Codes stay below 2^24, so that they survive a trip through float32.
STEP = 1 << 16
MAX_NUMBER = STEP - 1
# numpy or torch integers.
Codes = TypeVar("Codes")


@dataclass(frozen=True, slots=True)
class ObjectMap:
    """Objects on a grid.

    Attributes:
        numbers: (S) uint32, 0 where there is no object; 1..N in raster order of the objects' first voxels.
        classes: (N + 1,) uint8, channel index of each number's class; 0 for number 0.
    """

    numbers: NDArray[np.uint32]
    classes: NDArray[np.uint8]

    @property
    def count(self) -> int:
        """Number N of objects."""
        return len(self.classes) - 1

    @property
    def channels(self) -> NDArray[np.uint8]:
        """(S) the class of each voxel, as in prepared label maps; "not annotated" is not known here."""
        return self.classes[self.numbers]


def of_numbers(values: NDArray[Any], channels: NDArray[np.uint8] | None = None) -> ObjectMap:
    """The objects of a map of numbers, renumbered in raster order of their first voxels.

    Args:
        values: (S) integers; every value above 0 is an object, whatever gaps there are and whether or not its voxels
            touch one another.
        channels: (S) class of each voxel, ``IGNORE`` where not annotated: such voxels are in no object. An object has
            the class that most of its voxels have, the lower of equal ones. None: all are of class 1.
    """
    flat = values.ravel()
    inside = flat > 0 if channels is None else (flat > 0) & (channels.ravel() != IGNORE) & (channels.ravel() > 0)
    places = np.flatnonzero(inside)
    found, first, of_voxel = np.unique(flat[places], return_index=True, return_inverse=True)
    # ``unique`` sorts by value; rank by the place of the first voxel.
    rank = np.empty(len(found), dtype=np.uint32)
    rank[np.argsort(first, kind="stable")] = np.arange(1, len(found) + 1, dtype=np.uint32)
    numbers = np.zeros(flat.shape, dtype=np.uint32)
    numbers[places] = rank[of_voxel]
    classes = np.zeros(len(found) + 1, dtype=np.uint8)
    if channels is None:
        classes[1:] = 1
    elif len(found):
        votes = np.zeros((len(found) + 1, int(channels.ravel()[places].max()) + 1), dtype=np.int64)
        np.add.at(votes, (numbers[places], channels.ravel()[places]), 1)
        classes[1:] = votes[1:].argmax(axis=1)
    return ObjectMap(numbers.reshape(values.shape), classes)


def encode(numbers: NDArray[Any], channels: NDArray[Any]) -> NDArray[np.int32]:
    """Codes (S) of a patch, from its object numbers (S) and the channel index of each voxel (S).

    Numbers that are too large for a code are replaced by their ranks in the patch, which keeps objects apart.

    Raises:
        DataError: if a patch has more objects than codes can tell apart.
    """
    if numbers.size and int(numbers.max()) > MAX_NUMBER:
        found, ranks = np.unique(numbers, return_inverse=True)
        numbers = ranks.reshape(numbers.shape) + (0 if found[0] == 0 else 1)
        if int(numbers.max()) > MAX_NUMBER:
            raise DataError(f"{len(found)} objects in one patch; expected at most {MAX_NUMBER}; plan a smaller patch")
    return numbers.astype(np.int32) + np.int32(STEP) * channels.astype(np.int32)


def numbers_of(codes: Any) -> Any:
    """Object numbers of codes, numpy or torch integers."""
    return codes % STEP


def channels_of(codes: Any) -> Any:
    """Channel indices of codes, numpy or torch integers."""
    return codes // STEP


def smallest_type(count: int) -> type[np.unsignedinteger[Any]]:
    """The type in which a map of ``count`` objects is written: 16 bits, or 32 where there are more than fit."""
    return np.uint16 if count <= np.iinfo(np.uint16).max else np.uint32


def voxels_per_object(numbers: NDArray[Any], count: int) -> NDArray[np.int64]:
    """(N + 1,) voxels of each number, background first."""
    return np.bincount(numbers.ravel(), minlength=count + 1).astype(np.int64)


def lost(before: Sequence[int] | NDArray[Any], after: NDArray[Any]) -> list[int]:
    """Numbers that a map had and another one, into which it was resampled, has no voxel of."""
    return sorted(set(np.unique(np.asarray(before)).tolist()) - set(np.unique(after).tolist()) - {0})
