"""Opening and reading image files by the table of formats.

A reader trusts nothing: it looks at the content before the name, bounds every claimed size against the bytes that are
there and against memory before it allocates, and reads compressed streams to their end, so that a cut or damaged file
is found. Every failure is a ``FormatError`` (a ``DataError``) that names the file, what was found and how to fix it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.formats.channels import choose_channels
from medseg.formats.content import START, Content, Data, FileBytes, ListedBytes, kind_of
from medseg.formats.errors import FormatError
from medseg.formats.foreign import FIX_LINKS, foreign
from medseg.formats.limits import MAX_FILES, check_memory
from medseg.formats.source import Source
from medseg.formats.table import Format, format_of, suffix_of_kind
from medseg.image.geometry import Geometry
from medseg.reading import AS_STORED, Reading


def open_image(
    path: Path,
    data: bytes | Content | None = None,
    *,
    series: str = "",
    spacing: Sequence[float] | None = None,
    reading: Reading = AS_STORED,
) -> Source:
    """Open an image: its header is read and checked, its voxels are read on demand.

    Uncompressed voxels (``.nii``, ``.hdr``, raw NRRD and MetaImage) and TIFF (by strips and tiles) are read box by box;
    all other formats are decoded whole, here.

    Args:
        path: the file or folder; its suffix names the format, its content must agree.
        data: what the caller has read already (to check its digest); None: the file is opened.
        series: which series of a DICOM folder is wanted, if ``data`` does not say it.
        spacing: micrometres per axis for a file that states no size; None: what ``reading`` says, else pixels.
        reading: what is declared of the file: its axes, which channels are taken, sizes, orientation, fill.

    Raises:
        FormatError: if it is missing, damaged, cut, too large, of another kind than its name says, or not as declared.
    """
    row = format_of(path)
    content = _open_content(path, row, series) if data is None else data
    if isinstance(content, bytes):
        content = Content({path.name: content}, series)
    if not content.size:
        raise FormatError(path, "empty file")
    _check_kind(path, content.main, row)
    reading = reading.sized(spacing)
    content = replace(content, axes=reading.axes)
    source = replace(row.opener(path, content), content=content, fill=reading.fill)
    _check_axes(source, reading.axes)
    return choose_channels(_sized(source, reading).oriented(reading.orientation), reading)


def _check_axes(source: Source, axes: str) -> None:
    """Raise ``FormatError`` unless a file has the spatial axes that are declared."""
    declared = [axis for axis in "ZYX" if axis in axes]
    if axes and len(declared) != len(source.shape) - 1:
        cause = f"`axes: {axes}` has the spatial axes {', '.join(declared)}, the file has {source.shape[1:]}"
        raise FormatError(source.path, cause, "correct `axes`")


def _sized(source: Source, reading: Reading) -> Source:
    """The source with the size that counts by ``reading.sizes``."""
    if reading.sizes == "files":
        return source.spaced(reading.spacing_um)
    if source.affine is not None:
        cause = f"`sizes: {reading.sizes}` is for formats without a world, and this one has a place in it"
        raise FormatError(source.path, cause, "take `sizes` out, and correct the headers whose voxel size is wrong")
    return replace(source, stated=None).spaced(reading.spacing_um if reading.sizes == "spacing" else None)


def read_image(
    path: Path, data: bytes | Content | None = None, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[Any], Geometry]:
    """Read an image whole.

    Args:
        path, data, spacing: as for ``open_image``.

    Returns:
        Intensities (C,*S), in the stored type or, where the header scales them, in floating point; and the
        grid: (X, Y, Z) of the medical formats in RAS+ millimetres, (Z, Y, X) and (rows, columns) of TIFF and PNG in
        micrometres or pixels (docs/formats.md).

    Raises:
        FormatError: as ``open_image``; also for an impossible grid, and for scaling that overflows.
    """
    source = open_image(path, data, spacing=spacing)
    return np.ascontiguousarray(source.image()), source.geometry


def read_labels(
    path: Path, data: bytes | Content | None = None, *, spacing: Sequence[float] | None = None
) -> tuple[NDArray[Any], Geometry]:
    """Read a label map: integers (*S) and the grid; arguments and errors as for ``read_image``.

    Integers stay in their stored type. Floating-point labels must be within ``INTEGER_TOLERANCE`` of an
    integer, else the error's code is ``label-not-integer`` and it names value, count and first position.
    """
    source = open_image(path, data, spacing=spacing)
    return np.ascontiguousarray(source.labels()), source.geometry


def read_content(path: Path, series: str = "") -> Content:
    """Read all bytes that make an image: a file, a header with its companions, or every file of a folder.

    Args:
        path: the file or folder.
        series: which series of a DICOM folder is wanted.

    Raises:
        FormatError: if something is missing, points outside the folder, or is larger than the memory budget.
    """
    row = format_of(path)
    if path.is_dir():
        return _members(path, row, in_memory=True) if row.members else _folder(path, series)
    files = _held(path, [path.name], path.parent)
    return Content(files | _held(path, _companions(path, row, files[path.name]), path.parent), series)


def read_recorded(path: Path, sha256: str, maker: str) -> Content:
    """Read the content of an image that a stage wrote, companions included, if it still is what was recorded.

    Raises:
        DataError: if it is missing or changed; ``maker`` is the command that makes it again.
    """
    content = read_content(path) if path.exists() else None
    if content is None or content.sha256 != sha256:
        state = "missing" if content is None else "changed"
        raise DataError(f"{path}: {state} since it was made; delete what is left of it and run `{maker}` again")
    return content


def open_content(path: Path, series: str = "") -> Content:
    """The content of an image as ``read_content`` gives it, but files stay on disk until they are read.

    The slices of a folder are held in memory: there can be more of them than a process may keep open.
    """
    return _open_content(path, format_of(path), series)


def _open_content(path: Path, row: Format, series: str) -> Content:
    if path.is_dir():
        return _members(path, row) if row.members else _folder(path, series)
    files = _opened(path, [path.name])
    return Content(files | _opened(path, _companions(path, row, files[path.name])), series)


def _members(path: Path, row: Format, *, in_memory: bool = False) -> Content:
    """The files that a folder's format says belong to the image."""
    try:
        names = row.member_names(path)
        if not in_memory:
            return Content({name: ListedBytes(path / name) for name in names})
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return Content(_held(path, names, path))


def _folder(path: Path, series: str) -> Content:
    """All files of a folder, in memory."""
    names = _names_in(path)
    if not 0 < len(names) <= MAX_FILES:
        cause = f"a folder of {len(names)} files, expected 1 to {MAX_FILES} slices of a DICOM series"
        raise FormatError(path, cause, "name the folder of one series")
    return Content(_held(path, names, path), series)


def _names_in(folder: Path) -> list[str]:
    """All files below a folder, links followed but for those that lead in circles, in the order of their paths.

    Raises:
        FormatError: if links lead nowhere: a part of the series would be missing without a word.
    """
    found, broken = list[Path](), list[str]()
    seen = {folder.resolve(), *folder.resolve().parents}
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        for name in [name for name in folders if (here / name).is_symlink()]:
            real = (here / name).resolve()
            if real in seen:
                folders.remove(name)
            seen.add(real)
        found += [here / name for name in files if (here / name).is_file()]
        broken += [name for name in files if (here / name).is_symlink() and not (here / name).exists()]
    if broken:
        cause = (
            f"{len(broken)} of {len(found) + len(broken)} files are links that lead nowhere, such as {min(broken)!r}"
        )
        raise FormatError(folder, cause, FIX_LINKS)
    return [str(path.relative_to(folder)) for path in sorted(found)]


def _companions(path: Path, row: Format, data: Data) -> list[str]:
    """Names of the files that belong to an image beside the named one, which holds ``data``."""
    if not len(data):
        raise FormatError(path, "empty file")
    # What is of another kind has no companions; ``open_image`` reports it, when the caller has the digest.
    names = row.companion_names(path, data) if not row.kind or kind_of(data) == row.kind else []
    for name in names:
        if Path(name).name != name or name in (".", "..", path.name):
            raise FormatError(path, f"its data file {name!r} is not beside it", "keep header and data in one folder")
    return names


def _held(path: Path, names: Sequence[str], folder: Path) -> dict[str, Data]:
    """The bytes of files in a folder, if they fit into memory."""
    try:
        _require_files(path, names, folder)
        check_memory(path, sum((folder / name).stat().st_size for name in names))
        return {name: (folder / name).read_bytes() for name in names}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _opened(path: Path, names: Sequence[str]) -> dict[str, Data]:
    """Files beside ``path``, opened."""
    try:
        _require_files(path, names, path.parent)
        return {name: FileBytes(path.parent / name) for name in names}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _require_files(path: Path, names: Sequence[str], folder: Path) -> None:
    odd = [name for name in names if (folder / name).exists() and not (folder / name).is_file()]
    if odd:
        raise FormatError(path, f"{odd[0]!r} is no regular file", "check path and permissions")


def _unreadable(path: Path, error: OSError | ValueError) -> FormatError:
    """What reading a file raised as the error that names the image; a ``FormatError`` is one already."""
    if isinstance(error, FormatError):
        return error
    missing = getattr(error, "filename", None)
    what = "" if missing is None or Path(missing) == path else f"{Path(missing).name}: "
    cause = f"{what}cannot be read ({getattr(error, 'strerror', None) or error})"
    return FormatError(path, cause, "check path and permissions")


def _check_kind(path: Path, data: Data, row: Format) -> None:
    """Raise ``FormatError`` if the content is not what the suffix says."""
    found = kind_of(data)
    if not row.kind or found == row.kind:
        return
    other, suffix = foreign(path, bytes(data[:START])), suffix_of_kind(found)
    if other is not None and not suffix:
        raise FormatError(path, f"the content is {other.name}, expected {row.kind}", other.way)
    fix = f"rename it to {suffix}" if suffix else "convert or export it again"
    raise FormatError(path, f"the content is {found or 'something else'}, expected {row.kind}", fix)
