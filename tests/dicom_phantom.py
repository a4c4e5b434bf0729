"""DICOM files made on the fly: a small oblique series with unequal spacings, in many dresses, full of identity."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID
from scipy.spatial.transform import Rotation

from medseg.formats.dicom.label import segmentation_bytes
from medseg.image.geometry import Geometry

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
RLE, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
SERIES = "2.25.1234567890"
COLUMNS, ROWS, SLICES = 9, 8, 6
COLUMN_SPACING, ROW_SPACING, STEP = 1.1, 0.7, 2.5
# Directions along a row, along a column, and their normal, in patient coordinates (LPS).
ACROSS, DOWN, NORMAL = Rotation.from_euler("xyz", [20, -30, 10], degrees=True).as_matrix().T
ORIGIN = np.array([-31.5, 12.25, 47.0])
# (X, Y, Z), with negative numbers and numbers that need 12 bits.
VOXELS = np.random.default_rng(3).integers(-1024, 2048, (COLUMNS, ROWS, SLICES)).astype(np.int16)

# Everything that could tell who it is, when and where; none of it may be found again.
IDENTITY: dict[str, str] = {
    "PatientName": "CANARY^ALMA",
    "PatientID": "CANARY-4711",
    "OtherPatientIDs": "CANARY-4712",
    "PatientBirthDate": "19470311",
    "PatientBirthTime": "031147",
    "PatientAge": "079Y",
    "PatientAddress": "CANARY STREET 7",
    "PatientTelephoneNumbers": "CANARY555",
    "PatientMotherBirthName": "CANARY^MOTHER",
    "PatientComments": "canary comment",
    "PatientInsurancePlanCodeSequence": "",
    "MilitaryRank": "CANARY GENERAL",
    "Occupation": "CANARY KEEPER",
    "AdditionalPatientHistory": "canary history",
    "InstitutionName": "CANARY HOSPITAL",
    "InstitutionAddress": "CANARY ROAD 9",
    "InstitutionalDepartmentName": "CANARY WARD",
    "ReferringPhysicianName": "CANARY^DOCTOR",
    "PerformingPhysicianName": "CANARY^SURGEON",
    "NameOfPhysiciansReadingStudy": "CANARY^READER",
    "OperatorsName": "CANARY^OPERATOR",
    "StationName": "CANARYSTATION",
    "DeviceSerialNumber": "CANARYSERIAL",
    "AccessionNumber": "CANARYACCESSION",
    "StudyID": "CANARYSTUDY",
    "StudyDescription": "canary study",
    "SeriesDescription": "canary series",
    "ProtocolName": "canary protocol",
    "ImageComments": "canary image",
    "RequestedProcedureDescription": "canary request",
    "StudyDate": "20190704",
    "AcquisitionDate": "20190705",
    "StudyTime": "170459",
    "StudyInstanceUID": "2.25.99990001",
    "SOPInstanceUID": "2.25.99990002",
    "FrameOfReferenceUID": "2.25.99990003",
}
CANARIES = (*(text for text in IDENTITY.values() if len(text) > 4), "CANARYPRIVATE", "CANARYAE", "canary nested")


def position(k: float) -> np.ndarray:
    """Centre of the first pixel of slice ``k``, LPS mm."""
    return ORIGIN + k * STEP * NORMAL


def ras_of(i: float, j: float, k: float) -> np.ndarray:
    """Where voxel (column i, row j, slice k) lies, RAS+ mm, computed from the slice's position alone."""
    lps = position(k) + i * COLUMN_SPACING * ACROSS + j * ROW_SPACING * DOWN
    return lps * [-1, -1, 1]


def expected_affine() -> np.ndarray:
    """Voxel -> RAS+ mm, from four voxels."""
    zero = ras_of(0, 0, 0)
    affine = np.eye(4)
    affine[:3, 3] = zero
    affine[:3, :3] = np.stack([ras_of(*unit) - zero for unit in np.eye(3)], axis=1)
    return affine


def one_slice(k: int, **elements: Any) -> Dataset:
    """Slice ``k`` of the series; ``elements`` by keyword replace or, if None, remove."""
    image = Dataset()
    for keyword, text in IDENTITY.items():
        setattr(image, keyword, [] if keyword.endswith("Sequence") else text)
    inner = Dataset()
    inner.PatientName, inner.TextValue = "CANARY^NESTED", "canary nested"
    image.RequestAttributesSequence = [inner]
    block = image.private_block(0x0029, "CANARYPRIVATE", create=True)
    block.add_new(0x10, "LO", "CANARYPRIVATE VALUE")
    image.SOPClassUID, image.Modality, image.SeriesInstanceUID, image.SeriesNumber = CT, "CT", SERIES, 3
    image.InstanceNumber = 1  # of no use: equal in all slices
    image.ImagePositionPatient = decimals(position(k))
    image.ImageOrientationPatient = decimals([*ACROSS, *DOWN])
    image.PixelSpacing = [ROW_SPACING, COLUMN_SPACING]
    image.SliceThickness = STEP
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = ROWS, COLUMNS
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    image.PixelData = np.ascontiguousarray(VOXELS[:, :, k].T).tobytes()
    return changed(image, **elements)


def changed(image: Dataset, **elements: Any) -> Dataset:
    """The data set with elements replaced or, if None, removed."""
    for keyword, value in elements.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    return image


def decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters."""
    return [f"{v:.12f}"[:16] for v in values]


def file_bytes(image: Dataset, syntax: str = EXPLICIT) -> bytes:
    """A DICOM file."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.SourceApplicationEntityTitle = "CANARYAE"
    image.file_meta = meta
    if "PixelData" in image:
        image["PixelData"].VR = "OB" if image["PixelData"].is_undefined_length else "OW"
    out = io.BytesIO()
    little = syntax != BIG
    if not little and "PixelData" in image:
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        image["PixelData"].VR = "OW"
    dcmwrite(out, image, enforce_file_format=True, implicit_vr=syntax == IMPLICIT, little_endian=little)
    return out.getvalue()


def name_of(k: int) -> str:
    """File names in an order that has nothing to do with that of the slices."""
    return f"IM{(k * 5 + 3) % 7}"


def series(
    change: Mapping[int, Mapping[str, Any]] | None = None, syntax: str = EXPLICIT, **elements: Any
) -> dict[str, bytes]:
    """File name -> bytes; ``elements`` for all slices, ``change`` for single ones."""
    own = change or {}
    files = {name_of(k): file_bytes(one_slice(k, **{**elements, **own.get(k, {})}), syntax) for k in range(SLICES)}
    return dict(sorted(files.items()))


def unsigned_plane(k: int, bits: int = 16) -> np.ndarray:
    """Slice ``k`` (rows, columns) as unsigned numbers of ``bits`` bits."""
    kind = np.uint8 if bits <= 8 else np.uint16
    return np.ascontiguousarray(((VOXELS[:, :, k].T.astype(np.int64) + 1024) % 2**bits).astype(kind))


ENCODERS: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {
    "1.2.840.10008.1.2.4.50": (8, lambda a: imagecodecs.jpeg8_encode(a, level=100)),
    "1.2.840.10008.1.2.4.51": (12, lambda a: imagecodecs.jpeg8_encode(a, level=100, bitspersample=12)),
    "1.2.840.10008.1.2.4.57": (16, imagecodecs.ljpeg_encode),
    "1.2.840.10008.1.2.4.70": (12, imagecodecs.ljpeg_encode),
    JPEG_LS: (12, imagecodecs.jpegls_encode),
    "1.2.840.10008.1.2.4.81": (12, lambda a: imagecodecs.jpegls_encode(a, level=1)),
    JPEG_2000: (16, lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k", reversible=True)),
    "1.2.840.10008.1.2.4.91": (8, lambda a: imagecodecs.jpeg2k_encode(a, level=0, codecformat="j2k", reversible=True)),
    "1.2.840.10008.1.2.4.201": (16, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    "1.2.840.10008.1.2.4.202": (16, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
    "1.2.840.10008.1.2.4.203": (16, lambda a: imagecodecs.htj2k_encode(a, reversible=True)),
}


def code_of(k: int, syntax: str) -> bytes:
    """Slice ``k`` as a compressed stream."""
    bits, encode = (16, rle_encode) if syntax == RLE else ENCODERS[syntax]
    return bytes(encode(unsigned_plane(k, bits)))


def bits_of(syntax: str) -> dict[str, int]:
    """The elements that say how many bits the numbers of ``code_of`` have."""
    bits = 16 if syntax == RLE else ENCODERS[syntax][0]
    allocated = 8 if bits == 8 else 16
    return {"BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0}


def compressed(k: int, syntax: str) -> tuple[Dataset, np.ndarray]:
    """Slice ``k`` in a compressed transfer syntax, and its numbers (rows, columns)."""
    elements = bits_of(syntax)
    image = one_slice(k, **elements)
    image.PixelData = encapsulate([code_of(k, syntax)])
    image["PixelData"].is_undefined_length = True
    return image, unsigned_plane(k, elements["BitsStored"])


def rle_encode(plane: np.ndarray) -> bytes:
    """DICOM RLE (PS3.5 annex G) of 16-bit numbers, literal runs only: high bytes, then low bytes."""
    segments = []
    for part in (plane >> 8, plane & 255):
        data = part.astype(np.uint8).tobytes()
        runs = b"".join(bytes([len(run) - 1]) + run for run in (data[i : i + 128] for i in range(0, len(data), 128)))
        segments.append(runs + b"\x80" * (len(runs) % 2))
    starts = [64, 64 + len(segments[0])]
    return np.array([2, *starts, *[0] * 13], "<u4").tobytes() + b"".join(segments)


def enhanced(**elements: Any) -> Dataset:
    """The whole series as one multi-frame file with positions, frames in another order than slices."""
    order = [3, 0, 5, 1, 4, 2]
    image = one_slice(0, SOPClassUID=ENHANCED_CT, **dict.fromkeys(("ImagePositionPatient", "PixelSpacing")))
    for keyword in ("ImageOrientationPatient", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(image, keyword)
    shared, orientation, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = decimals([*ACROSS, *DOWN])
    measures.PixelSpacing, measures.SliceThickness = [ROW_SPACING, COLUMN_SPACING], STEP
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, -7, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    shared.PixelValueTransformationSequence = [values]
    image.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for k in order:
        frame, place = Dataset(), Dataset()
        place.ImagePositionPatient = decimals(position(k))
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = frames
    image.NumberOfFrames = SLICES
    image.PixelData = b"".join(np.ascontiguousarray(VOXELS[:, :, k].T).tobytes() for k in order)
    return changed(image, **elements)


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below ``folder``."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def image_series(voxels: np.ndarray, geometry: Geometry) -> dict[str, bytes]:
    """Any int16 volume (X, Y, Z) on a right-handed grid as a series."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    columns, rows, apart = np.linalg.norm(lps[:3, :3], axis=0)
    assert np.linalg.det(lps[:3, :3]) > 0
    files = {}
    for k in range(voxels.shape[2]):
        image = one_slice(
            0,
            ImagePositionPatient=decimals(lps[:3, 3] + k * lps[:3, 2]),
            ImageOrientationPatient=decimals([*(lps[:3, 0] / columns), *(lps[:3, 1] / rows)]),
            PixelSpacing=decimals([rows, columns]),
            SliceThickness=decimals([apart])[0],
            Rows=voxels.shape[1],
            Columns=voxels.shape[0],
            PixelData=np.ascontiguousarray(voxels[:, :, k].T).astype("<i2").tobytes(),
        )
        files[f"slice{k * 37 % 1000:03d}"] = file_bytes(image)
    return files


def seed_files() -> dict[str, bytes]:
    """Sound files of every kind that is read, by name, for mutation."""
    labels = np.random.default_rng(4).integers(0, 4, VOXELS.shape)
    geometry = Geometry.create(VOXELS.shape, expected_affine())
    seeds = {
        "slice.dcm": file_bytes(one_slice(0)),
        "implicit.dcm": file_bytes(one_slice(0), IMPLICIT),
        "big.dcm": file_bytes(one_slice(0), BIG),
        "enhanced.dcm": file_bytes(enhanced()),
        "binary.dcm": segmentation_bytes(Path("binary.dcm"), labels, geometry),
        "labelmap.dcm": segmentation_bytes(Path("labelmap.dcm"), labels * 300, geometry),
        "series.zip": zipped(series()),
    }
    for syntax in (RLE, *ENCODERS):
        seeds[f"{syntax}.dcm"] = file_bytes(compressed(0, syntax)[0], syntax)
    return seeds
