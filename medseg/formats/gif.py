"""GIF (Version 89a, CompuServe): one picture of indexed colours."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.formats.content import Content
from medseg.formats.errors import FormatError
from medseg.formats.limits import check_size, held
from medseg.formats.palette import Table, distinct_greys
from medseg.formats.source import Source

_EXTENSION, _PICTURE, _TRAILER = 0x21, 0x2C, 0x3B
# A code of LZW has 3 bits or more and stands for 4096 pixels at most.
MAX_RATIO = 4096 * 8 // 3


@dataclass(frozen=True, slots=True)
class _Frame:
    """A picture in a GIF: its place on the canvas, its colours, where it begins and ends, and its bytes."""

    left: int
    top: int
    columns: int
    rows: int
    table: Table | None
    begin: int
    end: int


def open_gif(path: Path, content: Content) -> Source:
    """Open a GIF; see ``medseg.formats.read.open_image`` for the contract.

    Gives the greys where all colours are greys; else the indices and the colour table. The colour that is marked as
    transparent is a colour like others.
    """
    import imagecodecs

    data = held(path, content.main)
    canvas, frame = _only_frame(path, data)
    if (frame.left, frame.top, frame.columns, frame.rows) != (0, 0, *canvas) or not frame.rows * frame.columns:
        cause = f"a picture of {frame.columns} x {frame.rows} on a canvas of {canvas[0]} x {canvas[1]}"
        raise FormatError(path, cause, "save it again, with the canvas as large as the picture")
    if frame.table is None:
        raise FormatError(path, "damaged GIF: no colour table")
    # Beside the indices, the decoder keeps a line and its table alone.
    check_size(path, 2 * frame.rows * frame.columns, (frame.end - frame.begin) * MAX_RATIO)
    try:
        picture = np.asarray(imagecodecs.gif_decode(data, index=0, asrgb=False))
    except (imagecodecs.GifError, ValueError, MemoryError) as error:
        raise FormatError(path, f"damaged GIF data ({' '.join(str(error).split())[:200]})") from None
    if picture.size != frame.rows * frame.columns or picture.dtype != np.uint8:
        raise FormatError(path, f"damaged GIF: {picture.shape} of {frame.rows} x {frame.columns} pixels")
    voxels = picture.reshape(1, frame.rows, frame.columns)
    greys = distinct_greys(path, voxels, frame.table)
    return Source(path, voxels, palette=frame.table) if greys is None else Source(path, greys)


def _only_frame(path: Path, data: bytes) -> tuple[tuple[int, int], _Frame]:
    """Columns and rows of the canvas, and the only picture; all blocks are walked to the end of the file."""
    if len(data) < 13:
        raise _truncated(path, data)
    columns, rows, flags = struct.unpack_from("<HHB", data, 6)
    shared, at = _table(path, data, 13, flags)
    frames: list[_Frame] = []
    while (kind := _byte(path, data, at)) != _TRAILER:
        if kind == _EXTENSION:
            at = _behind_blocks(path, data, at + 2)
        elif kind == _PICTURE:
            frame, at = _frame(path, data, at, shared)
            frames.append(frame)
        else:
            raise FormatError(path, f"damaged GIF: a block of kind {kind} at byte {at}")
    if at + 1 != len(data):
        raise FormatError(path, f"{len(data) - at - 1} bytes follow the end of the GIF")
    if len(frames) != 1:
        raise FormatError(path, f"a GIF of {len(frames)} pictures, expected one", "store one picture per file, as PNG")
    return (columns, rows), frames[0]


def _frame(path: Path, data: bytes, at: int, shared: Table | None) -> tuple[_Frame, int]:
    """The picture whose block begins at a place, and where the next block is."""
    _byte(path, data, at + 10)
    left, top, columns, rows, flags = struct.unpack_from("<HHHHB", data, at + 1)
    table, begin = _table(path, data, at + 10, flags)
    size = _byte(path, data, begin)
    if not 1 <= size <= 8:
        raise FormatError(path, f"damaged GIF: codes of {size} bits")
    end = _behind_blocks(path, data, begin + 1)
    return _Frame(left, top, columns, rows, shared if table is None else table, begin, end), end


def _table(path: Path, data: bytes, at: int, flags: int) -> tuple[Table | None, int]:
    """The colour table (N, 3) that the flags announce at a place, or None, and what follows it."""
    if not flags & 0x80:
        return None, at
    end = at + 3 * 2 ** ((flags & 7) + 1)
    if end > len(data):
        raise _truncated(path, data)
    return np.frombuffer(data[at:end], np.uint8).reshape(-1, 3), end


def _behind_blocks(path: Path, data: bytes, at: int) -> int:
    """What follows a chain of blocks, each of which begins with its length; the last one is empty."""
    while length := _byte(path, data, at):
        at += 1 + length
    return at + 1


def _byte(path: Path, data: bytes, at: int) -> int:
    if at >= len(data):
        raise _truncated(path, data)
    return data[at]


def _truncated(path: Path, data: bytes) -> FormatError:
    return FormatError(path, f"truncated: {len(data)} bytes without the end of the GIF")
