"""The journal of a training: one JSON line per record, beside the resume state.

Others read it while it grows; training never waits for them. Every line has a digest of itself, since a training that
resumes takes the lines of its earlier attempts over into the history that it leaves.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medseg.explained import named
from medseg.files import write_bytes
from medseg.progress import say
from medseg.records import DIGEST, is_signed, signed


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


def line_of(step: int, time_ms: int, metrics: Mapping[str, float | None]) -> str:
    """A line of a journal, with its digest and line break; what is undefined has no place in it."""
    known = {name: value for name, value in metrics.items() if value is not None and math.isfinite(value)}
    return json.dumps(signed({"step": step, "time_ms": time_ms, "metrics": known}), allow_nan=False) + "\n"


def parse_record(line: str | bytes) -> Record:
    """The record in a line of a journal.

    Raises:
        ValueError: if the line is not a record, e.g. the torn last line of a killed training, or was changed.
    """
    try:
        facts = json.loads(line)
        if not is_signed(facts):
            raise ValueError(f"its {DIGEST} is missing or differs")
        metrics = {str(name): float(value) for name, value in facts["metrics"].items() if value is not None}
        return Record(int(facts["step"]), int(facts["time_ms"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a record of a journal: {error!r}") from None


def read_records(path: Path) -> list[Record]:
    """The records of a journal in the order of its lines; none if there is no such file, torn lines left out."""
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
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
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        write_bytes(path, b"".join(line for line in lines if _is_kept(path, line, resume_step)))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open for the life of the training)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one record; readable by others at once, on disk when the kernel pleases (it can be recomputed)."""
        if self.file is None:
            return
        with named(Path(self.file.name)):
            self.file.write(line_of(step, int(time.time() * 1000), metrics))
            self.file.flush()

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            with named(Path(self.file.name)):
                self.file.close()


def _is_kept(path: Path, line: bytes, resume_step: int) -> bool:
    """Whether a line is whole and of no later step; a damaged one, other than the torn last one, is reported."""
    if not line.endswith(b"\n"):
        return False
    try:
        return parse_record(line).step <= resume_step
    except ValueError as error:
        say(f"{path}: a line was damaged and is left out, so that the curves lack its points ({error})")
        return False
