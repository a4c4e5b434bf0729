"""Reading and writing image files: one table of formats, one contract.

A reader trusts nothing: it looks at the content before the name, bounds every claimed size against the
bytes that are there and against memory before it allocates, and reads to the end of the stream, so that a cut
or damaged file is found. Every failure is a ``FormatError`` (a ``DataError``) that names the file, what was
found and how to mend it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.files import write_bytes
from medseg.image.geometry import Geometry
from medseg.image.nifti import nifti_bytes, nifti_gz_bytes, read_nifti, read_nifti_gz
from medseg.image.pictures import png_bytes, read_png, read_tiff, tiff_bytes
from medseg.image.stored import FormatError, Stored


@dataclass(frozen=True, slots=True)
class Format:
    """How files of one suffix are read and written.

    Attributes:
        dims: spatial axes.
        read: (path, its bytes) -> what is stored.
        write: (path, labels, geometry) -> the file's bytes.
    """

    dims: int
    read: Callable[[Path, bytes], Stored]
    write: Callable[[Path, NDArray[Any], Geometry], bytes]


FORMATS: dict[str, Format] = {
    ".nii": Format(3, read_nifti, nifti_bytes),
    ".nii.gz": Format(3, read_nifti_gz, nifti_gz_bytes),
    ".png": Format(2, read_png, png_bytes),
    ".tif": Format(2, read_tiff, tiff_bytes),
    ".tiff": Format(2, read_tiff, tiff_bytes),
}


def suffix_of(path: Path) -> str:
    """The suffix that names a format, in lower case: ``.nii.gz`` for ``A.nii.gz``, else the last one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: Path) -> str:
    """The file name without the suffix that ``suffix_of`` gives."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def format_of(path: Path) -> Format:
    """The table's row for a file, or ``FormatError``."""
    if (suffix := suffix_of(path)) not in FORMATS:
        raise FormatError(path, f"format {suffix or '(no suffix)'}, expected {', '.join(FORMATS)}", "convert the file")
    return FORMATS[suffix]


def read_stored(path: Path, data: bytes | None = None) -> Stored:
    """Read a file as stored.

    Args:
        path: the file; its suffix names the format, its content must agree.
        data: the file's bytes, if the caller has read them already (to check their digest).

    Raises:
        FormatError: if it is missing, damaged, cut, too large, or of another kind than its name says.
    """
    reader = format_of(path)
    if data is None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FormatError(path, f"cannot be read ({error.strerror})", "check path and permissions") from None
    if not data:
        raise FormatError(path, "empty file")
    return reader.read(path, data)


def read_image(
    path: Path, data: bytes | None = None, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[Any], Geometry]:
    """Read an image.

    Args:
        path, data: as for ``read_stored``.
        spacing: micrometres per axis for formats without a header; None: pixels.

    Returns:
        Intensities (C,*S), in the stored type or, where the header scales them, in floating point; and the
        grid: (X, Y, Z) of NIfTI in millimetres, (rows, columns) of pictures in micrometres or pixels.

    Raises:
        FormatError: as ``read_stored``; also for an impossible grid, and for scaling that overflows.
    """
    stored = read_stored(path, data)
    return stored.image(), stored.geometry(spacing)


def read_labels(
    path: Path, data: bytes | None = None, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[Any], Geometry]:
    """Read a label map: integers (*S) and the grid; arguments and errors as for ``read_image``.

    Integers stay in their stored type. Floating-point labels must lie within ``INTEGER_TOLERANCE`` of an
    integer, else the error's code is ``label-not-integer`` and it tells value, count and first position.
    """
    stored = read_stored(path, data)
    return stored.labels(), stored.geometry(spacing)


def write_labels(path: Path, labels: NDArray[Any], geometry: Geometry) -> None:
    """Write an integer label map (*S) atomically; the suffix names the format, equal input gives equal bytes.

    Raises:
        FormatError: for labels that are no integers, do not fit the grid, or are too large for the format.
    """
    if labels.dtype == np.bool_:
        labels = labels.astype(np.uint8)
    if labels.dtype.kind not in "iu":
        raise FormatError(path, f"labels of type {labels.dtype}, expected integers", "convert them first")
    if labels.shape != geometry.shape:
        raise FormatError(path, f"labels of shape {labels.shape} on a grid of {geometry.shape}", "use the right grid")
    write_bytes(path, format_of(path).write(path, labels, geometry))
