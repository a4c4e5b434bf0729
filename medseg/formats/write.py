"""Writing label maps by the table of formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.files import write_bytes
from medseg.formats.content import FileBytes
from medseg.formats.errors import FormatError
from medseg.formats.table import format_of, suffix_of
from medseg.formats.world import NOTHING, About
from medseg.image.geometry import Geometry


def write_labels(path: Path, labels: NDArray[Any], geometry: Geometry, about: About = NOTHING) -> None:
    """Write an integer label map (*S) atomically; the suffix names the format, equal input gives equal bytes.

    Args:
        path: of the file.
        labels: (*S).
        geometry: their grid.
        about: what else goes into the header, as far as the format has a place for it; a world must be that of a file
            with this grid.

    Raises:
        FormatError: for labels that are no integers, do not fit the grid, or are too large for the format.
    """
    if labels.dtype == np.bool_:
        labels = labels.astype(np.uint8)
    if labels.dtype.kind not in "iu":
        raise FormatError(path, f"labels of type {labels.dtype}, expected integers", "convert them first")
    if labels.shape != geometry.shape:
        raise FormatError(path, f"labels of shape {labels.shape} on a grid of {geometry.shape}", "use the right grid")
    row = format_of(path)
    if not row.write:
        raise FormatError(path, f"label maps are not written as {suffix_of(path)}", f"write {row.labels}")
    written = row.writer(path, labels, geometry, about)
    if isinstance(written, bytes):
        write_bytes(path, written)
        return
    # The header comes last and an old one is removed first: while it is there, it has its own data beside it.
    path.unlink(missing_ok=True)
    for name, data in reversed(list(written.files.items())):
        assert not isinstance(data, FileBytes)
        write_bytes(path.parent / name, data)
