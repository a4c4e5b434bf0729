"""The boundary head: foreground F and boundary B. Seeds are where F - B is high; boundaries are where objects meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.objects.decoding import Decoding, threshold
from medseg.objects.seeds import grow


def split(
    maps: NDArray[np.int16], mask: NDArray[np.bool_], spacing: Sequence[float], decoding: Decoding
) -> NDArray[np.int32]:
    """Objects (S) of maps F, B: seeds F - B > ``seed``, watershed on B - F."""
    inside = maps[0].astype(np.int32) - maps[1]
    return grow(inside > threshold(decoding.seed), -inside, mask)
