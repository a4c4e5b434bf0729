"""Predicting an array: on the terms on which image files are predicted (``medseg.predict.terms``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.errors import DataError
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.machine import available_memory
from medseg.predict.finish import Finish, FinishedMap, finished_labels
from medseg.predict.memory import Memory
from medseg.predict.predictor import Predictor, require_fit
from medseg.predict.sinks import LabelMap
from medseg.predict.terms import Terms, doubts_of_headers, refuse
from medseg.predict.voxels import read_whole

# What messages call it.
NAME = "array"
NO_WORLD = "an array with a spacing, which does not say where its axes point"


def predict_array(
    image: NDArray[Any],
    predictor: Predictor,
    terms: Terms,
    *,
    spacing: Sequence[float] | None = None,
    affine: ArrayLike | None = None,
    unit: str | None = None,
    finish: Finish | None = None,
) -> LabelMap:
    """The label map of an image in memory.

    Args:
        image: (C, S), or (S) for a model of one channel; axes as a file of such images has them (NIfTI: first axis x).
        predictor: of the model.
        terms: on which images are taken.
        spacing: voxel size per axis; of a volume whose axes have a meaning only with ``no-orientation`` allowed.
        affine: in place of it, the matrix from voxels to the world (of a volume, RAS+).
        unit: of both: ``mm``, ``um``, ``px``; None: the model's.
        finish: the operations that belong to the model; None: the network's own labels.

    Returns:
        Values of the label table or object numbers (S), and the class of each number.

    Raises:
        DataError: if the image does not fit the model, is doubtful, or too large.
    """
    grid = predictor.plan.grid
    source = _source(image, grid.dims, grid.oriented, spacing, affine, unit or grid.unit)
    require_fit(source.geometry, source.shape[0], NAME, predictor.checkpoint, world=affine is not None)
    refuse(doubts_of_headers([source], terms))
    Memory(predictor.plan, predictor.device, available_memory()).require(NAME, source.shape[0], source)
    whole, _ = read_whole([source], terms)
    if finish is not None:
        found = FinishedMap(finish, whole)
        predictor.predict(whole, NAME, [found])
        return finished_labels(found, predictor.checkpoint.labels)
    kept = LabelMap()
    predictor.predict(whole, NAME, [kept])
    return kept


def _source(
    image: NDArray[Any],
    dims: int,
    oriented: bool,
    spacing: Sequence[float] | None,
    affine: ArrayLike | None,
    unit: str,
) -> Source:
    """The array as an opened image."""
    if image.dtype.kind not in "iufb" or image.ndim not in (dims, dims + 1) or 0 in image.shape:
        raise DataError(
            f"{NAME}: {image.ndim} axes {image.shape} of {image.dtype}; expected numbers with {dims} axes, or channels "
            f"and {dims} axes"
        )
    channels = image.astype(np.uint8) if image.dtype == bool else image
    channels = channels if image.ndim > dims else channels[None]
    if (spacing is None) == (affine is None):
        raise DataError(f"{NAME}: give either `spacing` ({dims} numbers, in {unit}) or `affine`")
    if affine is not None:
        return Source.from_array(channels, Geometry.create(channels.shape[1:], np.asarray(affine), unit), Path(NAME))
    sizes = [float(size) for size in spacing or ()]
    if len(sizes) != dims or not all(0 < size < np.inf for size in sizes):
        raise DataError(f"{NAME}: spacing {sizes}; expected {dims} numbers above 0, one per axis")
    made = Source.from_array(channels, Geometry.from_spacing(channels.shape[1:], sizes, unit), Path(NAME))
    return replace(made, notes=(("no-orientation", NO_WORLD),)) if oriented else made
