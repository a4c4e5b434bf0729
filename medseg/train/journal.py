"""The journal: one JSON line per record, beside the resume state; others read it, training never waits."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from medseg.files import write_text


class Journal:
    """Append-only records ``{"step", "time_ms", "metrics"}``.

    On a resume at step n, records of later steps (written by the killed attempt) are dropped: they will come again.

    Args:
        path: of the file; None: nothing is written, as by all processes of a group but one.
        resume_step: n.
    """

    def __init__(self, path: Path | None, resume_step: int) -> None:
        self.file: IO[str] | None = None
        if path is None:
            return
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        write_text(path, "".join(line for line in lines if _step_of(line) <= resume_step))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open for the life of the training)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one record; readable by others at once, on disk when the kernel pleases (it can be recomputed)."""
        if self.file is None:
            return
        record = {"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(metrics)}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            self.file.close()


def _step_of(line: str) -> float:
    """The step of a line; infinity for a torn line, so that it is dropped."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
