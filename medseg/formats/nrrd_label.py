"""Label maps as NRRD: a fresh header, with the fields of the image's that say where voxels are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from medseg.formats.headers import TextHeader, axis_vectors, numbers_text, require_axes
from medseg.formats.plain import Files, Fill, Labels, filled, first_axis_fastest, gzipped
from medseg.formats.world import NOTHING, About, World
from medseg.image.geometry import Geometry

_NAMES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
TYPES = {name: code for code, names in _NAMES.items() for name in names.split(", ")}

# Fields by which programs place voxels: one value for the space, or one per axis, of which those of space are kept. In
# the order in which they are written: the space comes before what lies in it. Thicknesses place nothing.
_SPACE = ("space", "space dimension")
_PER_AXIS = ("spacings", "axis mins", "axis maxs", "space directions", "centers", "units")
_IN_SPACE = ("space units", "space origin")
# A value: a vector, a unit, a number or a word of the definition. What looks otherwise is text of a program's own.
_VALUE = re.compile(r"""\([-+0-9.eE,\s]*\)|"[^"]{0,20}"|[-+0-9.eE]+|nan|none|cell|node|\?\?\?""", re.IGNORECASE)
_WORD = re.compile(r"[A-Za-z0-9-]{1,60}")


def nrrd_world(header: TextHeader, spatial: Sequence[int]) -> World:
    """The fields of a header that place voxels, for the axes of space alone.

    Args:
        header: as read.
        spatial: which of its axes are of space.
    """
    fields = {name: text for name in _SPACE if _WORD.fullmatch(text := header.fields.get(name, ""))}
    rank = len(header.integers("sizes"))
    for name in _PER_AXIS:
        values = _values(header.fields.get(name, ""))
        if len(values) == rank:
            fields[name] = " ".join(values[axis] for axis in spatial)
    for name in _IN_SPACE:
        if values := _values(header.fields.get(name, "")):
            fields[name] = " ".join(values)
    if "space units" in fields:
        # Units of the axes count where the space has none.
        fields.pop("units", None)
    if "space directions" in fields and not fields.keys() & set(_SPACE):
        fields = {"space dimension": str(len(spatial)), **fields}
    return World("NRRD", fields)


def _values(text: str) -> list[str]:
    """The values of a field; none if there is anything else in it."""
    return [] if _VALUE.sub("", text).strip() else _VALUE.findall(text)


def write_nrrd(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Fill:
    """An attached NRRD, gzipped; keys and comments of the input's header may name the patient: none is copied."""
    return _attached(_header_text(path, labels, geometry, about), labels)


def write_seg_nrrd(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Fill:
    """The same with the names of the classes, as 3D Slicer reads them."""
    extent = " ".join(f"0 {n - 1}" for n in labels.shape)
    keys = []
    for n, (value, name) in enumerate(sorted(about.names.items())):
        segment = {"ID": f"Segment_{n + 1}", "Name": name, "LabelValue": value, "Layer": 0, "Extent": extent}
        keys += [f"Segment{n}_{key}:={text}" for key, text in segment.items()]
    return _attached(_header_text(path, labels, geometry, about, keys), labels)


def _attached(header: bytes, labels: Labels) -> Fill:
    def fill(file: BinaryIO) -> None:
        file.write(header)
        gzipped(first_axis_fastest(labels))(file)

    return fill


def write_nhdr(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> Files:
    """A detached NRRD header and its gzipped data file."""
    name = f"{path.name[: -len('.nhdr')]}.raw.gz"
    header = _header_text(path, labels, geometry, about, [f"data file: {name}"], end=False)
    return {path.name: filled([header]), name: gzipped(first_axis_fastest(labels))}


def _header_text(
    path: Path, labels: Labels, geometry: Geometry, about: About, more: Sequence[str] = (), *, end: bool = True
) -> bytes:
    """A header with ``more`` lines; ``end``: the data follow it."""
    require_axes(path, geometry)
    name = next(names.split(", ")[-2] for code, names in _NAMES.items() if np.dtype(code) == labels.dtype)
    world = _fresh_world(geometry) if about.world is None or about.world.kind != "NRRD" else about.world.fields
    lines = ["NRRD0005", f"type: {name}", f"dimension: {geometry.dims}"]
    lines += [f"{field}: {world[field]}" for field in _SPACE if field in world]
    lines.append(f"sizes: {' '.join(map(str, labels.shape))}")
    lines += [f"{field}: {world[field]}" for field in _PER_AXIS if field in world]
    lines += [f"kinds: {' '.join(['domain'] * geometry.dims)}", "endian: little", "encoding: gzip"]
    lines += [f"{field}: {world[field]}" for field in _IN_SPACE if field in world]
    return "\n".join([*lines, *more, *([""] if end else []), ""]).encode()


def _fresh_world(geometry: Geometry) -> Mapping[str, str]:
    """A grid as fields in RAS+; none for a grid in pixels."""
    if geometry.unit == "px":
        return {}
    space = {"space": "right-anterior-superior"} if geometry.dims == 3 else {"space dimension": "2"}
    return {
        **space,
        "space directions": " ".join(_vector(v.tolist()) for v in axis_vectors(geometry)),
        "space units": " ".join([f'"{geometry.unit}"'] * geometry.dims),
        "space origin": _vector(geometry.affine[:-1, -1].tolist()),
    }


def _vector(values: Sequence[float]) -> str:
    return f"({numbers_text(values).replace(' ', ',')})"
