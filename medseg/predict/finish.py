"""What happens to a label map before it is written: the post-processing that belongs to a model.

The operations are another room's (``medseg.postprocess``); here is where they are put between network and file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medseg.files import sha256_file
from medseg.formats.source import Source
from medseg.formats.world import About
from medseg.formats.write import write_labels
from medseg.image.labels import LabelTable
from medseg.predict.probabilities import Probabilities, ProbabilityFile, read_probabilities
from medseg.predict.sinks import Frame, LabelFile, LabelMap, Sink, Slab, Take


class Finish(Protocol):
    """Operations on the prediction of one image."""

    @property
    def key(self) -> str:
        """Digest of all that they depend on besides the prediction and the image."""
        ...

    @property
    def wants_probabilities(self) -> bool:
        """Whether they work on probabilities."""
        ...

    def __call__(
        self,
        labels: NDArray[Any],
        classes: NDArray[Any] | None,
        probabilities: Callable[[], Probabilities],
        source: Source,
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The label map, and the class map, that come out.

        Args:
            labels: (S) file values, on the image's grid.
            classes: (S) class values of objects of several classes.
            probabilities: reads them.
            source: the image.

        Raises:
            DataError: if they take more memory than there is.
        """
        ...


@dataclass(slots=True)
class FinishedMap:
    """A sink that keeps the label map after the operations in memory.

    Attributes:
        finish: the operations.
        source: the image.
        values: (S) values of the label table, or object numbers; after the block.
        classes: (S) class values of objects of several classes; after the block.
    """

    finish: Finish
    source: Source
    values: NDArray[Any] = field(init=False)
    classes: NDArray[Any] | None = None

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        label_map = LabelMap()
        with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
            beside = Path(folder) / "probabilities"
            sinks: list[Sink] = [label_map, *([ProbabilityFile(beside)] if self.finish.wants_probabilities else [])]
            with contextlib.ExitStack() as opened:
                takers = [opened.enter_context(sink.open(frame)) for sink in sinks]

                def take(slab: Slab) -> None:
                    for one in takers:
                        one(slab)

                yield take
            table, grid = frame.table, frame.record.native
            before = None
            if table.objects_have_classes and label_map.classes is not None:
                before = table.to_values(label_map.classes[label_map.values])
            source = replace(self.source, affine=grid.affine, unit=grid.unit)
            self.values, self.classes = self.finish(
                label_map.values, before, lambda: read_probabilities(beside, sha256_file(beside)), source
            )


@dataclass(frozen=True, slots=True)
class FinishedFile:
    """A sink that writes the label map after the operations, as ``LabelFile`` writes the network's own.

    Attributes:
        file: where, and how.
        finish: the operations.
        source: the image.
    """

    file: LabelFile
    finish: Finish
    source: Source

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        finished = FinishedMap(self.finish, self.source)
        with finished.open(frame) as take:
            yield take
        table, grid = frame.table, frame.record.native
        world = frame.world if frame.world is None or self.file.references else frame.world.anonymous
        about = About.of_classes(world, table.names)
        write_labels(self.file.path, finished.values, grid, About(world) if table.instances else about)
        if self.file.classes is not None and finished.classes is not None:
            write_labels(self.file.classes, finished.classes, grid, about)


def finished_labels(found: FinishedMap, table: LabelTable) -> LabelMap:
    """A finished map as ``LabelMap`` has one: with the channel index of each object number."""
    kept = LabelMap()
    kept.values = found.values
    if found.classes is not None:
        numbers, first = np.unique(found.values, return_index=True)
        kept.classes = np.zeros(int(numbers.max(initial=0)) + 1, np.uint8)
        plain = replace(table, instances=False, ignore=None)
        kept.classes[numbers] = plain.to_channels(found.classes.ravel()[first])
    return kept
