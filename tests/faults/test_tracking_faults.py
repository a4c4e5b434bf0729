"""Tracking under faults: stores that race, die, hang or lock, trainings that are killed; no point is lost."""

from __future__ import annotations

import errno
import http.server
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import BusyError, TrackingError
from medseg.files import writer_lock
from medseg.records import write_record
from medseg.tracking import (
    LiveTracking,
    RunSpec,
    init_store,
    library,
    models,
    needs_sync,
    resolve_model,
    sender,
    sync,
    sync_or_note,
    ui,
    unsent,
)
from medseg.tracking import live as live_module
from medseg.tracking.library import load_mlflow
from medseg.tracking.spec import plan_params
from medseg.tracking.store import read_store, store_lock
from medseg.tracking.ui import serve_ui
from medseg.train.history import write_history
from tests.fake_study import START_MS, FakeStudy, journal_of
from tests.plans import tiny_plan

NAME = "organs/unet fold0 seed0"
PLAN = tiny_plan(lr=0.002, model="unet", steps=6)


def spec(fingerprint: str = "f" * 64, steps: int = 6, fold: int = 0) -> RunSpec:
    return RunSpec("organs", "unet", fold, 0, fingerprint, plan_params(PLAN.changed(steps=steps).to_json()))


def append(journal: Path, steps: range, time_ms: int = START_MS) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with open(journal, "ab") as file:
        file.write(journal_of((s, time_ms + s, {"train/loss": 1.0 / (s + 1), "train/lr": 0.002}) for s in steps))


def finish_training(results: Path, journal: Path, fingerprint: str = "f" * 64) -> None:
    """What `medseg train` leaves when it is done, in a study of this training alone; it is scored and compared."""
    study = FakeStudy(results, {"unet": 6}, (0,), plans=lambda _, steps: PLAN.changed(steps=steps))
    study.configure()
    study.plan("unet")
    (key,) = study.trainings()
    study.train(key, fingerprint)
    steps = {"seconds": 1.0, "steps": 6}
    write_history(study.files.model(key), journal.read_bytes(), fingerprint, steps)
    study.compare()


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
    """Name -> status of the runs that there are; what was deleted, MLflow keeps as it was."""
    found = rows(database, "SELECT name, status FROM runs WHERE lifecycle_stage = 'active'")
    assert len({name for name, _ in found}) == len(found), "one run for each training and model"
    return dict(found)


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
    """A store that was created where an earlier attempt was killed, and beside what a deleted store left."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db.new").write_bytes(b"half a database")
    old = sqlite3.connect(folder / "old.db")
    old.executescript("PRAGMA journal_mode = WAL; CREATE TABLE experiments (name); CREATE TABLE stray (x)")
    (folder / "mlflow.db-wal").write_bytes((folder / "old.db-wal").read_bytes())
    old.close()
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
from medseg.tracking.library import load_mlflow
load_mlflow()  # once, before the race
out = pathlib.Path("results/study/tracking/store.json")
children = []
for number in range(4):
    if (child := os.fork()) == 0:
        init_store(None, "study", out)
        spec = RunSpec("organs", f"model{number % 2}", number, 0, "f" * 64, {"lr": number % 2})
        with LiveTracking(out, spec, pathlib.Path("journal.jsonl")):
            pass
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_four_processes_on_a_fresh_folder_all_succeed_and_none_lands_in_default(tmp_path: Path) -> None:
    append(tmp_path / "journal.jsonl", range(3))
    done = subprocess.run([sys.executable, "-c", RACE_SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("created mlflow.db") == 1
    assert "not everything was sent" not in done.stderr
    store = tmp_path / "mlflow.db"
    experiments = dict(rows(store, "SELECT experiment_id, name FROM experiments"))
    assert sorted(experiments.values()) == ["Default", "study"]
    where = [experiments[r[0]] for r in rows(store, "SELECT experiment_id FROM runs")]
    assert where == ["study"] * 6
    assert set(statuses(store).values()) == {"FINISHED"}
    assert steps_in(store) == sorted([*range(3)] * 4)


def test_a_store_whose_creation_was_killed_is_created_again(template: Path) -> None:
    """Nor is a log replayed that a deleted store left behind."""
    assert rows(template, "SELECT name FROM experiments WHERE name = 'template'")
    assert not rows(template, "SELECT name FROM sqlite_master WHERE name = 'stray'")
    assert not template.with_name("mlflow.db.new").exists()


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


def test_a_server_killed_in_mid_run_is_noted_and_costs_nothing_once_it_is_back(
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
    assert all(line.startswith("tracking: ") for line in printed.splitlines()), printed
    finish_training(results, journal)
    synced = results / "tracking" / "synced.txt"
    line = sync_or_note(results, None, synced)
    assert "\n" not in line
    assert f"{uri} does not answer (connection refused); not sent: 1 training, and" in line
    assert f"`medseg track sync {results}`" in line
    assert unsent(results) == line.removeprefix("tracking: unsent: ")
    assert needs_sync(results)
    assert steps_in(database) == list(range(10))

    server()
    line = sync_or_note(results, None, synced)
    assert unsent(results) == ""
    assert not needs_sync(results)
    assert "new: 40 curve points" in line  # 20 steps of two curves
    assert steps_in(database) == steps_in(database, "train/lr") == list(range(30))
    assert set(statuses(database).values()) == {"FINISHED"}
    stored = [r[0] for r in rows(database, "SELECT timestamp FROM metrics WHERE key = 'train/loss' ORDER BY step")]
    assert stored == [START_MS + step for step in range(30)]
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(results)
    run = rows(database, f"SELECT run_uuid FROM runs WHERE name = '{NAME}'")[0][0]
    weights = next(results.glob("*/train/*/*/model.safetensors")).read_bytes()
    assert (resolve_model(run, uri) / "model.safetensors").read_bytes() == weights


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
    with pytest.raises(TrackingError, match="results are complete on disk"):
        sync(results)


def test_a_server_that_hangs_lets_the_training_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live_module, "QUIET_S", 0.3)
    monkeypatch.setattr(live_module, "LIVE_TIMEOUT_S", 1)
    results = tmp_path / "results" / "study"
    write_record(store_json(results), {"uri": "", "experiment": "study", "experiment_id": None})
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(16)
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        write_record(store_json(results), {"uri": uri, "experiment": "study", "experiment_id": None})
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
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    journal = results / "state" / "journal.jsonl"
    append(journal, range(5))
    finish_training(results, journal)
    log_artifacts = LocalArtifactRepository.log_artifacts

    def no_space(repository: Any, folder: str, *more: Any) -> None:
        if "models" in repository.artifact_uri:
            raise OSError(28, "No space left on device")
        log_artifacts(repository, folder, *more)

    with monkeypatch.context() as broken:
        broken.setattr(LocalArtifactRepository, "log_artifacts", no_space)
        with pytest.raises(TrackingError, match=r"no space left on device.*track sync"):
            sync(results)
    assert "1 models" in sync(results)
    ready = "SELECT count(*) FROM logged_models WHERE lifecycle_stage = 'active'"
    assert rows(database, ready) == [(1,)]
    assert steps_in(database) == list(range(5))


def test_two_replays_at_once_are_one_too_many(results: Path) -> None:
    FakeStudy(results).finish()
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


# --- two processes that train the same ---

CLONE_SCRIPT = """
import pathlib, sys, time
from medseg.tracking import LiveTracking
from tests.faults.test_tracking_faults import append, quicken, spec
quicken()
results = pathlib.Path(sys.argv[1])
journal = results / "journal.jsonl"
with LiveTracking(results / "tracking" / "store.json", spec(), journal):
    for step in range(30):
        append(journal, range(step, step + 1), int(sys.argv[2]))
        time.sleep(0.02)
    time.sleep(float(sys.argv[3]))
"""


def quicken() -> None:
    live_module.POLL_S = live_module.WATCH_S = 0.02


def start_clone(results: Path, start_ms: int, wait_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLONE_SCRIPT, str(results), str(start_ms), str(wait_s)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def clones_of(database: Path, uri: str) -> list[Path]:
    """Two working folders of one study with one store."""
    folders = [database.parent / name / "results" / "study" for name in ("first", "second")]
    for folder in folders:
        init_store(uri, "study", store_json(folder))
    return folders


def check_two_clones(database: Path, uri: str) -> None:
    """Two folders train the same, at once; then one after the other; then both replay."""
    folders = clones_of(database, uri)
    clones = [start_clone(folder, START_MS + 60_000 * n, wait_s=1.0) for n, folder in enumerate(folders)]
    said = "".join(clone.communicate()[1] for clone in clones)
    assert [clone.returncode for clone in clones] == [0, 0], said
    assert steps_in(database) == list(range(30)), said
    assert set(statuses(database)) == {"organs/unet", NAME}
    (folders[0] / "journal.jsonl").unlink()
    append(folders[0] / "journal.jsonl", range(30), START_MS + 120_000)
    with LiveTracking(store_json(folders[0]), spec(), folders[0] / "journal.jsonl"):
        pass
    for folder in folders:
        finish_training(folder, folder / "journal.jsonl")
        sync(folder)
    assert steps_in(database) == steps_in(database, "train/lr") == list(range(30))
    assert set(statuses(database).values()) == {"FINISHED"}


@pytest.mark.exhaustive
def test_two_clones_that_train_the_same_send_every_point_once(database: Path) -> None:
    check_two_clones(database, f"sqlite:///{database}")


@pytest.mark.exhaustive
def test_two_clones_with_a_server_send_every_point_once(
    database: Path, server: Callable[[], tuple[str, subprocess.Popen[bytes]]]
) -> None:
    check_two_clones(database, server()[0])


def test_who_trains_what_another_process_sends_says_so_and_takes_over_when_that_one_ends(
    results: Path, database: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live_module, "WATCH_S", 0.02)
    first, second = clones_of(database, f"sqlite:///{database}")
    append(first / "journal.jsonl", range(10))
    child = subprocess.Popen([sys.executable, "-c", KILL_SCRIPT, str(first), str(first / "journal.jsonl")])
    try:
        wait_for(lambda: len(steps_in(database)) == 10, "the first points")
        with LiveTracking(store_json(second), spec(), second / "journal.jsonl"):
            append(second / "journal.jsonl", range(20), START_MS + 60_000)
            wait_for(lambda: f"process {child.pid} sends the curves" in capfd.readouterr().err, "the line")
            assert steps_in(database) == list(range(10))
            child.kill()
            child.wait()
            wait_for(lambda: len(steps_in(database)) == 20, "the others")
    finally:
        child.kill()
        child.wait()
    assert steps_in(database) == list(range(20))
    assert set(statuses(database).values()) == {"FINISHED"}


def test_a_process_on_another_machine_is_believed_to_live_while_its_beat_changes(
    results: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = load_mlflow().MlflowClient(f"sqlite:///{database}")
    link = live_module._Link(read_store(store_json(results)), spec())
    link.sender.keep()
    assert link.sender.ours
    ((run,),) = rows(database, f"SELECT run_uuid FROM runs WHERE name = '{NAME}'")
    client.set_tag(run, "medseg.host", "elsewhere")
    monkeypatch.setattr(sender, "LEASE_S", 0.5)
    for beat in range(4):
        client.set_tag(run, "medseg.beat", str(beat))
        time.sleep(0.3)
        with link.sender.turn() as ours:
            assert ours is None
        assert link.sender.holder == "a process on another machine"
    wait_for(lambda: link.sender.keep() or link.sender.ours, "the end of the lease")


# --- a store that is away ---


class Rude(http.server.BaseHTTPRequestHandler):
    """Answers everything in one way."""

    answer = (503, b"")

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.answer[0])
        self.end_headers()
        self.wfile.write(self.answer[1])

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


NO_SERVER = "is no MLflow server: found another answer there"
OTHER_ANSWERS = (b'{"experiments": 5}', b"[]", b"5", b"<html>a router</html>", b'{"experiments": [{"name": {}}]}')


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "does not answer (no answer in time)"),
        # A text that no terminal should see raw.
        ((503, b"maintenance \x1b[2J\r\nlater"), "does not answer"),
        ((429, b"later"), "does not answer"),
        (
            (400, b'{"error_code": "BAD_REQUEST", "message": "not so"}'),
            ": the server refuses (400): BAD_REQUEST: not so",
        ),
        ((401, b"who"), ": the server refuses (401): it wants to know who asks; set MLFLOW_TRACKING_USERNAME"),
        (
            (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'),
            ": the server refuses (403): a user without a name may not do this with experiment 'study'",
        ),
        ((413, b"<html>too large</html>"), ": the server refuses (413)"),
        ((200, OTHER_ANSWERS[0]), NO_SERVER),
        ((200, OTHER_ANSWERS[1]), NO_SERVER),
        *(pytest.param((200, text), NO_SERVER, marks=pytest.mark.exhaustive) for text in OTHER_ANSWERS[2:]),
    ],
)
def test_servers_that_hang_refuse_or_are_something_else_are_told_apart_within_seconds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    answer: tuple[int, bytes] | None,
    said: str,
) -> None:
    monkeypatch.setattr(library, "ANSWER_S", 1)
    monkeypatch.setattr(Rude, "answer", answer)
    kind = "deaf" if answer is None else "rude"
    study = FakeStudy(tmp_path / "results" / "study").finish()
    rude = http.server.HTTPServer(("127.0.0.1", 0), Rude)
    thread = threading.Thread(target=rude.serve_forever)
    if kind == "rude":  # the other one accepts connections and is silent
        thread.start()
    try:
        uri = f"http://127.0.0.1:{rude.server_address[1]}"
        init_store(uri, "study", study.files.tracking.store)
        assert f"{uri}{said}" in capfd.readouterr().err.replace(f"{uri} ", uri)
        line = sync_or_note(study.results, None, study.files.tracking.synced)
        assert f"{uri}{said}" in line.replace(f"{uri} ", uri)
        assert "all results are complete on disk" in line
        assert line.isprintable()
        assert needs_sync(study.results)
        with pytest.raises(TrackingError, match=f"(?s){'0' * 32}: {uri}.*folder of the model"):
            resolve_model("0" * 32, uri)
    finally:
        if kind == "rude":
            rude.shutdown()
            thread.join()
        rude.server_close()


def replace_database(database: Path, data: bytes | None = None) -> None:
    """Delete the file, or put another one there."""
    for suffix in ("", "-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    if data is not None:
        database.write_bytes(data)


def test_a_store_that_was_deleted_or_written_by_others_is_filled_again(results: Path, database: Path) -> None:
    study = FakeStudy(results).finish()
    synced = study.files.tracking.synced
    assert not needs_sync(results)  # the workflow runs the rule, since its output is not there
    sync(results, out=synced)
    assert not needs_sync(results)
    replace_database(database)
    assert needs_sync(results)
    # Spelled in another way, since MLflow keeps the file of a URI open as long as the process lives.
    spelled = f"sqlite:///{database.parent}/./{database.name}"
    init_store(spelled, "another", results.parent / "another" / "store.json")
    assert needs_sync(results)
    init_store(spelled, "study", store_json(results))
    assert needs_sync(results)
    assert "2 trainings of 1 models" in sync(results, out=synced)
    assert not needs_sync(results)
    with sqlite3.connect(database) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    opened.close()
    earlier = database.read_bytes()
    study.folds = (0,)
    study.finish()
    sync(results, out=synced)
    assert not needs_sync(results)
    replace_database(database, earlier)
    assert needs_sync(results)


def test_a_file_that_is_no_store_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"something else, of more than a hundred bytes " * 10)
    with pytest.raises(TrackingError, match="file is not a database"):
        init_store(f"sqlite:///{tmp_path}/mlflow.db", "study", tmp_path / "store.json")


@pytest.mark.parametrize("keep", [pytest.param(0, marks=pytest.mark.exhaustive), 8192])
def test_a_damaged_database_fails_no_finished_study_and_is_filled_anew_once_it_is_moved_away(
    results: Path, database: Path, keep: int
) -> None:
    study = FakeStudy(results).finish()
    synced = study.files.tracking.synced
    sync(results, out=synced)
    with sqlite3.connect(database) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    opened.close()
    data = database.read_bytes()
    replace_database(database, data[:keep] + random.Random(0).randbytes(len(data) - keep))
    # Spelled in another way, since MLflow keeps the file of a URI open as long as the process lives.
    write_record(store_json(results), {"uri": f"sqlite:///{database.parent}/./{database.name}", "experiment": "study"})
    assert needs_sync(results)
    line = sync_or_note(results, None, synced)
    assert f"{database.name} away" in line, line
    assert "not sent: 2 trainings" in line
    assert unsent(results) == line.removeprefix("tracking: unsent: ")
    with pytest.raises(TrackingError, match="away"):
        sync(results)
    with pytest.raises(TrackingError, match=r"away.*expected the store of a study"):
        serve_ui(f"sqlite:///{database}", free_port())
    for file in database.parent.glob("mlflow.db*"):
        file.rename(file.with_name(f"damaged-{file.name}"))
    write_record(store_json(results), {"uri": f"sqlite:///{database.parent}/././mlflow.db", "experiment": "study"})
    assert "2 trainings of 1 models" in sync_or_note(results, None, synced)
    assert not needs_sync(results)


def test_the_ui_of_a_file_that_is_locked_or_of_others_says_so_and_names_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "LOCKED_S", 0.05)
    path = tmp_path / "mlflow.db"
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("CREATE TABLE things (x)")
        with pytest.raises(TrackingError, match="no such table: experiments; expected the store of a study"):
            serve_ui(f"sqlite:///{path}", free_port())
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="database is locked"):
            serve_ui(f"sqlite:///{path}", free_port())
    other.close()
    assert capfd.readouterr().err == ""


def test_what_this_machines_own_files_lack_is_not_the_stores(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = FakeStudy(results, folds=(0,)).finish()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(models, "write_model", full)
    with pytest.raises(OSError, match="No space left on device"):
        sync_or_note(results, None, study.files.tracking.synced)
    assert not study.files.tracking.synced.exists()


FULL_SCRIPT = """
import pathlib, resource, signal, sys
from medseg.tracking import LiveTracking, sync_or_note
from tests.faults.test_tracking_faults import append, quicken, spec
from medseg.tracking.library import load_mlflow
quicken()
load_mlflow()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
results = pathlib.Path(sys.argv[1])
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
journal = pathlib.Path(sys.argv[3])
append(journal, range(200))
with LiveTracking(results / "tracking" / "store.json", spec("e" * 64, fold=1), journal):
    pass
print(sync_or_note(results, None, results / "tracking" / "synced.txt"))
"""


@pytest.mark.exhaustive
def test_a_store_whose_disk_is_full_costs_one_line_and_no_traceback(results: Path, database: Path) -> None:
    study = FakeStudy(results).finish()
    journal = database.parent / "journal.jsonl"
    # Less than one page of its log can be written.
    command = [sys.executable, "-c", FULL_SCRIPT, str(results), str(40_000), str(journal)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("tracking: ") for line in done.stderr.splitlines()), done.stderr
    assert "`medseg track sync" in done.stderr
    assert done.stdout.startswith("tracking: unsent: "), done.stdout
    assert needs_sync(results)
    sync(results, out=study.files.tracking.synced)
    assert not needs_sync(results)
