"""DICOM structure sets (RTSTRUCT) made on the fly, on the slices of the phantom's series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from skimage.measure import find_contours

from medseg.formats.dicom.contours import STRUCTURE_SET_STORAGE
from medseg.image.geometry import Geometry
from tests import dicom_phantom as phantom

# Oblique, slices along the normal as in a series; RAS+.
GRID = Geometry.create((phantom.COLUMNS, phantom.ROWS, phantom.SLICES), phantom.expected_affine())
Loops = Sequence[tuple[np.ndarray, str]]


def loops(mask: np.ndarray, grid: Geometry = GRID) -> list[tuple[np.ndarray, str]]:
    """The contours (N, 3), LPS mm, halfway between voxels of a mask (X, Y, Z) and others; holes have their own."""
    found = []
    for k in range(mask.shape[2]):
        for points in find_contours(np.pad(mask[:, :, k], 1).astype(float), 0.5):
            inside = np.column_stack([points - 1, np.full(len(points), float(k))])
            found.append((in_space(inside, grid), "CLOSED_PLANAR"))
    return found


def in_space(voxels: np.ndarray, grid: Geometry = GRID) -> np.ndarray:
    """Voxel coordinates (N, 3) as patient coordinates (LPS), mm."""
    return (voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]) * [-1, -1, 1]


def structure_set(
    structures: Mapping[str, Loops],
    numbers: Sequence[int] = (),
    implicit: bool = False,
    undefined: bool = False,
    **elements: Any,
) -> bytes:
    """An RTSTRUCT file, full of identity; contours as decimal strings of at most 16 characters."""
    image = phantom.one_slice(0)
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(image, keyword)
    image.SOPClassUID, image.Modality, image.SeriesInstanceUID = STRUCTURE_SET_STORAGE, "RTSTRUCT", "2.25.77"
    image.StructureSetROISequence, image.ROIContourSequence = [], []
    for number, (name, contours) in zip(numbers or range(1, 100), structures.items(), strict=False):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points, kind in contours:
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
            item.ContourData = phantom.decimals(points.ravel())
            drawn.ContourSequence.append(item)
        image.StructureSetROISequence.append(roi)
        image.ROIContourSequence.append(drawn)
    phantom.changed(image, **elements)
    image["ROIContourSequence"].is_undefined_length = undefined
    return phantom.file_bytes(image, phantom.IMPLICIT if implicit else phantom.EXPLICIT)
