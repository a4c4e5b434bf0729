"""Reading the files of a checked case: its image, all channels on one grid, and its reference label map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.image.content import Content
from medseg.image.formats import read_content, read_image, read_labels
from medseg.image.geometry import AFFINE_TOLERANCE_VOXELS, Geometry
from medseg.ingest.manifest import Case


def read_case_image(case: Case, folder: Path) -> NDArray[Any]:
    """The image (C,*S) of a case; a channel that comes on another grid than the first is resampled to it.

    Args:
        case: a row of the manifest.
        folder: the data set's folder.

    Raises:
        DataError: if a file changed since it was checked.
        FormatError: if one cannot be read.
    """
    parts = []
    for name, sha256 in zip(case.images, case.images_sha256, strict=True):
        path = folder / name
        image, grid = read_image(path, _checked(path, sha256, case.series), spacing=case.pixel_size)
        if not same_grid(grid, case.geometry):
            from medseg.image.resample import resample_to

            image = resample_to(image, grid, case.geometry, order=1)
        parts.append(image)
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def read_case_labels(case: Case, folder: Path) -> NDArray[Any]:
    """The reference label map (*S) of a case, values as in its files, integers from end to end.

    A case with one mask file per object gets object numbers 1, 2, … in the order of its files.

    Raises:
        DataError: if the case has no reference, or a file changed since it was checked.
    """
    if not case.labels:
        raise DataError(f"case '{case.id}' has no reference label map")
    maps = [
        read_labels(folder / name, _checked(folder / name, sha256, ""), spacing=case.pixel_size)[0]
        for name, sha256 in zip(case.labels, case.labels_sha256, strict=True)
    ]
    return maps[0] if len(maps) == 1 else merge_objects(maps)


def merge_objects(masks: list[NDArray[Any]]) -> NDArray[Any]:
    """One label map (*S) of object numbers from one mask (*S) per object; where masks overlap, the first keeps it."""
    merged = np.zeros(masks[0].shape, dtype=np.min_scalar_type(len(masks)))
    for number, mask in enumerate(masks, start=1):
        merged[(mask != 0) & (merged == 0)] = number
    return merged


def same_grid(found: Geometry, expected: Geometry) -> bool:
    """Whether two grids have one shape and agree within ``AFFINE_TOLERANCE_VOXELS`` at every corner."""
    same_shape = found.shape == expected.shape and found.unit == expected.unit
    return same_shape and expected.corner_distance_voxels(found) <= AFFINE_TOLERANCE_VOXELS


def _checked(path: Path, sha256: str, series: str) -> Content:
    """A file's content, with the digest that the manifest holds; a changed file is an error (never stale data)."""
    content = read_content(path, series)
    if content.sha256 != sha256:
        raise DataError(f"{path}: changed since `medseg ingest` (SHA-256 differs); run `medseg ingest` again")
    return content
