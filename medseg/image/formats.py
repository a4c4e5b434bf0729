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
from medseg.image.content import Content
from medseg.image.geometry import Geometry
from medseg.image.nifti import nifti_bytes, nifti_gz_bytes, read_nifti, read_nifti_gz
from medseg.image.pictures import png_bytes, read_png, read_tiff, tiff_bytes
from medseg.image.stored import FormatError, Stored, check_size, memory_budget


@dataclass(frozen=True, slots=True)
class Format:
    """How files of one suffix are read and written.

    Attributes:
        dims: numbers of spatial axes that the format can hold.
        read: (path, content) -> what is stored.
        write: (path, labels, geometry) -> the file's bytes.
        companions: (path, bytes of the named file) -> names of further files beside it that belong to the image.
    """

    dims: tuple[int, ...]
    read: Callable[[Path, Content], Stored]
    write: Callable[[Path, NDArray[Any], Geometry], bytes]
    companions: Callable[[Path, bytes], Sequence[str]] = lambda path, data: ()


FORMATS: dict[str, Format] = {
    ".nii": Format((3,), read_nifti, nifti_bytes),
    ".nii.gz": Format((3,), read_nifti_gz, nifti_gz_bytes),
    ".png": Format((2,), read_png, png_bytes),
    ".tif": Format((2,), read_tiff, tiff_bytes),
    ".tiff": Format((2,), read_tiff, tiff_bytes),
}


# Key of the row for images that are a folder of files.
FOLDER = "folder"


def suffix_of(path: Path) -> str:
    """The suffix that names a format, in lower case: ``.nii.gz`` for ``A.nii.gz``, else the last one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: Path) -> str:
    """The file name without the suffix that ``suffix_of`` gives."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def format_of(path: Path) -> Format:
    """The table's row for a file or folder, or ``FormatError``."""
    suffix = FOLDER if path.is_dir() else suffix_of(path)
    if suffix not in FORMATS:
        raise FormatError(path, f"format {suffix or '(no suffix)'}, expected {', '.join(FORMATS)}", "convert the file")
    return FORMATS[suffix]


def read_content(path: Path, series: str = "") -> Content:
    """Read all bytes that make an image: a file, a header with its companions, or every file of a folder.

    Args:
        path: the file or folder.
        series: which series of a DICOM folder is wanted.

    Raises:
        FormatError: if something is missing, leads out of the folder, or is larger than half of this machine's memory.
    """
    row = format_of(path)
    if path.is_dir():
        names = [str(p.relative_to(path)) for p in sorted(path.rglob("*")) if p.is_file() and not p.is_symlink()]
        size = sum((path / name).stat().st_size for name in names)
        check_size(path, size, memory_budget())
        return Content({name: _bytes_of(path / name) for name in names}, series)
    if path.is_file():
        check_size(path, path.stat().st_size, memory_budget())
    data = _bytes_of(path)
    if not data:
        raise FormatError(path, "empty file")
    files = {path.name: data}
    for name in row.companions(path, data):
        if Path(name).name != name or name in (".", ".."):
            raise FormatError(path, f"its data file {name!r} is not beside it", "keep header and data in one folder")
        files[name] = _bytes_of(path.parent / name)
    return Content(files, series)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error.strerror})", "check path and permissions") from None


def read_stored(path: Path, data: bytes | Content | None = None) -> Stored:
    """Read an image as stored.

    Args:
        path: the file or folder; its suffix names the format, its content must agree.
        data: what the caller has read already (to check its digest).

    Raises:
        FormatError: if it is missing, damaged, cut, too large, or of another kind than its name says.
    """
    row = format_of(path)
    content = read_content(path) if data is None else data
    if isinstance(content, bytes):
        content = Content.single(path, content)
    if not content.size:
        raise FormatError(path, "empty file")
    return row.read(path, content)


def read_image(
    path: Path, data: bytes | Content | None = None, *, spacing: Sequence[float] | None = None
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
    path: Path, data: bytes | Content | None = None, *, spacing: Sequence[float] | None = None
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
