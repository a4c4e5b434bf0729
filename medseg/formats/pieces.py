"""In which parts a file holds its voxels: how an image is read slab by slab without decoding anything twice."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from medseg.formats.source import ShownVoxels, Voxels


class Pieces(NamedTuple):
    """How voxels (C,*S) lie in a file.

    Attributes:
        axis: spatial axis along which slabs are read cheapest.
        rows: voxels per spatial axis of what is decoded at once, 1 where any number can be read.
    """

    axis: int
    rows: tuple[int, ...]


@runtime_checkable
class InPieces(Protocol):
    """Voxels that know how they lie in their file."""

    @property
    def pieces(self) -> Pieces:
        """How they lie."""


def pieces_of(voxels: Voxels) -> Pieces:
    """How voxels lie in their file, or in memory; where nothing is known, the first axis is the slowest."""
    while isinstance(voxels, ShownVoxels):
        voxels = voxels.indices
    if isinstance(voxels, InPieces):
        return voxels.pieces
    dims = len(voxels.shape) - 1
    if isinstance(voxels, np.ndarray):
        return Pieces(int(np.argmax(np.abs(voxels.strides[1:]))), (1,) * dims)
    return Pieces(0, (1,) * dims)
