"""The table of faults: each takes a study, does something to it, and lets the plain command finish it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from tests.workflow.torture.configurations import BASE, CHANGES
from tests.workflow.torture.damage import cut, delete, delete_folder, flip, flip_silently
from tests.workflow.torture.lab import FINISHED, NOTHING
from tests.workflow.torture.scene import Scene
from tests.workflow.torture.surroundings import KB, SmallDisk, Tracker, held

Fault = Callable[[Scene], None]
Process = subprocess.Popen[bytes]
# What may befall a running command.
Blow = Callable[[Scene, Process], None]


def kill_group(scene: Scene, process: Process) -> None:
    """SIGKILL to all of it, as a power cut that spares the disk."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    scene.tell("SIGKILL to the group")


def kill_snakemake(scene: Scene, process: Process) -> None:
    """SIGKILL to Snakemake alone: its jobs go on."""
    process.kill()
    process.wait()
    scene.tell("SIGKILL to snakemake alone")


def kill_part(scene: Scene, process: Process) -> None:
    """SIGKILL to one process of a job: the command itself, a worker, its shell, or the one that copies to the log."""
    parts = sorted((p for p in scene.processes.alive() if p.pid != process.pid), key=lambda p: p.label)
    if parts:
        chosen = parts[scene.rng.randrange(len(parts))]
        scene.processes.signal(signal.SIGKILL, lambda p: p.pid == chosen.pid)
        scene.tell(f"SIGKILL to one process of a job: {chosen.label}")
    scene.end(process)


def terminate(scene: Scene, process: Process) -> None:
    """SIGTERM, to the group as `systemd` does or to Snakemake alone."""
    if scene.rng.random() < 0.5:
        os.killpg(process.pid, signal.SIGTERM)
        scene.tell("SIGTERM to the group")
    else:
        process.terminate()
        scene.tell("SIGTERM to snakemake alone")
    scene.end(process)


def interrupt(scene: Scene, process: Process) -> None:
    """Ctrl-C once or twice: SIGINT to the group."""
    for _ in range(scene.rng.choice((1, 2))):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            scene.tell("SIGINT to the group")
            time.sleep(0.3)
    scene.end(process)


def freeze_jobs(scene: Scene, process: Process) -> None:
    """The jobs stand still and Snakemake is killed: they hold what they held, and wake up whenever they like."""
    frozen = scene.processes.signal(signal.SIGSTOP, lambda p: p.pid != process.pid)
    process.kill()
    process.wait()
    scene.tell(f"SIGSTOP to {len(frozen)} processes of jobs, SIGKILL to snakemake")


def second_command(scene: Scene, process: Process) -> None:
    """The same command beside the first one: it is refused, and the first one goes on."""
    second = scene.start()
    codes = {scene.end(process), scene.end(second)}
    if codes != {0, 2}:
        scene.problems.append(f"two commands at once: exit codes {codes}, expected 0 and 2")


BLOWS: Mapping[str, Blow] = {
    "group killed": kill_group,
    "snakemake killed": kill_snakemake,
    "part of a job killed": kill_part,
    "SIGTERM": terminate,
    "SIGINT": interrupt,
    "jobs frozen, snakemake killed": freeze_jobs,
    "second command": second_command,
}


def repeatedly(*blows: Blow) -> Fault:
    """Begin somewhere; one to three of ``blows``, each on a command of its own; then to the end."""

    def fault(scene: Scene) -> None:
        scene.begin()
        if scene.rung == FINISHED:
            scene.configure(scene.rng.choice(list(CHANGES)))
        strike(scene, [scene.rng.choice(blows) for _ in range(scene.rng.choice((1, 1, 2, 3)))])
        scene.finish()
        again(scene)

    return fault


def strike(scene: Scene, blows: Sequence[Blow]) -> None:
    """Give the command once for each blow, and let it befall it at a moment that is drawn."""
    for blow in blows:
        process = scene.start()
        if scene.moment(process):
            blow(scene, process)


def again(scene: Scene) -> None:
    """In one of five episodes: what is finished stays so, whoever asks again."""
    if scene.rng.random() < 0.2 and not scene.problems:
        scene.finish()


def power_cut(scene: Scene) -> None:
    """A file is torn as it becomes durable, and everything is gone; up to three times."""
    scene.begin()
    if scene.rung == FINISHED:
        scene.configure(scene.rng.choice(list(CHANGES)))
    for _ in range(scene.rng.choice((1, 2, 3))):
        code = scene.end(scene.start(variables=scene.durable()))
        if code == 0:
            scene.missed += 1
            break
    scene.finish()


def change_after_kill(*blows: Blow) -> Fault:
    """Interrupted, configured otherwise at once, run to the end; and back, while orphans may go on."""

    def fault(scene: Scene) -> None:
        scene.begin()
        strike(scene, [scene.rng.choice(blows)])
        scene.configure(scene.rng.choice(list(CHANGES)))
        scene.finish()
        scene.configure(BASE)
        scene.finish()

    return fault


def change_and_back(scene: Scene) -> None:
    """Configured otherwise, interrupted on the way, and configured back before it was ever finished."""
    scene.begin()
    scene.configure(scene.rng.choice(list(CHANGES)))
    strike(scene, [scene.rng.choice((kill_group, kill_snakemake, freeze_jobs, terminate))])
    scene.configure(BASE)
    scene.finish()


def change_while_running(scene: Scene) -> None:
    """The configuration is edited while the command runs: it ends under the old one, the next follows the new one."""
    scene.begin()
    process = scene.start()
    scene.moment(process)
    scene.configure(scene.rng.choice(list(CHANGES)))
    scene.end(process)
    scene.finish()


def disk_full(scene: Scene) -> None:
    """A small disk fills somewhere; then there is room."""
    if reason := SmallDisk.refusal(scene.folder):
        scene.tell(f"skipped: {reason}")
        return
    scene.disk = SmallDisk(scene.folder, 64 * KB)
    scene.begin()
    if scene.rung == FINISHED:
        scene.configure(scene.rng.choice(list(CHANGES)))
    room = int(scene.rng.uniform(8, 5000))
    scene.disk.resize(scene.disk.used() + room)
    scene.tell(f"room for {room} kB")
    if scene.end(scene.start()) == 0:
        scene.missed += 1
    scene.disk.resize(64 * KB)
    scene.finish()


def file_too_large(scene: Scene) -> None:
    """No file may be longer than so much; then any may."""
    scene.begin()
    if scene.rung == FINISHED:
        scene.configure(scene.rng.choice(list(CHANGES)))
    limit = int(10 ** scene.rng.uniform(2.5, 5.5))
    scene.tell(f"no file may be longer than {limit} bytes")
    if scene.end(scene.start(prefix=["prlimit", f"--fsize={limit}"])) == 0:
        scene.missed += 1
    scene.finish()


def tracker_away(scene: Scene) -> None:
    """The tracker is killed or stops answering, or was never there; it returns in half of the episodes."""
    scene.begin([NOTHING, "prepared", "trained", "scored"])
    scene.tracker = Tracker(scene.beside("tracker"))
    kind = scene.rng.choice(("killed", "frozen", "never there"))
    returns = scene.rng.random() < 0.5
    if kind != "never there":
        scene.tracker.start()
    scene.configure(BASE)
    process = scene.start()
    if kind != "never there":
        scene.moment(
            process, [s for s in ("track init", "train", "predict", "report", "track sync") if s in scene.coming()]
        )
        scene.tracker.kill() if kind == "killed" else scene.tracker.freeze()
    scene.tell(f"tracker: {kind}{', will return' if returns else ''}")
    if (code := scene.end(process)) != 0:
        scene.problems.append(f"exit code {code} of a study whose tracker is away: {scene.last_words()}")
    scene.inspect()
    if returns:
        scene.tracker.thaw() if kind == "frozen" else scene.tracker.start()
        scene.tell("tracker: back")
        scene.finish()


def database_held(scene: Scene) -> None:
    """Another program holds the tracking database for up to half a minute."""
    scene.begin(["prepared", "trained", "scored"])
    process = scene.start()
    scene.moment(process)
    seconds = scene.rng.uniform(1, 30)
    with held(scene.folder / "mlflow.db"):
        scene.tell(f"the database is held for {seconds:.0f} s")
        time.sleep(seconds)
    if (code := scene.end(process)) != 0:
        scene.problems.append(f"exit code {code} of a study whose database is held: {scene.last_words()}")
    scene.finish()


def damaged(*ways: Callable[[Scene], None], options: Sequence[str] = ()) -> Fault:
    """One to three outputs of a finished or half-finished study are gone or not what they were.

    ``options`` are of the command that finishes it.
    """

    def fault(scene: Scene) -> None:
        scene.begin(["prepared", "trained", "scored", FINISHED, FINISHED, FINISHED])
        for _ in range(scene.rng.choice((1, 1, 2, 3))):
            scene.rng.choice(ways)(scene)
        scene.finish(*options)
        again(scene)

    return fault


FAULTS: Mapping[str, Fault] = {
    **{name: repeatedly(blow) for name, blow in BLOWS.items()},
    "several in a row": repeatedly(*BLOWS.values()),
    "power cut": power_cut,
    "changed after a kill of the group": change_after_kill(kill_group, terminate, interrupt),
    "changed beside orphans": change_after_kill(kill_snakemake, freeze_jobs),
    "changed and changed back": change_and_back,
    "changed while running": change_while_running,
    "disk full": disk_full,
    "file too large": file_too_large,
    "tracker away": tracker_away,
    "database held": database_held,
    "output deleted": damaged(delete, delete_folder),
    "output flipped": damaged(flip),
    "output cut": damaged(cut),
    "output flipped, time kept": damaged(flip_silently, options=("--config", "verify=true")),
}
