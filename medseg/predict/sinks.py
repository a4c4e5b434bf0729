"""Where a prediction goes: sinks take its slabs one after the other, on the voxels of the image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.formats.write import write_labels
from medseg.image.labels import LabelTable
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.prepare import restore_labels

if TYPE_CHECKING:
    from torch import Tensor


class Frame(NamedTuple):
    """What all slabs of one prediction have in common.

    Attributes:
        record: how the image was prepared; slabs are parts of the box that it kept.
        axis: spatial axis of this box along which slabs follow one another.
        table: label table of the model.
    """

    record: InverseRecord
    axis: int
    table: LabelTable


class Slab(NamedTuple):
    """A part of a prediction, on the voxels of the image.

    Attributes:
        rows: its range along the axis of the frame.
        logits: (K, slab).
        labels: channel indices (slab), uint8.
    """

    rows: slice
    logits: Tensor
    labels: Tensor


Take = Callable[[Slab], None]


class Sink(Protocol):
    """One way to keep a prediction."""

    def open(self, frame: Frame) -> AbstractContextManager[Take]:
        """A block within which slabs are taken; what is kept is complete when it ends without an error."""
        ...


class LabelMap:
    """Keeps the label map in memory.

    Attributes:
        values: (S) values of the label table on the image's grid, 0 outside the box; after the block.
    """

    values: NDArray[Any]

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        box = np.zeros(frame.record.shape, dtype=np.uint8)
        before = (slice(None),) * frame.axis

        def take(slab: Slab) -> None:
            box[(*before, slab.rows)] = slab.labels.numpy()

        yield take
        self.values = frame.table.to_values(restore_labels(box, frame.record))


@dataclass(frozen=True, slots=True)
class LabelFile:
    """Writes the label map to a file, atomically, in the format that its suffix names."""

    path: Path

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        label_map = LabelMap()
        with label_map.open(frame) as take:
            yield take
        write_labels(self.path, label_map.values, frame.record.native)
