"""What is doubtful about one image, by its header and by its voxels.

A data set's images are checked by these functions, and so are new images that a model predicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.image.values import LARGEST, Seen, are_numbers
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
    return doubts_of_slabs([((0,) * (image.ndim - 1), image)], fill)


def doubts_of_slabs(slabs: Iterable[tuple[Sequence[int], NDArray[Any]]], fill: float | None) -> Iterator[Doubt]:
    """As ``voxel_doubts``, of an image that comes slab by slab: where it begins (S), and the slab (C, S)."""
    channels: list[Seen] = []
    odd = _NoNumbers()
    for start, slab in slabs:
        channels = channels or [Seen() for _ in slab]
        for number, (seen, channel) in enumerate(zip(channels, slab, strict=True)):
            before = seen.size - seen.real
            seen.add(channel)
            if seen.size - seen.real > before:
                odd.add(number, start, channel)
    if odd.first is not None:
        yield Doubt(
            "nonfinite", odd.said(len(channels)), "" if fill is None else f"filled with {fill:g}, as configured"
        )
    parts = [seen for seen in channels if seen.real]
    if not parts:
        return
    if all(seen.least == seen.most for seen in parts):
        rest = " that is a number" if sum(seen.real for seen in parts) < sum(seen.size for seen in channels) else ""
        yield Doubt("constant-image", f"every voxel{rest} is {', '.join(f'{seen.least:g}' for seen in parts)}")
    elif all(two := [seen.but_for() for seen in parts]):
        shown = "; ".join(f"every voxel is {one[0]:g} but for {one[2]} of {one[1]:g}" for one in two if one)
        yield Doubt("constant-image", shown)


class _NoNumbers:
    """How many voxels are NaN, Inf or too large, and the first of them: its place (C, S) and value."""

    def __init__(self) -> None:
        self._nans = self._infs = self._large = 0
        self.first: tuple[tuple[int, ...], float] | None = None

    def add(self, channel: int, start: Sequence[int], values: NDArray[Any]) -> None:
        """Take a part of a channel that begins at ``start``."""
        real = are_numbers(values)
        nans, infs = int(np.isnan(values).sum()), int(np.isinf(values).sum())
        self._nans, self._infs, self._large = (
            old + new
            for old, new in zip(
                (self._nans, self._infs, self._large), (nans, infs, int((~real).sum()) - nans - infs), strict=True
            )
        )
        place = np.unravel_index(int(np.argmin(real)), real.shape)
        found = (channel, *(int(s + i) for s, i in zip(start, place, strict=True)))
        if self.first is None or found < self.first[0]:
            self.first = found, float(values[place])

    def said(self, channels: int) -> str:
        """All that in words."""
        assert self.first is not None
        place, value = self.first
        where = f"{place[1:]}" + (f" of channel {place[0]}" if channels > 1 else "")
        counts = [f"{self._nans} NaN and {self._infs} Inf voxels"] if self._nans or self._infs else []
        counts += [f"{self._large} voxels beyond what 32-bit floats hold ({LARGEST:.3g})"] if self._large else []
        return f"{', '.join(counts)}, first {value:g} at {where}"
