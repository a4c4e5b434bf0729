"""A trace of some steps of a training: every operation, with its time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

# Steps that are recorded, after as many that are left out.
TRACED_STEPS = 5


@contextlib.contextmanager
def traced(path: Path | None) -> Iterator[Callable[[], None]]:
    """Record the first steps; write the trace to ``path`` when they are done. None: record nothing.

    Yields:
        What to call after each step.
    """
    if path is None:
        yield lambda: None
        return
    from torch import profiler

    path.parent.mkdir(parents=True, exist_ok=True)
    with profiler.profile(
        schedule=profiler.schedule(wait=TRACED_STEPS, warmup=1, active=TRACED_STEPS, repeat=1),
        on_trace_ready=lambda made: made.export_chrome_trace(str(path)),
    ) as running:
        yield running.step
