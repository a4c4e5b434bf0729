"""Damaged bytes in the small files that stages write for one another, and in those that users write.

A row (``FileKind``) says how to make a file and how to read it. Whatever happens to the bytes of a file that a stage
wrote, reading it gives the same values or a ``MedsegError``: never another exception, never another number. Files that
users write have no digest, so that only the first half holds: anything but a ``MedsegError`` is a fault of the reader.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import MedsegError

FLIPS = 300
CUTS = 8
DEPTH = 100_000
# What a value of a user's JSON may be, besides what was expected of it.
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    float("inf"),
    float("nan"),
    "",
    "x" * 5000,
    "\0",
    "\ud800",
    "../x",
]
ODD += [[], {}, [[]], {"": {}}, "9" * 5000, "1e999", [None] * 3]


@dataclass(frozen=True)
class FileKind:
    """A kind of file that is read.

    Attributes:
        make: writes a sound file, and all that is read with it, into an empty folder; returns the file to damage.
        read: reads the file at this path, with the same code as the stage does, to plain values: their ``repr`` tells
            two values apart (lists, dictionaries, dataclasses; of an array ``tolist()``).
        signed: whether a changed value must be noticed; not in files of the user's own.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    signed: bool = True


def flips(data: bytes, seed: int, count: int = FLIPS) -> Iterator[tuple[str, bytes]]:
    """``count`` times the file with one bit flipped, anywhere."""
    rng = random.Random(seed)
    for _ in range(count):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        yield f"bit {bit} of byte {at} flipped", bytes(changed)


def wrecks(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """What power cuts, full disks and enemies leave of a file: cut, empty, zeroed, replaced."""
    rng = random.Random(seed)
    yield "empty", b""
    for _ in range(CUTS):
        at = rng.randrange(len(data))
        yield f"cut at byte {at}", data[:at]
    yield "without its last byte", data[:-1]
    for size in (1, 16, 512, len(data)):
        at = rng.randrange(max(len(data) - size, 0) + 1)
        yield f"{size} bytes zeroed from byte {at}", data[:at] + bytes(len(data[at : at + size])) + data[at + size :]
    for at in (0, len(data) // 2, len(data)):
        yield f"NUL bytes put in at byte {at}", data[:at] + b"\0\0\0" + data[at:]
    yield "twice", data * 2
    for depth in (500, 1500, 5000, DEPTH):
        yield f"{depth} lists in one another", b"[" * depth + b"]" * depth
        yield f"{depth} mappings in one another", b'{"digest":' * depth + b"1" + b"}" * depth
    for text in (b"[]", b"{}", b"null", b"5", b"NaN", b'"x"', b"9" * 5000, b"\xff\xfe\x00", b'{"digest": "\\ud800"}'):
        yield f"replaced by {text[:20]!r}", text
    yield "a very long line", b"x" * 300_000


def odd_values(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A JSON file with one value or key replaced by another that no reader wants, for each of both."""

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield value, key
            yield from places(value[key])

    whole = json.loads(data)
    for parent, key in list(places(whole)):
        kept = parent[key]
        for odd in ODD:
            parent[key] = odd
            yield f"{key} is {str(odd)[:20]!r}", json.dumps(whole).encode()
        parent[key] = kept
        if isinstance(parent, dict):
            order = dict(parent)
            for odd in ("", "-1", "9" * 5000, "\ud800", "\0", "x" * 5000):
                del parent[key]
                parent[odd] = kept
                yield f"{key} is called {odd[:20]!r}", json.dumps(whole).encode()
                parent.clear()
                parent.update(order)


def damages(kind: FileKind, path: Path, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """All damage that a kind of file must stand."""
    data = path.read_bytes()
    yield from flips(data, seed, count)
    yield from wrecks(data, seed)
    if not kind.signed and path.suffix == ".json":
        yield from odd_values(data)


def wrong_reads(kind: FileKind, folder: Path, seed: int = 0, count: int = FLIPS) -> list[str]:
    """Damage that was read wrongly, one line each: another exception than ``MedsegError``, or other values.

    Args:
        kind: of file.
        folder: empty; the file is made and damaged there.
        seed: of the damage.
        count: flipped bits to try.
    """
    path = kind.make(folder)
    data, written = path.read_bytes(), path.stat().st_mtime_ns
    expected = repr(kind.read(path))
    wrong = []
    for number, (what, damaged) in enumerate([*damages(kind, path, seed, count)], start=1):
        _put(path, damaged, written + number)
        try:
            found = repr(kind.read(path))
        except MedsegError:
            continue
        except Exception as error:  # noqa: BLE001 (which exceptions there are is what is asked)
            wrong.append(f"{what}: {type(error).__name__}: {str(error)[:100]}")
            continue
        if kind.signed and found != expected:
            wrong.append(f"{what}: other values, in silence")
    _put(path, data, written - 1)
    assert repr(kind.read(path)) == expected, "the restored file is read differently: the reader remembers something"
    return wrong


def _put(path: Path, data: bytes, time_ns: int) -> None:
    """Another content, with a time that no content before it had: a clock's ticks may be longer than a write."""
    path.write_bytes(data)
    os.utime(path, ns=(time_ns, time_ns))
