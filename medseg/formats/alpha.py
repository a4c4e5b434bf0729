"""Opacity channels of pictures: dropped if every pixel is opaque, else refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError


def without_alpha(path: Path, voxels: NDArray[Any]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Drop the last channel of (C,*S), an opacity, if every pixel is fully opaque.

    Returns:
        The other channels, and the remark that an alpha channel was dropped.

    Raises:
        FormatError: if a pixel is not fully opaque: what its colours mean is then unknown.
    """
    alpha = voxels[-1]
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "iu" else 1
    clear = int((alpha != opaque).sum())
    if clear:
        cause = f"opacity (alpha) channel with {clear} of {alpha.size} pixels not opaque"
        raise FormatError(path, cause, "remove the alpha channel, or store it as a plain channel")
    return voxels[:-1], ("a fully opaque alpha channel was dropped",)
