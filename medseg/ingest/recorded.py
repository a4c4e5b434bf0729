"""The files of ``medseg ingest``, checked against their digests and not parsed further; free of numpy and pandas.

``dataset.json`` and ``test.json`` are records, and hold the digest of the table of cases beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import read_made, sha256_bytes, write_text
from medseg.records import read_record, write_record
from medseg.results.folders import IngestFolder

MAKER = "medseg ingest"
# Fact of a record: SHA-256 of the table beside it.
TABLE = "table"


def write_table(table: Path, text: str, record: Path, facts: Mapping[str, Any]) -> None:
    """Write a table of cases, and then the record beside it, with the table's digest."""
    write_text(table, text)
    write_record(record, {**facts, TABLE: sha256_bytes(text.encode())})


def read_dataset(table: Path) -> dict[str, Any]:
    """What ``dataset.json`` beside a table of cases says; ``DataError`` if it is missing or damaged."""
    return read_record(IngestFolder(table.parent).dataset, MAKER)


def read_test(table: Path) -> dict[str, Any]:
    """What ``test.json`` beside a table of cases says of the test set; ``DataError`` if it is missing or damaged."""
    return read_record(IngestFolder(table.parent).test_declaration, MAKER)


def read_table(path: Path) -> str:
    """The text of ``manifest.tsv`` or ``test.tsv``, if it is the table whose digest stands beside it.

    Raises:
        DataError: if it, or the record beside it, is missing, damaged or edited.
    """
    facts = read_test(path) if path == IngestFolder(path.parent).test_manifest else read_dataset(path)
    data = read_made(path, MAKER)
    if facts.get(TABLE) != sha256_bytes(data):
        raise DataError(
            f"{path}: damaged or edited since it was written (its SHA-256 is not the one recorded beside it); delete "
            f"it and run `{MAKER}` again; what it says of cases is changed in the data set or in the configuration"
        )
    return data.decode()
