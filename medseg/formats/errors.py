"""The error that names an image file which cannot be read or written."""

from __future__ import annotations

from pathlib import Path

from medseg.errors import DataError
from medseg.text import escaped

FIX_COPY = "copy or export the file again"
FIX_MASK = "store class or object numbers in one channel of integers"


class FormatError(DataError):
    """A file that cannot be read, or written, as what its name says.

    Attributes:
        path: the file.
        cause: what was found and what was expected.
        fix: what the user can do about it.
        code: kind of fault, a key of ``medseg.ingest.faults.FAULTS``.
    """

    def __init__(self, path: Path, cause: str, fix: str = FIX_COPY, code: str = "unreadable") -> None:
        super().__init__(path, cause, fix, code)
        self.path, self.cause, self.fix, self.code = path, cause, fix, code

    def __str__(self) -> str:
        return f"{escaped(str(self.path))}: {self.cause}; {self.fix}"
