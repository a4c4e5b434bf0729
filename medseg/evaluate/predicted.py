"""Predictions read back from their files: label channels, and objects where labels number them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.formats.read import open_image, read_recorded
from medseg.image.geometry import require_same_grid
from medseg.image.labels import LabelTable
from medseg.image.objects import ObjectMap, of_numbers
from medseg.ingest.manifest import Case
from medseg.predict.record import PredictedCase

MAKER = "medseg predict"


def read_prediction(
    folder: Path, case: Case, entry: PredictedCase, labels: LabelTable
) -> tuple[NDArray[np.uint8], ObjectMap | None]:
    """Label channels (S) of a prediction, on the grid of its case, and its objects, where labels number them.

    Args:
        folder: of the predictions.
        case: that was predicted.
        entry: of the case in the record of the predictions.
        labels: what label values mean.

    Raises:
        DataError: if a file is missing or changed since it was written, a value is no class, or objects of several
            classes have none.
        GeometryError: if a file is not on the grid of the case.
    """
    values = _read(folder, {"file": entry.file, "sha256": entry.sha256}, case)
    # "Not annotated" is no prediction.
    plain = replace(labels, ignore=None)
    if not labels.instances:
        return plain.to_channels(values), None
    if not labels.objects_have_classes:
        objects = of_numbers(values)
        return objects.channels, objects
    if entry.classes is None:
        raise DataError(
            f"prediction of case '{case.id}': objects of {len(labels.names)} classes, and no class map beside "
            f"{entry.file}; run `{MAKER}` again"
        )
    channels = replace(plain, instances=False).to_channels(_read(folder, entry.classes, case))
    if ((values > 0) != (channels > 0)).any():
        raise DataError(
            f"prediction of case '{case.id}': {entry.classes['file']} gives other voxels a class than {entry.file} has "
            f"objects in; run `{MAKER}` again"
        )
    objects = of_numbers(values, channels)
    return objects.channels, objects


def _read(folder: Path, file: Mapping[str, str], case: Case) -> NDArray[Any]:
    """Values (S) of a file of the predictions, if it is as recorded and on the grid of the case."""
    path = folder / file["file"]
    # Its header is that of the image, contradictions included, and is read in the same way; it says what its axes are.
    reading = replace(case.image_reading.of_labels, axes="")
    source = open_image(path, read_recorded(path, file["sha256"], MAKER), reading=reading)
    require_same_grid(source.geometry, case.geometry, f"prediction of case '{case.id}' ({path.name})")
    return np.ascontiguousarray(source.labels())
