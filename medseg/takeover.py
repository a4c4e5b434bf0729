"""What a run of the workflow does before its first job: it takes the folders and stops what an earlier run left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from medseg.cluster import active, wait_for
from medseg.errors import BusyError, DataError, MachineError
from medseg.explained import named
from medseg.fence import draw_token
from medseg.files import sweep
from medseg.outputs import owners
from medseg.owner import is_here, is_orphan
from medseg.progress import say
from medseg.records import read_record, write_record
from medseg.results.folders import RunFolder

# A job that is asked to stop saves its state, which takes seconds; one that hangs is killed after this long.
STOP_S = 30.0
_held: list[IO[str]] = []


def hold_results(results: Path) -> None:
    """Lock the folder of results for this process, for as long as it runs; no workflow begins meanwhile.

    Raises:
        BusyError: if another process holds it; it is named.
    """
    _hold(RunFolder(results).workflow, str(results))


def hold_folder(folder: Path, results: Path) -> None:
    """Lock the working folder and the folder of results for this process, for as long as it runs.

    The kernel releases the locks when the process ends in any way. The process that gets them knows that no other
    workflow runs here, so Snakemake's own lock files, which a killed run leaves behind, are stale and are removed:
    nobody has to unlock by hand.

    Raises:
        BusyError: if another process holds one; it is named.
    """
    inner = folder / ".snakemake"
    _hold(inner / "medseg.lock", folder.resolve().name)
    hold_results(results)
    shutil.rmtree(inner / "locks", ignore_errors=True)
    (inner / "locks").mkdir()


def _hold(lock: Path, name: str) -> None:
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = open(lock, "a+", encoding="utf-8")  # noqa: SIM115 (held until the process ends)
    try:
        with named(lock):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        first = file.read().strip() or "an unknown process"
        file.close()
        raise BusyError(f"{name}/: {first} is already running a workflow here; wait for it or stop it") from None
    except OSError:
        file.close()
        raise
    file.truncate(0)
    file.write(f"process {os.getpid()} ({_command()})\n")
    file.flush()
    _held.append(file)


def _command() -> str:
    """The command line of this process; a package that runs as a program (``python -m``) by its name."""
    program = Path(sys.argv[0])
    return " ".join([(program.parent if program.name == "__main__.py" else program).name, *sys.argv[1:]])


def take_over(results: Path) -> None:
    """Begin a run: from now on its jobs alone may write, and jobs of earlier runs that still work are stopped.

    Where only the workflow was killed, its jobs go on. They are asked to stop, which loses nothing: a training saves
    its state, other stages keep their finished cases. A job on another machine cannot be asked; it finds out by itself
    when it next writes.

    Args:
        results: ``results/{experiment}``, held by this process.
    """
    running = {}
    for name, owner in owners(results):
        if not is_here(owner):
            say(f"{name}: a job of an earlier run may still work on another machine; what it writes is refused")
        elif not is_orphan(owner):
            running[name] = owner
    for name, owner in running.items():
        say(f"{name}: process {owner['medseg.pid']} of an earlier run still works on it; asking it to stop")
        _send(owner, signal.SIGTERM)
        # One that was stopped would not see it.
        _send(owner, signal.SIGCONT)
    until = time.monotonic() + STOP_S
    while any(not is_orphan(owner) for owner in running.values()) and time.monotonic() < until:
        time.sleep(0.1)
    for owner in running.values():
        _send(owner, signal.SIGKILL)
    # Not before: what they save when they are asked to stop is theirs to write.
    draw_token(results)
    run = RunFolder(results)
    for folder in (results, run.token.parent, *(one for one in run.made.rglob("*") if one.is_dir())):
        sweep(folder)


def note_submitted(results: Path, name: str, study: str) -> None:
    """Note which jobs a run leaves to a cluster, so that they are found again if the run is killed.

    Args:
        results: ``results/{experiment}``, held by this process.
        name: that all its jobs have in SLURM.
        study: digest of what the results depend on.
    """
    write_record(RunFolder(results).submitted, {"name": name, "study": study})


def forget_submitted(results: Path) -> None:
    """Note that no cluster has a job of these results any more."""
    RunFolder(results).submitted.unlink(missing_ok=True)


def forget_ended(results: Path) -> None:
    """Forget the jobs that this run left to a cluster if all have ended; where nobody can say, they are kept in mind.

    Args:
        results: ``results/{experiment}``, held by this process, which has noted all that its jobs made.
    """
    note = RunFolder(results).submitted
    with contextlib.suppress(DataError, MachineError, KeyError):
        if note.is_file() and not active(str(read_record(note, "snakemake")["name"])):
            forget_submitted(results)


def await_submitted(results: Path, study: Callable[[], str]) -> float | None:
    """Wait until the jobs of a run that was killed have ended, of another configuration, code or data: stop them.

    A second job for the same result would only wait for the first, on a node of its own, or be refused.

    Args:
        results: ``results/{experiment}``, held by this process.
        study: gives the digest of what the results depend on now.

    Returns:
        When that run began, if it made results of something else, which Snakemake may not know; else None.

    Raises:
        MachineError: where SLURM does not answer.
    """
    note = RunFolder(results).submitted
    if not note.is_file():
        return None
    try:
        record = read_record(note, "snakemake")
        name, same = str(record["name"]), record["study"] == study()
    except (DataError, KeyError):
        say(f"{note}: damaged; jobs that a run before may have left to a cluster are not waited for, but write nothing")
        return os.stat(note).st_mtime
    try:
        wait_for(name, stop=not same)
    except MachineError as error:
        raise MachineError(
            f"{error}; jobs of an earlier run may still write these results: if there are none any more, delete {note}"
        ) from None
    return None if same else os.stat(note).st_mtime


def _send(owner: Mapping[str, str], number: signal.Signals) -> None:
    if is_orphan(owner):
        return
    try:
        os.kill(int(owner["medseg.pid"]), number)
    except ProcessLookupError:
        return
    except PermissionError:
        say(f"process {owner['medseg.pid']} is another user's and goes on; what it writes is refused")
