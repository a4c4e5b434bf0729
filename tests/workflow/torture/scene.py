"""One rough study: what faults do to it, and what must be true of it afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.workflow.study import BIN, environment
from tests.workflow.torture import injection
from tests.workflow.torture.configurations import BASE, text_of
from tests.workflow.torture.lab import FINISHED, RUNGS, Lab
from tests.workflow.torture.mirror import mirror_problems
from tests.workflow.torture.outcome import different, digests_of, temporary
from tests.workflow.torture.processes import STAGES, VARIABLE, Processes
from tests.workflow.torture.surroundings import SmallDisk, Tracker

# A tiny study takes under a minute; whoever waits longer waits for ever.
PATIENCE_S = 240.0
START_S = 2.5
# Orphans that are fenced off notice it when they next write; until then they work as long as any job.
ORPHANS_S = 30.0


class Scene:
    """A study in a folder of its own and its processes.

    Attributes:
        lab: undisturbed studies.
        folder: of the study.
        rng: decides everything that is drawn.
        story: what was done, in words.
        problems: what was not as it must be.
        missed: faults whose moment never came.
        variant: of the configuration.
        disk: what the study lies on, if that is small.
        tracker: the server that it is tracked on, if there is one.
    """

    def __init__(self, lab: Lab, folder: Path, rng: random.Random) -> None:
        self.lab, self.folder, self.rng = lab, folder, rng
        self.log = self.beside("log")
        self.story: list[str] = []
        self.problems: list[str] = []
        self.missed = 0
        self.variant, self.rung = BASE, FINISHED
        self.disk: SmallDisk | None = None
        self.tracker: Tracker | None = None
        self.cores = rng.choice((1, 2))
        self.processes = Processes(uuid.uuid4().hex)
        self._begun, self._offset = time.monotonic(), 0
        self._patience_s = PATIENCE_S * lab.patience

    def tell(self, words: str) -> None:
        """Add to the story, with the second at which it happened."""
        self.story.append(f"{time.monotonic() - self._begun:.1f} s: {words}")

    def begin(self, rungs: Sequence[str] = tuple(RUNGS)) -> None:
        """Lay the study out, as it is on a rung that is drawn from those that there are."""
        there = [name for name in rungs if name in self.lab.rungs()] or [FINISHED]
        self.rung = self.rng.choice(there)
        self.lab.study(self.folder, self.variant, self.rung)
        self.tell(f"rung '{self.rung}', {self.cores} cores")

    def configure(self, variant: str) -> None:
        """Change the configuration."""
        self.variant = variant
        uri = self.tracker.uri if self.tracker else None
        (self.folder / "config" / "config.yaml").write_text(text_of(variant, uri))
        self.tell(f"configuration: {variant}")

    def start(
        self, *options: str, variables: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start the plain command, as the leader of a process group; its words go to the log."""
        command = [*prefix, str(BIN / "snakemake"), "--cores", str(self.cores), *options]
        own = {VARIABLE: self.processes.token, **(variables or {})}
        with open(self.log, "ab") as log:
            self._offset = log.tell()
            return subprocess.Popen(
                command, cwd=self.folder, env=environment(self.folder, own),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def moment(self, process: subprocess.Popen[bytes], within: Sequence[str] | None = None) -> bool:
        """Wait for a moment that is drawn: somewhere in a stage that is still to come, or as the command starts.

        Args:
            process: the command.
            within: one of these stages instead.

        Returns:
            Whether the command still runs; else the fault has missed it.
        """
        stage = self.rng.choice(within or ["start", *self.coming()])
        share = self.rng.uniform(0, 1.1)
        late = STAGES[STAGES.index(stage) :] if stage != "start" else ()
        while late and process.poll() is None and not any(s in late for s in self.processes.stages()):
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(share * (self.lab.seconds[stage] if late else START_S))
        alive = sorted(p.label for p in self.processes.alive())
        if process.poll() is not None:
            self.missed += 1
            self.tell(f"{share:.0%} of {stage}: the command has ended before, exit code {process.returncode}")
            return False
        self.tell(f"{share:.0%} of {stage}: alive are {', '.join(alive)}")
        return True

    def coming(self) -> Sequence[str]:
        """Stages that are not done yet."""
        if self.variant != BASE:
            return STAGES[STAGES.index("plan") :]
        following = RUNGS[self.rung][1]
        return STAGES[STAGES.index(following) :] if following else ()

    def end(self, process: subprocess.Popen[bytes]) -> int | None:
        """The exit code of a command that ends by itself; one that does not is a problem, and is killed."""
        try:
            code = process.wait(self._patience_s)
        except subprocess.TimeoutExpired:
            alive = sorted(p.label for p in self.processes.alive())
            self.problems.append(f"the command did not end in {self._patience_s:.0f} s; alive are {alive}")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        self.tell(f"exit code {code}")
        return code

    def finish(self, *options: str) -> None:
        """Give the plain command until it ends by itself, and look at everything."""
        code = self.end(self.start(*options))
        if code not in (0, None):
            self.problems.append(f"exit code {code}: {self.last_words()}")
        if code == 0:
            self.inspect()

    def inspect(self) -> None:
        """Compare with the undisturbed study, MLflow with the leaderboard; look for what was left."""
        # An orphan that stands still wakes up some day: it must find out that its time is over, and change nothing.
        self.processes.signal(signal.SIGCONT)
        found = []
        if not self.processes.gone(ORPHANS_S * self.lab.patience):
            found += [f"still runs: {p.label}" for p in self.processes.alive()]
        found += different(self.lab.reference(self.variant), digests_of(self.folder))
        found += temporary(self.folder)
        if self.tracker is None:
            found += mirror_problems(self.folder, self.folder / "mlflow.db", self.folder)
        elif self.tracker.answers:
            found += mirror_problems(self.folder, self.tracker.database, self.tracker.artifacts)
        self.problems += [f"{self.variant}: {line}" for line in found]
        self.tell("equal" if not found else f"{len(found)} problems")

    def close(self, *, keep: bool) -> None:
        """End all processes of the study and remove its folder."""
        self.processes.signal(signal.SIGKILL)
        self.processes.gone(5.0)
        if self.tracker:
            self.tracker.kill()
        if self.disk:
            self.disk.unmount()
        if not keep:
            for path in (self.folder, self.beside("tracker")):
                shutil.rmtree(path, ignore_errors=True)
            for path in (self.log, self.beside("points")):
                path.unlink(missing_ok=True)

    def beside(self, what: str) -> Path:
        """A file or folder that is the study's and no part of it."""
        return self.folder.parent / f"{self.folder.name}.{what}"

    def durable(self, at: int | None = None) -> dict[str, str]:
        """Environment of a run whose power is cut at a point of durability, drawn unless it is given."""
        at = at or self.rng.randint(1, max(1, self.lab.points[self.rung]))
        self.tell(f"power is cut at point {at} of about {self.lab.points[self.rung]}")
        counter = self.beside("points")
        counter.unlink(missing_ok=True)
        return injection.variables(at, counter, self.folder)

    def last_words(self) -> str:
        """What the command that was started last said last."""
        text = self.log.read_bytes()[self._offset :].decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-12:])
