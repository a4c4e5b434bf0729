"""The voxels of an image that a model is to predict, all at once or slab by slab, and what is doubtful about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.joined import JoinedVoxels
from medseg.formats.source import Source
from medseg.image.resample import resample_to
from medseg.image.values import are_numbers
from medseg.ingest.cases import same_grid
from medseg.ingest.doubts import doubts_of_slabs, voxel_doubts
from medseg.predict.terms import Found, Terms, grids_of, judged, refuse
from medseg.preprocess.rows import slabs


def read_whole(parts: Sequence[Source], terms: Terms) -> tuple[Source, list[Found]]:
    """The image in memory, all channels on the grid of the first, and what is doubtful about its voxels.

    Raises:
        DoubtfulError: if a doubt is not allowed.
    """
    grids = grids_of(parts)
    channels: list[NDArray[Any]] = []
    found: list[Found] = []
    for part, grid in zip(parts, grids, strict=True):
        image = part.image()
        found += judged(part.path, voxel_doubts(image, terms.reading.fill), terms)
        if terms.reading.fill is not None and image.dtype.kind == "f":
            image = np.where(are_numbers(image), image, image.dtype.type(terms.reading.fill))
        channels.append(image if same_grid(grid, grids[0]) else resample_to(image, grid, grids[0], order=1))
    refuse(found)
    return _with_voxels(parts[0], channels), found


def read_by_slabs(parts: Sequence[Source], terms: Terms) -> tuple[Source, list[Found]]:
    """As ``read_whole``, of a large image whose files are on one grid: it is looked through, and not held.

    Raises:
        DoubtfulError: if a doubt is not allowed.
    """
    found: list[Found] = []
    for part in parts:
        looked = ((_start(part, axis, rows), slab) for axis, rows, slab in slabs(part))
        found += judged(part.path, doubts_of_slabs(looked, terms.reading.fill), terms)
    refuse(found)
    filled = [replace(part, fill=terms.reading.fill) for part in parts]
    if len(filled) == 1:
        return filled[0], found
    joined = replace(parts[0], stored=JoinedVoxels(filled), slope=1.0, intercept=0.0, palette=None)
    return joined, found


def _start(part: Source, axis: int, rows: slice) -> tuple[int, ...]:
    return tuple(rows.start if a == axis else 0 for a in range(len(part.shape) - 1))


def on_one_grid(parts: Sequence[Source]) -> bool:
    """Whether all files of an image have the grid of the first."""
    first, *others = grids_of(parts)
    return all(same_grid(grid, first) for grid in others)


def _with_voxels(first: Source, channels: Sequence[NDArray[Any]]) -> Source:
    """The first file with the real intensities of all: its grid and its header are those of the prediction."""
    image = np.concatenate(channels) if len(channels) > 1 else channels[0]
    return replace(first, stored=image, slope=1.0, intercept=0.0, palette=None)
