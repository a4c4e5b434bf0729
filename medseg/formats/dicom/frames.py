"""Positions and scaling of the frames of a DICOM file: plain slices, functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.formats.dicom.header import DicomFile, foreign_errors, numbers, prefix
from medseg.formats.dicom.pixels import PixelFormat
from medseg.formats.dicom.stack import Plane
from medseg.formats.errors import FormatError

FIX_GEOMETRY = "export the series with its geometry"


@dataclass(frozen=True, slots=True)
class DicomFrame:
    """One frame of a file: its plane, the scaling of its values, and the segment it shows (0 in images)."""

    plane: Plane
    slope: float
    intercept: float
    segment: int = 0


def frames_of(path: Path, header: DicomFile, layout: PixelFormat) -> list[DicomFrame]:
    """All frames of a file, in its order.

    Raises:
        FormatError: code ``slice-position`` for frames without a position, orientation or spacing.
    """
    fields = header.fields
    with foreign_errors(path, header.name):
        if "PerFrameFunctionalGroupsSequence" not in fields:
            if layout.frames > 1:
                cause = f"{prefix(path, header.name)}{layout.frames} frames without positions"
                raise FormatError(path, cause, FIX_GEOMETRY, "slice-position")
            return [_frame(path, header.name, fields, {})]
        shared = _groups(fields.get("SharedFunctionalGroupsSequence"))
        own = [_groups([item]) for item in fields.PerFrameFunctionalGroupsSequence]
        if len(own) != layout.frames:
            cause = f"{prefix(path, header.name)}positions of {len(own)} frames, {layout.frames} frames of pixels"
            raise FormatError(path, cause)
        return [
            _frame(path, f"{header.name} frame {number}", {}, {**shared, **groups})
            for number, groups in enumerate(own, start=1)
        ]


def _groups(sequence: Any) -> dict[str, Any]:
    """The functional groups that matter of a sequence's only item: keyword -> their only item."""
    wanted = (
        "PlanePositionSequence",
        "PlaneOrientationSequence",
        "PixelMeasuresSequence",
        "PixelValueTransformationSequence",
        "SegmentIdentificationSequence",
    )
    items = list(sequence or [])
    return {key: items[0].get(key)[0] for key in wanted if items and items[0].get(key)}


def _frame(path: Path, name: str, fields: Any, groups: dict[str, Any]) -> DicomFrame:
    """A frame from its functional groups, or from the data set itself where there are none."""
    position = numbers(groups.get("PlanePositionSequence", fields), "ImagePositionPatient", 3)
    orientation = numbers(groups.get("PlaneOrientationSequence", fields), "ImageOrientationPatient", 6)
    measures = groups.get("PixelMeasuresSequence", fields)
    spacing = numbers(measures, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        lacks = "Position" if position is None else "Orientation"
        missing = "PixelSpacing" if position and orientation else f"Image{lacks}Patient"
        raise FormatError(path, f"{name}: no {missing}", FIX_GEOMETRY, "slice-position")
    apart = numbers(measures, "SpacingBetweenSlices", 1) or numbers(measures, "SliceThickness", 1) or (0.0,)
    values = groups.get("PixelValueTransformationSequence", fields)
    (slope,) = numbers(values, "RescaleSlope", 1) or (1.0,)
    (intercept,) = numbers(values, "RescaleIntercept", 1) or (0.0,)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise FormatError(path, f"{name}: rescale slope {slope:g}, intercept {intercept:g}", "correct the header")
    identification = groups.get("SegmentIdentificationSequence", {})
    segment = int(identification.get("ReferencedSegmentNumber", 0))
    return DicomFrame(Plane(name, position, orientation, spacing, abs(apart[0])), slope, intercept, segment)
