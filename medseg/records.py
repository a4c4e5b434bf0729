"""Records: JSON files that stages write for one another, each with a digest of itself.

A flipped bit on a disk mostly gives JSON that is still valid, and another number: the digest turns it into a message.
Files that a user writes have none; ``files.read_json`` and the readers of each format read them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.errors import DataError, MedsegError
from medseg.files import digest_of, write_json

DIGEST = "digest"


def signed(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts and, last, ``digest``: one of them all, so that a changed digit is noticed."""
    if DIGEST in facts:
        raise ValueError(f"a record's own fact cannot be called '{DIGEST}': that is the digest of all facts")
    return {**facts, DIGEST: digest_of(facts)}


def write_record(path: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as JSON with their digest, atomically."""
    write_json(path, signed(facts))


def read_record(path: Path, maker: str, instead: str = "") -> dict[str, Any]:
    """Read the facts of a file that ``write_record`` wrote, without the digest.

    Args:
        path: JSON file.
        maker: command that writes it, for the error message.
        instead: what to do for a change, instead of editing the file; for the error message.

    Raises:
        DataError: if the file is missing, or not as it was written; it says which command writes it again.
    """
    fix = f"delete it and run `{maker}` again" + (f"; {instead}" if instead else "")
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `{maker}` first") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged, no readable JSON ({error}); {fix}") from error
    if not isinstance(facts, dict) or DIGEST not in facts:
        raise DataError(f"{path}: has no digest; written by an earlier version of medseg or by hand; {fix}")
    if not is_signed(facts):
        raise DataError(f"{path}: damaged or edited since it was written (its digest differs); {fix}")
    del facts[DIGEST]
    return facts


def holds(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a file is a whole record of just these facts."""
    try:
        return digest_of(read_record(path, "")) == digest_of(facts)
    except DataError:
        return False


def is_signed(facts: Mapping[str, Any]) -> bool:
    """Whether facts have the digest that ``signed`` gives them."""
    try:
        return facts.get(DIGEST) == digest_of({name: value for name, value in facts.items() if name != DIGEST})
    except (ValueError, RecursionError):
        # No digest can be taken of NaN, of half a surrogate pair, of nesting that could just be read.
        return False


@contextlib.contextmanager
def as_written(path: Path, maker: str) -> Iterator[None]:
    """Take fields out of facts in this block: what that raises becomes a ``DataError`` naming the file and its maker.

    What a record says is what was written; but another version may have written it, with other fields. Nothing is
    computed in the block: a mistake in our own code must not look like one of the file, and have somebody delete it.
    """
    try:
        yield
    except MedsegError:
        raise
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(
            f"{path}: not as this version of medseg writes it ({error!r}); if another one wrote it, use that, or "
            f"delete it and run `{maker}` again"
        ) from error
