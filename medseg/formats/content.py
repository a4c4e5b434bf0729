"""The bytes that make one image: a single file, a header with its data file, or all files of a folder."""

from __future__ import annotations

import hashlib
import os
import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medseg.files import digest_of
from medseg.formats.errors import FormatError

# Bytes read at once when a file is hashed.
BLOCK = 1 << 20


class FileBytes:
    """The bytes of a file, or of a part of it, that stay on disk: slices are read when they are taken.

    Slices have a step of 1. Reading happens by position, so that threads and forked processes can share one object. The
    file is kept open: replacing it under its name changes nothing here.
    """

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            OSError: if it cannot be opened.
        """
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        self._start, self._end = 0, os.fstat(self._descriptor).st_size
        self._whole: FileBytes | None = None

    @classmethod
    def of_open(cls, path: Path, descriptor: int) -> FileBytes:
        """The bytes of a file that is open, and may have no name; ``path`` is for messages."""
        data = object.__new__(cls)
        data.path, data._descriptor, data._whole = path, os.dup(descriptor), None
        weakref.finalize(data, os.close, data._descriptor)
        data._start, data._end = 0, os.fstat(descriptor).st_size
        return data

    def __len__(self) -> int:
        return self._end - self._start

    def __getitem__(self, part: slice) -> bytes:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"slices of step {step}, expected 1")
        return self._read(self._start + start, max(0, stop - start))

    def after(self, start: int) -> FileBytes:
        """The bytes from ``start`` on, unread."""
        part = object.__new__(FileBytes)
        part.path, part._descriptor = self.path, self._descriptor
        part._start, part._end = min(self._start + start, self._end), self._end
        part._whole = self._whole or self  # keeps the file open
        return part

    def _read(self, at: int, size: int) -> bytes:
        pieces: list[bytes] = []
        try:
            while size > 0:
                piece = os.pread(self._descriptor, size, at)
                if not piece:
                    raise FormatError(self.path, f"ends at byte {at}: it was cut while it was read")
                pieces.append(piece)
                at, size = at + len(piece), size - len(piece)
        except OSError as error:
            raise FormatError(self.path, f"cannot be read ({error.strerror})", "check path and permissions") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class ListedBytes(FileBytes):
    """The bytes of one of many files, which is opened anew for each slice: more of them than can be kept open.

    A file that is another one, of another size or time than when it was listed, is an error.
    """

    def __init__(self, path: Path) -> None:
        """Note what the file is like.

        Raises:
            OSError: if it is not there.
        """
        self.path, self._state = path, _state(os.stat(path))
        self._start, self._end, self._whole = 0, self._state[0], None

    def after(self, start: int) -> FileBytes:
        """Not needed for files that are read in slices."""
        raise NotImplementedError

    def _read(self, at: int, size: int) -> bytes:
        try:
            with open(self.path, "rb") as file:
                if _state(os.fstat(file.fileno())) != self._state:
                    raise FormatError(self.path, "changed while it was read", "run it again")
                file.seek(at)
                return file.read(size)
        except OSError as error:
            raise FormatError(self.path, f"cannot be read ({error.strerror})", "check path and permissions") from None


def _state(found: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from one that was put in its place."""
    return found.st_size, found.st_mtime_ns, found.st_ino


# All bytes of a file, in memory or on disk; ``data[a:b]`` gives bytes.
Data = bytes | FileBytes
# A part of these, likewise.
Part = memoryview | FileBytes


def part_from(data: Data, start: int) -> Part:
    """The bytes from ``start`` on; nothing is copied or read."""
    return data.after(start) if isinstance(data, FileBytes) else memoryview(data)[start:]


def rest_of(part: Part, start: int) -> Part:
    """A part from ``start`` on."""
    return part.after(start) if isinstance(part, FileBytes) else part[start:]


def sha256_of(data: Data) -> str:
    """SHA-256 (hex) of a file's bytes; what is on disk is read in blocks."""
    if not isinstance(data, FileBytes):
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    for at in range(0, len(data), BLOCK):
        digest.update(data[at : at + BLOCK])
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Content:
    """Everything an image is read from, so that it is hashed and decoded from the same bytes.

    Attributes:
        files: name relative to the image's folder -> bytes; the first is the one that was named.
        series: which series of a DICOM folder is wanted (SeriesInstanceUID or SeriesNumber); empty if there is one.
        axes: what the planes of a TIFF are, as in ``medseg.reading.Reading``; empty: what the file says.
    """

    files: Mapping[str, Data]
    series: str = ""
    axes: str = ""

    @property
    def main(self) -> Data:
        """Bytes of the file that was named."""
        return next(iter(self.files.values()))

    @property
    def companion(self) -> Data | None:
        """Bytes of the second file (the data file of a header), or None."""
        return next((data for data in list(self.files.values())[1:]), None)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(data) for data in self.files.values())

    @property
    def sha256(self) -> str:
        """Digest: of the bytes of a single file, else of all names and digests; files on disk are read through."""
        if len(self.files) == 1:
            return sha256_of(self.main)
        return digest_of({name: sha256_of(data) for name, data in self.files.items()})


# Bytes by which a file's content is known.
START = 512
# Kind of content -> what its first bytes look like. Order matters only where one pattern would match another's files.
KINDS: dict[str, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    "NRRD": re.compile(rb"NRRD\d{4}\r?\n"),
    "MetaImage": re.compile(rb"\s*(ObjectType|NDims|Comment)\s*="),
    "NIfTI": re.compile(rb".{344}n[+i][12]\0|.{4}n[+i]2\0", re.DOTALL),
    "DICOM": re.compile(rb".{128}DICM", re.DOTALL),
    "ZIP": re.compile(rb"PK(\x03\x04|\x05\x06)"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "bzip2": re.compile(rb"BZh[1-9]"),
    "BMP": re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL),
    "GIF": re.compile(rb"GIF8[79]a"),
    "HDF5": re.compile(rb"\x89HDF\r\n\x1a\n"),
    "HTML": re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE),
}


def kind_of(data: Data) -> str:
    """What bytes are, by how they begin: a key of ``KINDS``, or an empty text."""
    start = bytes(data[:START])
    return next((kind for kind, pattern in KINDS.items() if pattern.match(start)), "")


def start_of(path: Path) -> bytes:
    """The first bytes of a file, by which its content is known; none, if it cannot be read or is no file."""
    try:
        with open(path, "rb") as file:
            return file.read(START)
    except OSError:
        return b""
