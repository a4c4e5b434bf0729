"""Thresholds of probabilities as an operation: from probabilities to labels on the image's own grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.decoders import paint
from medseg.errors import ConfigError, DataError
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.postprocess.objects import refuse_objects
from medseg.predict.probabilities import Probabilities
from medseg.preprocess.prepare import put_back


def apply_threshold(
    probabilities: Probabilities, grid: Geometry, thresholds: Mapping[str, float], table: LabelTable
) -> NDArray[Any]:
    """Labels of one case: a region, or the only class, is where its probability is above its threshold.

    Args:
        probabilities: of the case.
        grid: of the image.
        thresholds: region or class -> threshold; others have 1/2.
        table: label table.

    Returns:
        (S) label values; background outside the box.

    Raises:
        DataError: if probabilities are of another number of maps.
    """
    values, box = probabilities
    if len(values) != table.channels:
        raise DataError(f"{len(values)} maps of probabilities for {table.channels}; run `medseg predict` again")
    names = table.target_names
    maps = values if table.regions else values[1:]
    above = (maps[k] > np.float32(thresholds.get(name, 0.5)) for k, name in enumerate(names))
    if table.regions:
        channels = paint((torch.from_numpy(region) for region in above), table).numpy()
    else:
        channels = next(above).astype(np.uint8)
    return table.to_values(put_back(channels, box, grid.shape))


def check_threshold(thresholds: Mapping[str, float], table: LabelTable, key: str) -> None:
    """Raise ``ConfigError`` unless what is predicted is regions, or one class, and the names are theirs."""
    refuse_objects(thresholds, table, key)
    if not can_threshold(table):
        raise ConfigError(f"{key}: of {table.classes} classes the largest probability wins; thresholds are for regions")
    unknown = sorted(set(thresholds) - set(table.target_names))
    if unknown:
        raise ConfigError(f"{key}: no region or class {unknown}; there are {list(table.target_names)}")


def can_threshold(table: LabelTable) -> bool:
    """Whether what is predicted is regions, or one class against background."""
    return not table.instances and (bool(table.regions) or len(table.names) == 1)
