"""Probabilities beside a label map, for operations that need more than labels: one blosc2 array per case."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import blosc2
import numpy as np
from numpy.typing import NDArray

from medseg.decoders import decoder_of
from medseg.errors import DataError
from medseg.files import atomic_path, sha256_file
from medseg.predict.sinks import Frame, Slab, Take
from medseg.preprocess.inverse import KeptBox

CHUNK = 64


class Probabilities(NamedTuple):
    """Probabilities of one case.

    Attributes:
        values: (K, box.shape) of classes, or (R, box.shape) of regions; float16.
        box: the part of the image that they cover.
    """

    values: NDArray[np.float16]
    box: KeptBox


@dataclass(frozen=True, slots=True)
class ProbabilityFile:
    """A sink that writes the probabilities to a file: float16, compressed, atomically; never all of it in memory."""

    path: Path

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        decoder = decoder_of(frame.table, frame.network.head)
        with _array_writer(self.path, frame.network.out_channels, frame.record.box, frame.axis) as writer:

            def take(slab: Slab) -> None:
                if slab.logits is not None:
                    writer.append(decoder.probabilities(slab.logits, frame.table).half().numpy())

            yield take


@contextlib.contextmanager
def _array_writer(path: Path, channels: int, box: KeptBox, axis: int) -> Iterator[_ChunkWriter]:
    """A writer of a new array (channels, box) that appears under ``path`` when the block ends without an error."""
    with atomic_path(path) as temporary:
        array = blosc2.empty(
            (channels, *box.shape),
            dtype=np.float16,
            urlpath=str(temporary),
            mode="w",
            chunks=(1, *[min(n, CHUNK) for n in box.shape]),
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1},
        )
        array.vlmeta["box"] = {name: list(values) for name, values in asdict(box).items()}
        writer = _ChunkWriter(array, axis + 1)
        yield writer
        writer.flush()


class _ChunkWriter:
    """Appends slabs to an array along an axis, in whole chunks: one that is written twice leaves a hole in the file."""

    def __init__(self, array: Any, axis: int) -> None:
        self._array, self._axis = array, axis
        self._held: list[NDArray[np.float16]] = []
        self._done = 0

    def append(self, slab: NDArray[np.float16]) -> None:
        """Write what fills chunks and hold the rest."""
        while slab.shape[self._axis]:
            free = CHUNK - self._rows(self._held)
            now, slab = np.split(slab, [free], axis=self._axis)
            self._held.append(now)
            if now.shape[self._axis] == free:
                self.flush()

    def flush(self) -> None:
        """Write what is held."""
        rows = self._rows(self._held)
        if rows:
            where = (slice(None),) * self._axis + (slice(self._done, self._done + rows),)
            self._array[where] = np.concatenate(self._held, axis=self._axis)
            self._held.clear()
            self._done += rows

    def _rows(self, slabs: Sequence[NDArray[np.float16]]) -> int:
        return sum(slab.shape[self._axis] for slab in slabs)


def read_probabilities(path: Path, sha256: str) -> Probabilities:
    """Read the probabilities of a case and where they lie.

    Raises:
        DataError: if the file is missing or not the one that was written.
    """
    if not path.is_file() or sha256_file(path) != sha256:
        raise DataError(f"{path}: missing or changed since it was made; delete it and run `medseg predict` again")
    array: Any = blosc2.open(str(path), mode="r")
    box = array.vlmeta["box"]
    return Probabilities(np.asarray(array[...]), KeptBox(*[tuple(box[field.name]) for field in fields(KeptBox)]))
