"""Progress as plain lines: readable in a terminal where several jobs write, and in a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from medseg.text import escaped

BAR_WIDTH = 20
# Takes the lines of this thread; None: they are printed.
_HEARER: ContextVar[Callable[[str], None] | None] = ContextVar("hearer", default=None)


@contextmanager
def heard_by(hearer: Callable[[str], None]) -> Iterator[None]:
    """Within the block (and this thread), give lines to a function, which prints none; bars are not shown."""
    token = _HEARER.set(hearer)
    try:
        yield
    finally:
        _HEARER.reset(token)


class Progress:
    """A bar that prints one line at most every ``interval_s`` seconds, and always the last one.

    Whole lines instead of carriage returns, because jobs that run side by side share one terminal.
    """

    def __init__(self, label: str, total: int, *, interval_s: float = 5.0, start: int = 0) -> None:
        self.label = label
        self.total = max(total, 1)
        self.interval_s = interval_s
        self.start = start
        self.begun = time.monotonic()
        self.printed = self.begun

    def update(self, done: int, note: str = "") -> None:
        """Report that ``done`` of ``total`` items are finished; ``note`` is put behind the bar."""
        if _HEARER.get() is not None:
            return
        now = time.monotonic()
        if done < self.total and now - self.printed < self.interval_s:
            return
        self.printed = now
        filled = BAR_WIDTH * min(done, self.total) // self.total
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        pace = (now - self.begun) / max(done - self.start, 1)
        left = pace * (self.total - done)
        clock = f"{int(left) // 60}:{int(left) % 60:02d} left" if done < self.total else f"in {now - self.begun:.1f} s"
        say(f"{self.label} {bar} {done}/{self.total} {clock} {note}".rstrip())


def say(line: str) -> None:
    """Print one line to standard error in one write, so that lines of parallel jobs do not mix.

    Control characters, which names from data may have, are shown as escapes; so are line breaks.
    Of the processes that ``torchrun`` starts for one training, the first speaks for all.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if (hearer := _HEARER.get()) is not None:
        hearer(escaped(line))
        return
    sys.stderr.write(escaped(line) + "\n")
    sys.stderr.flush()
