"""Tables of the user's own: TSV and CSV files with a header."""

from __future__ import annotations

import csv
from pathlib import Path

from medseg.errors import DataError

# Columns that mean something in a table of cases.
COLUMNS = ("case", "image", "label", "subject", "site", "series", "spacing", "fold")
MAX_TABLE_BYTES = 1 << 28


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a table with a header: columns by name, cells stripped, empty lines left out.

    The separator is a tab in ``.tsv``; elsewhere a comma, or a semicolon where the header has no comma.

    Raises:
        DataError: if it is missing, no text, or a line has another number of cells than the header.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; a table is at most {MAX_TABLE_BYTES}")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the name in the configuration") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    first = text.partition("\n")[0]
    separator = "\t" if path.suffix == ".tsv" else ";" if ";" in first and "," not in first else ","
    try:
        lines = list(csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f'{path}: {error}; quote cells like "a,b" or leave quotes out') from None
    cells = [[cell.strip() for cell in line] for line in lines]
    if not cells or not any(cells[0]):
        raise DataError(f"{path}: empty; the first line names the columns: {', '.join(COLUMNS)}")
    for number, line in enumerate(cells, start=1):
        if any(line) and len(line) != len(cells[0]):
            cause = f"line {number} has {len(line)} cells, the header {len(cells[0])}"
            raise DataError(f"{path}: {cause}; correct the line or the separator")
    header = cells[0]
    return header, [dict(zip(header, line, strict=True)) for line in cells[1:] if any(line)]
