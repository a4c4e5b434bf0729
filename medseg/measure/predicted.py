"""Files for the objects of predicted images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.formats.read import read_labels
from medseg.formats.source import Source
from medseg.formats.table import class_map, stem_of
from medseg.image.labels import LabelTable
from medseg.measure.files import OBJECT_FILES, Measured
from medseg.measure.scenes import scene_of
from medseg.measure.writer import ObjectWriter


@dataclass(frozen=True, slots=True)
class PredictedObjects:
    """Writes files for predicted images, each after its label map.

    Attributes:
        writer: what is written, and where.
        table: the model's label table.
        channels: names of its images' channels.
    """

    writer: ObjectWriter
    table: LabelTable
    channels: tuple[str, ...]

    @classmethod
    def create(cls, out: Path, kinds: Collection[str], table: LabelTable, channels: Sequence[str]) -> PredictedObjects:
        """The files of ``kinds`` (rows of ``OBJECT_FILES``) for predictions of a model in ``out``.

        Raises:
            DataError: if one needs objects, and the model predicts classes.
        """
        refused = sorted({OBJECT_FILES[k].option for k in kinds if OBJECT_FILES[k].objects and not table.instances})
        if refused:
            raise DataError(
                f"{', '.join(refused)}: the model predicts classes ({', '.join(table.class_names)}), not objects, so "
                "there is nothing to count and to measure one by one; train on data with `instances: true`, or take "
                "the connected parts of its predictions by `medseg measure --components`"
            )
        names = tuple(channels) if len(set(channels)) == len(channels) else ()
        return cls(ObjectWriter(out, frozenset(kinds)), table, names)

    def check(self, labels: Sequence[Path], images: Sequence[Path]) -> None:
        """Raise ``DataError`` if files of two label maps would have one name, or replace an image."""
        self.writer.check([self._name(path) for path in labels], {image.resolve() for image in images})

    def write(self, image: Path, source: Source, labels: Path) -> None:
        """Write the files of an image whose label map has just been written.

        Args:
            image: the file.
            source: the same, opened.
            labels: its label map, in the folder of the files or below it.
        """
        values, _ = read_labels(labels)
        classes: Mapping[int, int] | None = {value: k for k, value in enumerate(self.table.values, start=1)}
        if self.table.instances:
            classes = self._classes_of(values, labels)
        # Where there are no objects, each class is drawn as one.
        scene = replace(scene_of(values, source.geometry, image), class_names=self.table.class_names, classes=classes)
        name = self._name(labels)
        shown = (PurePosixPath(name).parent / image.name).as_posix()
        self.writer.write(name, Measured(shown, scene, source.image(), self.channels))

    def _classes_of(self, numbers: NDArray[Any], labels: Path) -> Mapping[int, int] | None:
        """Number -> class of the objects of a label map; None: there is but one class."""
        if len(self.table.class_names) == 1:
            return None
        values, _ = read_labels(class_map(labels))
        found, first = np.unique(numbers, return_index=True)
        channels = {value: k for k, value in enumerate(self.table.values, start=1)}
        of_objects = zip(found.tolist(), values.ravel()[first].tolist(), strict=True)
        return {number: channels[value] for number, value in of_objects if number}

    def _name(self, labels: Path) -> str:
        """Of an image's files, without a suffix: that of its label map, with the folders below that of all files."""
        return (labels.parent.relative_to(self.writer.out) / stem_of(labels)).as_posix()
