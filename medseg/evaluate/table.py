"""Tables of scores as Parquet files that hold a digest of themselves, which is checked before anything is parsed.

The digest is a value of the file's own metadata, under ``KEY``: SHA-256 of all bytes of the file with 64 zeros in its
place. Any reader of Parquet reads the file; equal tables give equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from medseg.errors import DataError
from medseg.files import atomic_writer, read_made, sha256_file

KEY = b"medseg.sha256"
PLACE = b"0" * 64
# Between key and value, Thrift's compact protocol has the value's field type and its length, 64.
GAP = b"\x18\x40"
# The metadata at the end of a file, in which the digest stands, are shorter than this.
FOOTER = 64 * 2**20


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table with its digest, atomically; the index is not written."""
    write_tables(path, [pa.Table.from_pandas(table, preserve_index=False)])


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of one schema below one another, a group of rows each, with the digest; atomically.

    One of them at a time is held in memory.
    """
    rest = iter(tables)
    first = next(rest)
    with atomic_writer(path) as file:
        # Arrow's own schema would hold versions of libraries, and the metadata a second time.
        with parquet.ParquetWriter(file, first.schema, store_schema=False) as writer:
            for table in itertools.chain([first], rest):
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            writer.add_key_value_metadata({KEY: PLACE})
        file.flush()
        _put_digest(Path(file.name))


def _put_digest(path: Path) -> None:
    """Put the digest of a file in its place."""
    digest = sha256_file(path)
    with open(path, "r+b") as file:
        # The metadata of a file end it.
        begin = max(0, path.stat().st_size - FOOTER)
        file.seek(begin)
        at = _place(file.read())
        file.seek(begin + at)
        if at < 0 or file.read(len(PLACE)) != PLACE:
            raise AssertionError("this version of pyarrow lays metadata out in another way")
        file.seek(begin + at)
        file.write(digest.encode())
        file.flush()
        os.fsync(file.fileno())


def read_table(path: Path, maker: str) -> pd.DataFrame:
    """Read a table that ``write_table`` wrote.

    Args:
        path: of the file.
        maker: command that writes it, for the error message.

    Raises:
        DataError: if the file is missing, or not as it was written.
    """
    frame: pd.DataFrame = Stored(path, maker).read().to_pandas()
    return frame


class Stored:
    """A file that ``write_tables`` wrote: its bytes, whose digest was checked, from which rows and columns are taken.

    Attributes:
        digest: of the file.
        sha256: of all its bytes.
        columns: their names.
    """

    def __init__(self, path: Path, maker: str) -> None:
        """Read and check; arguments and errors as of ``read_table``."""
        data = memoryview(read_made(path, maker))
        self._path, self._fix = path, f"delete it and run `{maker}` again"
        begin = max(0, len(data) - FOOTER)
        at = _place(bytes(data[begin:]))
        if at < 0:
            raise DataError(f"{path}: not a score table with a digest; cut, or written by something else; {self._fix}")
        at, end = begin + at, begin + at + len(PLACE)
        found = hashlib.sha256(data[:at])
        found.update(PLACE)
        found.update(data[end:])
        self.digest, self.sha256 = bytes(data[at:end]).decode(errors="replace"), hashlib.sha256(data).hexdigest()
        if found.hexdigest() != self.digest:
            raise DataError(f"{path}: damaged or edited since it was written (its digest differs); {self._fix}")
        with self._readable():
            schema = parquet.ParquetFile(pa.BufferReader(data)).schema_arrow
            self.columns = tuple(schema.names)
            text = [field.name for field in schema if pa.types.is_string(field.type)]
            self._plain = parquet.ParquetFile(pa.BufferReader(data))
            # Texts as numbers into a list of the different ones.
            self._coded = parquet.ParquetFile(pa.BufferReader(data), read_dictionary=text)

    def __len__(self) -> int:
        """Groups of rows."""
        return int(self._plain.num_row_groups)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, as they were written."""
        with self._readable():
            return self._plain.read(columns=columns)

    def coded(self, groups: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of some groups or all, of some columns or all; texts are dictionary arrays."""
        with self._readable():
            every = range(len(self)) if groups is None else groups
            return self._coded.read_row_groups(list(every), columns=columns).unify_dictionaries().combine_chunks()

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(
                f"{self._path}: cannot be read by this version of pyarrow ({error}); {self._fix}"
            ) from error


def _place(data: bytes) -> int:
    """Where the digest stands in a file's bytes; -1 if nowhere."""
    found = data.rfind(KEY + GAP)
    return found + len(KEY + GAP) if found >= 0 else -1
