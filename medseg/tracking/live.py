"""A training's curves in MLflow while it runs: a thread reads the journal, and training never waits."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

from medseg import cluster
from medseg.errors import TrackingError
from medseg.progress import say
from medseg.results.folders import TrackingFolder
from medseg.tracking.curves import CurvePoint, Curves, JournalReader
from medseg.tracking.failures import as_store_error, refusal
from medseg.tracking.library import LIVE_TIMEOUT_S, load_mlflow, why
from medseg.tracking.names import display_tags
from medseg.tracking.runs import close_orphans, now_ms, open_runs
from medseg.tracking.sender import Sender
from medseg.tracking.spec import RunSpec
from medseg.tracking.store import Store, open_store, read_store, store_lock

POLL_S = 1.0
# While another process sends.
WATCH_S = 5.0
LONGEST_WAIT_S = 60.0
# At the end: this long without progress, and this long in all.
QUIET_S = 10.0
FLUSH_S = 60.0


class LiveTracking:
    """Context manager around a training: sends its journal to MLflow within seconds and ends its run.

    Nothing that happens to the store reaches the training: an outage is reported once and tried again with growing
    pauses; what stays unsent is sent by ``medseg track sync``. While another process sends the curves of the same
    training, this one sends nothing (``sender``). The status is FINISHED, KILLED for ``KeyboardInterrupt`` and
    ``SystemExit``, FAILED for any other exception.
    """

    def __init__(self, store: Path, spec: RunSpec, journal: Path) -> None:
        """Take ``store.json``, the training's spec and its journal (which need not exist yet)."""
        self._store_file = store
        self._spec = spec
        self._reader = JournalReader(journal)
        self._unsent: list[CurvePoint] = []
        self._store: Store | None = None
        self._link: _Link | None = None
        self._status: str | None = None
        self._stop = threading.Event()
        self._progress = time.monotonic()
        self._outage: type[Exception] | None = None
        self._reported = self._said_who = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> LiveTracking:
        if not self._can_follow():
            return self
        # MLflow is imported here, not in the thread: two threads that import packages with cyclic imports at
        # once (training imports MONAI, and that MLflow) may see them half initialised.
        try:
            load_mlflow(LIVE_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 (reported; a broken MLflow must not end the training)
            say(f"tracking: off, MLflow cannot be imported ({why(error)})")
            return self
        self._thread = threading.Thread(target=self._follow, name="medseg-tracking", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        killed = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
        self._status = "FINISHED" if kind is None else "KILLED" if killed else "FAILED"
        self._progress = begun = time.monotonic()
        self._stop.set()
        while self._thread.is_alive():
            now = time.monotonic()
            if now - self._progress > QUIET_S or now - begun > FLUSH_S:
                self._say_unsent("the store does not answer")
                return
            self._thread.join(0.05)

    def _follow(self) -> None:
        wait = POLL_S
        while True:
            stopping = self._stop.is_set()
            try:
                self._send()
                if stopping:
                    self._close()
                    return
                if self._outage:
                    say(f"tracking: {self._spec.key}: the store answers again")
                self._outage, wait = None, POLL_S
            except Exception as error:  # noqa: BLE001 (reported; whatever it is, it must not end the training)
                if stopping:
                    self._say_unsent(self._why(error))
                    return
                # The texts of one outage differ in addresses and times, so a kind of error is reported once.
                if type(error) is not self._outage:
                    said = self._why(error)
                    say(f"tracking: {self._spec.key}: the store fails ({said}); training continues, trying again")
                self._outage, wait = type(error), min(2 * wait, LONGEST_WAIT_S)
            waiting = self._link is not None and not self._link.sender.ours
            self._stop.wait(max(wait, WATCH_S) if waiting else wait)

    def _can_follow(self) -> bool:
        """Whether the store can be written from here: a SQLite file is not shared by the nodes of a cluster."""
        if not os.environ.get(cluster.VARIABLE):
            return True
        try:
            return read_store(self._store_file).database is None
        except TrackingError as error:
            say(f"tracking: {self._spec.key}: off ({error})")
            return False

    def _send(self) -> None:
        self._unsent += self._reader.read()
        if self._link is None:
            self._store = read_store(self._store_file)
            self._link = _Link(self._store, self._spec)
            self._made_progress()
        link = self._link
        link.sender.keep()
        if not link.sender.ours:
            self._say_who(link.sender.holder)
            return
        tags = display_tags(self._reader.renamed)
        if tags:
            link.tag(tags)
            self._reader.renamed.clear()
        if self._unsent:
            link.curves.send(self._unsent, link.sender.turn, self._made_progress)
        if link.sender.ours:
            self._unsent.clear()

    def _why(self, error: Exception) -> str:
        """A few words; of a server that refuses who asks, also what there is to do."""
        if self._store is None or not refusal(error):
            return why(error)
        return str(as_store_error(error, self._store.uri, self._store.experiment))

    def _made_progress(self) -> None:
        self._progress = time.monotonic()

    def _close(self) -> None:
        if self._link is not None and self._status is not None:
            # So that a replay need not read what is there.
            whole = self._link.curves.complete() if self._status == "FINISHED" else {}
            self._link.sender.close(self._status, whole)

    def _say_who(self, holder: str) -> None:
        if holder and not self._said_who:
            self._said_who = True
            say(
                f"tracking: {self._spec.key}: {holder} sends the curves of the same training, so this one does not; "
                f"`medseg track sync {self._store_file.parent.parent}` sends what they lack"
            )

    def _say_unsent(self, cause: str) -> None:
        if self._reported:
            return
        self._reported = True
        say(
            f"tracking: {self._spec.key}: not everything was sent ({cause}); results are complete, "
            f"`medseg track sync {self._store_file.parent.parent}` sends the rest"
        )


class _Link:
    """An open connection to the run of one training."""

    def __init__(self, store: Store, spec: RunSpec) -> None:
        # From here on the store shows more than the last replay left: another one is due, whatever runs next.
        TrackingFolder(store.folder).synced.unlink(missing_ok=True)
        with store_lock(store.lock, QUIET_S):
            self._client, experiment = open_store(store)
            close_orphans(self._client, experiment)
            alone = store.database is not None
            parent, self._child = open_runs(self._client, experiment, spec, start_ms=now_ms(), alone=alone)
        self.sender = Sender(store, self._client, experiment, parent, self._child, QUIET_S)
        self.curves = Curves(self._client, self._child)

    def tag(self, tags: dict[str, str]) -> None:
        """Set tags of the run."""
        for name, value in tags.items():
            self._client.set_tag(self._child, name, value)
