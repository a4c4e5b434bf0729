"""NRRD, attached (.nrrd) and detached (.nhdr): "Definition of NRRD File Format", teem.sourceforge.net/nrrd/format.html.

Encodings raw, gzip and bzip2. World coordinates come out in RAS+.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.alpha import without_alpha
from medseg.formats.content import Content, Data, Part
from medseg.formats.errors import FormatError
from medseg.formats.headers import (
    MAX_HEADER,
    TextHeader,
    finite,
    grid_affine,
    header_lines,
    reals,
    uncompressed,
)
from medseg.formats.limits import MAX_DEFLATE_RATIO, check_stream
from medseg.formats.nrrd_label import TYPES, nrrd_world
from medseg.formats.raw import raw_voxels
from medseg.formats.segments import is_segment_key, with_segments
from medseg.formats.source import Source
from medseg.formats.streams import Packing, unpack_voxels
from medseg.image.units import world_unit

_PACKING: dict[str, Packing] = {"gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# Every field of the definition; those with two spellings are listed under the first.
_FIELDS = {
    *("dimension", "type", "block size", "encoding", "endian", "content", "min", "max", "old min", "old max"),
    *("data file", "line skip", "byte skip", "number", "sizes", "spacings", "thicknesses", "axis mins", "axis maxs"),
    *("centers", "labels", "units", "kinds", "sample units", "space", "space dimension", "space units"),
    *("space origin", "space directions", "measurement frame"),
}
_SPELLINGS = {
    "datafile": "data file",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    "blocksize": "block size",
    "oldmin": "old min",
    "oldmax": "old max",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "centerings": "centers",
    "sampleunits": "sample units",
}
# Worlds with known axes: signs of their axes in RAS+.
_WORLDS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_UNKNOWN_WORLDS = {"scanner-xyz", "3d-right-handed", "3d-left-handed"}
_SPATIAL_KINDS = {"domain", "space", "???", "none"}
_CHANNEL_KINDS = {
    *("list", "vector", "stub", "scalar", "2-vector", "3-vector", "4-vector"),
    *("3-color", "4-color", "rgb-color", "rgba-color", "xyz-color", "hsv-color"),
}


def _parse(path: Path, data: Data) -> TextHeader:
    """The header's fields: behind the magic, up to an empty line or the end of the file."""
    fields: dict[str, str] = {}
    segments: dict[str, str] = {}
    lines = header_lines(path, "NRRD", data)
    next(lines)
    for line, end in lines:
        if not line:
            return TextHeader(path, "NRRD", fields, end, segments)
        if not line.strip() or line.startswith("#"):
            continue
        if ":=" in line:
            # Keys of programs' own; only those that describe segments are taken.
            key, _, value = line.partition(":=")
            if is_segment_key(key):
                segments[key] = value.strip()
            continue
        name, colon, value = line.partition(": ")
        name = name.strip().lower()
        name = _SPELLINGS.get(name, name)
        if not colon or name not in _FIELDS:
            raise FormatError(path, f"NRRD header line {line[:80]!r} is no known field", "correct the header")
        if name in fields:
            raise FormatError(path, f"NRRD header has '{name}' twice", "correct the header")
        fields[name] = value.strip()
    if len(data) > MAX_HEADER:
        raise FormatError(path, f"NRRD header without an end in the first {MAX_HEADER} bytes")
    return TextHeader(path, "NRRD", fields, len(data), segments)


def nrrd_companions(path: Path, data: Data) -> Sequence[str]:
    """The data file that a detached header names."""
    header = _parse(path, data)
    if "data file" not in header.fields:
        raise FormatError(path, "no 'data file' in the header", "rename it to .nrrd if the data follow the header")
    return (header.data_file("data file", data[header.end : header.end + MAX_HEADER]),)


def open_nrrd(path: Path, content: Content) -> Source:
    """Open ``.nrrd`` or ``.nhdr``; see ``medseg.formats.read.open_image`` for the contract."""
    header = _parse(path, content.main)
    body = header.body(content, detached="data file" in header.fields, suffix=".nhdr")
    sizes, dtype = _sizes(header), _dtype(header)
    spatial, channel = _axes(header, len(sizes))
    plain = _plain(header, body, math.prod(sizes) * dtype.itemsize)
    affine, unit, notes = _world(header, spatial)
    world = nrrd_world(header, spatial)
    source = Source(path, raw_voxels(plain, dtype, sizes, channel), affine, unit, notes=notes, world=world)
    if header.extras:
        return with_segments(source, header.extras)
    if channel is not None and _kinds(header, len(sizes))[channel] == "rgba-color":
        voxels, remarks = without_alpha(path, source.voxels)
        return replace(source, stored=voxels, remarks=remarks)
    return source


def _sizes(header: TextHeader) -> list[int]:
    sizes = header.integers("sizes")
    if header.integers("dimension") != [len(sizes)] or min(sizes) < 1:
        cause = f"impossible sizes {sizes} for dimension {header.fields['dimension'][:20]}"
        raise FormatError(header.path, cause, "correct the header")
    return sizes


def _dtype(header: TextHeader) -> np.dtype[Any]:
    name = header.need("type").lower()
    if name not in TYPES:
        raise FormatError(header.path, f"NRRD type {name[:40]!r}, expected integers or real numbers", "convert it")
    dtype = np.dtype(TYPES[name])
    if dtype.itemsize == 1:
        return dtype
    order = header.need("endian").lower()
    if order not in ("little", "big"):
        raise FormatError(header.path, f"endian {order[:20]!r}, expected little or big", "correct the header")
    return dtype.newbyteorder("<" if order == "little" else ">")


def _kinds(header: TextHeader, rank: int) -> list[str]:
    kinds = header.fields.get("kinds", "").lower().split() or ["???"] * rank
    if len(kinds) != rank:
        raise FormatError(header.path, f"{len(kinds)} kinds for {rank} axes", "correct the header")
    return kinds


def _axes(header: TextHeader, rank: int) -> tuple[list[int], int | None]:
    """Which axes are spatial, and which one holds channels (None: there is none)."""
    kinds, vectors = _kinds(header, rank), _vectors(header, rank)
    if vectors is None:
        spatial = [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL_KINDS]
    else:
        spatial = [axis for axis, vector in enumerate(vectors) if vector is not None]
    others = [axis for axis in range(rank) if axis not in spatial]
    known = all(kinds[axis] in _CHANNEL_KINDS for axis in others)
    if len(spatial) not in (2, 3) or len(others) > 1 or not known:
        shown = ", ".join(f"{size} ({kind})" for size, kind in zip(header.fields["sizes"].split(), kinds, strict=True))
        fix = "declare `kinds` (domain for space, list for channels) or convert it"
        raise FormatError(header.path, f"axes {shown}; expected 2 or 3 of space and at most one of channels", fix)
    return spatial, (others[0] if others else None)


def _vectors(header: TextHeader, rank: int) -> list[list[float] | None] | None:
    """World vector per axis, None for axes outside space; None if the header has no directions."""
    text = header.fields.get("space directions")
    if text is None:
        return None
    words = re.findall(r"none|\([^()]*\)", text)
    if len(words) != rank or re.sub(r"none|\([^()]*\)|\s", "", text):
        raise FormatError(header.path, f"space directions {text[:80]!r} for {rank} axes", "correct the header")
    return [None if w == "none" else reals(header.path, "space directions", w[1:-1], ",") for w in words]


def _plain(header: TextHeader, body: Part, size: int) -> Part:
    """The voxels' bytes, exactly ``size`` of them."""
    encoding = header.need("encoding").lower()
    lines, skip = header.integer("line skip", 0), header.integer("byte skip", 0)
    if lines or (skip and encoding != "raw"):
        raise FormatError(header.path, "skips lines, or bytes of compressed data", "store it without")
    if encoding == "raw":
        return uncompressed(header.path, body, skip, size)
    if encoding in _PACKING:
        packing = _PACKING[encoding]
        # bzip2 has no useful bound: there, memory grows with what is really unpacked.
        check_stream(header.path, size, len(body) * MAX_DEFLATE_RATIO if packing == "gzip" else sys.maxsize)
        return unpack_voxels(header.path, body, size, packing)
    raise FormatError(header.path, f"encoding {encoding[:20]!r}, expected raw, gzip or bzip2", "convert it")


def _world(
    header: TextHeader, spatial: list[int]
) -> tuple[NDArray[np.float64] | None, str, tuple[tuple[str, str], ...]]:
    """Affine in RAS+ (or None), unit, and notes about what is doubtful."""
    unit, factor = _unit(header, spatial, len(header.integers("sizes")))
    affine, notes = _placed(header, spatial)
    if affine is None:
        return None, "px", notes
    # Axes of the space are rows; without directions, they are those of the file.
    affine[:-1] *= np.array(factor)[:, np.newaxis]
    return affine, unit, notes


def _placed(header: TextHeader, spatial: list[int]) -> tuple[NDArray[np.float64] | None, tuple[tuple[str, str], ...]]:
    """Affine in RAS+ in the header's own unit, or None, and notes about what is doubtful."""
    path, rank, count = header.path, len(header.integers("sizes")), len(spatial)
    vectors = _vectors(header, rank)
    if vectors is None:
        if "spacings" not in header.fields:
            return None, ()
        spacings = reals(path, "spacings", header.fields["spacings"])
        if len(spacings) != rank:
            raise FormatError(path, f"{len(spacings)} spacings for {rank} axes", "correct the header")
        sizes = finite(path, "spacings", [spacings[axis] for axis in spatial], count)
        unknown = (("no-orientation", "no space directions: orientation unknown, axes taken as RAS"),)
        return np.diag([*sizes, 1.0]), unknown if count == 3 else ()
    axes = np.stack([finite(path, "space directions", vectors[axis] or [], count) for axis in spatial], axis=1)
    text = header.fields.get("space origin")
    origin = np.zeros(count)
    if text is not None:
        if not (text.startswith("(") and text.endswith(")")):
            raise FormatError(path, f"space origin {text[:80]!r}, expected (x,y,z)", "correct the header")
        origin = finite(path, "space origin", reals(path, "space origin", text[1:-1], ","), count)
    world = header.fields.get("space", "").lower()
    if count == 2 or world in _WORLDS:
        return grid_affine(axes, origin, _WORLDS.get(world, (1, 1, 1))[:count]), ()
    if world and world not in _UNKNOWN_WORLDS:
        raise FormatError(path, f"space {world[:40]!r} is none of the definition's", "correct the header")
    note = f"space {world or 'is not named'}: orientation unknown, axes taken as RAS"
    return grid_affine(axes, origin, (1, 1, 1)), (("no-orientation", note),)


def _unit(header: TextHeader, spatial: list[int], rank: int) -> tuple[str, tuple[float, ...]]:
    """Unit of the world, and how many of it the header's are, for each of its axes or for all: else millimetres."""
    if "space units" in header.fields:
        found = re.findall(r'"([^"]*)"', header.fields["space units"])
    else:
        every = re.findall(r'"([^"]*)"', header.fields.get("units", ""))
        found = [every[axis] for axis in spatial] if len(every) == rank else every
    unit = world_unit(found)
    if unit is None:
        cause = f"units {', '.join(found)[:80]}, expected units of length"
        raise FormatError(header.path, cause, "correct the header")
    if len(set(unit[1])) == 1:
        return unit[0], unit[1][:1]
    # Those of axes are not those of the space where these differ.
    turned = "space units" not in header.fields and "space directions" in header.fields
    if len(found) != len(spatial) or turned:
        cause = f"units {', '.join(found)[:80]}, expected one unit of length for all axes"
        raise FormatError(header.path, cause, "correct the header")
    return unit
