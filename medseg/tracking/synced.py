"""``synced.txt``: what the last replay of the workflow sent, or what it could not; free of MLflow, and cheap."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from medseg.errors import TrackingError
from medseg.files import write_text
from medseg.results.paths import Results
from medseg.tracking.store import read_store

UNSENT = "unsent: "
STATE = "state: "
# Tag of the experiment: the state that the last complete replay left; empty while one is at work.
STATE_TAG = "medseg.synced"
QUERY = (
    "SELECT value FROM experiment_tags JOIN experiments USING (experiment_id) "
    "WHERE experiments.name = ? AND experiment_tags.key = ? AND experiments.lifecycle_stage = 'active'"
)


def write_synced(path: Path, summary: str, state: str) -> None:
    """Note a complete replay.

    Args:
        path: ``synced.txt``.
        summary: line for people.
        state: digest of what the store shows now.
    """
    write_text(path, f"{summary}\n{STATE}{state}\n")


def write_unsent(path: Path, why: str) -> None:
    """Note that the store could not be reached, in one line."""
    write_text(path, f"{UNSENT}{why}\n")


def unsent(results: Path) -> str:
    """What the last replay of the workflow could not send, in one line; empty if it sent all, or there was none."""
    path = Results(results).tracking.synced
    text = path.read_text(errors="replace") if path.is_file() else ""
    return text.removeprefix(UNSENT).strip() if text.startswith(UNSENT) else ""


def needs_sync(results: Path) -> bool:
    """Whether the replay of a study that was tracked before has to run again.

    So it is if something is unsent, and, of a SQLite store, if it was deleted, put back or written to by another study
    of this name: then it does not show what the last replay left. A server is not asked.

    Args:
        results: ``results/<experiment>``.
    """
    files = Results(results).tracking
    if not files.synced.is_file() or not files.store.is_file():
        return False  # the workflow runs its rule anyway
    lines = files.synced.read_text(errors="replace").splitlines()
    state = next((line.removeprefix(STATE) for line in lines if line.startswith(STATE)), None)
    if state is None:
        return True
    try:
        store = read_store(files.store)
    except TrackingError:
        return True
    path = store.database
    if path is None:
        return False
    if not path.is_file():
        return True
    readable = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(readable, uri=True, timeout=1)) as database:
            shown = database.execute(QUERY, (store.experiment, STATE_TAG)).fetchone()
            return bool(shown != (state,))
    except sqlite3.Error:
        return True
