"""Outlines as an archive of ImageJ regions of interest (File > Open, or the ROI Manager's More > Open).

Coordinates are corners of pixels: ImageJ's polygon through (0, 0) and (1, 1) covers the first pixel, so polygons are
taken over as they are. ImageJ's ``ij.io.RoiDecoder`` says what each byte means.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from medseg.measure.files import Measured
from medseg.objects.colouring import palette
from medseg.objects.outlines import Outline, Polygon, Ring, outlines

# Offsets of points are signed 16-bit numbers, places of polygons go up to the second number; beyond, floats are used.
MAX_OFFSET, MAX_PLACE = 32_767, 60_535
# Of the paths that pieces and holes are written as.
MOVE, LINE, CLOSE = 0, 1, 4
# The oldest date that an archive can give its files: no date of ours, so that equal objects give equal bytes.
DATE = (1980, 1, 1, 0, 0, 0)


def roi_zip(measured: Measured) -> bytes:
    """A zip archive with a region per object, named by its number; of volumes, one per object and slice along z.

    Objects in one piece are traced regions; those with holes or in several pieces are composite ones. Where there are
    several classes, the class is the region's group and its colour.
    """
    scene, buffer = measured.scene, io.BytesIO()
    digits = len(str(max(scene.boxes, default=0)))
    colours = palette(len(scene.class_names)) if len(scene.class_names) > 1 else []
    # Slices of a stack are counted by themselves where channels are counted, too.
    hyperstack = measured.image is not None and len(measured.image) > 1
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for outline in outlines(scene):
            roi = _region(outline.polygons)
            roi.name = _name(outline, digits)
            roi.props = f"class: {scene.class_name(outline.number)}\n"
            if colours:
                roi.group = scene.class_of(outline.number)
                roi.stroke_color = bytes([255, *colours[roi.group - 1]])
            if outline.plane is not None:
                roi.z_position, roi.position = (outline.plane + 1, 0) if hyperstack else (0, outline.plane + 1)
            entry = zipfile.ZipInfo(f"{roi.name}.roi", DATE)
            archive.writestr(entry, roi.tobytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _name(outline: Outline, digits: int) -> str:
    place = "" if outline.plane is None else f"-z{outline.plane + 1:04d}"
    return f"{outline.number:0{digits}d}{place}"


def _region(found: Sequence[Polygon]) -> ImagejRoi:
    rings = [ring for polygon in found for ring in (polygon.outer, *polygon.holes)]
    corners = np.concatenate(rings)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    roi = ImagejRoi(left=left, top=top, right=right, bottom=bottom)
    if len(rings) > 1:
        roi.roitype, path = ROI_TYPE.RECT, np.concatenate([_path(ring) for ring in rings])
        roi.multi_coordinates, roi.shape_roi_size = path, len(path)
        return roi
    roi.roitype, roi.n_coordinates = ROI_TYPE.TRACED, len(corners)
    roi.integer_coordinates = (corners - [left, top]).astype(np.int32)
    if max(right - left, bottom - top) > MAX_OFFSET or max(right, bottom) > MAX_PLACE:
        roi.options |= ROI_OPTIONS.SUB_PIXEL_RESOLUTION
        roi.subpixel_coordinates = corners.astype(np.float32)
    return roi


def _path(ring: Ring) -> NDArray[np.float32]:
    """A ring as operations and the points that they go to."""
    operations = np.full(len(ring), LINE)
    operations[0] = MOVE
    return np.append(np.column_stack([operations, ring]).ravel(), CLOSE).astype(np.float32)
