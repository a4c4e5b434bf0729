"""The journal of a training: one JSON line per record, beside the resume state.

Others read it while it grows; training never waits for them.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medseg.files import write_text


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a journal.

    Attributes:
        step: steps that were made.
        time_ms: Unix time in milliseconds.
        metrics: values by name, e.g. ``train/loss``; what is undefined is left out.
    """

    step: int
    time_ms: int
    metrics: Mapping[str, float]


def parse_record(line: str | bytes) -> Record:
    """The record in a line of a journal.

    Raises:
        ValueError: if the line is not a record, e.g. the torn last line of a killed training.
    """
    try:
        facts = json.loads(line)
        metrics = {str(name): float(value) for name, value in facts["metrics"].items() if value is not None}
        return Record(int(facts["step"]), int(facts["time_ms"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of a journal: {error!r}") from None


def read_records(path: Path) -> list[Record]:
    """The records of a journal in the order of its lines; none if there is no such file, torn lines left out."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            records.append(parse_record(line))
    return records


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
        write_text(path, "".join(line for line in lines if _is_kept(line, resume_step)))
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


def _is_kept(line: str, resume_step: int) -> bool:
    """Whether a line is whole and of no later step."""
    try:
        return line.endswith("\n") and parse_record(line).step <= resume_step
    except ValueError:
        return False
