"""Who may write the results of an experiment: the jobs of its latest run, and nobody from a run before.

A workflow that is killed may leave jobs behind that go on for hours, under a configuration that is not the present one.
So each run draws a token, its jobs inherit it, and a file is put in its place only while the token is still the current
one: a fencing token (Kleppmann, "How to do distributed locking", 2016). Commands by hand have none and are not asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medseg.errors import BusyError
from medseg.explained import named
from medseg.results.folders import RunFolder

# Environment variable that the jobs of a run inherit: its token and the folder of results.
VARIABLE = "MEDSEG_RUN"
# A file is put in place in moments; a process that takes longer hangs.
WAIT_S = 30.0


class SupersededError(BusyError):
    """A later run of the workflow has taken these results over."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the workflow.

    Attributes:
        token: says which.
        root: ``results/{experiment}``, as the configuration has it.
    """

    token: str
    root: Path

    @classmethod
    def own(cls) -> Run | None:
        """The run that this process is a job of; None for a command by hand."""
        token, _, root = os.environ.get(VARIABLE, "").partition(" ")
        return cls(token, Path(root)) if root else None


def draw_token(root: Path) -> None:
    """Make the run of this process the one that may write below ``root``; its children inherit that.

    From the moment that this returns, no job of an earlier run can put a file in place.
    """
    token, file = uuid.uuid4().hex, RunFolder(root).token
    file.parent.mkdir(parents=True, exist_ok=True)
    # Changed in place and not replaced, since the lock is one of the file that others have open.
    with named(file), open(file, "a+", encoding="utf-8") as opened:
        _take(opened, file)
        opened.truncate(0)
        opened.write(token)
        opened.flush()
        os.fsync(opened.fileno())
    # As it is: on other machines, the same folder may be mounted elsewhere.
    os.environ[VARIABLE] = f"{token} {root}"


def _take(opened: IO[str], file: Path) -> None:
    """Lock the file of the token, which others hold for moments."""
    until = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise BusyError(
                    f"{file}: a job of an earlier run has held it for {WAIT_S:.0f} s; `fuser {file}` names the process "
                    "that hangs; end it, and run the same command again"
                ) from None
            time.sleep(0.05)


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Within the block, the results stay this process' to write: no later run can begin.

    For moments: a later run waits for it.

    Raises:
        SupersededError: if a later run has begun.
    """
    run = Run.own()
    if run is None:
        yield
        return
    try:
        opened = open(RunFolder(run.root).token, encoding="utf-8")  # noqa: SIM115 (closed below)
    except FileNotFoundError:
        raise SupersededError(
            f"{run.root.name}: its results were deleted while this job ran; run the same command again"
        ) from None
    with opened:
        with named(RunFolder(run.root).token):
            fcntl.flock(opened, fcntl.LOCK_SH)
        if opened.read() != run.token:
            raise SupersededError(
                f"{run.root.name}: a later run of the workflow has taken over; this job of an earlier one writes "
                "nothing more"
            )
        yield
