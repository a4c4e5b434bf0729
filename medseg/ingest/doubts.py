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
from medseg.image.values import LARGEST, are_numbers, constant_but_for
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
    """What is no number that 32-bit floats hold, and a constant image (one of several channels may be empty).

    Args:
        image: (C, S).
        fill: number that replaces what is none, where the user gave one.
    """
    ranges = [(channel.min(), channel.max()) for channel in image]  # NaN and Inf show in these, too
    parts = list(image)
    if image.dtype.kind == "f" and not are_numbers(np.array(ranges)).all():
        real = are_numbers(image)
        yield Doubt(
            "nonfinite", _no_numbers(image, real), "" if fill is None else f"filled with {fill:g}, as configured"
        )
        parts = [channel[kept] for channel, kept in zip(image, real, strict=True) if kept.any()]
        ranges = [(part.min(), part.max()) for part in parts]
        if not parts:
            return
    if all(low == high for low, high in ranges):
        rest = " that is a number" if sum(part.size for part in parts) < image.size else ""
        yield Doubt("constant-image", f"every voxel{rest} is {', '.join(f'{low:g}' for low, _ in ranges)}")
    elif all(two := [constant_but_for(part) for part in parts]):
        shown = "; ".join(f"every voxel is {one[0]:g} but for {one[2]} of {one[1]:g}" for one in two if one)
        yield Doubt("constant-image", shown)


def _no_numbers(image: NDArray[Any], real: NDArray[np.bool_]) -> str:
    """How many voxels are NaN, Inf or too large, and the first of them."""
    first = tuple(int(i) for i in np.argwhere(~real)[0])
    nans, infs = int(np.isnan(image).sum()), int(np.isinf(image).sum())
    large = int((~real).sum()) - nans - infs
    where = f"{first[1:]}" + (f" of channel {first[0]}" if len(image) > 1 else "")
    counts = [f"{nans} NaN and {infs} Inf voxels"] if nans or infs else []
    counts += [f"{large} voxels beyond what 32-bit floats hold ({LARGEST:.3g})"] if large else []
    return f"{', '.join(counts)}, first {image[first]:g} at {where}"
