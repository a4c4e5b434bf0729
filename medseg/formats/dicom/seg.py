"""DICOM segmentations (PS3.3 A.51, C.8.20) as label maps: type BINARY, and label maps with values as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.dicom.frames import frames_of
from medseg.formats.dicom.header import DicomFile, foreign_errors
from medseg.formats.dicom.pixels import PixelFormat
from medseg.formats.dicom.references import of_segmentation
from medseg.formats.dicom.stack import SAME_PLACE_MM, Plane, normal_of, stack_planes
from medseg.formats.errors import FormatError
from medseg.formats.limits import check_size
from medseg.formats.source import Source
from medseg.formats.world import World

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"
SEGMENTATION_CLASSES = (SEGMENTATION_STORAGE, LABEL_MAP_STORAGE)
# Slices that the frames of a file may span; what is written for every gap between two frames must stay bounded.
MOST_SLICES = 20_000


def read_segmentation(path: Path, header: DicomFile, layout: PixelFormat, frames: NDArray[Any]) -> Source:
    """A segmentation as a label map of segment numbers.

    Args:
        path: for messages.
        header, layout, frames: of the file; frames (F, rows, columns).

    Returns:
        Voxels (1, columns, rows, slices), unsigned, slices without a frame being background; names of the segments.

    Raises:
        FormatError: for fractional or overlapping segments, and as ``stack_planes``.
    """
    with foreign_errors(path, header.name):
        kind = str(header.fields.get("SegmentationType", ""))
    if kind not in ("BINARY", "LABELMAP"):
        cause = "fractional segments, expected BINARY or LABELMAP" if kind == "FRACTIONAL" else "no SegmentationType"
        raise FormatError(path, cause, "export a binary segmentation")
    found = frames_of(path, header, layout)
    planes, slots = _slots(path, [frame.plane for frame in found])
    stack = stack_planes(path, planes, layout.rows, layout.columns)
    most = max(frame.segment for frame in found)
    dtype = layout.dtype if kind == "LABELMAP" else np.dtype(np.uint8 if most <= 255 else np.uint16)
    check_size(path, len(planes) * layout.rows * layout.columns * dtype.itemsize, MOST_SLICES * len(header.data) * 8)
    labels = np.zeros((len(planes), layout.rows, layout.columns), dtype)
    seen: set[int] = set()
    for frame, slot, values in zip(found, slots, frames, strict=True):
        if kind == "LABELMAP":
            if slot in seen:
                raise FormatError(path, f"{frame.plane.name}: a second frame at its place", code="slice-twice")
            seen.add(slot)
            labels[slot] = values
            continue
        if not 1 <= frame.segment <= 65535:
            raise FormatError(path, f"{frame.plane.name}: segment number {frame.segment}")
        mask = values != 0
        if labels[slot][mask].any():
            cause = f"{frame.plane.name}: segment {frame.segment} overlaps another"
            raise FormatError(path, cause, "export segments that do not overlap")
        labels[slot][mask] = frame.segment
    return Source(
        path,
        np.ascontiguousarray(labels.transpose(2, 1, 0))[None],
        stack.affine,
        "mm",
        lossy=layout.lossy,
        segments=_names(path, header),
        sparse=True,
        world=World("DICOM", {"planes": tuple(planes)}, of_segmentation(path, header, slots, len(planes))),
    )


def _names(path: Path, header: DicomFile) -> dict[int, str]:
    """SegmentLabel by SegmentNumber; 0 is the background of label maps and is left out."""
    with foreign_errors(path, header.name):
        segments = header.fields.get("SegmentSequence") or []
        names = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")).strip() for item in segments}
    return {number: name for number, name in sorted(names.items()) if number > 0 and name}


def _slots(path: Path, planes: Sequence[Plane]) -> tuple[list[Plane], list[int]]:
    """The slices of the frames, with empty ones filled in between them, and the slice number of each frame."""
    _, _, normal = normal_of(path, planes[0])
    places = np.array([np.array(plane.position) @ normal for plane in planes])
    if not (np.abs(places) < np.inf).all():
        raise FormatError(path, "impossible frame position", code="slice-position")
    order = np.argsort(places, kind="stable")
    along = places[order]
    new = np.concatenate([[True], np.diff(along) > SAME_PLACE_MM])
    present = [planes[i] for i in order[new]]
    group = np.empty(len(planes), int)
    group[order] = np.cumsum(new) - 1
    if len(present) == 1:
        return present, [0] * len(planes)
    gaps = np.diff(along[new])
    thickness = present[0].thickness
    steps = gaps / thickness if thickness > 0 else np.zeros_like(gaps)
    fits = (np.abs(steps - np.rint(steps)) < 0.1).all() and (np.rint(steps) >= 1).all()
    apart = thickness if fits else float(gaps.min())
    steps = np.rint(gaps / apart)
    count = int(steps.sum()) + 1
    if count > MOST_SLICES:
        raise FormatError(path, f"frames span {count} slices, allowed {MOST_SLICES}", code="slice-gap")
    slot = np.concatenate([[0], np.cumsum(steps)]).astype(int)
    filled: list[Plane] = []
    for number, plane in enumerate(present):
        filled.append(plane)
        if number + 1 < len(present):
            start, end = np.array(plane.position), np.array(present[number + 1].position)
            more = int(steps[number])
            filled += [replace(plane, position=tuple(start + (end - start) * k / more)) for k in range(1, more)]
    return filled, [int(i) for i in slot[group]]
