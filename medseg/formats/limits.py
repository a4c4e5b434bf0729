"""Bounds on what a file may claim: bytes that it can hold, and memory that one decoded file may take."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from medseg.formats.content import Data
from medseg.formats.errors import FormatError
from medseg.machine import host_memory

# Deflate expands a byte to at most 1032 bytes (zlib, "Maximum Compression Factor").
MAX_DEFLATE_RATIO = 1032
# Files of a folder or archive: a whole-body CT has some 2,000 slices; a folder can hold several series.
MAX_FILES = 50_000

# Bytes that one decoded file may take in this thread; None: half of what this process can have.
_LIMIT: ContextVar[int | None] = ContextVar("limit", default=None)
# Bytes of an unpacked stream above which it lies in a temporary file, in this thread; None: in memory, however large.
_SPOOL: ContextVar[int | None] = ContextVar("spool", default=None)


@contextmanager
def spooling(size: int) -> Iterator[None]:
    """Within the block (and this thread), unpack streams of more than ``size`` bytes into temporary files."""
    token = _SPOOL.set(size)
    try:
        yield
    finally:
        _SPOOL.reset(token)


def is_spooled(size: int) -> bool:
    """Whether so many unpacked bytes go into a temporary file."""
    above = _SPOOL.get()
    return above is not None and size > above


@contextmanager
def file_limit(size: int | None) -> Iterator[None]:
    """Within the block (and this thread), let one decoded file take ``size`` bytes; None: half of the memory."""
    token = _LIMIT.set(size)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def memory_budget() -> int:
    """Bytes that one decoded file may take: what ``file_limit`` says, else half of what this process can have."""
    limit = _LIMIT.get()
    return host_memory() // 2 if limit is None else limit


def check_claim(path: Path, claimed: int, capacity: int) -> None:
    """Raise ``FormatError`` if a header claims more bytes of voxels than the file can hold."""
    if claimed > capacity:
        raise FormatError(path, f"header claims {claimed} bytes of voxels, the file can hold {capacity}")


def check_memory(path: Path, needed: int, budget: int | None = None) -> None:
    """Raise ``FormatError`` (code ``too-large``) if more bytes are needed than ``budget``, or ``memory_budget``."""
    allowed = memory_budget() if budget is None else budget
    if needed > allowed:
        cause = f"needs {needed} bytes of memory, allowed are {allowed}"
        raise FormatError(path, cause, "split the image, or raise `max_gb` of the data set", "too-large")


def check_size(path: Path, claimed: int, capacity: int) -> None:
    """Raise ``FormatError`` for a decoded size that is beyond what the file can hold or beyond the memory budget."""
    check_claim(path, claimed, capacity)
    check_memory(path, claimed)


def check_stream(path: Path, claimed: int, capacity: int) -> None:
    """As ``check_size``, for a stream: one that is unpacked into a temporary file needs room on its disk instead."""
    if not is_spooled(claimed):
        check_size(path, claimed, capacity)
        return
    check_claim(path, claimed, capacity)
    folder = Path(tempfile.gettempdir())
    if claimed > (free := shutil.disk_usage(folder).free):
        cause = f"needs {claimed} bytes of disk to unpack, {folder} has {free} left"
        raise FormatError(path, cause, "free some, or set TMPDIR to a folder on a larger disk", "too-large")


def held(path: Path, data: Data) -> bytes:
    """All bytes of a file in memory, if the memory budget allows that."""
    if not isinstance(data, bytes):
        check_memory(path, len(data))
    return data[:]
