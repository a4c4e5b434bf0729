"""DICOM series as volumes: a folder, a zip archive, or one file; images and segmentations.

Slices are put together by their positions alone (``medseg.formats.dicom.stack``). Whatever is doubtful is an error: a
missing or doubled slice, mixed orientations, several series of which none was named. Nothing but geometry and pixels
leaves this reader; a series is named to the user by SeriesInstanceUID, number, modality and count, never by its
description.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import START, Content
from medseg.formats.dicom.contours import STRUCTURE_SET_STORAGE, read_contours
from medseg.formats.dicom.frames import DicomFrame, frames_of
from medseg.formats.dicom.header import DIRECTORY_CLASS, DicomFile, NoDicomError, pixel_format_of, prefix, read_header
from medseg.formats.dicom.pixels import SYNTAXES, PixelFormat, check_pixels, compressed_frames, native_frames
from medseg.formats.dicom.references import of_series
from medseg.formats.dicom.seg import SEGMENTATION_CLASSES, read_segmentation
from medseg.formats.dicom.stack import TOLERANCE, stack_planes
from medseg.formats.errors import FormatError
from medseg.formats.foreign import DICOM_OBJECTS, foreign
from medseg.formats.limits import MAX_FILES, check_size, held
from medseg.formats.source import Source
from medseg.formats.world import World
from medseg.formats.zipped import members

# Files of a folder that are no slices and no reason to complain.
LITTER = {"dicomdir", "thumbs.db", "desktop.ini"}
# Files that make a folder, or archive, one of Zarr.
ZARR_MARKS = {"zarr.json", ".zgroup", ".zarray"}
# Series, or odd files, that one message lists.
SHOWN = 8


def open_dicom_zip(path: Path, content: Content) -> Source:
    """Open a series in a zip archive, in memory; as ``open_dicom``, and ``FormatError`` for unsafe archives."""
    files = members(path, held(path, content.main), MAX_FILES)
    if any(PurePosixPath(name).name in ZARR_MARKS for name in files):
        raise FormatError(
            path, "a packed OME-Zarr, which is not read", "unpack it into a folder that ends in .ome.zarr"
        )
    return open_dicom(path, Content(files, content.series))


def open_dicom(path: Path, content: Content) -> Source:
    """Open the series that a folder or file holds; see ``medseg.formats.read.open_image`` for the contract.

    Returns:
        Voxels (1, columns, rows, slices) in the stored type (float32 where slices scale differently, as in PET), slices
        in ascending order along the normal of the image plane; affine to RAS+ mm. A segmentation gives a label map, and
        a structure set one that is drawn later (``medseg.formats.drawn``).

    Raises:
        FormatError: with one of the codes ``series``, ``slice-gap``, ``slice-twice``, ``slice-mixed``,
            ``slice-position``, ``decoder``, or ``unreadable``.
    """
    if len(content.files) > MAX_FILES:
        raise FormatError(path, f"{len(content.files)} files, allowed {MAX_FILES}", "keep one series per folder")
    headers = _headers(path, {name: held(path, data) for name, data in content.files.items()})
    if contours := _structure_set(path, headers):
        return read_contours(path, contours)
    chosen = choose_series(path, headers, content.series)
    layouts = [pixel_format_of(path, header) for header in chosen]
    for header, layout in zip(chosen, layouts, strict=True):
        there = len(header.data) - header.pixels_at
        check_pixels(path, prefix(path, header.name), layout, SYNTAXES[header.syntax], header.pixels_length, there)
    if chosen[0].sop_class in SEGMENTATION_CLASSES:
        if len(chosen) > 1:
            cause = f"{len(chosen)} segmentation files in one series, expected one"
            raise FormatError(path, cause, "keep one of them", "series")
        return read_segmentation(path, chosen[0], layouts[0], pixels(path, chosen[0], layouts[0]))
    return _read_images(path, chosen, layouts)


def _headers(path: Path, files: Mapping[str, bytes]) -> list[DicomFile]:
    """The headers of all DICOM files but directories; any other file is an error."""
    headers, others = [], []
    for name, data in files.items():
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if len(files) > 1 and (any(p.startswith(".") for p in parts) or parts[-1].casefold() in LITTER):
            continue
        try:
            header = read_header(path, name, data)
        except NoDicomError:
            others.append(name)
            continue
        if header.sop_class != DIRECTORY_CLASS:
            headers.append(header)
    if others:
        names = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
        rows = {foreign(Path(name), bytes(files[name][:START])) for name in others}
        if len(rows) == 1 and (row := next(iter(rows))) is not None:
            raise FormatError(path, f"no DICOM files, each is {row.name}: {names}", row.way)
        cause = "the content is no DICOM file" if others == [path.name] else f"no DICOM files: {names}"
        raise FormatError(path, cause, "move other files out of the series' folder; convert those without preamble")
    return headers


def choose_series(path: Path, headers: Sequence[DicomFile], wanted: str) -> list[DicomFile]:
    """The files of the one series with pixels, or of the one that is wanted.

    Raises:
        FormatError: code ``series`` if several are there and none, or not exactly one, is named.
    """
    groups: dict[str, list[DicomFile]] = defaultdict(list)
    for header in headers:
        if header.has_pixels:
            groups[header.series].append(header)
    for header in headers:
        # Structured reports and contours have a series of their own; a slice without pixels was cut.
        if not header.has_pixels and (header.series in groups or "SeriesInstanceUID" not in header.fields):
            raise FormatError(path, f"{prefix(path, header.name)}truncated: no pixels")
    if not groups:
        raise _without_pixels(path, headers)
    named = [u for u, group in groups.items() if wanted in ("", u, group[0].series_number)]
    if len(named) == 1:
        return groups[named[0]]
    listed = [
        f"{uid} (number {group[0].series_number or '?'}, {group[0].modality}, {len(group)} files)"
        for uid, group in sorted(groups.items())
    ]
    shown = "; ".join(listed[:SHOWN]) + (f"; and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
    what = f"{len(named)} of {len(groups)} series are '{wanted}'" if wanted else f"{len(groups)} series"
    raise FormatError(path, f"{what}: {shown}", "name one by `series`: its UID or number", "series")


def _structure_set(path: Path, headers: Sequence[DicomFile]) -> DicomFile | None:
    """The file of contours, if there are contours and nothing with pixels; beside a series they are passed over."""
    found = [header for header in headers if header.sop_class == STRUCTURE_SET_STORAGE]
    if not found or any(header.has_pixels for header in headers):
        return None
    if len(found) > 1:
        raise FormatError(
            path, f"{len(found)} files of contours (RTSTRUCT), expected one", "name the file, not its folder"
        )
    return found[0]


def _without_pixels(path: Path, headers: Sequence[DicomFile]) -> FormatError:
    """The error for files none of which holds an image: what they are instead."""
    found = {header.modality for header in headers} & DICOM_OBJECTS.keys()
    if not found:
        return FormatError(path, "no DICOM image", "name the folder of a series")
    names = [DICOM_OBJECTS[modality] for modality in sorted(found)]
    return FormatError(path, f"no DICOM image: {', '.join(name for name, _ in names)}", names[0][1])


def pixels(path: Path, header: DicomFile, layout: PixelFormat) -> NDArray[Any]:
    """All frames (frames, rows, columns) of a file whose pixels were checked."""
    syntax = SYNTAXES[header.syntax]
    if syntax.decode:
        return compressed_frames(path, prefix(path, header.name), header.data[header.pixels_at :], layout, syntax)
    return native_frames(header.data, header.pixels_at, layout, syntax)


def _read_images(path: Path, headers: Sequence[DicomFile], layouts: Sequence[PixelFormat]) -> Source:
    first = layouts[0]
    for header, layout in zip(headers, layouts, strict=True):
        if (layout.rows, layout.columns, layout.dtype) != (first.rows, first.columns, first.dtype):
            cause = (
                f"{header.name}: {layout.rows} x {layout.columns} {layout.dtype}, "
                f"{headers[0].name} has {first.rows} x {first.columns} {first.dtype}"
            )
            raise FormatError(path, cause, "keep only the slices of one stack in the folder", "slice-mixed")
    frames = [frames_of(path, header, layout) for header, layout in zip(headers, layouts, strict=True)]
    flat = [frame for group in frames for frame in group]
    stack = stack_planes(path, [frame.plane for frame in flat], first.rows, first.columns)
    scaling = {(frame.slope, frame.intercept) for frame in flat}
    one = len(scaling) == 1
    dtype = first.dtype if one else np.dtype(np.float32)
    size = len(flat) * first.rows * first.columns * dtype.itemsize
    check_size(path, size, max(size, 1))
    volume = np.empty((len(flat), first.rows, first.columns), dtype)
    place = np.argsort(stack.order)
    number = 0
    for header, layout, group in zip(headers, layouts, frames, strict=True):
        for frame, values in zip(group, pixels(path, header, layout), strict=True):
            volume[place[number]] = values if one else _scaled(path, values, frame)
            number += 1
    sources = [
        (header, number if layout.frames > 1 else 0)
        for header, layout in zip(headers, layouts, strict=True)
        for number in range(1, layout.frames + 1)
    ]
    references = of_series(path, headers[0], [sources[index] for index in stack.order])
    slope, intercept = scaling.pop() if one else (1.0, 0.0)
    lossy = any(layout.lossy for layout in layouts)
    tilted = f"slices shift by {stack.tilt:.2f} voxels in their plane from first to last: tilted gantry"
    return Source(
        path,
        np.ascontiguousarray(volume.transpose(2, 1, 0))[None],
        stack.affine,
        "mm",
        slope,
        intercept,
        lossy=lossy,
        notes=(("gantry-tilt", tilted),) if stack.tilt > TOLERANCE else (),
        world=World("DICOM", {"planes": tuple(flat[index].plane for index in stack.order)}, references),
    )


def _scaled(path: Path, values: NDArray[Any], frame: DicomFrame) -> NDArray[Any]:
    """Real values of a slice that scales for itself."""
    with np.errstate(over="ignore"):
        real = (values * frame.slope + frame.intercept).astype(np.float32)
    if not np.isfinite(real).all():
        raise FormatError(path, f"{frame.plane.name}: rescale slope {frame.slope:g} makes values overflow")
    return real
