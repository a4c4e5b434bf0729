"""Records: JSON files that stages write for one another, each with a digest of itself.

A flipped bit on a disk mostly gives JSON that is still valid, and another number: the digest turns it into a message.
Files that a user writes have none and are read by ``files.read_json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import digest_of, read_json, write_json

DIGEST = "digest"


def signed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts and, last, ``digest``: one of them all, so that a changed digit is noticed."""
    return {**facts, DIGEST: digest_of(facts)}


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON with their digest, atomically."""
    write_json(path, signed(facts))


def read_record(path: Path, maker: str) -> dict[str, Any]:
    """Read the facts of a file that ``write_record`` wrote, without the digest.

    Args:
        path: JSON file.
        maker: command that writes it, for the error message.

    Raises:
        DataError: if the file is missing, or not as it was written.
    """
    facts = read_json(path)
    if not isinstance(facts, dict) or not _is_signed(facts):
        raise DataError(f"{path}: damaged (its digest differs); delete it and run `{maker}` again")
    del facts[DIGEST]
    return facts


def _is_signed(facts: Mapping[str, Any]) -> bool:
    try:
        return signed({name: value for name, value in facts.items() if name != DIGEST}) == facts
    except ValueError:
        # NaN, which no digest can be taken of.
        return False
