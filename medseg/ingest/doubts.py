"""What is doubtful about one image, by its header and by its voxels.

A data set's images are checked by these functions, and so are new images that a model predicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.ingest.counting import field_of_view, right_angles
from medseg.ingest.voxel_sizes import FAR, VoxelSizes

# Kinds of doubt about one image that can be allowed by name.
OF_IMAGES = ("no-orientation", "gantry-tilt", "shear", "tiff-pages", "voxel-size", "nonfinite", "constant-image")
# Cosine of the angle between two axes of a grid above which it counts as sheared.
SHEAR = 1e-3
# A channel that covers less of the first one's voxels than this shows another part of the body.
COVERED = 0.9


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something about an image that is refused unless it is allowed by name.

    Attributes:
        code: a row of ``medseg.ingest.faults.FAULTS``.
        cause: what was found.
        fix: what can be done about it; empty: what the row says.
        settled: how the user has decided the question; empty: it is open.
    """

    code: str
    cause: str
    fix: str = ""
    settled: str = ""


def header_doubts(source: Source, orientation: str | None) -> Iterator[Doubt]:
    """What a file's reader found doubtful; ``orientation`` names the form of contradicting ones that counts."""
    for code, cause in source.notes:
        settled = code == "orientation" and orientation in source.orientations
        yield Doubt(code, cause, settled=f"{orientation} is used, as configured" if settled else "")


def grid_doubts(source: Source, grid: Geometry) -> Iterator[Doubt]:
    """What is doubtful about the grid of an image; a tilted gantry is one of the reader's own doubts."""
    tilted = any(code == "gantry-tilt" for code, _ in source.notes)
    if (cosine := right_angles(grid)) > SHEAR and not tilted:
        yield Doubt("shear", f"two axes meet at {np.degrees(np.arccos(cosine)):.2f} degrees, expected 90")


def size_doubts(grid: Geometry, sizes: VoxelSizes | None, whose: str) -> Iterator[Doubt]:
    """Whether the voxel size of an image is one that these images can have.

    Args:
        grid: of the image.
        sizes: of images like it; None: nothing is known.
        whose: whose sizes these are, for the sentence.
    """
    if sizes is not None and (cause := sizes.doubt(grid, whose)):
        yield Doubt("voxel-size", f"{cause} (allowed: {FAR:g} times)")


def channel_doubts(found: Geometry, first: Geometry, other: str) -> Iterator[Doubt]:
    """Whether a further channel, which may have a grid of its own, shows the same part of the world as the first.

    Args:
        found: its grid.
        first: grid of the first channel.
        other: name of the first channel's file.
    """
    if found.dims != first.dims or found.unit != first.unit:
        cause = f"{found.dims} axes in {found.unit}, {other} has {first.dims} in {first.unit}"
        yield Doubt("channel-grid", cause)
    elif (share := field_of_view(first, found)) < COVERED:
        yield Doubt("channel-grid", f"covers {share:.0%} of the voxels of {other}, expected {COVERED:.0%} or more")


def voxel_doubts(image: NDArray[Any], fill: float | None) -> Iterator[Doubt]:
    """NaN and Inf, or a constant image (one of several channels may be empty); at most one of both.

    Args:
        image: (C, S).
        fill: number that replaces NaN and Inf, where the user gave one.
    """
    ranges = [(channel.min(), channel.max()) for channel in image]  # NaN and Inf show in these, too
    if image.dtype.kind == "f" and not np.isfinite(ranges).all():
        finite = np.isfinite(image)
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        nans = int(np.isnan(image).sum())
        where = f"{first[1:]}" + (f" of channel {first[0]}" if len(image) > 1 else "")
        cause = f"{nans} NaN and {int((~finite).sum()) - nans} Inf voxels, first {image[first]:g} at {where}"
        yield Doubt("nonfinite", cause, "" if fill is None else f"filled with {fill:g}, as configured")
    elif all(low == high for low, high in ranges):
        yield Doubt("constant-image", f"every voxel is {', '.join(f'{low:g}' for low, _ in ranges)}")
