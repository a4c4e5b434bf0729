"""Training curves: read from the journal while it grows, sent to MLflow in batches, each point once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.files import digest_of
from medseg.tracking.names import metric_name
from medseg.train.journal import Record, parse_record

BATCH = 1000  # MLflow's own limit for one request
# Tag of a run whose curves are all there: digest of their steps.
COMPLETE = "medseg.curves"
# A block in which no other process of this machine writes to a run: gives the run as it is now, None if it is not ours.
Turn = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One value of a curve: MLflow's key, value, training step, unix time in ms."""

    key: str
    value: float
    step: int
    time_ms: int


class JournalReader:
    """Reads what was added to a journal since the last time.

    The file may not exist yet, end in a torn line (left for the next time), or have been cut and continued by a
    resumed training: the last line read is compared, and if it is not there any more, reading starts over. Lines that
    are read again do no harm, since ``Curves`` sends no step twice.

    Attributes:
        path: of the journal.
        damaged: complete lines that were no records.
        renamed: names of metrics that MLflow would not accept as they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0
        self.renamed: set[str] = set()
        self._offset = 0
        self._last = b""

    def read(self) -> list[CurvePoint]:
        """Points of the complete lines that are new; damaged lines are counted and left out."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset - len(self._last))
                if file.read(len(self._last)) != self._last:
                    self._offset, self._last = 0, b""
                    file.seek(0)
                data = file.read()
        except FileNotFoundError:
            self._offset, self._last = 0, b""
            return []
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        self._offset += sum(map(len, lines))
        self._last = lines[-1] if lines else self._last
        return [point for line in lines for point in self._points(line)]

    def _points(self, line: bytes) -> list[CurvePoint]:
        try:
            record = parse_record(line)
        except ValueError:
            self.damaged += 1
            return []
        self.renamed |= renamed_in(record)
        return points_of(record)


def points_of(record: Record) -> list[CurvePoint]:
    """The points of a record; an undefined score has no place on a curve: MLflow would turn infinity into a number."""
    found = record.metrics.items()
    return [CurvePoint(metric_name(k), v, record.step, record.time_ms) for k, v in found if math.isfinite(v)]


def renamed_in(record: Record) -> set[str]:
    """Names of metrics of a record that MLflow would not accept as they are."""
    return {name for name in record.metrics if metric_name(name) != name}


def steps_digest(steps: Mapping[str, Iterable[int]]) -> str:
    """Digest of which steps the curves have, by name."""
    return digest_of([[key, sorted(set(mine))] for key, mine in sorted(steps.items())])[:32]


def points_digest(points: Iterable[CurvePoint]) -> str:
    """``steps_digest`` of the curves that points make."""
    steps: dict[str, set[int]] = {}
    for point in points:
        steps.setdefault(point.key, set()).add(point.step)
    return steps_digest(steps)


@dataclass(frozen=True, slots=True)
class Beside:
    """What one request takes beside the points of curves: MLflow's parameters, tags, and metrics of other names."""

    params: Sequence[Any] = ()
    tags: Sequence[Any] = ()
    metrics: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self.params) + len(self.tags) + len(self.metrics)


class Curves:
    """The curves of one run in MLflow: knows which steps are there and sends the others.

    Others may write to the same run (a training of the same fingerprint in a copy of the working folder, a replay):
    before each batch the run's newest steps are compared with what is known, and a curve that grew is read anew.
    """

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._steps: dict[str, set[int]] = {}

    def missing(self, points: Iterable[CurvePoint]) -> list[CurvePoint]:
        """The points whose step is not known to be there; of several for one step, the first."""
        seen: set[tuple[str, int]] = set()
        out = []
        for point in points:
            if point.step not in self._steps.get(point.key, ()) and (point.key, point.step) not in seen:
                seen.add((point.key, point.step))
                out.append(point)
        return out

    def _look(self, run: Any, keys: Iterable[str]) -> None:
        """Learn what others have sent, from the run as it is now; only curves that grew are read."""
        newest = {metric.key: metric.step for metric in run.data.to_proto().metrics}
        for key in keys:
            if key in newest and newest[key] > max(self._steps.get(key, {-1})):
                history = self._client.get_metric_history(self._run_id, key)
                self._steps[key] = {metric.step for metric in history}

    def complete(self) -> dict[str, str]:
        """The tag of a run that has these curves, and no others."""
        return {COMPLETE: steps_digest(self._steps)}

    def send(
        self,
        points: Sequence[CurvePoint],
        turn: Turn,
        sent: Callable[[], None] = lambda: None,
        beside: Beside = Beside(),
    ) -> int:
        """Send points that are missing, in batches; returns how many.

        Timestamps are the journal's, so that a batch whose answer was lost and that is sent again adds no row.

        Args:
            points: in the order of their steps.
            turn: see ``Turn``.
            sent: called after each batch.
            beside: sent with the last batch if it has room, or else after it.
        """
        from mlflow.entities import Metric

        total = 0
        last = (len(points) - 1) // BATCH * BATCH
        for start in range(0, len(points), BATCH):
            batch = points[start : start + BATCH]
            with turn() as run:
                if run is None:
                    return total
                self._look(run, {p.key for p in batch})
                todo = self.missing(batch)
                metrics = [Metric(p.key, p.value, p.time_ms, p.step) for p in todo]
                if start == last and len(metrics) + len(beside) <= BATCH:
                    metrics += beside.metrics
                    self._log(metrics, beside.params, beside.tags)
                    beside = Beside()
                else:
                    self._log(metrics)
            for point in todo:
                self._steps.setdefault(point.key, set()).add(point.step)
            total += len(todo)
            sent()
        self._log(beside.metrics, beside.params, beside.tags)
        return total

    def _log(self, metrics: Sequence[Any], params: Sequence[Any] = (), tags: Sequence[Any] = ()) -> None:
        if metrics or params or tags:
            self._client.log_batch(self._run_id, metrics=metrics, params=params, tags=tags, synchronous=True)
