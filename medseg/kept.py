"""Which finished outputs of a case can be kept: a stamp beside them says what they were made from.

A stamp is a JSON file that is written after the outputs: a key (the digest of everything that they depend on), the
SHA-256 of each of them, further facts, and last a digest of the stamp itself. Outputs are kept where the stamp has the
key that is wanted now and their bytes are still those that were written; anything else is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import sha256_file
from medseg.outputs import note
from medseg.records import read_record, write_record

# Gives the SHA-256 of an output; of files that have companions, of all of them.
Digest = Callable[[Path], str]


def write_stamp(
    path: Path, key: str, outputs: Iterable[Path], digest: Digest = sha256_file, facts: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Write the stamp of outputs that are complete; all lie in the stamp's folder.

    Args:
        path: the stamp.
        key: digest of everything that the outputs depend on.
        outputs: files.
        digest: of an output.
        facts: what else is to be found in the stamp.

    Returns:
        SHA-256 of the outputs by name.
    """
    digests = {output.name: digest(output) for output in outputs}
    write_record(path, {"key": key, "sha256": digests, **(facts or {})})
    return digests


def kept(
    path: Path, key: str, names: Iterable[str] | None = None, digest: Digest = sha256_file
) -> dict[str, str] | None:
    """SHA-256 by name of the outputs that a stamp lists, if they were made for ``key`` and are whole; else None.

    Args:
        path: the stamp.
        key: what the outputs must have been made from.
        names: the outputs that are needed; none: all that the stamp lists.
        digest: of an output.
    """
    try:
        facts = read_record(path, "")
        wanted = list(facts["sha256"] if names is None else names)
        found = {name: facts["sha256"][name] for name in wanted}
        whole = facts["key"] == key and all(digest(path.parent / name) == found[name] for name in wanted)
    except (DataError, OSError, KeyError, TypeError):
        # Absent, cut, or written by something else: the outputs are made again.
        return None
    if not whole:
        return None
    for name in (path.name, *found):
        note(path.parent / name)
    return found
