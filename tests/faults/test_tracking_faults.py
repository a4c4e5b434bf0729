"""Tracking under faults: stores that race, die, hang or lock, trainings that are killed; no point is lost."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import BusyError, TrackingError
from medseg.files import write_json, writer_lock
from medseg.tracking import LiveTracking, RunSpec, init_store, sync
from medseg.tracking import live as live_module
from medseg.tracking.spec import plan_params
from medseg.tracking.store import load_mlflow, store_lock
from tests.plans import tiny_plan

NAME = "organs/unet fold0 seed0"
PLAN = tiny_plan(lr=0.002, model="unet").to_json()
PARAMS = plan_params(PLAN)
START_MS = 1_700_000_000_000


def spec() -> RunSpec:
    return RunSpec("organs", "unet", 0, 0, "f" * 64, PARAMS)


def append(journal: Path, steps: range, time_ms: int = START_MS) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "a", encoding="utf-8") as file:
        for step in steps:
            metrics = {"train/loss": 1.0 / (step + 1), "train/lr": 0.002}
            file.write(json.dumps({"step": step, "time_ms": time_ms + step, "metrics": metrics}) + "\n")


def finish_training(results: Path, journal: Path) -> None:
    """What `medseg train` leaves when it is done."""
    folder = results / "organs" / "train" / "unet" / "fold0-seed0"
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_bytes(journal.read_bytes())
    (folder / "model.safetensors").write_bytes(b"weights")
    write_json(folder / "timing.json", {"seconds": 1.0})
    facts = {"format": "medseg-model-1", "dataset": {"name": "organs"}, "plan": PLAN}
    run = {"fold": 0, "seed": 0, "fingerprint": "f" * 64}
    digest = {"weights_sha256": hashlib.sha256(b"weights").hexdigest(), "provenance": {}}
    write_json(folder / "model.json", {**facts, **run, **digest})


def rows(database: Path, query: str) -> list[Any]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def steps_in(database: Path, key: str = "train/loss") -> list[int]:
    """Steps of a curve over all runs of the store, as they were stored."""
    return [r[0] for r in rows(database, f"SELECT step FROM metrics WHERE key = '{key}' ORDER BY step")]


def statuses(database: Path) -> dict[str, str]:
    return dict(rows(database, "SELECT name, status FROM runs"))


def wait_for(condition: Callable[[], object], what: str) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    init_store(f"sqlite:///{folder}/mlflow.db", "template", folder / "store.json")
    return folder / "mlflow.db"


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Path:
    """An initialised store of its own."""
    source, target = sqlite3.connect(template), sqlite3.connect(tmp_path / "mlflow.db")
    source.backup(target)
    source.close()
    target.close()
    return tmp_path / "mlflow.db"


@pytest.fixture
def results(database: Path) -> Path:
    folder = database.parent / "results" / "study"
    init_store(f"sqlite:///{database}", "study", folder / "tracking" / "store.json")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "POLL_S", 0.02)


def store_json(results: Path) -> Path:
    return results / "tracking" / "store.json"


RACE_SCRIPT = """
import os, pathlib, sys
from medseg.tracking import LiveTracking, RunSpec, init_store
from medseg.tracking.store import load_mlflow
load_mlflow()  # once, before the race
out = pathlib.Path("results/study/tracking/store.json")
children = []
for number in range(8):
    if (child := os.fork()) == 0:
        init_store(None, "study", out)
        spec = RunSpec("organs", f"model{number % 2}", number, 0, "f" * 64, {"lr": number % 2})
        with LiveTracking(out, spec, pathlib.Path("journal.jsonl")):
            pass
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_eight_processes_on_a_fresh_folder_all_succeed_and_none_lands_in_default(tmp_path: Path) -> None:
    append(tmp_path / "journal.jsonl", range(3))
    done = subprocess.run([sys.executable, "-c", RACE_SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("created mlflow.db") == 1
    assert "not everything was sent" not in done.stderr
    store = tmp_path / "mlflow.db"
    experiments = dict(rows(store, "SELECT experiment_id, name FROM experiments"))
    assert sorted(experiments.values()) == ["Default", "study"]
    where = [experiments[r[0]] for r in rows(store, "SELECT experiment_id FROM runs")]
    assert where == ["study"] * 10
    assert set(statuses(store).values()) == {"FINISHED"}
    assert steps_in(store) == sorted([*range(3)] * 8)


def test_a_store_whose_creation_was_killed_is_created_again(tmp_path: Path) -> None:
    """Nor is a log replayed that a deleted store left behind."""
    (tmp_path / "mlflow.db.new").write_bytes(b"half a database")
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript("PRAGMA journal_mode = WAL; CREATE TABLE experiments (name); CREATE TABLE stray (x)")
    (tmp_path / "mlflow.db-wal").write_bytes((tmp_path / "old.db-wal").read_bytes())
    old.close()
    init_store(f"sqlite:///{tmp_path}/mlflow.db", "study", tmp_path / "store.json")
    assert rows(tmp_path / "mlflow.db", "SELECT name FROM experiments WHERE name = 'study'")
    assert not rows(tmp_path / "mlflow.db", "SELECT name FROM sqlite_master WHERE name = 'stray'")
    assert not (tmp_path / "mlflow.db.new").exists()


KILL_SCRIPT = """
import pathlib, sys, time
from medseg.tracking import LiveTracking, RunSpec
results, journal = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
spec = RunSpec("organs", "unet", 0, 0, "f" * 64, {"network": "unet", "lr": 0.002})
with LiveTracking(results / "tracking" / "store.json", spec, journal):
    time.sleep(600)
"""


def test_a_training_that_is_killed_and_resumed_has_every_step_exactly_once(results: Path, database: Path) -> None:
    journal = results / "state" / "journal.jsonl"
    append(journal, range(25))
    child = subprocess.Popen([sys.executable, "-c", KILL_SCRIPT, str(results), str(journal)])
    try:
        wait_for(lambda: len(steps_in(database)) == 25, "the first points")
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert statuses(database)[NAME] == "RUNNING"
    init_store(f"sqlite:///{database}", "study", store_json(results))
    assert statuses(database)[NAME] == statuses(database)["organs/unet"] == "KILLED"

    # Resumed from a checkpoint at step 20: later records are dropped and come again, at another time of day.
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:20]))
    with LiveTracking(store_json(results), spec(), journal):
        append(journal, range(20, 40), START_MS + 60_000)
    assert steps_in(database) == steps_in(database, "train/lr") == list(range(40))
    assert sorted(statuses(database)) == ["organs/unet", NAME]
    assert set(statuses(database).values()) == {"FINISHED"}
    finish_training(results, journal)
    assert "new: 0 curve points" in sync(results)
    assert steps_in(database) == list(range(40))


def test_a_resume_within_the_same_process_is_seen_through_the_journal(results: Path, database: Path) -> None:
    journal = results / "state" / "journal.jsonl"
    with LiveTracking(store_json(results), spec(), journal):
        append(journal, range(10))
        wait_for(lambda: len(steps_in(database)) == 10, "the first points")
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:5]) + '{"step": 5, "torn')
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:5]))
        append(journal, range(5, 15), START_MS + 60_000)
    assert steps_in(database) == list(range(15))


@pytest.fixture
def server(database: Path) -> Iterator[Callable[[], tuple[str, subprocess.Popen[bytes]]]]:
    """Starts an MLflow server over the store, on loopback, always at one address."""
    port, started = free_port(), []
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    command += ["--artifacts-destination", str(database.parent / "served"), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"}

    def start() -> tuple[str, subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        wait_for(lambda: _answers(port), "the server")
        return f"http://127.0.0.1:{port}", process

    yield start
    for process in started:
        kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a server that we started, with its workers (it leads a session of its own)."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_server_killed_in_mid_run_costs_nothing_once_it_is_back(
    database: Path,
    server: Callable[[], tuple[str, subprocess.Popen[bytes]]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    results = database.parent / "results" / "study"
    journal = results / "state" / "journal.jsonl"
    uri, process = server()
    init_store(uri, "study", store_json(results))
    with LiveTracking(store_json(results), spec(), journal):
        append(journal, range(10))
        wait_for(lambda: len(steps_in(database)) == 10, "the first points")
        kill_group(process)
        append(journal, range(10, 30))
    printed = capfd.readouterr().err
    assert "medseg track sync" in printed
    finish_training(results, journal)
    with pytest.raises(TrackingError, match=r"(?s)results are complete.*track sync.*repeated"):
        sync(results)
    assert steps_in(database) == list(range(10))

    server()
    line = sync(results)
    assert "new: 40 curve points" in line  # 20 steps of two curves
    assert steps_in(database) == steps_in(database, "train/lr") == list(range(30))
    assert set(statuses(database).values()) == {"FINISHED"}
    stored = [r[0] for r in rows(database, "SELECT timestamp FROM metrics WHERE key = 'train/loss' ORDER BY step")]
    assert stored == [START_MS + step for step in range(30)]
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(results)
    from medseg.tracking import resolve_model

    run = rows(database, f"SELECT run_uuid FROM runs WHERE name = '{NAME}'")[0][0]
    assert (resolve_model(run, uri) / "model.safetensors").read_bytes() == b"weights"


def test_a_server_that_was_never_there_stops_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results" / "study"
    journal = results / "state" / "journal.jsonl"
    init_store(f"http://127.0.0.1:{free_port()}", "study", store_json(results))
    assert json.loads(store_json(results).read_text())["experiment_id"] is None
    with LiveTracking(store_json(results), spec(), journal):
        append(journal, range(5))
        time.sleep(0.5)
    printed = capfd.readouterr().err.splitlines()
    assert sum("training continues" in line for line in printed) == 1
    assert sum("not everything was sent" in line for line in printed) == 1
    finish_training(results, journal)
    with pytest.raises(TrackingError, match="results are complete"):
        sync(results)


def test_a_server_that_hangs_lets_the_training_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live_module, "QUIET_S", 0.3)
    monkeypatch.setattr(live_module, "LIVE_TIMEOUT_S", 1)
    results = tmp_path / "results" / "study"
    write_json(store_json(results), {"uri": "", "experiment": "study", "experiment_id": None})
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(16)
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        write_json(store_json(results), {"uri": uri, "experiment": "study", "experiment_id": None})
        live = LiveTracking(store_json(results), spec(), results / "journal.jsonl")
        with live:
            append(results / "journal.jsonl", range(5))
        assert "does not answer" in capfd.readouterr().err
    assert live._thread is not None
    live._thread.join()


def test_a_locked_database_lets_the_training_end_and_gets_all_later(
    results: Path, database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live_module, "QUIET_S", 0.3)
    journal = results / "state" / "journal.jsonl"
    live = LiveTracking(store_json(results), spec(), journal)
    blocker = sqlite3.connect(database, isolation_level=None)
    with live:
        wait_for(lambda: NAME in statuses(database), "the run")
        blocker.execute("BEGIN EXCLUSIVE")
        append(journal, range(5))
    assert "medseg track sync" in capfd.readouterr().err
    blocker.execute("ROLLBACK")
    blocker.close()
    assert live._thread is not None
    live._thread.join()
    finish_training(results, journal)
    sync(results)
    assert steps_in(database) == list(range(5))


def test_an_interrupted_replay_is_completed_by_the_next(
    results: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_mlflow()
    from mlflow import MlflowClient

    journal = results / "state" / "journal.jsonl"
    append(journal, range(5))
    finish_training(results, journal)

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_model_artifacts", no_space)
        with pytest.raises(OSError, match="No space"):
            sync(results)
    assert "1 models" in sync(results)
    ready = "SELECT count(*) FROM logged_models WHERE lifecycle_stage = 'active'"
    assert rows(database, ready) == [(1,)]
    assert steps_in(database) == list(range(5))


def test_two_replays_at_once_are_one_too_many(results: Path) -> None:
    with writer_lock(results / "tracking"), pytest.raises(BusyError, match=str(os.getpid())):
        sync(results)


def test_the_store_lock_excludes_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.lock"
    holder = (
        "import pathlib, sys, time\nfrom medseg.tracking.store import store_lock\n"
        "with store_lock(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", holder, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="another process"), store_lock(path, 0.1):
            pass
    finally:
        child.kill()
        child.communicate()
    with store_lock(path, 5.0):
        pass
