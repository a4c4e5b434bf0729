"""MetaImage, one file (.mha) or header with data file (.mhd), as the Insight Toolkit reads and writes it
(docs.itk.org, "MetaIO"). World coordinates are left-posterior-superior there and come out in RAS+.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.content import Content
from medseg.image.geometry import Geometry
from medseg.image.headers import (
    MAX_HEADER,
    axis_vectors,
    finite,
    first_axis_fastest,
    grid_affine,
    integers,
    numbers_text,
    reals,
    require_axes,
)
from medseg.image.stored import MAX_DEFLATE_RATIO, FormatError, Stored, check_size
from medseg.image.streams import unpack

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",  # four bytes in the format's own table, whatever the machine
}
# Names of one thing; the first is the one that is kept. Other keys are remarks that a program left.
_SYNONYMS = {
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "Position": "Offset",
    "Origin": "Offset",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_KEYS = {
    *("ObjectType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData", "CompressedDataSize"),
    *("TransformMatrix", "Offset", "ElementSpacing", "ElementSize", "DimSize", "ElementNumberOfChannels"),
    *("ElementType", "HeaderSize", "DistanceUnits", "ElementDataFile"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"),
}
_UNITS = {"mm": "mm", "um": "um", "?": "mm"}


@dataclass(frozen=True, slots=True)
class _Header:
    """Values by key, and where the data begin in the file that holds the header."""

    path: Path
    values: Mapping[str, str]
    end: int

    def need(self, key: str) -> str:
        if key not in self.values:
            raise FormatError(self.path, f"MetaImage header without {key}", "correct the header")
        return self.values[key]

    def integer(self, key: str, default: int | None = None) -> int:
        found = integers(self.path, key, self.need(key) if default is None else self.values.get(key, str(default)))
        if len(found) != 1:
            raise FormatError(self.path, f"{key} is {found[:8]}, expected one integer", "correct the header")
        return found[0]

    def flag(self, key: str, default: bool) -> bool:
        text = self.values.get(key, str(default)).lower()
        if text not in ("true", "false", "1", "0"):
            raise FormatError(self.path, f"{key} is {text[:20]!r}, expected True or False", "correct the header")
        return text in ("true", "1")

    def reals(self, key: str, count: int) -> NDArray[np.float64]:
        return finite(self.path, key, reals(self.path, key, self.need(key)), count)


def _parse(path: Path, data: bytes) -> _Header:
    """The header's values: up to ``ElementDataFile``, which is its last line."""
    values: dict[str, str] = {}
    at = 0
    while at < min(len(data), MAX_HEADER) and "ElementDataFile" not in values:
        end = data.find(b"\n", at, MAX_HEADER)
        end = min(len(data), MAX_HEADER) if end < 0 else end
        try:
            line = bytes(data[at:end]).decode()
        except UnicodeDecodeError:
            raise FormatError(path, "MetaImage header is no text") from None
        at = end + 1
        key, equals, value = line.partition("=")
        key = _SYNONYMS.get(key.strip(), key.strip())
        if line.strip() and not equals:
            raise FormatError(path, f"MetaImage header line {line[:80]!r} has no '='", "correct the header")
        if key in _KEYS and key in values:
            raise FormatError(path, f"MetaImage header has {key} twice", "correct the header")
        values[key] = value.strip()
    header = _Header(path, values, min(at, len(data)))
    header.need("ElementDataFile")
    return header


def metaimage_companions(path: Path, data: bytes) -> Sequence[str]:
    """The data file that the header names."""
    header = _parse(path, data)
    name = header.values["ElementDataFile"]
    if name.upper() == "LOCAL":
        raise FormatError(path, "its data follow the header", "rename it to .mha")
    if name.upper().startswith("LIST") or "%" in name:
        raise FormatError(path, "data spread over several files", "store them in one file")
    if data[header.end :].strip():
        raise FormatError(path, f"{len(data) - header.end} bytes follow ElementDataFile")
    return (name.removeprefix("./"),)


def read_metaimage(path: Path, content: Content) -> Stored:
    """Read ``.mha`` or ``.mhd``; see ``medseg.image.formats.read_stored`` for the contract."""
    header = _parse(path, content.main)
    local = header.values["ElementDataFile"].upper() == "LOCAL"
    if content.companion is None and not local:
        raise FormatError(path, "its data lie in another file", "rename it to .mhd and keep the data file beside it")
    if header.values.get("ObjectType", "Image").lower() != "image" or not header.flag("BinaryData", True):
        raise FormatError(path, "a MetaImage without binary voxels, expected an image", "convert it")
    rank = header.integer("NDims")
    shape = integers(path, "DimSize", header.need("DimSize"))
    channels = header.integer("ElementNumberOfChannels", 1)
    if rank not in (2, 3) or len(shape) != rank or min(shape) < 1 or channels < 1:
        cause = f"NDims {rank}, DimSize {shape[:8]}, {channels} channels; expected 2 or 3 axes"
        raise FormatError(path, cause, "convert it; channels belong to ElementNumberOfChannels")
    for key, plain in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in header.values and header.reals(key, 1)[0] != plain:
            raise FormatError(path, f"{key} scales the voxels, which programs read in two ways", "store real values")
    body = memoryview(content.main)[header.end :] if content.companion is None else memoryview(content.companion)
    dtype = _dtype(header)
    flat = np.frombuffer(_plain(header, body, math.prod(shape) * channels * dtype.itemsize), dtype)
    voxels = flat.reshape((channels, *shape), order="F")
    affine, unit, notes = _world(header, rank)
    return Stored(path, np.ascontiguousarray(voxels, dtype=dtype.newbyteorder("=")), affine, unit, notes=notes)


def _dtype(header: _Header) -> np.dtype[Any]:
    name = header.need("ElementType").removesuffix("_ARRAY")
    if name not in TYPES:
        raise FormatError(header.path, f"ElementType {name[:40]!r}, expected integers or real numbers", "convert it")
    return np.dtype(TYPES[name]).newbyteorder(">" if header.flag("BinaryDataByteOrderMSB", False) else "<")


def _plain(header: _Header, body: memoryview, size: int) -> bytearray | memoryview:
    """The voxels' bytes, exactly ``size`` of them."""
    path, skip = header.path, header.integer("HeaderSize", 0)
    if not header.flag("CompressedData", False):
        skip = len(body) - size if skip == -1 else skip
        check_size(path, size, len(body))
        if skip < 0 or len(body) != skip + size:
            raise FormatError(path, f"{len(body)} bytes of data, the header needs exactly {size}")
        return body[skip:]
    if skip != 0:
        raise FormatError(path, "HeaderSize before compressed data", "store it without")
    if header.integer("CompressedDataSize", len(body)) != len(body):
        found = header.values["CompressedDataSize"][:20]
        raise FormatError(path, f"{len(body)} bytes of compressed data, the header says {found}")
    check_size(path, size, len(body) * MAX_DEFLATE_RATIO)
    return unpack(path, body, size, "zlib")


def _world(header: _Header, rank: int) -> tuple[NDArray[np.float64] | None, str, tuple[tuple[str, str], ...]]:
    """Affine in RAS+ (or None), unit, and notes about what is doubtful."""
    size = next((key for key in ("ElementSpacing", "ElementSize") if key in header.values), None)
    if size is None:
        return None, "px", ()
    spacing = header.reals(size, rank)
    if (spacing <= 0).any():
        raise FormatError(header.path, f"{size} {spacing.tolist()}, expected sizes above 0", "correct the header")
    unit = header.values.get("DistanceUnits", "mm")
    if unit not in _UNITS:
        raise FormatError(header.path, f"DistanceUnits {unit[:20]!r}, expected mm or um", "correct the header")
    directions, origin = np.eye(rank), np.zeros(rank)
    notes: tuple[tuple[str, str], ...] = ()
    if "TransformMatrix" in header.values:
        # A row of the file is the direction of one axis: a column of the affine.
        directions = header.reals("TransformMatrix", rank * rank).reshape(rank, rank).T
    elif rank == 3:
        notes = (("no-orientation", "no TransformMatrix: orientation unknown, axes taken as left-posterior-superior"),)
    if "Offset" in header.values:
        origin = header.reals("Offset", rank)
    signs = (-1, -1, 1) if rank == 3 else (1, 1)
    with np.errstate(over="ignore"):  # no grid has such axes: the geometry refuses them
        axes = directions * spacing
    return grid_affine(axes, origin, signs), _UNITS[unit], notes


def _header_text(path: Path, labels: NDArray[Any], geometry: Geometry, packed: int, data_file: str) -> bytes:
    require_axes(path, geometry)
    name = next(name for name, code in TYPES.items() if np.dtype(code) == labels.dtype)
    lines = ["ObjectType = Image", f"NDims = {geometry.dims}", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = True", f"CompressedDataSize = {packed}"]
    if geometry.unit != "px":
        signs = np.diag((-1, -1, 1) if geometry.dims == 3 else (1, 1))
        rows = [signs @ vector / size for vector, size in zip(axis_vectors(geometry), geometry.spacing, strict=True)]
        lines.append(f"TransformMatrix = {numbers_text((np.concatenate(rows) + 0.0).tolist())}")
        lines.append(f"Offset = {numbers_text((signs @ geometry.affine[:-1, -1] + 0.0).tolist())}")
        lines.append(f"ElementSpacing = {numbers_text(geometry.spacing)}")
    if geometry.unit == "um":
        lines.append("DistanceUnits = um")
    lines += [f"DimSize = {' '.join(map(str, labels.shape))}", f"ElementType = {name}"]
    return ("\n".join([*lines, f"ElementDataFile = {data_file}"]) + "\n").encode()


def mha_bytes(path: Path, labels: NDArray[Any], geometry: Geometry) -> bytes:
    """Header and compressed voxels in one file, the header fresh."""
    packed = zlib.compress(first_axis_fastest(labels), 6)
    return _header_text(path, labels, geometry, len(packed), "LOCAL") + packed


def mhd_files(path: Path, labels: NDArray[Any], geometry: Geometry) -> Content:
    """A header and its compressed data file."""
    packed = zlib.compress(first_axis_fastest(labels), 6)
    name = f"{path.name[: -len('.mhd')]}.zraw"
    return Content({path.name: _header_text(path, labels, geometry, len(packed), name), name: packed})
