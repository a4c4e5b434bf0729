"""Arrays of prepared cases: chunked blosc2 frames, read by boxes where they lie in a file; small ones stay decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.explained import explain

CHUNK = 64
SLICE_CHUNK = 256
# Arrays up to this size stay decoded in a process that reads them, up to so much in all.
DECODED_ARRAY_BYTES, DECODED_BYTES = 8 << 20, 512 << 20


@dataclass
class _Decoded:
    """Cache of small decoded arrays, since training reads the same ones again and again.

    Attributes:
        arrays: by path, place in the file, and the file's size, time and number; read-only.
        size: their bytes.
    """

    arrays: dict[tuple[Any, ...], NDArray[Any]] = field(default_factory=dict)
    size: int = 0

    def has_room(self, size: int) -> bool:
        """Whether an array of ``size`` bytes is small enough to keep; arrays that were kept first stay."""
        return size <= DECODED_ARRAY_BYTES and self.size + size <= DECODED_BYTES

    def keep(self, key: tuple[Any, ...], array: NDArray[Any]) -> None:
        """Keep an array for which ``has_room`` was true."""
        array.flags.writeable = False
        self.arrays[key] = array
        self.size += array.nbytes


_decoded = _Decoded()


def opened_frame(path: Path, start: int) -> Any:
    """A blosc2 array as it lies in a file, to be decoded box by box."""
    return blosc2.open(str(path), mode="r", offset=start)


def opened_locations(path: Path, start: int) -> Any:
    """A numpy array as ``np.save`` writes it, whole."""
    with open(path, "rb") as file:
        file.seek(start)
        return np.load(file, allow_pickle=False)


def read_array(key: tuple[Any, ...], box: Any, opened: Callable[[Path, int], Any] = opened_frame) -> NDArray[Any]:
    """A box of an array, possibly read-only.

    Args:
        key: path, first byte, and all by which another file there is told from this one.
        box: of the array.
        opened: gives the array, or what decodes boxes of it.
    """
    path, start, *_ = key
    array: NDArray[Any]
    if key in _decoded.arrays:
        array = _decoded.arrays[key][box]
        return array
    try:
        stored = opened(path, start)
        if not _decoded.has_room(math.prod(stored.shape) * stored.dtype.itemsize):
            array = stored[box]
            return array
        whole: NDArray[Any] = stored[...]
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        if explain(error) is not None:
            raise
        raise DataError(f"{path}: damaged or missing ({error}); run `medseg preprocess` again") from error
    _decoded.keep(key, whole)
    array = whole[box]
    return array


def write_array(path: Path, array: NDArray[Any], lead: int, slice_axis: int | None) -> None:
    """Write an array to a file, its first ``lead`` axes channels, in chunks like the patches that training reads."""
    blosc2.asarray(np.ascontiguousarray(array), urlpath=str(path), mode="w", **_compression(array, lead, slice_axis))


def frame(array: NDArray[Any], slice_axis: int | None) -> bytes:
    """The bytes of an array (S), as ``write_array`` would write them."""
    made: bytes = blosc2.asarray(np.ascontiguousarray(array), **_compression(array, 0, slice_axis)).to_cframe()
    return made


def _compression(array: NDArray[Any], lead: int, slice_axis: int | None) -> dict[str, Any]:
    flat = array.ndim - lead == 2 or slice_axis is not None
    chunks = [min(n, SLICE_CHUNK if flat else CHUNK) for n in array.shape]
    for axis in (*range(lead), *(() if slice_axis is None else (slice_axis + lead,))):
        chunks[axis] = 1
    return {"chunks": tuple(chunks), "cparams": {"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1}}
