"""Shards: per-case work of one stage divided among jobs, and the records that they leave for the job that joins them.

All stages use the same rule: shard i of n gets cases i, i + n, i + 2n, …, writes ``shard-i-of-n.json`` into the stage's
folder when they are done (evaluate: ``shard-i-of-n.parquet``, see ``table_of_shard``), and a last job joins the
records of all shards into the output of the stage.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from medseg.errors import ConfigError, DataError
from medseg.files import writer_lock
from medseg.outputs import listing
from medseg.records import read_record, write_record
from medseg.results.folders import ShardedFolder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` parts of a sequence of cases: cases ``index``, ``index + count``, …"""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``, 0 <= i < n; raise ``ConfigError`` for anything else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or int(found[1]) >= int(found[2]):
            raise ConfigError(f"shard {text!r}: expected i/n with i from 0 to n - 1, e.g. 0/4, 1/4, 2/4 and 3/4")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """``shard-i-of-n``, for names of files."""
        return f"shard-{self.index}-of-{self.count}"

    def record(self, out: Path) -> Path:
        """``out/shard-i-of-n.json``, which says that this shard is done."""
        return ShardedFolder(out).shard(f"{self.index}-of-{self.count}")

    def of(self, cases: Sequence[T]) -> list[T]:
        """The cases of this shard, in their order; possibly none."""
        return list(cases[self.index :: self.count])

    def write(self, out: Path, record: Mapping[str, Any]) -> None:
        """Write the shard's record into the stage's folder, when all its cases are done."""
        write_record(self.record(out), record)

    @contextlib.contextmanager
    def writing(self, result: Path, out: Path) -> Iterator[None]:
        """Hold the right to write this shard; others write beside it, the same one twice is a ``BusyError``.

        Args:
            result: the file that is written last.
            out: the stage's folder.
        """
        with writer_lock(out, shared=True), writer_lock(out / f".{self.name}"), listing(result, out):
            yield


def read_shards(out: Path, count: int, stage: str) -> list[dict[str, Any]]:
    """The records of all ``count`` shards of a stage in ``out``, in their order.

    Raises:
        DataError: if a shard is not done (it names all that are not), or its record is not as it was written.
    """
    shards = [Shard(index, count) for index in range(count)]
    missing = [f"{s.index}/{count}" for s in shards if not s.record(out).is_file()]
    if missing:
        raise DataError(f"{out}: shards {', '.join(missing)} are not done; run `medseg {stage} --shard` for each first")
    return [read_record(s.record(out), f"medseg {stage} --shard {s.index}/{count}") for s in shards]
