"""The MLflow store: where it is, how it is created once, and the client that connects to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import BusyError, DataError, TrackingError
from medseg.explained import named
from medseg.files import fsync_folder
from medseg.progress import say
from medseg.records import as_written, read_record, write_record
from medseg.tracking.failures import AwayError, StoreClient, StoreError, as_store_error, is_no_mlflow, refusal
from medseg.tracking.library import impatient, load_mlflow, of_store, store_errors, why
from medseg.tracking.views import experiment_tags

MAKER = "medseg track init"
DEFAULT_URI = "sqlite:///mlflow.db"
ARTIFACTS = "mlartifacts"
LOCK_WAIT_S = 120.0
SET_LOCATION = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"

_process_lock = threading.Lock()
_replay_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Store:
    """Where an experiment is tracked.

    Attributes:
        uri: ``sqlite:///file`` (relative to the working folder) or an ``http(s)://`` MLflow server.
        experiment: its name; ids are looked up by it, so that a store that was created again is found, too.
        folder: of ``store.json``.
    """

    uri: str
    experiment: str
    folder: Path

    @property
    def database(self) -> Path | None:
        """The SQLite file, or None for a server."""
        return database_of(self.uri)

    @property
    def lock(self) -> Path:
        """What writers of runs hold: beside the database, since several experiments share it."""
        path = self.database
        return self.folder / ".store.lock" if path is None else path.parent / f"{path.name}.lock"


def check_uri(uri: str | None) -> str:
    """The URI to use; raises ``TrackingError`` for a kind of store that is not supported."""
    if uri is None:
        return DEFAULT_URI
    parts = urllib.parse.urlsplit(uri)
    if parts.password or parts.username:
        raise TrackingError(
            "tracking.uri holds a user name or password; give it without, and set MLFLOW_TRACKING_USERNAME "
            "and MLFLOW_TRACKING_PASSWORD, since the URI is written into the results"
        )
    if parts.scheme in {"http", "https"} and parts.netloc:
        return uri
    if uri.startswith("sqlite:///") and len(uri) > len("sqlite:///") and not parts.query:
        return uri
    hint = "; old file stores are converted by `mlflow migrate-filestore`" if parts.scheme in {"", "file"} else ""
    raise TrackingError(
        f"tracking.uri {uri!r}: expected http://… or https://… (an MLflow server, whatever database it "
        f"has) or sqlite:///FILE{hint}"
    )


def database_of(uri: str) -> Path | None:
    """The file of a SQLite URI (three slashes: relative, four: absolute), None for other URIs."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def artifacts_of(uri: str) -> str:
    """Folder of the artifacts beside a SQLite file; relative where the URI is, so that both move together."""
    path = database_of(uri)
    return ARTIFACTS if path is None else (path.parent / ARTIFACTS).as_posix()


@contextlib.contextmanager
def store_lock(path: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the right to create experiments and runs; ``BusyError`` after ``wait_s``.

    A record lock and not flock: a data loader's workers, forked while it is held, would inherit an flock and
    keep it. Record locks do not exclude threads of one process, hence the second lock. The kernel frees it
    with the process.
    """
    with _locked(path, wait_s, _process_lock):
        yield


@contextlib.contextmanager
def replay_lock(store: Store, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the right to say what is current: of two replays into one store, one waits. As ``store_lock``."""
    with _locked(store.lock.with_name(f"{store.lock.name}.sync"), wait_s, _replay_lock):
        yield


@contextlib.contextmanager
def _locked(path: Path, wait_s: float, within: threading.Lock) -> Iterator[None]:
    until = time.monotonic() + wait_s
    if not within.acquire(timeout=wait_s):
        raise BusyError(f"{path}: held by another thread for {wait_s:.0f} s")
    try:
        with of_store():
            path.parent.mkdir(parents=True, exist_ok=True)
            opened = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closed by the next line)
        with opened as file:
            while True:
                try:
                    with named(path):
                        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except (BlockingIOError, PermissionError):
                    if time.monotonic() > until:
                        raise BusyError(
                            f"{path}: another process has held the tracking store for {wait_s:.0f} s"
                        ) from None
                    time.sleep(0.05)
            yield
    finally:
        within.release()


def init_store(uri: str | None, experiment: str, out: Path) -> None:
    """Create the store and the experiment if they are not there, close orphaned runs, and write ``out``.

    Any number of processes may call it at once and again. A server that does not answer, or a SQLite file that cannot
    be used now (locked, disk full), is reported and is no error: results do not need it, and ``sync`` creates what is
    missing later.

    Args:
        uri: SQLite file or MLflow server; None: ``mlflow.db`` in the working folder.
        experiment: name of the experiment.
        out: ``results/<experiment>/tracking/store.json``.

    Raises:
        TrackingError: for a URI that is not supported, or a SQLite file that is no store (``StoreError``).
    """
    from medseg.tracking.runs import close_orphans

    store = Store(check_uri(uri), experiment, out.parent)
    load_mlflow()
    found: str | None = None
    try:
        require_answer(store)
        with store_lock(store.lock):
            client, found = open_store(store)
            close_orphans(client, found)
    except BusyError as error:
        _say_away(str(error))
    except store_errors(StoreError) as error:
        told = as_store_error(error, store.uri, store.experiment)
        if store.database is not None and not isinstance(told, AwayError):
            raise told from error
        _say_away(str(told))
    write_record(out, {"uri": store.uri, "experiment": experiment, "experiment_id": found})


def _say_away(what: str) -> None:
    say(f"tracking: {what}; the study continues, `medseg track sync` sends everything later")


def require_answer(store: Store) -> None:
    """Within seconds: raise ``AwayError`` if a server gives no answer, ``StoreError`` if it refuses."""
    if store.database is not None:
        return
    try:
        with impatient():
            connect(store).search_experiments(max_results=1)
    except store_errors() as error:
        if is_no_mlflow(error):
            raise StoreError(f"{store.uri} is no MLflow server: found another answer there ({why(error)})") from error
        if refusal(error):
            raise as_store_error(error, store.uri, store.experiment) from error
        raise AwayError(f"{store.uri} does not answer ({why(error)})") from error


def open_store(store: Store) -> tuple[Any, str]:
    """Client and experiment id of a store, both created if missing. Call with ``store.lock`` held."""
    path = store.database
    if path is not None and not path.is_file():
        with of_store():
            _create_database(path, store.uri)
        say(f"tracking: created {path}")
    client = connect(store)
    return client, _experiment_id(client, store)


def _create_database(path: Path, uri: str) -> None:
    """Create the SQLite file, complete or not at all: a migration that is killed half-way cannot be resumed.

    Where several processes let MLflow create its tables at once, all but one fail.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{path.name}.new"
    # A write-ahead log of a deleted file would be replayed into its successor.
    for stale in (temporary, path):
        for suffix in ("", "-wal", "-shm", "-journal"):
            stale.with_name(stale.name + suffix).unlink(missing_ok=True)
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    made = SqlAlchemyStore(f"sqlite:///{temporary}", artifacts_of(uri))
    made.engine.dispose()
    with contextlib.closing(sqlite3.connect(temporary)) as database:
        with database:
            database.execute(SET_LOCATION, (f"{artifacts_of(uri)}/0", 0))
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fsync_folder(path.parent)
    if mode != "wal":
        say(f"tracking: {path}: no write-ahead log on this file system ({mode}); writers wait longer for one another")


def read_store(path: Path) -> Store:
    """Read ``store.json``; ``TrackingError`` if it is missing or damaged."""
    try:
        value = read_record(path, MAKER)
        with as_written(path, MAKER):
            uri, experiment = str(value["uri"]), str(value["experiment"])
        return Store(check_uri(uri), experiment, path.parent)
    except DataError as error:
        raise TrackingError(str(error)) from None


def connect(store: Store) -> Any:
    """An ``MlflowClient`` of the store.

    Raises:
        TrackingError: if the SQLite file is not there (another working folder, or deleted).
    """
    path = store.database
    if path is not None and not path.is_file():
        raise TrackingError(
            f"{path}: no such file in this folder; run the command where the study was run, or, if it was "
            "deleted, create it again with `medseg track sync results/<experiment>`"
        )
    from mlflow import MlflowClient

    with of_store():
        return StoreClient(MlflowClient(tracking_uri=store.uri))


def _experiment_id(client: Any, store: Store) -> str:
    """Id of the experiment, created if missing.

    ``mlflow.set_experiment`` is not used: where several processes race, it puts the losers' runs into "Default".
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(store.experiment)
    if found is None:
        refused: MlflowException | None = None
        try:
            client.create_experiment(store.experiment)
        except MlflowException as error:
            # Perhaps created by another machine meanwhile: our lock reaches only this one.
            refused = error
        found = client.get_experiment_by_name(store.experiment)
        if found is None:
            told = "" if refused is None else f" ({as_store_error(refused, store.uri, store.experiment)})"
            raise StoreError(f"{store.uri}: does not let experiment '{store.experiment}' be created{told}") from refused
    _make_relative(store, found)
    for name, value in experiment_tags(found.experiment_id).items():
        if found.tags.get(name) != value:
            client.set_experiment_tag(found.experiment_id, name, value)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
        say(f"tracking: experiment '{store.experiment}' was deleted in {store.uri}; restored")
    return str(found.experiment_id)


def _make_relative(store: Store, experiment: Any) -> None:
    """Keep artifacts findable after the folder moves: MLflow makes every local location absolute."""
    place = f"{artifacts_of(store.uri)}/{experiment.experiment_id}"
    local = urllib.parse.urlsplit(experiment.artifact_location).scheme in {"", "file"}
    if store.database is not None and local and experiment.artifact_location != place:
        with contextlib.closing(sqlite3.connect(store.database, timeout=20)) as database, database:
            database.execute(SET_LOCATION, (place, int(experiment.experiment_id)))
