"""Label files that show structures and no voxels (contours): drawn on the grid of their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medseg.formats.source import Source
from medseg.image.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Drawing:
    """What was drawn on a grid: the label map (*S), voxels that several structures have, and remarks."""

    labels: NDArray[Any]
    twice: int = 0
    remarks: tuple[str, ...] = ()


@runtime_checkable
class Drawable(Protocol):
    """What a label file shows that has no grid of its own: structures that can be drawn on that of an image."""

    def draw(self, grid: Geometry, numbers: Sequence[int]) -> Drawing:
        """The structures ``numbers`` (keys of ``Source.segments``) on a grid; where two overlap, the earlier stays."""


def is_drawn(source: Source) -> bool:
    """Whether a label file has no voxels before it is drawn."""
    return isinstance(source.stored, Drawable)


def drawn(source: Source, grid: Geometry, meant: Mapping[int, int]) -> Source:
    """A label file of structures as a label map on a grid; any other file as it is.

    Args:
        source: the file.
        grid: of the image.
        meant: value of a structure in the file -> what it means, 0 for nothing. Structures that mean something are
            drawn, in the order of what they mean; if none does, all are.

    Raises:
        FormatError: if they cannot be drawn there.
    """
    if not isinstance(source.stored, Drawable):
        return source
    segments = source.segments
    numbers = sorted((n for n in segments if meant.get(n)), key=lambda n: (meant[n], n)) or list(segments)
    found = source.stored.draw(grid, numbers)
    left = sorted({name for number, name in segments.items() if number not in numbers})
    aside = (f"structures that are no class are left aside: {', '.join(left)}",) if left else ()
    overlap = (("label-overlap", f"{found.twice} voxels are inside several structures"),) if found.twice else ()
    return replace(
        source,
        stored=found.labels[np.newaxis],
        affine=grid.affine,
        unit=grid.unit,
        notes=source.notes + overlap,
        remarks=(*source.remarks, *found.remarks, *aside),
    )
