"""Probabilities beside a label map, for post-processing that needs more than labels: one blosc2 array per case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import blosc2
import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.files import sha256_file, write_with

CHUNK = 64
T = TypeVar("T")
# Takes (K, slab) after (K, slab) along the axis that slabs are cut along.
Keep = Callable[[NDArray[np.float16]], None]


@dataclass(frozen=True, slots=True)
class Box:
    """The part of an image that was predicted.

    Attributes:
        axes, flips: how the image was turned first (see ``Geometry.reoriented``).
        start, shape: the box of the turned image.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    start: tuple[int, ...]
    shape: tuple[int, ...]


def write_probabilities(path: Path, channels: int, box: Box, axis: int, produce: Callable[[Keep], T]) -> T:
    """Write what ``produce`` hands over, slab by slab: as float16, compressed, atomically; never all of it in memory.

    Args:
        path: file to write.
        channels: K classes or regions.
        box: where they lie.
        axis: spatial axis of the box that slabs are cut along.
        produce: called once with the function that keeps a slab.

    Returns:
        What ``produce`` returned.
    """
    made: list[T] = []

    def write(temporary: Path) -> None:
        array = blosc2.empty(
            (channels, *box.shape),
            dtype=np.float16,
            urlpath=str(temporary),
            mode="w",
            chunks=(1, *[min(n, CHUNK) for n in box.shape]),
            cparams={"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1},
        )
        array.vlmeta["box"] = {k: list(getattr(box, k)) for k in Box.__slots__}
        held: list[NDArray[np.float16]] = []
        done = 0

        def flush() -> None:
            nonlocal done
            slab = np.concatenate(held, axis=axis + 1)
            held.clear()
            array[(slice(None),) * (axis + 1) + (slice(done, done + slab.shape[axis + 1]),)] = slab
            done += slab.shape[axis + 1]

        def keep(slab: NDArray[np.float16]) -> None:
            # Whole chunks only: one that is written twice leaves a hole in the file.
            while slab.shape[axis + 1]:
                free = CHUNK - sum(h.shape[axis + 1] for h in held)
                now, slab = np.split(slab, [free], axis=axis + 1)
                held.append(now)
                if now.shape[axis + 1] == free:
                    flush()

        made.append(produce(keep))
        if held:
            flush()

    write_with(path, write)
    return made[0]


def read_probabilities(path: Path, sha256: str) -> tuple[NDArray[np.float16], Box]:
    """Read (K, S) and where it lies.

    Raises:
        DataError: if the file is not the one that was written.
    """
    if not path.is_file() or sha256_file(path) != sha256:
        raise DataError(f"{path}: gone or changed since it was made; delete it and run `medseg predict` again")
    array: Any = blosc2.open(str(path), mode="r")
    box = array.vlmeta["box"]
    return np.asarray(array[...]), Box(*[tuple(box[k]) for k in Box.__slots__])
