"""The header of one DICOM file (DICOM PS3.5 and PS3.10), as far as geometry and pixels need it.

Only the elements in ``WANTED`` are taken from a file. Names, numbers, dates and descriptions of patients, and private
elements, are skipped by the parser and enter no object, message or output. UIDs of study, frame of reference and
instances go into the segmentations of a series (``medseg.formats.dicom.references``), and nowhere else.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.formats.dicom.pixels import SYNTAXES, PixelFormat
from medseg.formats.errors import FormatError

# What is taken from a file, by DICOM keyword; sequences are taken whole; of their items only known keywords are read.
WANTED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "ReferencedSeriesSequence",
    "Modality",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "LossyImageCompression",
    "SegmentationType",
    "SegmentSequence",
    "StructureSetROISequence",
    "ROIContourSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
# Float pixel data, the first of the elements that hold pixels; everything wanted comes before it.
FIRST_PIXEL_TAG = 0x7FE00008
PIXEL_DATA = 0x7FE00010
TRANSFER_SYNTAX = 0x00020010
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
UNDEFINED_LENGTH = 0xFFFFFFFF
FIX_EXPORT = "export the series again from its archive"

_FILTER_LOCK = threading.Lock()


class NoDicomError(Exception):
    """The bytes do not begin as a DICOM file does."""


@dataclass(frozen=True, slots=True)
class DicomFile:
    """One DICOM file.

    Attributes:
        name: file name relative to the series' folder, for messages.
        data: all bytes of the file.
        syntax: transfer syntax UID.
        fields: the elements of ``WANTED``; a pydicom data set.
        pixels_at, pixels_length: place of the pixel data in ``data``; length None if it is encapsulated.
        has_pixels: whether there are any.
        sop_class: what kind of object it is.
        series: SeriesInstanceUID; a text that is no UID is not repeated to anyone.
        series_number: SeriesNumber, or an empty text.
        modality: CT, MR, …; only a code, never free text.
    """

    name: str
    data: bytes
    syntax: str
    fields: Any
    pixels_at: int
    pixels_length: int | None
    has_pixels: bool
    sop_class: str
    series: str
    series_number: str
    modality: str


@contextmanager
def foreign_errors(path: Path, name: str) -> Iterator[None]:
    """Turn whatever pydicom raises into ``FormatError``, without its text: it can repeat values of the file."""
    try:
        yield
    except (FormatError, NoDicomError):
        raise
    except Exception as error:  # noqa: BLE001 (raised again as ours; its text could repeat the file's)
        cause = f"{prefix(path, name)}damaged DICOM elements ({type(error).__name__})"
        raise FormatError(path, cause) from None


def prefix(path: Path, name: str) -> str:
    """``NAME: `` where ``path`` is a folder or archive that holds the file, else nothing."""
    return "" if name == path.name else f"{name}: "


def silence_pydicom() -> None:
    """Keep pydicom's warnings out of the log: they can repeat values of the file, and what matters is checked here.

    A filter for its modules alone: ``warnings.catch_warnings`` must not be used while other threads read.
    """
    with _FILTER_LOCK:
        # Its modules import one another in a circle: of two threads that begin, one would see half of a module.
        import pydicom  # noqa: F401

        if not any(f[0] == "ignore" and getattr(f[3], "pattern", "") == "pydicom" for f in warnings.filters[:8]):
            warnings.filterwarnings("ignore", module="pydicom")
            logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def read_header(path: Path, name: str, data: bytes) -> DicomFile:
    """Parse the file ``name``, without its pixels.

    Raises:
        NoDicomError: if it does not begin as a DICOM file.
        FormatError: if it is damaged, or in a transfer syntax that is not in ``SYNTAXES``.
    """
    if data[128:132] != b"DICM":
        raise NoDicomError(name)
    silence_pydicom()
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_dataset

    with foreign_errors(path, name):
        file = io.BytesIO(data)
        file.seek(132)
        meta = read_dataset(
            file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2, specific_tags=[TRANSFER_SYNTAX]
        )
        uid = str(meta.get("TransferSyntaxUID", ""))
        if uid not in SYNTAXES:
            raise FormatError(path, f"{prefix(path, name)}{_unknown(uid)}", "decompress it (e.g. dcmdjpeg)", "decoder")
        syntax = SYNTAXES[uid]
        found: list[tuple[int, str | None, int]] = []

        def at_pixels(tag: int, vr: str | None, length: int) -> bool:
            if tag >= FIRST_PIXEL_TAG:
                found.append((int(tag), vr, length))
            return tag >= FIRST_PIXEL_TAG

        tags = [int(tag_for_keyword(keyword) or 0) for keyword in WANTED]
        fields = read_dataset(file, syntax.implicit, syntax.little, stop_when=at_pixels, specific_tags=tags)
        # Pixel data have a long explicit header (12 bytes) or an implicit one (8 bytes).
        start = file.tell() + (8 if syntax.implicit else 12)
        tag, _, length = found[0] if found else (0, None, 0)
        size = None if length == UNDEFINED_LENGTH else length
        return DicomFile(
            name,
            data,
            uid,
            fields,
            start,
            size,
            tag == PIXEL_DATA,
            sop_class=str(fields.get("SOPClassUID", "")),
            series=_code_text(fields, "SeriesInstanceUID", r"[0-9.]{1,64}", "(no valid UID)"),
            series_number=_code_text(fields, "SeriesNumber", r"-?[0-9]{1,12}", ""),
            modality=_code_text(fields, "Modality", r"[A-Z]{2,10}", "?"),
        )


def _code_text(fields: Any, keyword: str, pattern: str, otherwise: str) -> str:
    """An element's text if it looks as it should; anything else could be a name."""
    text = str(fields.get(keyword, ""))
    return text if re.fullmatch(pattern, text) else otherwise


def _unknown(uid: str) -> str:
    """Why a transfer syntax cannot be read."""
    from pydicom.uid import UID_dictionary

    known = UID_dictionary[uid][0] if uid in UID_dictionary else "unknown"
    shown = uid if re.fullmatch(r"[0-9.]{1,64}", uid) else "none"
    return f"transfer syntax {shown} ({known}), for which there is no decoder"


def pixel_format_of(path: Path, header: DicomFile) -> PixelFormat:
    """Size and encoding of the pixels of a file, checked.

    Raises:
        FormatError: if it is impossible, contradicts itself, or is of a kind that is not read (colour, MONOCHROME1).
    """
    fields, at = header.fields, prefix(path, header.name)
    with foreign_errors(path, header.name):
        rows, columns = _whole(fields, "Rows"), _whole(fields, "Columns")
        frames = _whole(fields, "NumberOfFrames", 1)
        allocated, stored = _whole(fields, "BitsAllocated"), _whole(fields, "BitsStored")
        high, sign = _whole(fields, "HighBit", stored - 1), _whole(fields, "PixelRepresentation", 0)
        samples = _whole(fields, "SamplesPerPixel", 1)
        kind = str(fields.get("PhotometricInterpretation", ""))
        lossy = str(fields.get("LossyImageCompression", "00")).strip() == "01"
        if min(rows, columns, frames) < 1:
            raise FormatError(path, f"{at}impossible size: {rows} rows, {columns} columns, {frames} frames")
        if samples != 1 or kind != "MONOCHROME2":
            # MONOCHROME1 shows low values white; whether they were inverted on export is unknown.
            shown = kind if re.fullmatch(r"[A-Z0-9_ ]{1,16}", kind) else "?"
            cause = f"{at}pixels are {shown} with {samples} samples, expected MONOCHROME2 with one"
            raise FormatError(path, cause, "convert it to MONOCHROME2")
        if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1 or sign not in (0, 1):
            bits = f"{allocated} bits allocated, {stored} stored, high bit {high}, representation {sign}"
            raise FormatError(path, f"{at}impossible pixels: {bits}")
        if "ModalityLUTSequence" in fields:
            raise FormatError(path, f"{at}values go through a modality look-up table", "export rescaled values")
        return PixelFormat(rows, columns, frames, allocated, stored, sign == 1, lossy or SYNTAXES[header.syntax].lossy)


def _whole(fields: Any, keyword: str, default: int | None = None) -> int:
    value = fields.get(keyword)
    if value is None and default is not None:
        return default
    return int(value)


def numbers(item: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """``count`` real numbers of an element, or None if it is absent or empty; ``ValueError`` for another count."""
    value = None if item is None else item.get(keyword)
    if value is None or value == "":
        return None
    parts: Sequence[Any] = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not parts:
        return None
    if len(parts) != count:
        raise ValueError(keyword)
    return tuple(float(v) for v in parts)
