"""The distance head: foreground F and distance D to the border, 1 within: seeds are where D is high."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.objects.decoding import Decoding, threshold
from medseg.objects.seeds import grow


def split(
    maps: NDArray[np.int16], mask: NDArray[np.bool_], spacing: Sequence[float], decoding: Decoding
) -> NDArray[np.int32]:
    """Objects (S) of maps F, D: seeds D > ``seed``, watershed on -D."""
    inside = maps[1].astype(np.int32)
    return grow(inside > threshold(decoding.seed), -inside, mask)
