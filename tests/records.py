"""Files that ingest wrote, changed in tests as a hostile or careless program would: with digests that fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg.ingest.recorded import write_table
from medseg.records import read_record
from medseg.results.folders import IngestFolder


def rewrite_table(path: Path, change: Callable[[str], str]) -> None:
    """Change the text of ``manifest.tsv`` or ``test.tsv``, and the digest beside it."""
    files, text = IngestFolder(path.parent), path.read_text()
    record = files.test_declaration if path == files.test_manifest else files.dataset
    assert change(text) != text
    write_table(path, change(text), record, read_record(record, ""))
