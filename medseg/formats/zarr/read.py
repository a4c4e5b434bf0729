"""OME-Zarr images: the first resolution of a folder, read chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.pieces import Pieces
from medseg.formats.source import Source
from medseg.formats.zarr.array import ArrayVoxels, array_of
from medseg.formats.zarr.ngff import (
    ARRAYS,
    ATTRIBUTES,
    FIX_METADATA,
    MAX_METADATA,
    Multiscale,
    attributes_of,
    multiscale_of,
    parsed,
    series_of,
)

# Most files that an array may have.
MAX_CHUNKS = 1 << 21


def zarr_members(path: Path) -> list[str]:
    """Names of the files that make the image of a folder: its metadata, and all files of the first resolution.

    Raises:
        FormatError: if it is no OME-Zarr, or holds links, which may lead out of it.
        OSError: if it cannot be read.
    """
    version, series, attributes, names = _group(path, lambda name: _small_file(path / name))
    inside = str(PurePosixPath(series, multiscale_of(path, attributes).path))
    found: list[str] = []
    for place, folders, files in os.walk(path / inside, followlinks=False):
        here = Path(place)
        links = [name for name in (*folders, *files) if (here / name).is_symlink()]
        if links:
            raise FormatError(path, f"{(here / links[0]).relative_to(path)} is a link", "put the file itself there")
        found += [(here / name).relative_to(path).as_posix() for name in files if not name.startswith("._")]
        if len(found) > MAX_CHUNKS:
            raise FormatError(path, f"more than {MAX_CHUNKS} files", "write it with larger chunks, or with shards")
    if f"{inside}/{ARRAYS[version]}" not in found:
        raise FormatError(path, f"no file {inside}/{ARRAYS[version]}: its first resolution is missing")
    return [*names, *sorted(found)]


def _small_file(path: Path) -> bytes | None:
    """The start of a metadata file, or None if there is none."""
    if path.is_symlink() or not path.is_file():
        return None
    with open(path, "rb") as file:
        return file.read(MAX_METADATA)


def _group(path: Path, read: Any) -> tuple[int, str, Mapping[str, Any], list[str]]:
    """Version of Zarr, folder and attributes of the image, and the metadata files that say so."""
    version, attributes = _attributes(path, "", read)
    names = [ATTRIBUTES[version]]
    series = series_of(path, attributes)
    if series:
        if _found(f"1/{ATTRIBUTES[version]}", read):
            cause = "several images (series) in one OME-Zarr"
            raise FormatError(path, cause, f"name the folder of one of them: {path / '0'}")
        other, attributes = _attributes(path, f"{series}/", read)
        names.append(f"{series}/{ATTRIBUTES[version]}")
        if other != version or "multiscales" not in attributes:
            raise FormatError(path, f"no image in {series}", FIX_METADATA)
    return version, series, attributes, names


def _found(name: str, read: Any) -> bool:
    return read(name) is not None


def _attributes(path: Path, folder: str, read: Any) -> tuple[int, Mapping[str, Any]]:
    """Version and attributes of a group, of the newer version where both are there."""
    for version in (3, 2):
        data = read(f"{folder}{ATTRIBUTES[version]}")
        if data is not None:
            record = parsed(path, f"{folder}{ATTRIBUTES[version]}", data)
            return version, attributes_of(version, record)
    raise FormatError(path, "no OME-Zarr: neither zarr.json nor .zattrs is in the folder", FIX_METADATA)


def open_zarr(path: Path, content: Content) -> Source:
    """Open an OME-Zarr; see ``medseg.formats.read.open_image`` for the contract and docs/formats.md for the rules."""
    files = content.files

    def read(name: str) -> bytes | None:
        return files[name][:MAX_METADATA] if name in files else None

    version, series, attributes, _ = _group(path, read)
    image = multiscale_of(path, attributes)
    folder = f"{PurePosixPath(series, image.path)}/"
    data = read(f"{folder}{ARRAYS[version]}")
    if data is None:
        raise FormatError(path, f"no file {folder}{ARRAYS[version]}: its first resolution is missing")
    record = parsed(path, f"{folder}{ARRAYS[version]}", data)
    inside = {name.removeprefix(folder): part for name, part in files.items() if name.startswith(folder)}
    array = ArrayVoxels(path, array_of(path, version, record), inside)
    if len(array.shape) != len(image.axes):
        raise FormatError(path, f"an array of {len(array.shape)} axes, the metadata name {image.axes}", FIX_METADATA)
    return _source(path, array, image)


def _source(path: Path, array: ArrayVoxels, image: Multiscale) -> Source:
    lengths = dict(zip(image.axes, array.shape, strict=True))
    if lengths.get("t", 1) != 1:
        raise FormatError(path, f"{lengths['t']} time points", "keep one time point per image")
    space = "zyx" if lengths.get("z", 1) > 1 else "yx"
    remarks = [f"axis {axis} of length 1 dropped" for axis in image.axes if axis not in f"c{space}"]
    sizes, origin, more = _sizes(image, space)
    names = image.channels if len(image.channels) == lengths.get("c", 1) else ()
    if array.absent:
        more.append(f"chunks that are not stored are filled with {array.fill:g}, as the array says")
    return Source(
        path,
        ZarrVoxels(array, image.axes, space),
        stated=sizes,
        origin=origin,
        channel_names=names,
        remarks=(*remarks, *more),
    )


def _sizes(image: Multiscale, space: str) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, list[str]]:
    """Micrometres per axis of space where all are known, of a voxel and to the first one, and what is left aside."""
    at = [image.axes.index(axis) for axis in space]
    known = [(image.scale[k], image.translation[k], unit) for k in at if (unit := image.units[k]) is not None]
    remarks = []
    if len(known) != len(at) and any(image.scale[k] != 1 for k in at):
        remarks.append(f"scale {[image.scale[k] for k in at]} without a unit of length on every axis: not used")
    if any(image.translation[k] for k in at):
        remarks.append(f"translation {[image.translation[k] for k in at]} left aside: voxels count from the first one")
    if len(known) != len(at):
        return None, None, remarks
    return tuple(scale * unit for scale, _, unit in known), tuple(shift * unit for _, shift, unit in known), remarks


class ZarrVoxels:
    """Voxels (C,Z,Y,X) or (C,Y,X) of an array whose axes are in an order of their own."""

    def __init__(self, array: ArrayVoxels, axes: str, space: str) -> None:
        self._array, self._axes, self._wanted = array, axes, f"c{space}"
        self.dtype: np.dtype[Any] = array.dtype
        lengths = {"c": 1, **dict(zip(axes, array.shape, strict=True))}
        self.shape: tuple[int, ...] = tuple(lengths[axis] for axis in self._wanted)
        self.pieces = Pieces(0, tuple(array.piece[axes.index(axis)] for axis in space))

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """The voxels of a box, one slice of step 1 per axis."""
        slices = dict(zip(self._wanted, box, strict=True))
        found = self._array[tuple(slices.get(axis, slice(0, 1)) for axis in self._axes)]
        order = [self._axes.index(axis) for axis in self._wanted if axis in self._axes]
        others = [k for k in range(len(self._axes)) if k not in order]
        kept = found.transpose(*order, *others).reshape([found.shape[k] for k in order])
        return kept if "c" in self._axes else kept[np.newaxis][slices["c"]]
