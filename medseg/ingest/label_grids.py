"""Whether a label file lies on the grid of its image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medseg.config import DatasetConfig
from medseg.formats.source import Source
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry, placement_in
from medseg.ingest.checked import Checked


def pages_are_channels(out: Checked, label: Geometry | None, section: DatasetConfig) -> bool:
    """Whether undeclared pages of the image may be channels, since its label map is a single plane.

    That they were taken for slices is then the fault; that the label has another shape only follows from it.
    """
    if label is None or out.geometry is None or out.geometry.shape[1:] != label.shape or "tiff-pages" in section.allow:
        return False
    doubts = [f for f in out.faults if f.code == "tiff-pages"]
    for doubt in doubts:
        cause = f"{doubt.cause}; the label map is one plane, so they may be channels: `axes: CYX`"
        out.faults[out.faults.index(doubt)] = replace(doubt, cause=cause)
    return bool(doubts)


def check_grids(out: Checked, file: str, other: str, found: Geometry | None, expected: Geometry | None) -> None:
    """Compare two grids of one case, if both could be read."""
    if found is None or expected is None:
        return
    if found.shape != expected.shape:
        cause, fix = f"shape {found.shape}, {other} has {expected.shape}", ""
        if placement_in(found, expected) is not None:
            cause += ": it begins where the image does and ends before, as a file that was cut short"
            fix = "export it again, or, if only background is left out, fill it up (how: docs/formats.md, Segments)"
        out.add("shape-mismatch", file, cause, fix)
        return
    gap = expected.corner_distance_voxels(found)
    if gap > AFFINE_TOLERANCE_VOXELS:
        allowed = f"allowed {AFFINE_TOLERANCE_VOXELS}"
        out.add("affine-mismatch", file, f"{gap:.3g} voxels from {other} at a corner, {allowed}")


def check_origins(out: Checked, file: str, label: Source | None) -> None:
    """Compare where the first voxels lie, of files that say it although they have no directions (OME-Zarr).

    A label file that begins at 0 has no place of its own, as many programs write it.
    """
    if label is None or label.origin is None or out.origin is None or out.geometry is None or not any(label.origin):
        return
    if label.shape[1:] != out.geometry.shape:
        return
    apart = np.abs(np.subtract(label.origin, out.origin) / (label.stated or label.geometry.spacing))
    if apart.max() > AFFINE_TOLERANCE_VOXELS:
        cause = f"its translation is {apart.max():.3g} voxels from that of {out.candidate.images[0]}"
        out.add("affine-mismatch", file, f"{cause}, allowed {AFFINE_TOLERANCE_VOXELS}")
