"""One file per prepared case: its arrays one after another, and behind them what is known of it.

    array | array | … | facts (JSON with a digest of itself) | length of the facts (8 bytes) | MAGIC (8 bytes)

One file and not a folder of several: data sets have ten thousand cases, file systems limit how many files there are,
and each file that is made to survive a power cut waits twice for the disk. An array is read where it lies: blosc2 opens
a frame at its place in the file. The facts come last, so that the first array, by far the largest, is written to its
place at once and not held in memory.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import canonical_json, sha256_bytes, sha256_part, write_with
from medseg.records import DIGEST, is_signed, signed

MAGIC = b"medseg/1"
# Length of the facts in bytes, and MAGIC.
TAIL = struct.Struct("<Q8s")


@dataclass(frozen=True, slots=True)
class Part:
    """Where an array lies in its file: first byte, bytes, and the SHA-256 (hex) of these bytes."""

    start: int
    size: int
    sha256: str

    @classmethod
    def all_of(cls, facts: Mapping[str, Any]) -> dict[str, Part]:
        """The arrays that facts list, by name; raise ``LookupError`` or ``TypeError`` if these are other facts."""
        return {name: cls(*place) for name, place in facts["parts"].items()}


def write_case_file(
    path: Path, first: tuple[str, Callable[[Path], None]], rest: Mapping[str, bytes], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a case's file, atomically.

    Args:
        path: the file.
        first: name of the first array, and what writes it to a path.
        rest: the other arrays as they are to lie in the file, by name.
        facts: what else is to be known of the case.

    Returns:
        The facts as ``read_facts`` gives them back: with ``parts``, the places of the arrays.
    """
    whole: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        name, write_first = first
        write_first(temporary)
        size = os.stat(temporary).st_size
        parts = {name: [0, size, sha256_part(temporary, 0, size)]}
        with open(temporary, "ab") as file:
            for name, data in rest.items():
                parts[name] = [file.tell(), len(data), sha256_bytes(data)]
                file.write(data)
            text = canonical_json(signed({**facts, "parts": parts})).encode()
            file.write(text + TAIL.pack(len(text), MAGIC))
        # As they are read: an index is the same whether its cases were written or kept.
        whole.update(json.loads(text))

    write_with(path, write)
    del whole[DIGEST]
    return whole


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a case's file, without their digest; its arrays are not looked at.

    Raises:
        DataError: if there is no such file, or it is not as it was written.
        OSError: if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - TAIL.size))
            length, magic = TAIL.unpack(file.read())
            if magic != MAGIC or length > end - TAIL.size:
                raise ValueError("the end of it is missing")
            file.seek(end - TAIL.size - length)
            facts = json.loads(file.read(length))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `medseg preprocess` first") from None
    except (ValueError, RecursionError, struct.error) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(facts, dict) or not is_signed(facts):
        raise _damaged(path, "its digest differs")
    del facts[DIGEST]
    return facts


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path}: damaged or edited since it was prepared ({why}); run `medseg preprocess` again")


def is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether all arrays of a case's file are as they were written."""
    parts = Part.all_of(facts).values()
    return all(sha256_part(path, part.start, part.size) == part.sha256 for part in parts)
