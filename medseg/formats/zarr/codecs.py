"""How the bytes of a chunk become numbers: the compressors of Zarr 2 and the codecs of Zarr 3.

Every chunk has a size that is known beforehand; what unpacks to another one is damaged.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError
from medseg.formats.streams import unpack

# What decompresses (path, packed bytes, size of the content) -> the content.
Unpack = Callable[[Path, bytes, int], bytes | bytearray]
FIX_CODEC = "write it again with blosc, zstd or gzip, the usual ones"
_BLOSC_HEADER = 16


def _blosc(path: Path, data: bytes, size: int) -> bytes:
    import imagecodecs

    # The header says how much it unpacks to, and how long it is itself; nothing is allocated for other claims.
    content, _, packed = struct.unpack_from("<III", data.ljust(_BLOSC_HEADER, b"\0"), 4)
    if content != size or packed != len(data):
        cause = f"a chunk of {len(data)} bytes with {content} bytes of content by its header, expected {size}"
        raise FormatError(path, f"truncated or damaged: {cause}")
    return bytes(imagecodecs.blosc_decode(data, numthreads=1))


def _zstd(path: Path, data: bytes, size: int) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.zstd_decode(data, out=size + 1))


def _lz4(path: Path, data: bytes, size: int) -> bytes:
    import imagecodecs

    # The size stands before the block.
    if len(data) < 4 or struct.unpack_from("<I", data)[0] != size:
        raise FormatError(path, f"truncated or damaged: a chunk of LZ4 that is not of {size} bytes")
    return bytes(imagecodecs.lz4_decode(data[4:], out=size + 1))


def _gzip(path: Path, data: bytes, size: int) -> bytearray:
    return unpack(path, data, size, "gzip")


def _zlib(path: Path, data: bytes, size: int) -> bytearray:
    return unpack(path, data, size, "zlib")


def _bz2(path: Path, data: bytes, size: int) -> bytearray:
    return unpack(path, data, size, "bzip2")


# Names of compressors, in both versions.
COMPRESSORS: Mapping[str, Unpack] = {
    "blosc": _blosc,
    "zstd": _zstd,
    "numcodecs.zstd": _zstd,
    "lz4": _lz4,
    "numcodecs.lz4": _lz4,
    "gzip": _gzip,
    "numcodecs.gzip": _gzip,
    "zlib": _zlib,
    "numcodecs.zlib": _zlib,
    "bz2": _bz2,
    "numcodecs.bz2": _bz2,
}


@dataclass(frozen=True, slots=True)
class Codecs:
    """How a chunk is stored.

    Attributes:
        dtype: of its numbers, with their byte order.
        axes: order in which the array's axes are stored, the slowest first.
        compressors: in the order in which they unpack, each of them a key of ``COMPRESSORS``.
        checksum: bytes behind the chunk that are its CRC-32C; these are cut off.
    """

    dtype: np.dtype[Any]
    axes: tuple[int, ...]
    compressors: tuple[str, ...]
    checksum: int = 0

    def decoded(self, path: Path, data: bytes, shape: Sequence[int]) -> NDArray[Any]:
        """The numbers of a chunk of ``shape``.

        Raises:
            FormatError: if it is damaged or of another size.
        """
        size = math.prod(shape) * self.dtype.itemsize
        plain: bytes | bytearray = data[: len(data) - self.checksum] if self.checksum else data
        try:
            for name in self.compressors:
                plain = COMPRESSORS[name](path, bytes(plain), size)
        except FormatError:
            raise
        except Exception as error:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise FormatError(path, f"damaged chunk ({cause})") from error
        if len(plain) != size:
            raise FormatError(path, f"truncated or damaged: a chunk of {len(plain)} bytes, expected {size}")
        stored = np.frombuffer(plain, self.dtype).reshape([shape[axis] for axis in self.axes])
        return stored.transpose(np.argsort(self.axes))


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few bytes, as the index of a shard ends with."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()
