"""Files for one image after another, and a summary of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import write_text
from medseg.measure.files import OBJECT_FILES, SUMMARY, Measured, write_object_files
from medseg.measure.tables import summary_csv
from medseg.objects.measure import summary


@dataclass(frozen=True)
class ObjectWriter:
    """Writes the files of one image after another, and the summary of all.

    Attributes:
        out: folder.
        kinds: rows of ``OBJECT_FILES``.
        written: files so far.
        summaries: rows of the summary so far.
    """

    out: Path
    kinds: frozenset[str]
    written: list[Path] = field(default_factory=list)
    summaries: list[Mapping[str, Any]] = field(default_factory=list)

    def check(self, names: Sequence[str], inputs: Collection[Path] = ()) -> None:
        """Raise ``DataError`` if two images would have one file, or a file would replace one of ``inputs``."""
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise DataError(f"several images would be written to {self.out / twice[0]}.*; use separate folders")
        files = [self.out / f"{name}{OBJECT_FILES[kind].suffix}" for name in names for kind in self.kinds]
        same = [path for path in files if path.resolve() in inputs]
        if same:
            raise DataError(f"{same[0]}: is an input and would be replaced; choose another output folder")

    def write(self, name: str, measured: Measured) -> None:
        """Write the files of an image; ``name`` is theirs, without suffix."""
        self.written.extend(write_object_files(measured, self.out / name, self.kinds))
        if self.has_tables:
            found = summary(measured.table, measured.scene)
            self.summaries.append({"image": measured.name} | found)

    @property
    def has_tables(self) -> bool:
        """Whether tables are written."""
        return any(OBJECT_FILES[kind].option == "--tables" for kind in self.kinds)

    def finish(self) -> list[Path]:
        """Write the summary, if tables are wanted; all files written."""
        if self.has_tables:
            write_text(self.out / SUMMARY, summary_csv(self.summaries))
            self.written.append(self.out / SUMMARY)
        return self.written
