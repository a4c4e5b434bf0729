"""The processes of a study, found by a token that its environment hands on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "MEDSEG_TORTURE"
# Commands in the order in which a study needs them.
STAGES = (
    "phantoms", "track init", "ingest", "fingerprint", "preprocess", "plan", "train", "predict", "choose",
    "postprocess", "evaluate", "compare", "report", "track sync",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A process: its number and its command line."""

    pid: int
    words: tuple[str, ...]

    @property
    def stage(self) -> str | None:
        """The stage whose command it executes; None for Snakemake, shells and `tee`."""
        names = [Path(word).name for word in self.words]
        # The second word, after Python's: a shell has the whole command in one word.
        if names[1:2] != ["medseg"] or len(names) < 3:
            return None
        return " ".join(names[2:4]) if names[2] == "track" else names[2]

    @property
    def label(self) -> str:
        """The stage, or the name of the program."""
        return self.stage or (Path(self.words[0]).name if self.words else "?")


class Processes:
    """The living processes with one token."""

    def __init__(self, token: str) -> None:
        self.token = token
        self._mark = f"{VARIABLE}={token}".encode()
        # Older than the study.
        self._foreign = set(_pids())

    def alive(self) -> list[Found]:
        """All of them; zombies are none."""
        found = []
        for pid in _pids():
            if pid in self._foreign:
                continue
            with contextlib.suppress(OSError):
                if self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    line = Path(f"/proc/{pid}/cmdline").read_bytes()
                    found.append(Found(pid, tuple(os.fsdecode(word) for word in line.split(b"\0")[:-1])))
        return found

    def stages(self) -> list[str]:
        """The stages that run."""
        return sorted({p.stage for p in self.alive() if p.stage})

    def signal(self, number: int, which: Callable[[Found], bool] = lambda _: True) -> list[Found]:
        """Send a signal to those that ``which`` chooses; they are returned."""
        chosen = [p for p in self.alive() if which(p)]
        for process in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        return chosen

    def gone(self, seconds: float) -> bool:
        """Whether all ended within so many seconds."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
