"""Label maps as DICOM segmentations (PS3.3 A.51, C.8.20), written from labels, grid and class names.

Up to ``MOST_SEGMENTS`` the file is of type BINARY, which every viewer knows: one segment per class value, one frame per
segment and slice; above (object numbers) it is a label map, one frame per slice with the values as pixels. The first
segment, or the label map, has a frame for every slice, so that the whole grid can be read back. Of the source's data
sets the places of slices are known here, and the UIDs that a segmentation refers to
(``medseg.formats.dicom.references``), which are left out on request; its own UIDs follow from the content, and equal
labels give equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import GeometryError
from medseg.formats.dicom.header import silence_pydicom
from medseg.formats.dicom.references import Instance, derivation, refer
from medseg.formats.dicom.seg import LABEL_MAP_STORAGE, SEGMENTATION_STORAGE
from medseg.formats.dicom.stack import LPS_TO_RAS, Plane, normal_of, stack_planes
from medseg.formats.errors import FormatError
from medseg.formats.plain import Labels, whole
from medseg.formats.world import NOTHING, About
from medseg.image.geometry import Geometry

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
MOST_SEGMENTS = 255
# What is read back may be this far from what was written, in voxels.
ROUND_TRIP = 1e-3
# Digits behind the point of every number written: few enough that what was read back is written as the same bytes.
DIGITS = 9
# Characters that a SegmentLabel holds (PS3.5, LO).
LONGEST_LABEL = 64
# A segmentation must have a date and a time (type 1), and equal labels give equal bytes.
NO_DATE, NO_TIME = "19700101", "000000"
FIX_FORMAT = "write .nii.gz"


def segmentation_bytes(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> bytes:
    """A DICOM segmentation with the values of ``labels`` (X, Y, Z) as segment numbers.

    Args:
        path: for messages.
        labels, geometry: the values and their grid.
        about: names of segments, and the series that the file refers to; without, it refers to none.

    Raises:
        FormatError: for values outside 0 to 65535, and for grids that DICOM cannot express: not in mm, rows and columns
            not at right angles, or slices against the normal of the image plane (a left-handed grid).
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.filewriter import dcmwrite

    values = whole(labels)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if geometry.dims != 3 or geometry.unit != "mm":
        raise FormatError(path, f"a grid of {geometry.dims} axes in {geometry.unit}, expected 3 in mm", FIX_FORMAT)
    if low < 0 or high > 65535:
        raise FormatError(path, f"labels {low} to {high}, a segmentation holds 0 to 65535", FIX_FORMAT)
    silence_pydicom()
    planes = _own_planes(path, geometry, about) or _planes(path, geometry)
    slices = np.ascontiguousarray(values.transpose(2, 1, 0)).astype(np.uint8 if high <= 255 else np.uint16)
    binary = high <= MOST_SEGMENTS
    frames = list(_binary_frames(slices, max(high, 1))) if binary else [(k, 0) for k in range(len(slices))]
    image, references = Dataset(), {} if about.world is None else about.world.identity
    instances = references.get("instances", ())
    _describe(image, slices, planes, binary, repr((sorted(about.names.items()), sorted(references.items()))))
    if references:
        refer(image, references)
    image.SegmentSequence = [_segment(number, about.names) for number in _numbers(slices, binary, about.names)]
    image.SharedFunctionalGroupsSequence = [_shared(planes[0])]
    image.PerFrameFunctionalGroupsSequence = [
        _own(planes[k], k, number, instances[k] if instances else None) for k, number in frames
    ]
    image.NumberOfFrames = len(frames)
    if binary:
        bits = np.stack([slices[k] == number for k, number in frames])
        image.PixelData = _even(np.packbits(bits, axis=None, bitorder="little").tobytes())
    else:
        image.PixelData = _even(slices.astype("<u2").tobytes())
    image["PixelData"].VR = "OW"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE
    out = io.BytesIO()
    dcmwrite(out, image, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return out.getvalue()


def segmentation_zip(path: Path, labels: Labels, geometry: Geometry, about: About = NOTHING) -> bytes:
    """A zip archive that holds ``segmentation_bytes``, without name of the source and time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            zipfile.ZipInfo("labels.dcm"), segmentation_bytes(path, labels, geometry, about), zipfile.ZIP_DEFLATED
        )
    return out.getvalue()


def _own_planes(path: Path, geometry: Geometry, about: About) -> list[Plane]:
    """The planes of the series whose labels these are, as its files have them; none if it is unknown."""
    planes = about.fields("DICOM").get("planes", ())
    if planes and len(planes) != geometry.shape[2]:
        raise FormatError(path, f"{geometry.shape[2]} slices of labels for a series of {len(planes)}", FIX_FORMAT)
    if not planes:
        return []
    _, _, normal = normal_of(path, planes[0])
    apart = abs(float((LPS_TO_RAS @ geometry.affine)[:3, 2] @ normal))
    # Not the thickness of the series: where it differs from the distance of slices, programs read it in several ways.
    return [replace(plane, thickness=round(apart, DIGITS)) for plane in planes]


def _planes(path: Path, geometry: Geometry) -> list[Plane]:
    """The planes of a grid's slices, or ``FormatError`` if they would not be read back as that grid."""
    lps = np.linalg.inv(LPS_TO_RAS) @ geometry.affine
    columns, rows = (round(float(v), DIGITS) for v in np.linalg.norm(lps[:3, :2], axis=0))
    across, down = (_settled(lps[:3, axis] / np.linalg.norm(lps[:3, axis])) for axis in (0, 1))
    start, step = np.round(lps[:3, 3], DIGITS), np.round(lps[:3, 2], DIGITS)
    normal = np.cross(across, down)
    apart = round(abs(float(step @ normal) / float(np.linalg.norm(normal))), DIGITS)
    orientation = tuple(float(v) for v in (*across, *down))
    places = [tuple(float(v) for v in np.round(start + k * step, DIGITS)) for k in range(geometry.shape[2])]
    planes = [Plane(f"slice {k}", place, orientation, (rows, columns), apart) for k, place in enumerate(places)]
    try:
        back = Geometry.create(geometry.shape, stack_planes(path, planes, geometry.shape[1], geometry.shape[0]).affine)
        off = geometry.corner_distance_voxels(back)
    except (FormatError, GeometryError) as error:
        cause = error.cause if isinstance(error, FormatError) else str(error)
        raise FormatError(path, f"a grid that DICOM cannot express ({cause})", FIX_FORMAT) from None
    if off > ROUND_TRIP:
        raise FormatError(
            path, f"a grid that DICOM cannot express (off by {off:.3g} voxels: left-handed or sheared)", FIX_FORMAT
        )
    return planes


def _settled(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """A unit vector rounded such that bringing it to length 1 and rounding again changes nothing."""
    rounded: NDArray[np.float64] = np.round(direction, DIGITS)
    for _ in range(20):
        again: NDArray[np.float64] = np.round(rounded / float(np.linalg.norm(rounded)), DIGITS)
        if (again == rounded).all():
            break
        rounded = again
    return rounded


def _binary_frames(slices: NDArray[Any], most: int) -> Iterator[tuple[int, int]]:
    """(slice, segment) of the frames that are written: all of segment 1, of others those with a voxel."""
    present = [set(np.unique(values).tolist()) for values in slices]
    for number in range(1, most + 1):
        yield from ((k, number) for k in range(len(slices)) if number == 1 or number in present[k])


def _numbers(slices: NDArray[Any], binary: bool, names: Mapping[int, str]) -> list[int]:
    """Numbers of the segments: of a binary file without gaps, and those of classes that nothing shows as well."""
    named = [number for number in names if 0 < number <= (MOST_SEGMENTS if binary else 65535)]
    if binary:
        return list(range(1, max([int(slices.max(initial=0)), *named, 1]) + 1))
    return sorted({*(n for n in np.unique(slices).tolist() if n), *named})


def _describe(image: Any, slices: NDArray[Any], planes: Sequence[Plane], binary: bool, more: str) -> None:
    """The elements that hold for the whole file; whatever could name a person or a day is there and empty, or fixed.

    UIDs follow from all that the file says: labels, places and ``more``.
    """
    numbers = [*planes[0].orientation, *planes[0].spacing, *planes[0].position, *planes[-1].position]
    place = repr((slices.shape, [_decimal(v) for v in numbers])).encode()
    content = hashlib.sha256(slices.tobytes() + more.encode()).digest()
    # Names of classes are written as Unicode.
    image.SpecificCharacterSet = "ISO_IR 192"
    image.SOPClassUID = SEGMENTATION_STORAGE if binary else LABEL_MAP_STORAGE
    image.SOPInstanceUID = _uid(b"instance", place, content)
    image.StudyInstanceUID = _uid(b"study", place, content)
    image.SeriesInstanceUID = _uid(b"series", place, content)
    image.FrameOfReferenceUID = _uid(b"frame of reference", place)
    image.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=_uid(b"dimensions"))]
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
        *("AccessionNumber", "ReferringPhysicianName", "ContentDescription"),
        *("ContentCreatorName", "PositionReferenceIndicator"),
    ):
        setattr(image, keyword, "")
    image.ContentDate, image.ContentTime = NO_DATE, NO_TIME
    image.Modality, image.ImageType, image.ContentLabel = "SEG", ["DERIVED", "PRIMARY"], "LABELS"
    image.Manufacturer = image.ManufacturerModelName = image.SoftwareVersions = "medseg"
    image.DeviceSerialNumber, image.SeriesNumber, image.InstanceNumber = "0", 1, 1
    bits = 1 if binary else 16
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.Rows, image.Columns = slices.shape[1:]
    image.BitsAllocated, image.BitsStored, image.HighBit = bits, bits, bits - 1
    image.LossyImageCompression, image.BurnedInAnnotation = "00", "NO"
    image.SegmentationType = "BINARY" if binary else "LABELMAP"
    image.SegmentsOverlap = "NO"
    organization = image.DimensionOrganizationSequence[0].DimensionOrganizationUID
    pointers = [(0x0020_0032, 0x0020_9113)] if not binary else [(0x0062_000B, 0x0062_000A), (0x0020_0032, 0x0020_9113)]
    image.DimensionIndexSequence = [
        _item(DimensionOrganizationUID=organization, DimensionIndexPointer=tag, FunctionalGroupPointer=group)
        for tag, group in pointers
    ]


def _segment(number: int, names: Mapping[int, str]) -> Any:
    tissue = {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"}
    # A backslash separates values there.
    name = names.get(number, str(number)).replace("\\", "/")
    item = _item(
        SegmentNumber=number,
        SegmentLabel=name[:LONGEST_LABEL],
        SegmentAlgorithmType="AUTOMATIC",
        SegmentAlgorithmName="medseg",
        SegmentedPropertyCategoryCodeSequence=[_item(**tissue)],
        SegmentedPropertyTypeCodeSequence=[_item(**tissue)],
    )
    if len(name) > LONGEST_LABEL:
        item.SegmentDescription = name
    return item


def _shared(plane: Plane) -> Any:
    """Functional groups of all frames: orientation and distances."""
    apart = _decimal(plane.thickness)
    measures = _item(
        PixelSpacing=[_decimal(v) for v in plane.spacing], SliceThickness=apart, SpacingBetweenSlices=apart
    )
    return _item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[_decimal(v) for v in plane.orientation])],
        PixelMeasuresSequence=[measures],
    )


def _own(plane: Plane, index: int, segment: int, source: Instance | None) -> Any:
    """Functional groups of one frame: its place, its segment unless it is a label map (0), the image of its slice."""
    indices = [segment, index + 1] if segment else [index + 1]
    item = _item(
        FrameContentSequence=[_item(DimensionIndexValues=indices)],
        PlanePositionSequence=[_item(ImagePositionPatient=[_decimal(v) for v in plane.position])],
    )
    if segment:
        item.SegmentIdentificationSequence = [_item(ReferencedSegmentNumber=segment)]
    if source is not None:
        item.DerivationImageSequence = [derivation(source)]
    return item


def _item(**elements: Any) -> Any:
    """A data set with these elements, by keyword."""
    from pydicom.dataset import Dataset

    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _decimal(value: float) -> str:
    """A number as a decimal string of at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return str(format_number_as_ds(value + 0.0))


def _uid(*parts: bytes) -> str:
    """A UID that follows from the parts alone, in the arc for UUIDs (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(b'|'.join(parts)).digest()[:16])}"


def _even(data: bytes) -> bytes:
    """Values have an even length."""
    return data + b"\0" * (len(data) % 2)
