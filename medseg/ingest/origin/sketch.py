"""What is kept of an image to compare it with the others of its data set: a few thousand numbers, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import Geometry, canonical_axes
from medseg.ingest.origin.borders import Border, take_borders
from medseg.ingest.origin.lattice import IntensityLattice, find_lattice
from medseg.ingest.origin.thumbnails import Thumbnail, take_thumbnails


@dataclass(frozen=True, slots=True)
class Sketch:
    """A bounded summary of an image, in RAS+ order for volumes.

    Attributes:
        lattice: the intensity lattice, if it has one that is evidence.
        borders: strips along its borders.
        whole: details of the whole image, however large; None if it is too small for one.
        native: details of its middle, each cell a power of two of voxels wide along each axis.
    """

    lattice: IntensityLattice | None
    borders: tuple[Border, ...]
    whole: Thumbnail | None
    native: Thumbnail | None


def take_sketch(image: NDArray[Any], grid: Geometry) -> Sketch:
    """The sketch of an image (C,*S) on ``grid``; channels are averaged, NaN and Inf count as zero."""
    with np.errstate(all="ignore"):  # numbers beyond what single precision holds are left out below
        return _take(image, grid)


def _take(image: NDArray[Any], grid: Geometry) -> Sketch:
    axes, flips = canonical_axes(grid)
    turned = image.transpose(0, *(a + 1 for a in axes))
    turned = turned[(slice(None), *(slice(None, None, -1 if flip else 1) for flip in flips))]
    turned = turned[(slice(None), *(0 if n == 1 else slice(None) for n in turned.shape[1:]))]
    whole, native = take_thumbnails(turned)
    return Sketch(find_lattice(image[0]), take_borders(turned), whole, native)
