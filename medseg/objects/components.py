"""The classes head on object data: an object is a face-connected component of the foreground F."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.objects.decoding import Decoding


def split(
    maps: NDArray[np.int16], mask: NDArray[np.bool_], spacing: Sequence[float], decoding: Decoding
) -> NDArray[np.int32]:
    """Components (S) of the mask."""
    return face_connected(mask)[0]


def face_connected(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Components (S) of a mask, numbered in raster order from 1, and how many there are."""
    labels, count = ndimage.label(mask)
    return labels.astype(np.int32, copy=False), int(count)
