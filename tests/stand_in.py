"""Writing labels as a prediction of an image is written, without a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.formats.source import Source
from medseg.image.labels import LabelTable
from medseg.models.spec import NetworkSpec
from medseg.predict.sinks import Frame, Sink, Slab
from medseg.preprocess.inverse import InverseRecord

NETWORK = NetworkSpec(3, 1, 3, (8,), ((1, 1, 1),), ((3, 3, 3),))


def sink_labels(source: Source, channels: np.ndarray, table: LabelTable, sinks: Sequence[Sink]) -> None:
    """Give sinks the channel indices (*S) of a whole image, as the pipeline does."""
    grid = source.geometry
    axes, nothing = tuple(range(grid.dims)), (0,) * grid.dims
    record = InverseRecord(grid, axes, (False,) * grid.dims, nothing, grid.shape, grid.shape)
    for sink in sinks:
        with sink.open(Frame(record, 0, table, NETWORK, source.world)) as take:
            take(Slab(slice(0, grid.shape[0]), None, channels.astype(np.uint8)))
