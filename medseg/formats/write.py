"""Writing label maps by the table of formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.files import atomic_writer
from medseg.formats.errors import FormatError
from medseg.formats.plain import Files, Fill, Labels, whole
from medseg.formats.table import format_of, suffix_of
from medseg.formats.world import NOTHING, About
from medseg.image.geometry import Geometry

# Formats whose writers take real numbers, too.
REAL = (".nii", ".nii.gz", ".hdr", ".tif", ".tiff", ".ome.tif", ".ome.tiff")


def write_labels(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> None:
    """Write an integer label map (*S) atomically; the suffix names the format, equal input gives equal bytes.

    Args:
        path: of the file.
        labels: (*S), an array or what reads one box by box.
        geometry: their grid.
        about: what else goes into the header, as far as the format has a place for it; a world must be that of a file
            with this grid.

    Raises:
        FormatError: for labels that are no integers, do not fit the grid, or are too large for the format.
    """
    if labels.dtype == np.bool_:
        labels = whole(labels).astype(np.uint8)
    if labels.dtype.kind not in "iu":
        raise FormatError(path, f"labels of type {labels.dtype}, expected integers", "convert them first")
    if labels.shape != geometry.shape:
        raise FormatError(path, f"labels of shape {labels.shape} on a grid of {geometry.shape}", "use the right grid")
    row = format_of(path)
    if not row.write:
        raise FormatError(path, f"label maps are not written as {suffix_of(path)}", f"write {row.labels}")
    _write(path, row.writer(path, labels, geometry, about))


def map_suffix(path: Path, dims: int) -> str:
    """Suffix of a file of real numbers beside an image: the image's own if that is NIfTI or TIFF, else one of these."""
    if not path.is_dir() and suffix_of(path) in REAL:
        return suffix_of(path)
    return ".tif" if dims == 2 else ".nii.gz"


def write_map(path: Path, values: NDArray[Any], geometry: Geometry, about: About = NOTHING) -> None:
    """Write real numbers (*S) as 32-bit floating point, atomically; for arguments and errors see ``write_labels``."""
    if values.shape != geometry.shape:
        raise FormatError(path, f"values of shape {values.shape} on a grid of {geometry.shape}", "use the right grid")
    if suffix_of(path) not in REAL:
        raise FormatError(path, f"real numbers are not written as {suffix_of(path)}", "write .nii.gz or .tif")
    _write(path, format_of(path).writer(path, values.astype(np.float32), geometry, about))


def _write(path: Path, written: bytes | Fill | Files) -> None:
    files = written if isinstance(written, Mapping) else {path.name: written}
    if len(files) > 1:
        # The header comes last and an old one is removed first: while it is there, it has its own data beside it.
        path.unlink(missing_ok=True)
    for name, body in reversed(list(files.items())):
        with atomic_writer(path.parent / name) as file:
            if isinstance(body, bytes):
                file.write(body)
            else:
                body(file)
