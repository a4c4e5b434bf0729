"""What reading each case gave, kept from one ingest to the next: of a data set that grew, only what is new is read.

One file, to which every case is appended as soon as it is read, so that an ingest that was killed goes on where it was.
Its entries are framed with their length and digest: what a kill or a disk damaged is read again. An entry is found by a
key, the digest of all that reading a case depends on: which files, their sizes and times, what the configuration and
the label table say about them, and the code. Whoever reads the case's files later compares their bytes with the
manifest's digests, as ever.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from medseg.config import DatasetConfig
from medseg.errors import Fault
from medseg.explained import make_folder, named
from medseg.files import digest_of, sha256_bytes
from medseg.formats.content import FileBytes
from medseg.formats.table import FORMATS, suffix_of
from medseg.image.geometry import Geometry
from medseg.image.recode import Recoding
from medseg.ingest.checked import Checked, ObjectFacts
from medseg.ingest.origin.borders import Border
from medseg.ingest.origin.lattice import IntensityLattice
from medseg.ingest.origin.sketch import Sketch
from medseg.ingest.sources import Candidate, Inventory
from medseg.reading import Reading

# Length of an entry, length of its key and facts within it, and the SHA-256 of the entry.
FRAME = struct.Struct("<QQ32s")
# Parts of a data set's section, and facts of a case, that reading its files does not depend on. A new one counts until
# it is named here.
NOT_READ = frozenset(
    {
        "path",
        "subject",
        "test",
        "splits",
        "exclude",
        "download",
        "generate",
        "choices",
        "corrections",
        "postprocess",
        "metrics",
    }
)
NOT_OF_FILES = frozenset({"subject", "site", "test", "group"})
# A file that changed so short a time before it was read may change again without another time of change.
SETTLED_NS = 2_000_000_000
# Classes that an entry may be made of.
CLASSES: dict[str, type] = {
    cls.__name__: cls for cls in (Border, Fault, Geometry, IntensityLattice, ObjectFacts, Reading, Recoding, Sketch)
}


class Kept(NamedTuple):
    """Where it is kept what reading cases gave, and the digest of the code that reads them."""

    file: Path
    code: str


class ReadBefore:
    """The cases of a data set that were read before, and those that are read now; a context manager.

    Args:
        path: the file; it need not exist, nor hold what was written to it.
        inventory: of the data set.
        section: its configuration.
        code: digest of the code that reads a case.
    """

    def __init__(self, path: Path, inventory: Inventory, section: DatasetConfig, code: str) -> None:
        self._path, self._root, self._allowed = path, inventory.root, frozenset(section.allow)
        labels = inventory.labels and inventory.labels.to_json()
        self._terms = [section.model_dump(mode="json", exclude=set(NOT_READ)), labels, code]
        self._found: dict[str, tuple[int, int, int]] = {}
        self._used: set[str] = set()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        make_folder(self._path.parent)
        with named(self._path):
            self._file = open(self._path, "a+b")
            end = 0
            for key, start, facts, size in _entries(self._file):
                self._found[key], end = (start, facts, size), start + size
            # What follows the last whole entry was being written when its process ended.
            self._file.truncate(end)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        assert self._file is not None
        if error is None and len(self._found) > 2 * len(self._used):
            self._drop_unused()
        self._file.close()

    def key_of(self, candidate: Candidate) -> str:
        """Digest of all that reading a case depends on; empty where files cannot be listed, or have just changed."""
        try:
            states = [_state(path) for path in _files_of(self._root, candidate)]
        except OSError:
            return ""
        if any(time.time_ns() - changed < SETTLED_NS for _, _, *times in states for changed in times):
            return ""
        facts = {name: value for name, value in asdict(candidate).items() if name not in NOT_OF_FILES}
        classes = facts.pop("object_classes")
        return digest_of([facts, sorted(classes.items()) if classes else classes, states, self._terms])

    def get(self, key: str, candidate: Candidate) -> Checked | None:
        """What reading a case gave before; None: it is to be read."""
        if key not in self._found:
            return None
        facts, arrays = self._bytes(*self._found[key])
        self._used.add(key)
        value = json.loads(facts)
        parts = list(_arrays(value["arrays"], arrays))
        return Checked(candidate, **{name: _unpacked(one, parts) for name, one in value["checked"].items()})

    def put(self, key: str, checked: Checked) -> None:
        """Keep what reading a case gave, unless it has a fault that is not allowed: that may go without a trace."""
        if not key or any(fault.code not in self._allowed for fault in checked.faults):
            return
        assert self._file is not None
        arrays: list[NDArray[Any]] = []
        names = [one.name for one in fields(checked) if one.name != "candidate"]
        packed = {name: _packed(getattr(checked, name), arrays) for name in names}
        shapes = [[str(array.dtype), list(array.shape)] for array in arrays]
        facts = json.dumps({"key": key, "checked": packed, "arrays": shapes}).encode()
        blob = zlib.compress(b"".join(array.tobytes() for array in arrays), 1)
        with named(self._path):
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(_framed(facts, blob))
            self._file.flush()
        self._found[key] = (start, len(facts), FRAME.size + len(facts) + len(blob))
        self._used.add(key)

    def _drop_unused(self) -> None:
        """Write the file anew with the entries of this ingest alone: cases that went or changed leave theirs behind."""
        new = self._path.with_name(f"{self._path.name}.new")
        with named(new), open(new, "wb") as file:
            for key in sorted(self._used):
                file.write(_framed(*self._bytes(*self._found[key])))
        os.replace(new, self._path)

    def _bytes(self, start: int, facts: int, size: int) -> tuple[bytes, bytes]:
        """Facts and arrays of an entry; by position, since several threads read."""
        assert self._file is not None
        data = os.pread(self._file.fileno(), size - FRAME.size, start + FRAME.size)
        return data[:facts], data[facts:]


def _framed(facts: bytes, arrays: bytes) -> bytes:
    entry = facts + arrays
    return FRAME.pack(len(entry), len(facts), bytes.fromhex(sha256_bytes(entry))) + entry


def _entries(file: IO[bytes]) -> Iterator[tuple[str, int, int, int]]:
    """Key, place, length of the facts and length of every entry, up to the first that is not whole."""
    start = file.seek(0)
    while len(head := file.read(FRAME.size)) == FRAME.size:
        size, length, sha256 = FRAME.unpack(head)
        if size > os.fstat(file.fileno()).st_size - start:
            return
        entry = file.read(size)
        if bytes.fromhex(sha256_bytes(entry)) != sha256:
            return
        yield json.loads(entry[:length])["key"], start, length, FRAME.size + size
        start += FRAME.size + size


def _files_of(root: Path, candidate: Candidate) -> list[Path]:
    """All files that reading a case touches, in order."""
    named = [*candidate.images, *candidate.labels, *([candidate.class_map] if candidate.class_map else [])]
    return [path for name in named for path in _parts_of(root / name)]


def _parts_of(path: Path) -> list[Path]:
    """A file and those that belong to it; of a folder, all files in and below it."""
    if path.is_dir():
        return sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names)
    row = FORMATS.get(suffix_of(path))
    if row is None or not row.companions:
        return [path]
    # What a header names is read with it; a damaged one names nothing, and is a fault in any case.
    try:
        return [path, *(path.parent / name for name in row.companion_names(path, FileBytes(path)))]
    except ValueError:
        return [path]


def _state(path: Path) -> tuple[str, int, int, int]:
    """What tells a file from one that was put in its place: name, size, times of change of content and of entry."""
    found = os.stat(path)
    return path.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _packed(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """A value as JSON that says its type, its arrays appended to ``arrays``."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return {"list": [_packed(one, arrays) for one in value]}
    if isinstance(value, tuple):
        return {"tuple": [_packed(one, arrays) for one in value]}
    if isinstance(value, dict):
        return {"dict": [[_packed(name, arrays), _packed(one, arrays)] for name, one in value.items()]}
    if type(value).__name__ in CLASSES:
        parts = {one.name: _packed(getattr(value, one.name), arrays) for one in fields(value)}
        return {type(value).__name__: parts}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no place in what is kept of a case: add it to CLASSES")


def _unpacked(value: Any, arrays: Sequence[NDArray[Any]]) -> Any:
    """The inverse of ``_packed``."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "array":
        return arrays[inner]
    if kind == "dict":
        return {_unpacked(name, arrays): _unpacked(one, arrays) for name, one in inner}
    if kind in CLASSES:
        return CLASSES[kind](**{name: _unpacked(one, arrays) for name, one in inner.items()})
    parts = [_unpacked(one, arrays) for one in inner]
    return tuple(parts) if kind == "tuple" else parts


def _arrays(shapes: list[Any], blob: bytes) -> Iterator[NDArray[Any]]:
    """The arrays of an entry."""
    data, at = zlib.decompress(blob), 0
    for dtype, shape in shapes:
        count = int(np.prod(shape, dtype=np.int64))
        yield np.frombuffer(data, dtype=dtype, count=count, offset=at).reshape(shape)
        at += count * np.dtype(dtype).itemsize
