"""The channels of several files on one grid as those of one image."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.pieces import Pieces, pieces_of
from medseg.formats.source import Source


@dataclass(frozen=True, slots=True)
class JoinedVoxels:
    """Real intensities (C,*S) of several images of one shape, one behind the other; boxes are read as files allow."""

    parts: Sequence[Source]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C,*S)."""
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """A type that holds those of all files."""
        return np.result_type(*(part.dtype for part in self.parts))

    @property
    def pieces(self) -> Pieces:
        """How the first file's voxels lie."""
        return pieces_of(self.parts[0].stored)

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """The voxels of a box (C,*S)."""
        wanted = range(self.shape[0])[box[0]]
        ends = list(itertools.accumulate(part.shape[0] for part in self.parts))
        read = [
            part.read(box[1:])[max(0, wanted.start - end + part.shape[0]) : wanted.stop - end + part.shape[0]]
            for part, end in zip(self.parts, ends, strict=True)
            if end - part.shape[0] < wanted.stop and wanted.start < end
        ]
        return np.concatenate(read) if len(read) != 1 else read[0]
