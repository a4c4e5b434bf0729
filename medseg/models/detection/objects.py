"""The objects of a training batch as lists of fixed length, read from its codes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.image.labels import IGNORE
from medseg.image.objects import channels_of, numbers_of


class Objects(NamedTuple):
    """The objects of N images, G rows each.

    Attributes:
        boxes: (N, G, 4) float32, edges of the objects; zeros where there is none.
        numbers: (N, G) int64, their numbers in the codes; 0 where there is none.
        channels: (N, G) int64, their classes 1..K; 0 where there is none.
    """

    boxes: Tensor
    numbers: Tensor
    channels: Tensor

    @property
    def there(self) -> Tensor:
        """(N, G) which rows are objects."""
        return self.numbers > 0


def objects_of(codes: Tensor, most: int) -> Objects:
    """The objects of codes (N, S), the largest ``most`` of an image where there are more."""
    return Objects(*_object_rows(codes, most))


def _rows_of(codes: NDArray[np.int64], most: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    from scipy.ndimage import find_objects

    numbers, channels = numbers_of(codes), channels_of(codes)
    found, first, inverse, sizes = np.unique(numbers, return_index=True, return_inverse=True, return_counts=True)
    outlines = find_objects(inverse.reshape(numbers.shape) + 1)
    there = np.flatnonzero(found > 0)
    if len(there) > most:
        there = np.sort(there[np.argsort(-sizes[there], kind="stable")[:most]])
    boxes = np.zeros((most, 4), dtype=np.float32)
    rows, classes = np.zeros(most, dtype=np.int64), np.zeros(most, dtype=np.int64)
    for row, place in enumerate(there):
        outline = outlines[place]
        boxes[row] = [*(axis.start for axis in outline), *(axis.stop for axis in outline)]
    rows[: len(there)] = found[there]
    classes[: len(there)] = channels.ravel()[first[there]]
    return boxes, rows, classes


@torch.library.custom_op(
    "medseg::object_rows", mutates_args=(), schema="(Tensor codes, int most) -> (Tensor, Tensor, Tensor)"
)
def _object_rows(codes: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """On the processor; an operator of its own, so that what traces a step sees shapes and looks for no objects."""
    found = [_rows_of(image, most) for image in codes.cpu().numpy()]
    boxes, numbers, channels = (torch.from_numpy(np.stack(part)).to(codes.device) for part in zip(*found, strict=True))
    return boxes, numbers, channels


@_object_rows.register_fake
def _(codes: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    count = codes.shape[0]
    return (
        codes.new_empty((count, most, 4), dtype=torch.float32),
        codes.new_empty((count, most), dtype=torch.int64),
        codes.new_empty((count, most), dtype=torch.int64),
    )


def ignored(codes: Tensor) -> Tensor:
    """(N, S) which voxels nobody annotated."""
    there: Tensor = channels_of(codes) == IGNORE
    return there
