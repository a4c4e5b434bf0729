"""The images below a folder: files of any format, folders of DICOM slices, formats that are folders."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.formats.content import kind_of
from medseg.formats.foreign import foreign_by_name
from medseg.formats.table import FORMATS, stem_of, suffix_of
from medseg.ingest.layouts.found import HEADERS, LITTER
from medseg.ingest.layouts.words import is_derived, rank
from medseg.predict.input import Input, in_short, is_of_a_format, of_file
from medseg.progress import say

# What slices of a DICOM series are called, besides names without any suffix and numbers.
SLICES = (".dcm", ".ima", "")


def of_folder(folder: Path, out: Path, series: str) -> list[Input]:
    """The images below a folder: one by itself (a DICOM series, a format of folders), or all that are in it.

    Raises:
        DataError: if there is none.
    """
    if is_of_a_format(folder):
        return [of_file(folder)]
    others: list[Path] = []
    paths = list(_images_below(folder, out, others))
    if not paths:
        raise DataError(_nothing_in(folder, others))
    _say_left_out(folder, others, "no format of images is called so")
    masks = _masks(folder, paths)
    if masks and len(masks) < len(paths):
        _say_left_out(folder, masks, "called like label maps, and others are not (name them to take them)")
        paths = [path for path in paths if path not in masks]
    if all(path.is_dir() and not is_of_a_format(path) for path in paths) and _one_series(paths, series):
        return [of_file(folder)]
    return [_below(folder, path) for path in paths]


def _say_left_out(folder: Path, paths: Sequence[Path], why: str) -> None:
    if paths:
        say(f"predict: left out of {folder}: {in_short([_called(folder, path) for path in paths])}: {why}")


def _called(folder: Path, path: Path) -> str:
    """A file in a folder, and what it is by its name if it is an image that is not read."""
    row = foreign_by_name(path)
    return f"{path.relative_to(folder)}{f' ({row.name})' if row else ''}"


def _masks(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """Those of the images in a folder that are called like label maps: ``masks/a``, ``a_mask`` beside ``a``."""
    stems: dict[Path, list[str]] = defaultdict(list)
    for path in paths:
        stems[path.parent].append(stem_of(path))
    return [path for path in paths if _is_mask(path, path.relative_to(folder).parent.parts, stems[path.parent])]


def _is_mask(path: Path, folders: Sequence[str], beside: Sequence[str]) -> bool:
    stem = stem_of(path)
    endings = [stem[len(other) :] for other in beside if other != stem and stem.startswith(other)]
    return any(rank(name) or is_derived(name) for name in (*folders, *endings))


def _below(folder: Path, path: Path) -> Input:
    """An image in a folder, its name with the folders between them."""
    one, above = of_file(path), path.parent.relative_to(folder).as_posix()
    return one if above == "." else replace(one, name=f"{above}/{one.name}")


def _images_below(folder: Path, out: Path, others: list[Path]) -> Iterator[Path]:
    """Files and folders below ``folder`` that are images, sorted; visible files that are none go into ``others``."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        # Links may lead around in a circle.
        real = os.path.realpath(here)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if _counts(name) and not within(here / name, out))
        for name in [name for name in folders if is_of_a_format(here / name)]:
            folders.remove(name)
            yield here / name
        files = sorted(here / name for name in names if _counts(name))
        slices = [path for path in files if _is_slice(path)]
        if slices and not _are_volumes(slices):
            folders[:] = []
            yield here
            continue
        yield from slices
        headers = {stem_of(path) for path in files if suffix_of(path) in HEADERS}
        for path in [path for path in files if path not in slices]:
            if suffix_of(path) in FORMATS:
                yield path
            elif path.stem not in headers and path.name.partition(".")[0] not in headers:
                others.append(path)


def _counts(name: str) -> bool:
    return not name.startswith(".") and name not in LITTER and name.casefold() != "dicomdir"


def within(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_slice(path: Path) -> bool:
    """Whether a file is DICOM: by its name a slice may be anything, so its first bytes decide."""
    suffix = suffix_of(path)
    if suffix not in SLICES and not suffix[1:].isdigit():
        return False
    return suffix == ".dcm" or _kind(path) == "DICOM"


def is_image(path: Path) -> bool:
    """Whether a file or a folder is one image: of a format, or a folder that holds slices itself."""
    if not path.is_dir():
        return suffix_of(path) in FORMATS
    return is_of_a_format(path) or any(_is_slice(file) for file in path.iterdir() if file.is_file())


def _kind(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return kind_of(file.read(512))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from None


def _header(path: Path) -> Any:
    """Series and number of frames of a DICOM file; an empty header if it is none, which reading it reports."""
    import pydicom

    try:
        tags = ["SeriesInstanceUID", "NumberOfFrames"]
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags, force=False)
    except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, TypeError):
        return pydicom.Dataset()


def _are_volumes(slices: Sequence[Path]) -> bool:
    """Whether the DICOM files of a folder are volumes of their own: each has many frames and another series."""
    if len(slices) < 2:
        return False
    first, second = _header(slices[0]), _header(slices[1])
    many = all(int(header.get("NumberOfFrames") or 1) > 1 for header in (first, second))
    return many and first.get("SeriesInstanceUID") != second.get("SeriesInstanceUID")


def _one_series(folders: Sequence[Path], series: str) -> bool:
    """Whether folders of slices are one series that lies in parts, or one was named, which finds its own files."""
    if len(folders) == 1 or series:
        return True
    firsts = [
        next(path for path in sorted(folder.iterdir()) if path.is_file() and _is_slice(path)) for folder in folders
    ]
    found = {str(_header(path).get("SeriesInstanceUID")) for path in firsts}
    return len(found) == 1 and found != {"None"}


def _nothing_in(folder: Path, others: Sequence[Path]) -> str:
    foreign = [(path, row) for path in others if (row := foreign_by_name(path)) is not None]
    if foreign:
        path, row = foreign[0]
        return f"{folder}: no image that is read, but {len(others)} other files; {path.name} is {row.name}: {row.way}"
    kinds = sorted({path.suffix or path.name for path in others})
    what = f"{len(others)} other files ({in_short(kinds)})" if others else "no files"
    return f"{folder}: no image in it or below it, but {what}; name a folder of images or of DICOM slices"
