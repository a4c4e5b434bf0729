"""Reading the files of a checked case: its image, all channels on one grid, and its reference label map."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import RUN_STUDY, DataError
from medseg.formats.drawn import drawn
from medseg.formats.limits import file_limit
from medseg.formats.read import open_content, open_image, read_content
from medseg.formats.source import Source
from medseg.formats.table import suffix_of
from medseg.formats.world import World
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry, Placement, measured_alike, placement_in
from medseg.image.labels import LabelTable
from medseg.image.recode import AS_STORED as MEANT
from medseg.image.recode import Recoding, merge_classes
from medseg.ingest.manifest import Case
from medseg.reading import AS_STORED

# Fields of a case in the manifest that what is read does not depend on (files count by their digests and formats). A
# new field counts until it is named here.
NOT_READ = ("id", "subject", "site", "images", "labels", "label_counts", "remarks", "source")
REFERENCE = ("labels_sha256", "object_classes", "recodings")


def reading_facts(case: Case, table: LabelTable, *, reference: bool = False) -> dict[str, Any]:
    """All that reading a case depends on, as plain JSON values: part of every key by which an output of it is kept.

    Args:
        case: a row of the manifest.
        table: what the values of its label maps mean.
        reference: whether the reference label map is read too, not only the image.
    """
    left_out = NOT_READ if reference else (*NOT_READ, *REFERENCE)
    facts = {name: value for name, value in asdict(case).items() if name not in left_out}
    if case.reading == AS_STORED:
        # What was made of such a case before there was anything to declare is still what would be made.
        del facts["reading"]
    else:
        facts["reading"] = case.reading.to_json()
    if not case.recodings:
        facts.pop("recodings", None)
    elif reference:
        facts["recodings"] = [recoding.to_json() for recoding in case.recodings]
    files = (*case.images, *case.labels) if reference else case.images
    # The suffix chooses the reader: a.tif and a.ome.tif of the same bytes may be two images.
    formats = [suffix_of(Path(name)) for name in files]
    return {**facts, "geometry": case.geometry.to_json(), "formats": formats, "table": table.to_json()}


def read_case_image(case: Case, folder: Path) -> NDArray[Any]:
    """The image (C,*S) of a case, all channels on the grid of the first, NaN and Inf replaced as configured.

    Args:
        case: a row of the manifest.
        folder: the data set's folder.

    Raises:
        DataError: if a file is missing or changed since it was checked.
        FormatError: if one cannot be read.
    """
    return _joined(case, folder)[0]


def _joined(case: Case, folder: Path) -> tuple[NDArray[Any], World | None]:
    """The image of a case, as ``read_case_image`` gives it, and the world of its first file."""
    parts, worlds = [], []
    for name, sha256 in zip(case.images, case.images_sha256, strict=True):
        source = _checked(folder / name, sha256, case)
        image, grid = source.image(), grid_of(source, case.geometry)
        if not same_grid(grid, case.geometry):
            from medseg.image.resample import resample_to

            image = resample_to(image, grid, case.geometry, order=1)
        parts.append(image)
        worlds.append(source.world)
    return (np.concatenate(parts) if len(parts) > 1 else np.ascontiguousarray(parts[0])), worlds[0]


def open_case_image(case: Case, folder: Path) -> Source:
    """The image of a case as ``read_case_image`` gives it, to be read box by box.

    An image of one file stays on disk where its format allows that; others are in memory.
    Arguments and errors as for ``read_case_image``.
    """
    path = folder / case.images[0]
    if len(case.images) == 1:
        source = _checked(path, case.images_sha256[0], case, on_disk=True)
        if same_grid(grid_of(source, case.geometry), case.geometry):
            # The very grid of the manifest, so that all results of a case have one grid.
            return replace(source, affine=case.geometry.affine, unit=case.geometry.unit)
    image, world = _joined(case, folder)
    return Source.from_array(image, case.geometry, path, world)


def read_case_labels(case: Case, folder: Path) -> NDArray[Any]:
    """The reference label map (*S) of a case, values as in the label table, integers from end to end.

    A case with one mask file per object gets object numbers 1, 2, … in the order of its files.

    Raises:
        DataError: if the case has no reference, or a file is missing or changed since it was checked.
    """
    if not case.has_reference:
        raise DataError(f"case '{case.id}' has no reference label map")
    if not case.labels:
        return np.zeros(case.geometry.shape, np.uint8)
    recodings = case.recodings or (MEANT,) * len(case.labels)
    files = zip(case.labels, case.labels_sha256, recodings, strict=True)
    maps = [
        _labels_on_grid(_checked(folder / name, sha256, case, labels=True), case, recoding)
        for name, sha256, recoding in files
    ]
    if len(maps) == 1:
        return np.ascontiguousarray(maps[0])
    return merge_classes(maps)[0] if any(recoding.every for recoding in recodings) else merge_objects(maps)


def _labels_on_grid(source: Source, case: Case, recoding: Recoding) -> NDArray[Any]:
    """The values (*S) of a label file on the grid of the case."""
    source = drawn(source, case.geometry, recoding.values)
    part = part_of(source, grid_of(source, case.geometry), case.geometry)
    values = recoding.apply(source.labels(colours=recoding.colours))
    if part is None:
        return values
    from medseg.image.resample import placed

    return placed(values, part, case.geometry.shape)


def part_of(source: Source, found: Geometry, expected: Geometry) -> Placement | None:
    """Which part of the image's grid a label map covers, if what it leaves out is background by its header.

    That is so for files that list segments, wherever they lie; and for other files that begin further inside the image
    by whole voxels: whoever cut them has written where. One that begins where the image does, and ends before, may be
    torn off: it is no such part.

    Args:
        source: the label map.
        found: its grid.
        expected: grid of the image.

    Returns:
        None if it is on the image's very grid, or on none of its parts.
    """
    if source.affine is None or same_grid(found, expected):
        return None
    part = placement_in(found, expected)
    if part is None or not (source.sparse or (any(part.start) and not part.turned)):
        return None
    return part


def merge_objects(masks: list[NDArray[Any]]) -> NDArray[Any]:
    """One label map (*S) of object numbers from one mask (*S) per object; where masks overlap, the first keeps it."""
    merged = np.zeros(masks[0].shape, dtype=np.min_scalar_type(len(masks)))
    for number, mask in enumerate(masks, start=1):
        merged[(mask != 0) & (merged == 0)] = number
    return merged


def same_grid(found: Geometry, expected: Geometry) -> bool:
    """Whether two grids have one shape and agree within ``AFFINE_TOLERANCE_VOXELS`` at every corner."""
    alike = found.shape == expected.shape and measured_alike(found, expected)
    return alike and expected.corner_distance_voxels(found) <= AFFINE_TOLERANCE_VOXELS


def grid_of(source: Source, first: Geometry | None) -> Geometry:
    """The grid of a file of a case, in the unit of the ``first`` image's; one that states none has that grid."""
    grid = source.geometry
    if not source.states_grid and first is not None and first.dims == grid.dims:
        return replace(first, shape=grid.shape)
    return grid.in_unit(first.unit) if first is not None and measured_alike(grid, first) else grid


def _checked(path: Path, sha256: str, case: Case, *, labels: bool = False, on_disk: bool = False) -> Source:
    """A file, opened, whose digest is the one in the manifest; a changed file is an error (never stale data).

    Args:
        path, sha256: of the file.
        case: whose file it is.
        labels: whether it is a label map, whose grid and series do not matter.
        on_disk: leave its bytes on disk until boxes are read; else they are read once, hashed and decoded.
    """
    if not path.exists():
        raise DataError(
            f"{path}: missing since `medseg ingest`; put the file back, or, if `download` filled the folder, delete "
            f"what is left of that folder and {RUN_STUDY}, which fetches it again"
        )
    series = "" if labels else case.series
    reading = case.image_reading.of_labels if labels else case.image_reading
    # These very bytes passed `medseg ingest`, the limit on their size included.
    with file_limit(sys.maxsize):
        content = open_content(path, series) if on_disk else read_content(path, series)
        if content.sha256 != sha256:
            raise DataError(f"{path}: changed since `medseg ingest` (SHA-256 differs); run `medseg ingest` again")
        return open_image(path, content, reading=reading)
