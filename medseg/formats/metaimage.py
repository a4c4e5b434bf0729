"""MetaImage, one file (.mha) or header with data file (.mhd), as the Insight Toolkit reads and writes it
(docs.itk.org, "MetaIO"). World coordinates are left-posterior-superior there and come out in RAS+.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import Content, Data, Part
from medseg.formats.errors import FormatError
from medseg.formats.headers import (
    MAX_HEADER,
    TextHeader,
    axis_vectors,
    finite,
    grid_affine,
    header_lines,
    numbers_text,
    reals,
    require_axes,
    uncompressed,
)
from medseg.formats.limits import MAX_DEFLATE_RATIO, check_stream
from medseg.formats.plain import Files, Fill, Labels, deflated, filled, first_axis_fastest
from medseg.formats.raw import raw_voxels
from medseg.formats.source import Source
from medseg.formats.streams import unpack_voxels
from medseg.formats.world import NOTHING, About, World
from medseg.image.geometry import Geometry
from medseg.image.units import world_unit

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
# Keys by which programs place voxels, in the order in which they are written, and what their texts may be.
_NUMBERS = re.compile(r"[-+0-9.eE\s]{1,400}")
_WORLD = {
    "TransformMatrix": _NUMBERS,
    "Offset": _NUMBERS,
    "CenterOfRotation": _NUMBERS,
    "AnatomicalOrientation": re.compile(r"[RLAPSI?]{1,3}"),
    "ElementSpacing": _NUMBERS,
    "ElementSize": _NUMBERS,
    "DistanceUnits": re.compile(r"mm|um|\?"),
}


def _parse(path: Path, data: Data) -> TextHeader:
    """The header's fields: up to ``ElementDataFile``, which is its last line."""
    fields: dict[str, str] = {}
    for line, end in header_lines(path, "MetaImage", data):
        key, equals, value = line.partition("=")
        key = _SYNONYMS.get(key.strip(), key.strip())
        if line.strip() and not equals:
            raise FormatError(path, f"MetaImage header line {line[:80]!r} has no '='", "correct the header")
        if key in _KEYS and key in fields:
            raise FormatError(path, f"MetaImage header has '{key}' twice", "correct the header")
        fields[key] = value.strip()
        if key == "ElementDataFile":
            return TextHeader(path, "MetaImage", fields, end)
    raise FormatError(path, "MetaImage header without 'ElementDataFile'", "correct the header")


def _flag(header: TextHeader, key: str, default: bool) -> bool:
    text = header.fields.get(key, str(default)).lower()
    if text not in ("true", "false", "1", "0"):
        raise FormatError(header.path, f"{key} is {text[:20]!r}, expected True or False", "correct the header")
    return text in ("true", "1")


def _reals(header: TextHeader, key: str, count: int) -> NDArray[np.float64]:
    return finite(header.path, key, reals(header.path, key, header.need(key)), count)


def metaimage_companions(path: Path, data: Data) -> Sequence[str]:
    """The data file that the header names."""
    header = _parse(path, data)
    if _is_local(header):
        raise FormatError(path, "its data follow the header", "rename it to .mha")
    return (header.data_file("ElementDataFile", data[header.end : header.end + MAX_HEADER].strip()),)


def _is_local(header: TextHeader) -> bool:
    return header.fields["ElementDataFile"].upper() == "LOCAL"


def open_metaimage(path: Path, content: Content) -> Source:
    """Open ``.mha`` or ``.mhd``; see ``medseg.formats.read.open_image`` for the contract."""
    header = _parse(path, content.main)
    body = header.body(content, detached=not _is_local(header), suffix=".mhd")
    if header.fields.get("ObjectType", "Image").lower() != "image" or not _flag(header, "BinaryData", True):
        raise FormatError(path, "a MetaImage without binary voxels, expected an image", "convert it")
    rank = header.integer("NDims")
    shape = header.integers("DimSize")
    channels = header.integer("ElementNumberOfChannels", 1)
    if rank not in (2, 3) or len(shape) != rank or min(shape) < 1 or channels < 1:
        cause = f"NDims {rank}, DimSize {shape[:8]}, {channels} channels; expected 2 or 3 axes"
        raise FormatError(path, cause, "convert it; channels belong to ElementNumberOfChannels")
    for key, plain in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in header.fields and _reals(header, key, 1)[0] != plain:
            raise FormatError(path, f"{key} scales the voxels, which programs read in two ways", "store real values")
    dtype = _dtype(header)
    data = _plain(header, body, math.prod(shape) * channels * dtype.itemsize)
    affine, unit, notes = _world(header, rank)
    voxels = raw_voxels(data, dtype, (channels, *shape), 0)
    return Source(path, voxels, affine, unit, notes=notes, world=_own_world(header))


def _dtype(header: TextHeader) -> np.dtype[Any]:
    name = header.need("ElementType").removesuffix("_ARRAY")
    if name not in TYPES:
        raise FormatError(header.path, f"ElementType {name[:40]!r}, expected integers or real numbers", "convert it")
    return np.dtype(TYPES[name]).newbyteorder(">" if _flag(header, "BinaryDataByteOrderMSB", False) else "<")


def _plain(header: TextHeader, body: Part, size: int) -> Part:
    """The voxels' bytes, exactly ``size`` of them."""
    path, skip = header.path, header.integer("HeaderSize", 0)
    if not _flag(header, "CompressedData", False):
        return uncompressed(path, body, skip, size)
    if skip != 0:
        raise FormatError(path, "HeaderSize before compressed data", "store it without")
    if header.integer("CompressedDataSize", len(body)) != len(body):
        found = header.fields["CompressedDataSize"][:20]
        raise FormatError(path, f"{len(body)} bytes of compressed data, the header says {found}")
    check_stream(path, size, len(body) * MAX_DEFLATE_RATIO)
    return unpack_voxels(path, body, size, "zlib")


def _world(header: TextHeader, rank: int) -> tuple[NDArray[np.float64] | None, str, tuple[tuple[str, str], ...]]:
    """Affine in RAS+ (or None), unit, and notes about what is doubtful."""
    size = next((key for key in ("ElementSpacing", "ElementSize") if key in header.fields), None)
    if size is None:
        return None, "px", ()
    spacing = _reals(header, size, rank)
    if (spacing <= 0).any():
        raise FormatError(header.path, f"{size} {spacing.tolist()}, expected sizes above 0", "correct the header")
    unit = world_unit([header.fields.get("DistanceUnits", "mm")])
    if unit is None:
        found = header.fields["DistanceUnits"][:20]
        raise FormatError(header.path, f"DistanceUnits {found!r}, expected a length", "correct the header")
    directions, origin = np.eye(rank), np.zeros(rank)
    notes: tuple[tuple[str, str], ...] = ()
    if "TransformMatrix" in header.fields:
        # A row of the file is the direction of one axis: a column of the affine.
        directions = _reals(header, "TransformMatrix", rank * rank).reshape(rank, rank).T
    elif rank == 3:
        notes = (("no-orientation", "no TransformMatrix: orientation unknown, axes taken as left-posterior-superior"),)
    if "Offset" in header.fields:
        origin = _reals(header, "Offset", rank)
    signs = (-1, -1, 1) if rank == 3 else (1, 1)
    with np.errstate(over="ignore"):  # no grid has such axes: the geometry refuses them
        axes = directions * spacing
    affine = grid_affine(axes, origin, signs)
    affine[:-1] *= unit[1][0]
    return affine, unit[0], notes


def _own_world(header: TextHeader) -> World:
    """The fields of a header by which programs place voxels."""
    return World(
        "MetaImage", {key: header.fields[key] for key in _WORLD if _WORLD[key].fullmatch(header.fields.get(key, ""))}
    )


def _header_text(
    path: Path, labels: Labels, geometry: Geometry, about: About, data_file: str
) -> Callable[[int], bytes]:
    """What makes a header of the number of bytes of the compressed data."""
    require_axes(path, geometry)
    name = next(name for name, code in TYPES.items() if np.dtype(code) == labels.dtype)
    lines = ["ObjectType = Image", f"NDims = {geometry.dims}", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    lines += ["CompressedData = True", "CompressedDataSize = {packed}"]
    if about.world is not None and about.world.kind == "MetaImage":
        lines += [f"{key} = {text}" for key, text in about.world.fields.items()]
    else:
        lines += [f"{key} = {text}" for key, text in _fresh_world(geometry).items()]
    lines += [f"DimSize = {' '.join(map(str, labels.shape))}", f"ElementType = {name}"]
    text = "\n".join([*lines, f"ElementDataFile = {data_file}"]) + "\n"
    return lambda packed: text.replace("{packed}", str(packed), 1).encode()


def _fresh_world(geometry: Geometry) -> dict[str, str]:
    """A grid as fields; none for a grid in pixels."""
    fields: dict[str, str] = {}
    if geometry.unit != "px":
        signs = np.diag((-1, -1, 1) if geometry.dims == 3 else (1, 1))
        rows = [signs @ vector / size for vector, size in zip(axis_vectors(geometry), geometry.spacing, strict=True)]
        fields["TransformMatrix"] = numbers_text((np.concatenate(rows) + 0.0).tolist())
        fields["Offset"] = numbers_text((signs @ geometry.affine[:-1, -1] + 0.0).tolist())
        fields["ElementSpacing"] = numbers_text(geometry.spacing)
    if geometry.unit == "um":
        fields["DistanceUnits"] = "um"
    return fields


def write_mha(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Fill:
    """Header and compressed voxels in one file; remarks of the input's header may name the patient: none is copied."""
    header = _header_text(path, labels, geometry, about, "LOCAL")
    return deflated(first_axis_fastest(labels), header)


def write_mhd(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Files:
    """A header and its compressed data file, which is written first: the header says how long it is."""
    name = f"{path.name[: -len('.mhd')]}.zraw"
    header, sizes = _header_text(path, labels, geometry, about, name), list[int]()

    def note(size: int) -> bytes:
        sizes.append(size)
        return b""

    return {
        path.name: lambda file: filled([header(sizes[-1])])(file),
        name: deflated(first_axis_fastest(labels), note),
    }
