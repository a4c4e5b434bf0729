"""Preparing one case: its key, the preparation itself, and the check whether it was done already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.files import digest_of
from medseg.image.labels import IGNORE, LabelTable
from medseg.image.objects import ObjectMap, lost, of_numbers
from medseg.ingest.cases import read_case_image, read_case_labels, reading_facts
from medseg.ingest.manifest import Case, Manifest
from medseg.patches.sampling import generator
from medseg.plan.plan import Grid
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.prepare import prepare_image, prepare_labels
from medseg.preprocess.store import kept_case, write_case
from medseg.progress import say
from medseg.results.folders import StoreFolder

# Foreground voxels remembered per class and case, to centre training patches on.
LOCATIONS_PER_CLASS = 1000


@dataclass(frozen=True, slots=True)
class Preparation:
    """How the cases of a data set are prepared.

    Attributes:
        manifest: the data set.
        grid: the grid that its cases are brought to.
        folder: where its files lie.
        code: digest of the code that prepares, part of each case's key.
    """

    manifest: Manifest
    grid: Grid
    folder: Path
    code: str


def case_key(case: Case, manifest: Manifest, grid: Grid, code: str) -> str:
    """Digest of everything a prepared case depends on."""
    facts = reading_facts(case, manifest.labels, reference=True)
    return digest_of({"case": facts, "grid": grid.preparation, "code": code})


def kept(case: Case, preparation: Preparation, out: Path) -> dict[str, Any] | None:
    """What the index says of a case that is in ``out``, whole and prepared from the same in the same way; or None."""
    key = case_key(case, preparation.manifest, preparation.grid, preparation.code)
    return kept_case(StoreFolder(out).case(case.id), key, objects=preparation.manifest.labels.instances)


def prepare_case(case: Case, preparation: Preparation, out: Path) -> dict[str, Any]:
    """Prepare one case into the store ``out``; what the index says of it."""
    key = case_key(case, preparation.manifest, preparation.grid, preparation.code)
    # The native image goes before the labels come.
    image, record = prepare_image(read_case_image(case, preparation.folder), case.geometry, preparation.grid)
    table = preparation.manifest.labels
    labels, objects = np.zeros(record.prepared_shape, dtype=np.uint8), None
    if case.labels:
        values = read_case_labels(case, preparation.folder)
        labels = prepare_labels(table.to_channels(values, case.object_classes), record)
        if table.instances:
            objects = _prepared_objects(values, labels, table, record, case.id)
    elif table.instances:
        objects = of_numbers(labels)
    locations = sample_locations(labels, table.classes, case.id)
    path = StoreFolder(out).case(case.id)
    return write_case(path, key, image, labels, locations, record, preparation.grid.slice_axis, objects)


def _prepared_objects(
    values: NDArray[Any], labels: NDArray[np.uint8], table: LabelTable, record: InverseRecord, case: str
) -> ObjectMap:
    """The objects of a case on the prepared grid; prints how many of them are too small for it.

    Args:
        values: (S) object numbers on the native grid, as in the file.
        labels: (S') label channels on the prepared grid.
        table: what the values mean.
        record: how the image was prepared.
        case: id, for the message.
    """
    numbers = prepare_labels(values, record)
    if gone := lost(values[table.foreground(values)], numbers):
        shown = ", ".join(map(str, gone[:5]))
        say(f"preprocess: case '{case}': {len(gone)} objects have no voxel on the prepared grid, first {shown}")
    return of_numbers(numbers, labels)


def sample_locations(labels: NDArray[Any], classes: int, case_id: str) -> NDArray[np.int32]:
    """Up to ``LOCATIONS_PER_CLASS`` voxels of each foreground class, rows (class, voxel).

    They are drawn by the case's id: drawn by its key, they would be others after any change of code, and so would
    weights trained on them. Where some voxels are not annotated, rows of class 0 are voxels that are, of any class:
    patches are taken there.
    """
    flat, rows = labels.ravel(), []
    for channel in range(0 if IGNORE in flat else 1, classes):
        voxels = np.flatnonzero(flat == channel if channel else flat != IGNORE)
        if len(voxels) > LOCATIONS_PER_CLASS:
            rng = generator(int(digest_of(case_id)[:8], 16), channel)
            voxels = voxels[np.sort(rng.choice(len(voxels), LOCATIONS_PER_CLASS, replace=False))]
        rows.append(np.column_stack([np.full(len(voxels), channel), *np.unravel_index(voxels, labels.shape)]))
    return np.concatenate(rows).astype(np.int32)
