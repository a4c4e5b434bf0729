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

from medseg.errors import DataError
from medseg.files import write_bytes
from medseg.formats.content import Content, kind_of
from medseg.formats.dicom.label import segmentation_bytes, segmentation_zip
from medseg.formats.dicom.read import MAX_FILES, read_dicom, read_dicom_zip
from medseg.formats.metaimage import metaimage_companions, mha_bytes, mhd_files, read_metaimage
from medseg.formats.nifti import (
    nifti_bytes,
    nifti_gz_bytes,
    pair_companions,
    pair_files,
    read_nifti,
    read_nifti_gz,
    read_pair,
)
from medseg.formats.nrrd import nhdr_files, nrrd_bytes, nrrd_companions, read_nrrd
from medseg.formats.png import png_bytes, read_png
from medseg.formats.stored import FormatError, Stored, check_size, memory_budget
from medseg.formats.tiff.label import ome_tiff_bytes, tiff_bytes
from medseg.formats.tiff.read import read_ome_tiff, read_tiff
from medseg.image.geometry import Geometry


@dataclass(frozen=True, slots=True)
class Format:
    """How files of one suffix are read and written.

    Attributes:
        dims: numbers of spatial axes that the format can hold.
        read: (path, content) -> what is stored.
        write: (path, labels, geometry) -> the file's bytes; where there are several files, all of them.
        companions: (path, bytes of the named file) -> names of further files beside it that belong to the image.
        kind: what the named file must be by its first bytes, a key of ``medseg.formats.content.KINDS``; empty: the
            reader itself looks.
    """

    dims: tuple[int, ...]
    read: Callable[[Path, Content], Stored]
    write: Callable[[Path, NDArray[Any], Geometry], bytes | Content]
    companions: Callable[[Path, bytes], Sequence[str]] = lambda path, data: ()
    kind: str = ""


# Key of the row for images that are a folder of files.
FOLDER = "folder"

FORMATS: dict[str, Format] = {
    ".nii": Format((3,), read_nifti, nifti_bytes, kind="NIfTI"),
    ".nii.gz": Format((3,), read_nifti_gz, nifti_gz_bytes, kind="gzip"),
    ".hdr": Format((3,), read_pair, pair_files, pair_companions, kind="NIfTI"),
    ".nrrd": Format((2, 3), read_nrrd, nrrd_bytes, kind="NRRD"),
    ".nhdr": Format((2, 3), read_nrrd, nhdr_files, nrrd_companions, kind="NRRD"),
    ".mha": Format((2, 3), read_metaimage, mha_bytes, kind="MetaImage"),
    ".mhd": Format((2, 3), read_metaimage, mhd_files, metaimage_companions, kind="MetaImage"),
    ".png": Format((2,), read_png, png_bytes, kind="PNG"),
    ".tif": Format((2, 3), read_tiff, tiff_bytes, kind="TIFF"),
    ".tiff": Format((2, 3), read_tiff, tiff_bytes, kind="TIFF"),
    ".ome.tif": Format((2, 3), read_ome_tiff, ome_tiff_bytes, kind="TIFF"),
    ".ome.tiff": Format((2, 3), read_ome_tiff, ome_tiff_bytes, kind="TIFF"),
    ".dcm": Format((3,), read_dicom, segmentation_bytes, kind="DICOM"),
    ".zip": Format((3,), read_dicom_zip, segmentation_zip, kind="ZIP"),
    FOLDER: Format((3,), read_dicom, segmentation_bytes),
}

# Suffixes of two parts.
_LONG_SUFFIXES = tuple(suffix for suffix in FORMATS if suffix.count(".") > 1)


def suffix_of(path: Path) -> str:
    """The suffix that names a format, in lower case: ``.nii.gz`` for ``A.nii.gz``, else the last one."""
    name = path.name.lower()
    return next((suffix for suffix in _LONG_SUFFIXES if name.endswith(suffix)), Path(name).suffix)


def stem_of(path: Path) -> str:
    """The file name without the suffix that ``suffix_of`` gives."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def label_suffix(path: Path) -> str:
    """Suffix of the label file that is written for an image: the image's own; ``.dcm`` for a folder of slices."""
    return ".dcm" if path.is_dir() else suffix_of(path)


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
        if not 0 < len(names) <= MAX_FILES:
            cause = f"a folder of {len(names)} files, expected 1 to {MAX_FILES} slices of a DICOM series"
            raise FormatError(path, cause, "name the folder of one series")
        return Content(_files(path, names), series)
    files = _files(path, [path.name], path.parent)
    if not files[path.name]:
        raise FormatError(path, "empty file")
    # What is of another kind has no companions; ``read_stored`` tells, when the caller has the digest.
    known = not row.kind or kind_of(files[path.name]) == row.kind
    names = list(row.companions(path, files[path.name])) if known else []
    for name in names:
        if Path(name).name != name or name in (".", "..", path.name):
            raise FormatError(path, f"its data file {name!r} is not beside it", "keep header and data in one folder")
    return Content(files | _files(path, names, path.parent), series)


def read_recorded(path: Path, sha256: str, maker: str) -> Content:
    """The content of an image that a stage wrote, companions included, if it still is what was recorded.

    Raises:
        DataError: if it is gone or changed; ``maker`` is the command that makes it again.
    """
    content = read_content(path) if path.exists() else None
    if content is None or content.sha256 != sha256:
        state = "gone" if content is None else "changed"
        raise DataError(f"{path}: {state} since it was made; delete what is left of it and run `{maker}` again")
    return content


def _files(path: Path, names: Sequence[str], folder: Path | None = None) -> dict[str, bytes]:
    """The bytes of files of a folder (``path`` itself, unless given), if they fit into memory."""
    folder = path if folder is None else folder
    try:
        odd = [name for name in names if (folder / name).exists() and not (folder / name).is_file()]
        if odd:
            raise FormatError(path, f"{odd[0]!r} is no regular file", "check path and permissions")
        size = sum((folder / name).stat().st_size for name in names)
        check_size(path, size, max(size, memory_budget()))
        return {name: (folder / name).read_bytes() for name in names}
    except (OSError, ValueError) as error:
        missing = getattr(error, "filename", None)
        what = "" if missing is None or Path(missing) == path else f"{Path(missing).name}: "
        cause = f"{what}cannot be read ({getattr(error, 'strerror', None) or error})"
        raise FormatError(path, cause, "check path and permissions") from None


def _check_kind(path: Path, data: bytes, row: Format) -> None:
    """The content is what the suffix says."""
    found = kind_of(data)
    if row.kind and found != row.kind:
        suffix = next((suffix for suffix, other in FORMATS.items() if found and other.kind == found), "")
        mend = f"rename it to {suffix}" if suffix else "convert or export it again"
        raise FormatError(path, f"the content is {found or 'something else'}, expected {row.kind}", mend)


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
    _check_kind(path, content.main, row)
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
        grid: (X, Y, Z) of the medical formats in RAS+ millimetres, (Z, Y, X) and (rows, columns) of TIFF and PNG in
        micrometres or pixels (docs/formats.md).

    Raises:
        FormatError: as ``read_stored``; also for an impossible grid, and for scaling that overflows.
    """
    stored = read_stored(path, data)
    return np.ascontiguousarray(stored.image()), stored.geometry(spacing)


def read_labels(
    path: Path, data: bytes | Content | None = None, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[Any], Geometry]:
    """Read a label map: integers (*S) and the grid; arguments and errors as for ``read_image``.

    Integers stay in their stored type. Floating-point labels must lie within ``INTEGER_TOLERANCE`` of an
    integer, else the error's code is ``label-not-integer`` and it tells value, count and first position.
    """
    stored = read_stored(path, data)
    return np.ascontiguousarray(stored.labels()), stored.geometry(spacing)


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
    written = format_of(path).write(path, labels, geometry)
    if isinstance(written, bytes):
        write_bytes(path, written)
        return
    # The header comes last and an old one goes first: while it is there, it has its own data beside it.
    path.unlink(missing_ok=True)
    for name, data in reversed(list(written.files.items())):
        write_bytes(path.parent / name, data)
