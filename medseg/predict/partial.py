"""The label map of a large image while it is made: in a file, row by row, so that a killed prediction goes on there."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError, PredictionError
from medseg.files import digest_of, writer_lock
from medseg.image.labels import LabelTable
from medseg.image.resample import reorient_back
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.rows import native_box
from medseg.records import read_record, write_record

# Seconds after which what is done is noted anew.
NOTED_S = 10.0
LABELS, JOURNAL = "labels.u8", "journal.json"

Order = Literal["C", "F"]


class LabelRoom:
    """The label map (*S) of an image in a file: channel indices, 8 bits each, of which boxes are written and read.

    Nothing of it stays in the memory of the process: the file is mapped for a moment.

    Args:
        file: open for reading and writing.
        record: how the image was prepared.
        table: values that are read in place of channel indices.
        order: which axis of the image runs fastest in the file: the last (C) or the first (F).
    """

    def __init__(self, file: BinaryIO, record: InverseRecord, table: LabelTable, order: Order) -> None:
        self._file, self._record, self._table, self._order = file, record, table, order
        self.shape = record.native.shape
        self.dtype: np.dtype[Any] = table.to_values(np.zeros(1, dtype=np.uint8)).dtype
        size = math.prod(self.shape)
        if os.fstat(file.fileno()).st_size != size:
            os.ftruncate(file.fileno(), 0)
            os.ftruncate(file.fileno(), size)

    def write(self, rows: slice, axis: int, labels: NDArray[np.uint8]) -> None:
        """Write rows along an axis of the box that preparation kept."""
        box = self._record.box
        mapped = self._mapped("r+")
        mapped[native_box(self.shape, box, rows, axis)] = reorient_back(labels, box.axes, box.flips)

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """The values of a box."""
        return self._table.to_values(np.asarray(self._mapped("r")[box]))

    def flush(self) -> None:
        """Have everything that was written on the disk."""
        os.fsync(self._file.fileno())

    def _mapped(self, mode: Literal["r", "r+"]) -> NDArray[np.uint8]:
        return np.memmap(self._file, dtype=np.uint8, mode=mode, shape=self.shape, order=self._order)


@dataclass(slots=True)
class Journal:
    """Which rows of a label map are in its file.

    Attributes:
        path: where that is written down; None: nowhere.
        key: digest of all that the label map depends on.
        done: rows from the first one on.
        noted: when it was written down.
    """

    path: Path | None
    key: str
    done: int = 0
    noted: float = 0.0

    def note(self, room: LabelRoom, rows: slice) -> None:
        """Note that rows are written; now and then it is written down, after the rows are on the disk."""
        self.done = max(self.done, rows.stop) if rows.start <= self.done else self.done
        if self.path is not None and time.monotonic() - self.noted >= NOTED_S:
            room.flush()
            write_record(self.path, {"key": self.key, "rows": self.done})
            self.noted = time.monotonic()


def folder_of(path: Path) -> Path:
    """Where the unfinished label map of a file lies."""
    return path.with_name(f".{path.name}.part")


def key_of(key: str, record: InverseRecord, axis: int) -> str:
    """Digest of a key and of the rows that a journal counts."""
    return digest_of([key, record.to_json(), axis])


def rows_done(path: Path, key: str) -> int:
    """How many rows of a label map an earlier run has left, made from the same."""
    folder = folder_of(path)
    try:
        found = read_record(folder / JOURNAL, "")
        return int(found["rows"]) if found["key"] == key and (folder / LABELS).is_file() else 0
    except (DataError, KeyError, TypeError, ValueError):
        return 0


@contextlib.contextmanager
def unfinished(path: Path, key: str) -> Iterator[tuple[BinaryIO, Journal]]:
    """The file of the label map that will lie at ``path``, and its journal.

    Both go when the block ends, if all is well or the image itself is at fault. A process that ends within the block
    leaves them for a later run, and so does any other error.

    Args:
        path: of the label map.
        key: as ``key_of`` gives it; empty: it is not kept for a later run.
    """
    if not key:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent) as file:
            yield file, Journal(None, "")
        return
    folder = folder_of(path)
    with writer_lock(folder):
        done = rows_done(path, key)
        if not done:
            for name in (JOURNAL, LABELS):
                (folder / name).unlink(missing_ok=True)
        labels = folder / LABELS
        labels.touch()
        try:
            with open(labels, "r+b") as file:
                yield file, Journal(folder / JOURNAL, key, done, time.monotonic())
        except (DataError, PredictionError):
            # It would fail again.
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
