"""Arrays of Zarr 2 and Zarr 3 (zarr-specs.readthedocs.io): their metadata, and chunks that are read where a box is."""

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.content import Data
from medseg.formats.errors import FormatError
from medseg.formats.limits import check_memory, memory_budget
from medseg.formats.zarr.codecs import COMPRESSORS, FIX_CODEC, Codecs, crc32c

FIX_WRITE = "write it again with ome-zarr-py or another program that keeps to the specification"
# Number types: names of Zarr 3, which are those of NumPy; complex, text and structured ones are refused.
_TYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
# Stored types that come out wider, as in TIFF.
_WIDER: Mapping[str, str] = {"float16": "float32", "bool": "uint8"}
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
MAX_AXES, MAX_LENGTH = 5, 1 << 40
_EMPTY = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Array:
    """What the metadata of an array say.

    Attributes:
        shape: of the array.
        chunks: shape of a chunk, that is of what one file holds.
        inner: shape of the chunks inside a file (a shard); None: a file is a chunk.
        codecs: of a chunk.
        fill: number of voxels that are not stored.
        prefix, separator: names of chunks: ``prefix`` and the chunk's place along each axis.
        index_first: of shards: whether their index stands before the chunks.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    inner: tuple[int, ...] | None
    codecs: Codecs
    fill: float | int
    prefix: str
    separator: str
    index_first: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what is read, native byte order."""
        name = self.codecs.dtype.name
        return np.dtype(_WIDER.get(name, name))


def array_of(path: Path, version: int, record: Mapping[str, Any]) -> Array:
    """The array that ``.zarray`` (version 2) or ``zarr.json`` (version 3) describes.

    Raises:
        FormatError: for metadata that make no sense, number types and codecs that are not read.
    """
    try:
        found = _version_2(path, record) if version == 2 else _version_3(path, record)
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        cause = f"damaged metadata of the array ({type(error).__name__}: {str(error)[:80]})"
        raise FormatError(path, cause, FIX_WRITE) from None
    lengths = (*found.shape, *found.chunks, *(found.inner or ()))
    ranks = {len(found.shape), len(found.chunks), len(found.inner or found.chunks), len(found.codecs.axes)}
    if not 2 <= len(found.shape) <= MAX_AXES or len(ranks) != 1 or not all(1 <= n <= MAX_LENGTH for n in lengths):
        cause = f"an array of shape {found.shape[:8]} in chunks of {found.chunks[:8]}, expected 2 to {MAX_AXES} axes"
        raise FormatError(path, cause, FIX_WRITE)
    if found.inner is not None and any(n % k for n, k in zip(found.chunks, found.inner, strict=True)):
        raise FormatError(path, f"shards of {found.chunks} in chunks of {found.inner}", FIX_WRITE)
    check_memory(path, math.prod(found.inner or found.chunks) * found.codecs.dtype.itemsize)
    return found


def _version_2(path: Path, record: Mapping[str, Any]) -> Array:
    dtype = record["dtype"]
    if not isinstance(dtype, str) or not re.fullmatch(r"[<>|][a-z][0-9]{1,2}", dtype):
        raise FormatError(path, f"numbers of type {str(dtype)[:60]}, expected integers or real numbers", FIX_WRITE)
    if record.get("filters"):
        raise FormatError(path, f"chunks with filters {str(record['filters'])[:60]}", FIX_CODEC)
    compressor = record["compressor"]
    names = () if compressor is None else (_known(path, compressor["id"]),)
    shape = _lengths(record["shape"])
    order = record.get("order", "C")
    axes = tuple(range(len(shape)))
    codecs = Codecs(_dtype(path, np.dtype(dtype)), axes if order == "C" else axes[::-1], names)
    separator = _separator(path, record.get("dimension_separator", "."))
    return Array(shape, _lengths(record["chunks"]), None, codecs, _fill(path, record["fill_value"]), "", separator)


def _version_3(path: Path, record: Mapping[str, Any]) -> Array:
    if record["node_type"] != "array" or record["chunk_grid"]["name"] != "regular":
        raise FormatError(path, "no array of chunks of one shape", FIX_WRITE)
    name = record["data_type"]
    if name not in _TYPES:
        raise FormatError(path, f"numbers of type {str(name)[:60]}, expected integers or real numbers", FIX_WRITE)
    shape, chunks = _lengths(record["shape"]), _lengths(record["chunk_grid"]["configuration"]["chunk_shape"])
    keys = record["chunk_key_encoding"]
    default = keys["name"] == "default"
    separator = _separator(path, keys.get("configuration", {}).get("separator", "/" if default else "."))
    inner, index_first, codecs = None, False, record["codecs"]
    if [codec["name"] for codec in codecs] == ["sharding_indexed"]:
        sharding = codecs[0]["configuration"]
        inner, codecs = _lengths(sharding["chunk_shape"]), sharding["codecs"]
        index_first = sharding.get("index_location", "end") == "start"
        if [codec["name"] for codec in sharding["index_codecs"]] != ["bytes", "crc32c"]:
            raise FormatError(path, "shards whose index is not plain with a checksum", FIX_WRITE)
    stored = _codecs(path, name, len(shape), codecs)
    fill = _fill(path, record["fill_value"])
    return Array(shape, chunks, inner, stored, fill, f"c{separator}" if default else "", separator, index_first)


def _codecs(path: Path, name: str, rank: int, listed: Sequence[Mapping[str, Any]]) -> Codecs:
    """Codecs of version 3: perhaps a transposition, then bytes, then compressors."""
    rest = list(listed)
    axes = tuple(range(rank))
    if rest and rest[0]["name"] == "transpose":
        axes = tuple(rest.pop(0)["configuration"]["order"])
        if sorted(axes) != list(range(rank)):
            raise FormatError(path, f"axes in the order {axes}", FIX_WRITE)
    first = rest.pop(0)
    if first["name"] != "bytes":
        raise FormatError(path, f"codec {str(first['name'])[:40]!r}, expected 'bytes'", FIX_CODEC)
    endian = first.get("configuration", {}).get("endian", "little")
    dtype = _dtype(path, np.dtype(name).newbyteorder("<" if _is_little(endian) else ">"))
    checksum = 4 if rest and rest[-1]["name"] == "crc32c" else 0
    packed = rest[:-1] if checksum else rest
    return Codecs(dtype, axes, tuple(_known(path, codec["name"]) for codec in reversed(packed)), checksum)


def _is_little(endian: Any) -> bool:
    if endian not in ("little", "big"):
        raise ValueError(f"endian {str(endian)[:20]!r}")
    return bool(endian == "little")


def _known(path: Path, name: Any) -> str:
    if name not in COMPRESSORS:
        raise FormatError(path, f"chunks packed by {str(name)[:40]!r}, expected {', '.join(COMPRESSORS)}", FIX_CODEC)
    return str(name)


def _dtype(path: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.name not in _TYPES:
        raise FormatError(path, f"numbers of type {dtype}, expected integers or real numbers", FIX_WRITE)
    return dtype


def _lengths(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"lengths {str(values)[:60]}")
    return tuple(values)


def _separator(path: Path, value: Any) -> str:
    if value not in (".", "/"):
        raise FormatError(path, f"names of chunks with {str(value)[:8]!r}, expected '.' or '/'", FIX_WRITE)
    return str(value)


def _fill(path: Path, value: Any) -> float | int:
    """The number of voxels that are not stored; without one 0."""
    if value is None:
        return 0
    value = _SPECIAL.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, int | float):
        raise FormatError(path, f"fill_value {str(value)[:40]!r}, expected a number", FIX_WRITE)
    return value


class ArrayVoxels:
    """The numbers of an array; indexing with slices of step 1 reads the chunks that a box touches."""

    def __init__(self, path: Path, array: Array, files: Mapping[str, Data]) -> None:
        """Find the chunks among ``files``, by their names relative to the array's folder."""
        self._path, self._array = path, array
        self._budget = memory_budget()
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        # What is decoded at once: of a shard, single chunks are.
        self.piece = array.inner or array.chunks
        self.fill = _as_type(path, array.fill, self.dtype)
        grid = [-(-n // k) for n, k in zip(array.shape, array.chunks, strict=True)]
        number = r"(0|[1-9][0-9]{0,12})"
        name = re.compile(re.escape(array.prefix) + re.escape(array.separator).join([number] * len(grid)))
        self._chunks: dict[tuple[int, ...], Data] = {}
        for key, data in files.items():
            match = name.fullmatch(key)
            place = tuple(int(word) for word in match.groups()) if match else ()
            if match and all(k < n for k, n in zip(place, grid, strict=True)):
                self._chunks[place] = data
        self.absent = math.prod(grid) - len(self._chunks)

    def __getitem__(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """The numbers of a box, one slice per axis, native byte order."""
        bounds = [range(n)[s] for s, n in zip(box, self.shape, strict=True)]
        check_memory(self._path, math.prod(len(b) for b in bounds) * self.dtype.itemsize, self._budget)
        try:
            out = np.full([len(b) for b in bounds], self.fill, self.dtype)
        except MemoryError:
            size = math.prod(len(b) for b in bounds) * self.dtype.itemsize
            raise FormatError(self._path, f"needs {size} bytes of memory", "split the image", "too-large") from None
        for place in _touched(self._chunks.keys(), bounds, self._array.chunks):
            origin = [k * n for k, n in zip(place, self._array.chunks, strict=True)]
            if self._array.inner is None:
                data = self._chunks[place]
                self._put(out, bounds, origin, data[:], self._array.chunks)
            else:
                self._put_shard(out, bounds, origin, self._chunks[place], self._array.inner)
        return out

    def _put(
        self, out: NDArray[Any], bounds: Sequence[range], origin: Sequence[int], data: bytes, shape: Sequence[int]
    ) -> None:
        """The part of a chunk that begins at ``origin`` into the box ``out``."""
        numbers = self._array.codecs.decoded(self._path, data, shape)
        part = [range(max(b.start, at), min(b.stop, at + n)) for b, at, n in zip(bounds, origin, shape, strict=True)]
        source = tuple(slice(p.start - at, p.stop - at) for p, at in zip(part, origin, strict=True))
        target = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part, bounds, strict=True))
        out[target] = numbers[source]

    def _put_shard(
        self, out: NDArray[Any], bounds: Sequence[range], origin: Sequence[int], data: Data, inner: tuple[int, ...]
    ) -> None:
        """The chunks of a shard, whose index says where each lies."""
        grid = [n // k for n, k in zip(self._array.chunks, inner, strict=True)]
        size = 16 * math.prod(grid) + 4
        if size > len(data):
            raise FormatError(self._path, f"truncated: a shard of {len(data)} bytes with an index of {size}")
        index = data[:size] if self._array.index_first else data[len(data) - size :]
        if crc32c(index[:-4]) != struct.unpack("<I", index[-4:])[0]:
            raise FormatError(self._path, "damaged: the index of a shard has a wrong checksum")
        end = len(data) - (0 if self._array.index_first else size)
        entries = np.frombuffer(index[:-4], "<u8").reshape(*grid, 2)
        near = [range(b.start - at, b.stop - at) for b, at in zip(bounds, origin, strict=True)]
        inside = [range(max(0, b.start), min(n, b.stop)) for b, n in zip(near, self._array.chunks, strict=True)]
        for place in itertools.product(*_places(inside, inner)):
            start, length = (int(value) for value in entries[place])
            if (start, length) == (_EMPTY, _EMPTY):
                continue
            if start + length > end:
                raise FormatError(self._path, f"truncated: a chunk of a shard ends at byte {start + length} of {end}")
            begin = [at + k * n for at, k, n in zip(origin, place, inner, strict=True)]
            self._put(out, bounds, begin, data[start : start + length], inner)


def _as_type(path: Path, value: float | int, dtype: np.dtype[Any]) -> Any:
    """A number in a type, if it is one of that type."""
    with np.errstate(all="ignore"):
        try:
            found = np.array(value).astype(dtype)[()]
        except (OverflowError, ValueError):
            found = None
    exact = found is not None and (dtype.kind == "f" or found == value)
    if not exact:
        raise FormatError(path, f"fill_value {value} in numbers of type {dtype}", FIX_WRITE)
    return found


def _places(bounds: Sequence[range], shape: Sequence[int]) -> list[range]:
    """Places of the chunks that a box touches, per axis."""
    return [range(b.start // n, (b.stop - 1) // n + 1) for b, n in zip(bounds, shape, strict=True)]


def _touched(stored: Any, bounds: Sequence[range], shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The chunks that are stored and that a box touches; the shorter of the two lists is walked."""
    places = _places(bounds, shape)
    if math.prod(len(p) for p in places) <= len(stored):
        yield from (place for place in itertools.product(*places) if place in stored)
    else:
        yield from (p for p in stored if all(k in r for k, r in zip(p, places, strict=True)))
