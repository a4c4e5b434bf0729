"""What predicting an image takes of disks for a while."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from medseg.formats.raw import RawVoxels
from medseg.formats.source import Source
from medseg.plan.plan import Plan
from medseg.predict.objects import IN_MEMORY
from medseg.predict.sinks import HELD_VOXELS


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free


def disk_bytes(source: Source, plan: Plan) -> int:
    """Bytes on disk while an image is predicted: the label map before it is written, and maps of objects.

    The label map itself is counted as if it were not compressed.
    """
    voxels = math.prod(source.shape[1:])
    maps = 2 * plan.network.out_channels * voxels if plan.network.learns_objects else 0
    return (2 * voxels if voxels > HELD_VOXELS else 0) + (maps if maps > IN_MEMORY else 0)


def unpacked_bytes(source: Source) -> int:
    """Bytes that a compressed file takes on disk since it was opened; 0 if it is read as it is, or lies in memory."""
    stored = source.stored
    if not isinstance(stored, RawVoxels) or source.content is None:
        return 0
    size = math.prod(stored.shape) * stored.dtype.itemsize
    return size if size > source.content.size else 0
