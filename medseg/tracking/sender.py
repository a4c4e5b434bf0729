"""The right to send the curves of one run while its training runs: one process at a time has it.

Two processes may train the same thing: in copies of the working folder that share a store, or because one was stopped
and goes on elsewhere. Both would send every step, at different times of day, and MLflow would keep both points. So a
run names the process that sends (tags), and a beat that the process changes now and then. Another process takes over
when that one ended: on this machine that can be seen; of another machine, when the beat stands still. For a SQLite
store all this happens under the store's lock. A server has no lock: a claim is read again after a pause, and what is
left are two processes that both send between reading and writing, some milliseconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from medseg.owner import is_here, is_orphan, owner_tags
from medseg.tracking.runs import close_run
from medseg.tracking.store import Store, store_lock

BEAT = "medseg.beat"
# How often the beat changes, and how long it may stand still before somebody else takes over.
BEAT_S = 20.0
LEASE_S = 90.0
# On a server, how long a claim waits for another that is on its way, and for a batch that its loser still sends; longer
# where requests are slow.
CLAIM_S = 0.3


class Sender:
    """Decides, each time before points are sent, whether this process may.

    Attributes:
        ours: whether it may, as far as is known.
        holder: in words, who else does; empty if nobody.
    """

    def __init__(self, store: Store, client: Any, experiment: str, parent: str, child: str, wait_s: float) -> None:
        """Take the runs of a training; ``wait_s`` is how long to wait for the store's lock."""
        self._store, self._client, self._experiment = store, client, experiment
        self._parent, self._child, self._wait_s = parent, child, wait_s
        self._me = owner_tags()
        self._beaten = 0.0
        self._seen: tuple[object, float] = (None, 0.0)
        self.ours = False
        self.holder = ""

    @contextlib.contextmanager
    def turn(self) -> Iterator[Any]:
        """A block in which to send: gives the run as it is now, or None if another process sends its points."""
        with self._exclusive():
            run = self._client.get_run(self._child)
            if not self._owns(run) and self._is_free(run):
                run = self._claim()
            self.ours = self._owns(run)
            if self.ours:
                self.holder = ""
                self._beat()
            yield run if self.ours else None

    def keep(self) -> None:
        """Change the beat if it is time to, though there may be nothing to send; try to get the right if it is free."""
        if not self.ours or time.monotonic() - self._beaten > BEAT_S:
            with self.turn():
                pass

    def close(self, status: str, tags: Mapping[str, str] | None = None) -> None:
        """End the run, if it is ours; with tags that it gets."""
        with store_lock(self._store.lock, self._wait_s):
            if self._owns(self._client.get_run(self._child)):
                for name, value in (tags or {}).items():
                    self._client.set_tag(self._child, name, value)
                close_run(self._client, self._experiment, self._parent, self._child, status)

    def _exclusive(self) -> contextlib.AbstractContextManager[None]:
        if self._store.database is None:
            return contextlib.nullcontext()
        return store_lock(self._store.lock, self._wait_s)

    def _owns(self, run: Any) -> bool:
        return run.info.status == "RUNNING" and all(run.data.tags.get(k) == v for k, v in self._me.items())

    def _is_free(self, run: Any) -> bool:
        """Whether the process that sends for a run has ended, as far as can be seen from here."""
        tags = run.data.tags
        if run.info.status != "RUNNING" or "medseg.host" not in tags or is_orphan(tags):
            return True
        if is_here(tags):
            self.holder = f"process {tags.get('medseg.pid')}"
            return False
        self.holder = "a process on another machine"
        state = (tags.get("medseg.pid"), tags.get("medseg.born"), tags.get(BEAT))
        if self._seen[0] != state:
            self._seen = (state, time.monotonic())
        return time.monotonic() - self._seen[1] > LEASE_S

    def _claim(self) -> Any:
        from mlflow.entities import RunTag

        begun = time.monotonic()
        # In one request, so that of two claims one is whole.
        tags = {**self._me, BEAT: str(int(time.time()))}
        self._client.log_batch(self._child, tags=[RunTag(k, v) for k, v in tags.items()], synchronous=True)
        self._client.update_run(self._child, status="RUNNING")
        parent = self._client.get_run(self._parent)
        if parent.info.status != "RUNNING":
            self._client.update_run(self._parent, status="RUNNING")
        self._beaten = time.monotonic()
        if self._store.database is None:
            time.sleep(max(CLAIM_S, self._beaten - begun))
        return self._client.get_run(self._child)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten > BEAT_S:
            self._client.set_tag(self._child, BEAT, str(int(time.time())))
            self._beaten = now


@contextlib.contextmanager
def replay_turn(store: Store, client: Any, run_id: str) -> Iterator[Any]:
    """A block in which a replay sends what a run lacks, whoever sends for it besides; see ``curves.Turn``."""
    with contextlib.nullcontext() if store.database is None else store_lock(store.lock):
        yield client.get_run(run_id)
