"""What a run of the workflow does before its first job.

It takes the folders, stops what an earlier run left behind, and looks whether all that was made is still there.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medseg.config import Config
from medseg.config.grids import grid_name
from medseg.errors import BusyError, DataError
from medseg.fence import draw_token
from medseg.files import sweep
from medseg.outputs import UNFINISHED, damaged, forget, owners
from medseg.owner import is_here, is_orphan
from medseg.progress import say
from medseg.records import read_record, write_record
from medseg.results.folders import RunFolder
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.tracking import needs_sync

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
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        first = file.read().strip() or "an unknown process"
        file.close()
        raise BusyError(f"{name}/: {first} is already running a workflow here; wait for it or stop it") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} ({' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])})\n")
    file.flush()
    _held.append(file)


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
    until = time.monotonic() + STOP_S
    while any(not is_orphan(owner) for owner in running.values()) and time.monotonic() < until:
        time.sleep(0.1)
    # Not before: what they save when they are asked to stop is theirs to write.
    draw_token(results)
    for owner in running.values():
        _send(owner, signal.SIGKILL)
    sweep(RunFolder(results).made)


def _send(owner: Mapping[str, str], number: signal.Signals) -> None:
    if is_orphan(owner):
        return
    try:
        os.kill(int(owner["medseg.pid"]), number)
    except ProcessLookupError:
        return
    except PermissionError:
        say(f"process {owner['medseg.pid']} is another user's and goes on; what it writes is refused")


@dataclass(frozen=True, slots=True)
class Again:
    """What was made again, or is to be.

    Attributes:
        counts: result -> how often it was to be made again; those that never were are not in it.
        found: results of which a file was deleted or changed since this was asked last, and which file.
    """

    counts: Mapping[str, int]
    found: Mapping[Path, str]


def count_again(config: Config, *, verify: bool = False) -> Again:
    """How often each result was to be made again; one more where a file was deleted or changed since it was made.

    The count is a parameter of the result's job: Snakemake runs a job whose parameter differs from that of its last
    run, and looks by itself at nothing that lies between two files that are there. It is on disk before the first job
    runs, so a kill does not lose it.

    Args:
        config: the experiment.
        verify: read every file, and not only those whose size or time differ.
    """
    results = Results.of(config)
    file = RunFolder(results.root).again
    counts = _counts(file)
    found = damaged(results.root, made_by(config), verify=verify, say=say)
    if needs_sync(results.root):
        found[results.tracking.synced] = UNFINISHED
    for result, why in found.items():
        if why != UNFINISHED:
            say(f"{why}: it is made again")
        counts[str(result)] = counts.get(str(result), 0) + 1
    if found:
        write_record(file, counts)
        for result in found:
            forget(results.root, result)
    return Again(counts, {result: why for result, why in found.items() if why != UNFINISHED})


def _counts(file: Path) -> dict[str, int]:
    if not file.is_file():
        return {}
    try:
        return read_record(file, "snakemake")
    except DataError:
        say(f"{file}: damaged; what was made again before is made again once more")
        return {}


def made_by(config: Config) -> list[Path]:
    """The file that comes last of each job of a configuration, in the order of the stages."""
    results = Results.of(config)
    keys = [RunKey(*run) for run in config.runs()]
    shards = [f"{index}-of-{config.shards}" for index in range(config.shards)] if config.shards > 1 else []
    stores = {results.store(key.dataset, grid_name(config, key.model)) for key in keys}
    predictions = [results.predict(key) for key in keys]
    refined = [results.postprocess(key) for key in keys if config.datasets[key.dataset].postprocess.applies]
    weighted = [name for name, model in config.models.items() if model.options.get("weights")]
    return [
        *(config.folder_of(name) / "phantoms.json" for name, data in config.datasets.items() if data.generate),
        *(results.ingest(name).splits for name in config.datasets),
        *(results.plan(name).fingerprint for name in config.datasets),
        *dict.fromkeys(results.plan(key.dataset).plan(key.model) for key in keys),
        *(results.weights(name) for name in weighted),
        *(folder.shard(shard) for folder in (*stores, *predictions) for shard in shards),
        *(store.index for store in stores),
        *(results.model(key).description for key in keys),
        *(folder.record for folder in predictions),
        *(folder.record for folder in refined),
        *(results.scores_shard(key, shard) for key in keys for shard in shards),
        *(results.scores(key) for key in keys),
        results.compare.summary,
        results.report.page,
    ]
