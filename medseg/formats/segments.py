"""Segments by name in NRRD, as 3D Slicer writes them (``.seg.nrrd``): keys ``Segment0_Name``, ``Segment0_LabelValue``,
``Segment0_Layer`` (slicer.readthedocs.io, "Segmentation file format").

Segments of one layer do not overlap. A file of several layers is one label map if nothing overlaps between them either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError
from medseg.formats.source import Source

_KEY = re.compile(r"Segment([0-9]{1,5})_(Name|LabelValue|Layer)")
FIX_OVERLAP = "export segments that do not overlap"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment: its name, its value, and the layer where its value stands."""

    name: str
    value: int
    layer: int


def is_segment_key(key: str) -> bool:
    """Whether a key of an NRRD header describes a segment, as far as it is read."""
    return bool(_KEY.fullmatch(key))


def with_segments(source: Source, keys: Mapping[str, str]) -> Source:
    """A file of segments as one label map, with their names.

    Values are those of the file; where layers use one value for several segments, segments are numbered from 1 in the
    order of the header, which is a remark.

    Args:
        source: the layers as channels.
        keys: those for which ``is_segment_key`` holds.

    Raises:
        FormatError: if segments overlap, or the keys contradict the layers.
    """
    layers = source.shape[0]
    segments = _segments(source.path, keys, layers)
    names = {s.value: s.name for s in segments}
    if layers == 1:
        return replace(source, segments=names, sparse=True)
    renumbered = len(names) < len(segments)
    numbers = [n if renumbered else s.value for n, s in enumerate(segments, start=1)]
    merged = _merged(source.path, source.voxels, segments, numbers)
    remark = (f"{layers} layers with common values: segments numbered from 1 to {len(segments)}",) if renumbered else ()
    named = {number: s.name for number, s in zip(numbers, segments, strict=True)}
    return replace(source, stored=merged[np.newaxis], segments=named, sparse=True, remarks=source.remarks + remark)


def _segments(path: Path, keys: Mapping[str, str], layers: int) -> list[Segment]:
    """The segments that a header lists, in its order."""
    found: dict[int, dict[str, str]] = {}
    for key, text in keys.items():
        match = _KEY.fullmatch(key)
        assert match is not None
        found.setdefault(int(match[1]), {})[match[2]] = text
    # Files of Slicer before 4.11 have a layer for each segment, and neither key.
    alone = layers > 1 and not any("Layer" in one for one in found.values())
    segments = [
        Segment(
            one.get("Name", ""),
            _whole(path, number, "LabelValue", one, 1 if layers > 1 else number + 1),
            _layer(path, number, one, layers, number if alone else 0),
        )
        for number, one in sorted(found.items())
    ]
    (layer, value), count = Counter((s.layer, s.value) for s in segments).most_common(1)[0]
    if count > 1:
        raise FormatError(path, f"{count} segments of value {value} in layer {layer}", "save the segmentation again")
    if any(s.value == 0 for s in segments):
        raise FormatError(path, "a segment of value 0, which is the background", "save the segmentation again")
    return segments


def _layer(path: Path, number: int, keys: Mapping[str, str], layers: int, default: int) -> int:
    layer = _whole(path, number, "Layer", keys, default)
    if layer >= layers:
        raise FormatError(path, f"segment {number} is in layer {layer}, there are {layers}")
    return layer


def _whole(path: Path, number: int, name: str, keys: Mapping[str, str], default: int) -> int:
    text = keys.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        cause = f"header field 'Segment{number}_{name}' is {text[:20]!r}, expected an integer"
        raise FormatError(path, cause, "correct the header")
    return int(text)


def _merged(path: Path, layers: NDArray[Any], segments: Sequence[Segment], numbers: Sequence[int]) -> NDArray[Any]:
    """One map (*S) of all layers (L,*S), the segments with their ``numbers``."""
    merged = np.zeros(layers.shape[1:], dtype=np.min_scalar_type(max(numbers, default=0)))
    for index, layer in enumerate(layers):
        known = {s.value: number for s, number in zip(segments, numbers, strict=True) if s.layer == index}
        values, places = np.unique(layer, return_inverse=True)
        foreign = [value for value in values.tolist() if value and value not in known]
        if foreign:
            cause = f"layer {index} has the value {foreign[0]:g}, which is no segment of the header"
            raise FormatError(path, cause, "save the segmentation again")
        own = np.array([known.get(value, 0) for value in values.tolist()], merged.dtype)[places].reshape(layer.shape)
        both = (own != 0) & (merged != 0)
        if both.any():
            pair = [segments[numbers.index(int(found[both][0]))].name for found in (merged, own)]
            raise FormatError(path, f"segments {pair[0]!r} and {pair[1]!r} overlap", FIX_OVERLAP)
        merged += own
    return merged
