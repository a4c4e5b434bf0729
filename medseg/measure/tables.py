"""Tables of objects and summaries of images, as CSV and Parquet."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from medseg.measure.files import Measured
from medseg.text import csv_table


def csv_bytes(measured: Measured) -> bytes:
    """The table of objects as CSV: nine digits, undefined values empty; no cell is a formula to a spreadsheet."""
    return csv_of(measured.table).encode()


def parquet_bytes(measured: Measured) -> bytes:
    """The table of objects as Parquet, whole numbers and floating point as they were computed."""
    buffer = io.BytesIO()
    measured.table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def csv_of(table: pd.DataFrame) -> str:
    """A table as CSV, see ``csv_bytes``."""
    columns = [table[name].tolist() for name in table.columns]
    return csv_table(map(str, table.columns), (map(_cell, row) for row in zip(*columns, strict=True)))


def summary_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Summaries, one row per image; a column is empty for images that do not have it (of another unit, say)."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return csv_table(columns, ([_cell(row.get(column)) for column in columns] for row in rows))


def _cell(value: object) -> object:
    if isinstance(value, float):
        return None if math.isnan(value) else format(value, ".9g")
    return value
