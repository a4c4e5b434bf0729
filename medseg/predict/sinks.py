"""Where a prediction goes: sinks take its slabs one after the other, on the voxels of the image."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from medseg.formats.table import format_of
from medseg.formats.world import About, World
from medseg.formats.write import write_labels
from medseg.image.labels import LabelTable
from medseg.image.objects import smallest_type
from medseg.models.spec import NetworkSpec
from medseg.predict.partial import LabelRoom, key_of, rows_done, unfinished
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.prepare import restore_labels

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.predict.spread import Uncertainty


class Frame(NamedTuple):
    """What all slabs of one prediction have in common.

    Attributes:
        record: how the image was prepared; slabs are parts of the box that it kept.
        axis: spatial axis of this box along which slabs follow one another.
        table: label table of the model.
        network: what the network was built from; its head says what its maps are.
        world: how the image's file says where its voxels are; None: unknown.
    """

    record: InverseRecord
    axis: int
    table: LabelTable
    network: NetworkSpec
    world: World | None = None


class Slab(NamedTuple):
    """A part of a prediction, on the voxels of the image.

    Objects are known when the maps of the whole image are: then slabs of logits alone come first, and one of labels
    alone comes last.

    Attributes:
        rows: its range along the axis of the frame.
        logits: (K, slab); or None.
        labels: (slab) channel indices in uint8, or of object data object numbers in uint32; or None.
        classes: of object numbers: (N + 1,) the channel index of each.
        uncertainty: where it is asked for: how sure the prediction is; of object data, beside logits.
    """

    rows: slice
    logits: Tensor | None
    labels: NDArray[Any] | None
    classes: NDArray[np.uint8] | None = None
    uncertainty: Uncertainty | None = None


Take = Callable[[Slab], None]
# Voxels of a label map up to which it is made in memory.
HELD_VOXELS = 2**26


class Sink(Protocol):
    """One way to keep a prediction."""

    def open(self, frame: Frame) -> AbstractContextManager[Take]:
        """A block within which slabs are taken; what is kept is complete when it ends without an error."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A sink that can go on where an earlier prediction of the image was killed."""

    def done(self, frame: Frame) -> int:
        """Rows along the axis of the frame that are there; they may be left out, or be given again."""
        ...


class LabelMap:
    """Keeps the label map in memory.

    Attributes:
        values: (S) values of the label table, or object numbers, on the image's grid, 0 outside the box; after the
            block.
        classes: of object data: (N + 1,) channel index of each number; after the block.
    """

    values: NDArray[Any]
    classes: NDArray[np.uint8] | None = None

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        objects = frame.table.instances
        box = np.zeros(frame.record.shape, dtype=np.uint32 if objects else np.uint8)
        before = (slice(None),) * frame.axis

        def take(slab: Slab) -> None:
            if slab.labels is not None:
                box[(*before, slab.rows)] = slab.labels
                self.classes = slab.classes

        yield take
        full = restore_labels(box, frame.record)
        self.values = full.astype(smallest_type(int(full.max(initial=0)))) if objects else frame.table.to_values(full)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """Writes the label map to a file, atomically, in the format that its suffix names.

    A large one lies in a file beside it until it is complete, and is never whole in memory.

    Attributes:
        path: of the file.
        classes: file for the class of each voxel, where objects have several classes; None: not written.
        references: whether a DICOM segmentation refers to its series.
        key: digest of all that the label map depends on: if the prediction of a large image is killed, a later one with
            this key goes on behind the rows that are done; empty: it begins again.
    """

    path: Path
    classes: Path | None = None
    references: bool = True
    key: str = ""

    def done(self, frame: Frame) -> int:
        """Rows along the axis of the frame that an earlier prediction has left."""
        return rows_done(self.path, self._key(frame)) if self.key and _on_disk(frame) else 0

    def _key(self, frame: Frame) -> str:
        return key_of(self.key, frame.record, frame.axis) if self.key else ""

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        grid, world = frame.record.native, frame.world
        if world is not None and not self.references:
            world = world.anonymous
        about = About.of_classes(world, frame.table.names)
        if _on_disk(frame):
            with unfinished(self.path, self._key(frame)) as (file, journal):
                room = LabelRoom(file, frame.record, frame.table, format_of(self.path).order)

                def put(slab: Slab) -> None:
                    assert slab.labels is not None
                    room.write(slab.rows, frame.axis, slab.labels)
                    journal.note(room, slab.rows)

                yield put
                write_labels(self.path, room, grid, about)
            return
        label_map = LabelMap()
        with label_map.open(frame) as take:
            yield take
        write_labels(self.path, label_map.values, grid, About(world) if frame.table.instances else about)
        if self.classes is not None and label_map.classes is not None:
            values = frame.table.to_values(label_map.classes[label_map.values])
            write_labels(self.classes, values, grid, about)


def _on_disk(frame: Frame) -> bool:
    """Whether a label map is too large to be held: that of objects is held, since those are found in it."""
    return math.prod(frame.record.native.shape) > HELD_VOXELS and not frame.table.instances
