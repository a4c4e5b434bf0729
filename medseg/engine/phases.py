"""Where the time of a training goes: seconds of its phases, by name."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

import torch

# Phases of a step, in their order; other phases lie between steps.
STEP = ("read", "transfer", "augment", "forward", "loss", "backward", "update")
# On a GPU every phase must be waited for to be timed, so that only one step in so many is.
ONE_IN = 25


class Phases:
    """Seconds of each phase, summed over the steps that are timed.

    Attributes:
        seconds: by phase.
        steps: how many were timed.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.steps = 0
        self._waits = device == "cuda"
        self._timed = True

    def begin_step(self, step: int) -> None:
        """Start step number ``step``."""
        self._timed = not self._waits or step % ONE_IN == ONE_IN - 1
        self.steps += self._timed

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what happens within, if this step is timed."""
        if not self._timed and name in STEP:
            yield
            return
        started = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - started

    def to_json(self) -> dict[str, float]:
        """Mean seconds of a step's phases and sums of the others."""
        means = {name: self.seconds[name] / max(1, self.steps) for name in STEP if name in self.seconds}
        others = {name: value for name, value in self.seconds.items() if name not in STEP}
        return {
            **{f"step/{name}_s": round(value, 6) for name, value in means.items()},
            **{f"total/{name}_s": round(value, 3) for name, value in others.items()},
        }

    def summary(self) -> str:
        """One line: the mean step and the share of each phase."""
        whole = sum(self.seconds[name] for name in STEP)
        if not whole:
            return "no step was timed"
        shares = [f"{name} {self.seconds[name] / whole:.1%}" for name in STEP if name in self.seconds]
        others = [f"{name} {value:.1f} s" for name, value in self.seconds.items() if name not in STEP]
        between = f"; between steps {', '.join(others)}" if others else ""
        return f"a step took {whole / self.steps:.3f} s: {', '.join(shares)}{between}"

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()
