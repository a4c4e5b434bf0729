"""Tables of scores as Parquet files that hold a digest of themselves, which is checked before anything is parsed.

The digest is a value of the file's own metadata, under ``KEY``: SHA-256 of all bytes of the file with 64 zeros in its
place. Any reader of Parquet reads the file; equal tables give equal bytes.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from medseg.errors import DataError
from medseg.files import read_made, sha256_bytes, write_bytes

KEY = b"medseg.sha256"
PLACE = b"0" * 64
# Between key and value, Thrift's compact protocol has the value's field type and its length, 64.
GAP = b"\x18\x40"


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table with its digest, atomically; the index is not written."""
    whole = pa.Table.from_pandas(table, preserve_index=False)
    sink = pa.BufferOutputStream()
    # Arrow's own schema would hold versions of libraries, and the metadata a second time.
    with parquet.ParquetWriter(sink, whole.schema, store_schema=False) as writer:
        writer.write_table(whole)
        writer.add_key_value_metadata({KEY: PLACE})
    data = sink.getvalue().to_pybytes()
    at = _place(data)
    if data[at : at + len(PLACE)] != PLACE:
        raise AssertionError("this version of pyarrow lays metadata out in another way")
    write_bytes(path, data[:at] + sha256_bytes(data).encode() + data[at + len(PLACE) :])


def read_table(path: Path, maker: str) -> pd.DataFrame:
    """Read a table that ``write_table`` wrote.

    Args:
        path: of the file.
        maker: command that writes it, for the error message.

    Raises:
        DataError: if the file is missing, or not as it was written.
    """
    data = read_made(path, maker)
    fix = f"delete it and run `{maker}` again"
    at = _place(data)
    if at < 0:
        raise DataError(f"{path}: not a score table with a digest; cut, or written by something else; {fix}")
    end = at + len(PLACE)
    if sha256_bytes(data[:at] + PLACE + data[end:]).encode() != data[at:end]:
        raise DataError(f"{path}: damaged or edited since it was written (its digest differs); {fix}")
    try:
        table: pd.DataFrame = parquet.read_table(pa.BufferReader(data)).to_pandas()
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read by this version of pyarrow ({error}); {fix}") from error
    return table


def _place(data: bytes) -> int:
    """Where the digest stands in a file's bytes; -1 if nowhere."""
    found = data.rfind(KEY + GAP)
    return found + len(KEY + GAP) if found >= 0 else -1
