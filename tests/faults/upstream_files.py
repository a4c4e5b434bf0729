"""Files of ingest, plan, preprocess, weights, downloads and phantoms, and users' own, for ``test_flips.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.kept import kept, write_stamp
from medseg.records import read_record
from tests.faults.flips import FileKind


def _made(value: Any) -> Any:
    """What was read, where None means that the file is refused and its owner makes it again."""
    if value is None:
        raise DataError("made again")
    return value


def _stamp(folder: Path) -> Path:
    (folder / "a").write_bytes(b"first")
    write_stamp(folder / ".case.json", "key", [folder / "a"], facts={"more": [1, 2.5, "x"]})
    return folder / ".case.json"


UPSTREAM: dict[str, FileKind] = {
    "stamp of kept work": FileKind(_stamp, lambda path: _made(kept(path, "key"))),
    "stamp's other facts": FileKind(_stamp, lambda path: read_record(path, "medseg preprocess")),
}
