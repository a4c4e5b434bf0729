"""A team's server: what many write at once is there, once, whatever happens to the server; and who may write.

All of it is exhaustive: PostgreSQL, a bucket and a server have to be started, and started again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import TrackingError
from medseg.results.key import RunKey
from medseg.tracking import init_store, needs_sync, resolve_model, sync, sync_or_note, training_spec
from medseg.tracking.library import load_mlflow
from medseg.tracking.listed import KEY, PARENT
from medseg.tracking.pages import REPORT
from medseg.tracking.spec import RunSpec
from medseg.train.history import read_history
from tests.fake_study import START_MS, FakeStudy, Record
from tests.team import Team, lacking, team
from tests.workflow.study import TINY, make_study, medseg
from tests.workflow.study import run as run_study

pytestmark = [pytest.mark.exhaustive, pytest.mark.skipif(bool(lacking()), reason=lacking())]

CURVES = ("train/loss", "train/lr", "val/dice/Anterior", "val/dice/Posterior", "time/step_s")
STEPS = 120

# Eight trainings side by side: each writes its journal line by line, as a training does, and never looks at the server.
WRITERS = """
import os, sys, time
from pathlib import Path
from medseg.tracking import LiveTracking, live
from medseg.tracking.library import load_mlflow
from tests.fake_study import FakeStudy, journal_of
from tests.workflow.test_team import records, spec_of, study_in
load_mlflow()
live.LONGEST_WAIT_S = 2.0
study = study_in(Path(sys.argv[1]))
pause, children = float(sys.argv[2]), []
for key in study.trainings():
    if (child := os.fork()) == 0:
        journal = study.results / "state" / key.name / "journal.jsonl"
        journal.parent.mkdir(parents=True)
        begun = time.process_time()
        with LiveTracking(study.files.tracking.store, spec_of(study, key), journal):
            for record in records(study.models[key.model]):
                with open(journal, "ab") as file:
                    file.write(journal_of([record]))
                time.sleep(pause)
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def records(steps: int) -> list[Record]:
    """A journal with a value for every step of some curves, and for every tenth of others."""
    found = []
    for step in range(steps):
        values = {name: (step + 1) / (7 + n) for n, name in enumerate(CURVES) if step % 10 == 9 or n < 2}
        found.append((step, START_MS + 1000 * step, values))
    return found


def study_in(results: Path) -> FakeStudy:
    return FakeStudy(results, {"unet": STEPS, "other": STEPS}, folds=(0, 1), seeds=(0, 1), records=records)


def spec_of(study: FakeStudy, key: RunKey) -> RunSpec:
    manifest, plan = study.files.ingest(key.dataset).manifest, study.files.plan(key.dataset).plan(key.model)
    return training_spec(manifest, plan, key.fold, key.seed, study.fingerprint(key))


@pytest.fixture(scope="module")
def servers() -> Iterator[Team]:
    """The database with MLflow's tables, and the bucket; each test starts the server that it wants."""
    with team() as opened:
        opened.run("tables")
        yield opened


@pytest.fixture
def server(servers: Team) -> Iterator[Team]:
    """With a server that knows no users."""
    servers.start()
    yield servers
    servers.kill()


def check_curves(found: Team, client: Any, run: str, expected: Mapping[str, list[tuple[int, float, int]]]) -> None:
    """Every point that was written, once, at its time; in the database, which a client's view cannot prettify."""
    rows = found.rows(f"SELECT key, step, value, timestamp FROM metrics WHERE run_uuid = '{run}' ORDER BY key, step")
    curves: dict[str, list[tuple[int, float, int]]] = {}
    for key, step, value, time_ms in rows:
        if not key.startswith(("cv/", "time/train_s")):
            curves.setdefault(key, []).append((step, value, time_ms))
    assert curves == expected
    for key, points in expected.items():
        assert [(m.step, m.value) for m in client.get_metric_history(run, key)] == [p[:2] for p in points]


def check_study(found: Team, study: FakeStudy, folder: Path) -> None:
    """Runs, parameters, curves, tables and models on the server are those of the study, each once."""
    client = load_mlflow().MlflowClient(found.uri)
    experiment = client.get_experiment_by_name(study.results.name)
    every = client.search_runs([experiment.experiment_id], max_results=1000)
    listed = [run for run in every if REPORT not in run.data.tags]
    assert len(every) - len(listed) <= 1
    children = {run.data.tags[KEY]: run for run in listed if PARENT in run.data.tags}
    parents = {run.data.tags[KEY]: run for run in listed if PARENT not in run.data.tags}
    assert len(listed) == len(children) + len(parents)
    assert set(parents) == {f"{study.dataset}/{model}" for model in study.models}
    specs = {spec_of(study, key).key: key for key in study.trainings()}
    assert set(children) == set(specs)
    assert {run.info.status for run in listed} == {"FINISHED"}
    for name, key in specs.items():
        run, spec = children[name], spec_of(study, key)
        assert run.data.tags[PARENT] == parents[spec.parent_key].info.run_id
        params = {k: str(v) for k, v in spec.child_params.items()}
        assert run.data.params == {**params, "parameters": "1234"}
        expected: dict[str, list[tuple[int, float, int]]] = {}
        for step, time_ms, values in records(study.models[key.model]):
            for curve, value in values.items():
                expected.setdefault(curve, []).append((step, value, time_ms))
        check_curves(found, client, run.info.run_id, expected)
        scores = study.scores(key)
        shown = client.download_artifacts(run.info.run_id, "evaluate/cases.csv", str(folder))
        cases = {line.split(",")[0] for line in Path(shown).read_text().splitlines()[1:]}
        assert cases == set(scores["case"])
        model = resolve_model(run.info.run_id, found.uri)
        for file in ("model.json", "model.safetensors"):
            assert (model / file).read_bytes() == (study.files.model(key).folder / file).read_bytes()


def test_of_eight_trainings_at_once_nothing_is_lost_or_doubled_however_often_the_server_dies(
    servers: Team, tmp_path: Path
) -> None:
    study = study_in(tmp_path / "results" / "eight")
    study.configure()
    for model in study.models:
        study.plan(model)
    servers.start()
    init_store(servers.uri, "eight", study.files.tracking.store)
    command = [sys.executable, "-c", WRITERS, str(study.results), "0.25"]
    rng = random.Random(0)
    with open(tmp_path / "writers.log", "wb") as log:
        writers = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(2):
            time.sleep(rng.uniform(3, 8))
            servers.kill()
            time.sleep(rng.uniform(0, 4))
            servers.start()
        assert writers.wait() == 0, (tmp_path / "writers.log").read_text()
    said = (tmp_path / "writers.log").read_text()
    assert all(line.startswith("tracking: ") for line in said.splitlines()), said
    study.finish()
    # The replay, too, meets a server that dies under it.
    script = "import sys; from pathlib import Path; from medseg.tracking import sync; sync(Path(sys.argv[1]))"
    replay = subprocess.Popen([sys.executable, "-c", script, str(study.results)], stderr=subprocess.PIPE, text=True)
    time.sleep(rng.uniform(2, 6))
    servers.kill()
    replay.communicate()
    synced = study.files.tracking.synced
    assert "unsent: " in sync_or_note(study.results, None, synced)
    assert needs_sync(study.results)
    servers.start()
    try:
        sync(study.results, out=synced)
        check_study(servers, study, tmp_path)
        assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(study.results, out=synced)
        check_study(servers, study, tmp_path)
    finally:
        servers.kill()


def test_a_study_with_its_server_in_the_configuration_ends_there_with_curves_scores_and_models(
    server: Team, tmp_path: Path
) -> None:
    """A real one, its server killed in the middle and started again."""
    config = TINY.replace("{steps: 300}", "{steps: 40}") + f"tracking: {{uri: '{server.uri}'}}\n"
    folder = make_study(tmp_path / "study", config)
    done = run_study(folder, "--until", "train")
    assert done.returncode == 0, done.stdout
    server.kill()
    done = run_study(folder)
    assert done.returncode == 0, done.stdout
    assert "unsent:" in done.stdout
    server.start()
    done = run_study(folder)
    assert done.returncode == 0, done.stdout
    assert "unsent:" not in done.stdout
    client = load_mlflow().MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("tiny")
    listed = client.search_runs([experiment.experiment_id])
    (page,) = (run for run in listed if REPORT in run.data.tags)
    listed.remove(page)
    (child,) = (run for run in listed if PARENT in run.data.tags)
    (parent,) = (run for run in listed if PARENT not in run.data.tags)
    assert "cv/score_subject/mean" in parent.data.metrics
    key = RunKey("cells", "unet", 0, 0)
    files = FakeStudy(folder / "results" / "tiny").files.model(key)
    expected: dict[str, list[tuple[int, float, int]]] = {}
    for record in read_history(files, child.data.tags["medseg.fingerprint"]):
        for name, value in record.metrics.items():
            expected.setdefault(name, []).append((record.step, value, record.time_ms))
    check_curves(server, client, child.info.run_id, expected)
    image = next((folder / "data" / "cells" / "images").iterdir())
    variables = {"MLFLOW_TRACKING_URI": ""}
    assert os.environ.get("MLFLOW_TRACKING_URI", "") == variables["MLFLOW_TRACKING_URI"]
    again = medseg(
        folder, "predict", str(image), "--model", child.info.run_id, "--tracking-uri", server.uri, "-o", "back"
    )
    assert again.returncode == 0, again.stdout
    assert list((folder / "back").iterdir())


def test_who_may_not_write_is_told_who_where_and_what_to_do_and_no_password_is_anywhere(
    servers: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials in a file
    servers.run("users")
    servers.start("server with users")
    try:
        servers.run("a user")
        study = FakeStudy(tmp_path / "results" / "hers", folds=(0,)).finish()
        init_store(servers.uri, "hers", study.files.tracking.store)
        said = capfd.readouterr().err
        assert (
            f"{servers.uri}: the server refuses (401): it wants to know who asks; set MLFLOW_TRACKING_USERNAME" in said
        )

        secret = (servers.folder / "admin").read_text().strip()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not this one")
        with pytest.raises(TrackingError, match=r"\(401\): it does not know user 'admin' with this password"):
            sync(study.results)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
        assert "1 trainings" in sync(study.results)

        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a long one of hers")
        study.folds = (0, 1)
        study.finish()
        refused = r"\(403\): user 'ann' may not do this with experiment 'hers'; .*EDIT.*medseg track sync"
        with pytest.raises(TrackingError, match=refused):
            sync(study.results)
        # What the message and the page say.
        number = load_mlflow().MlflowClient(servers.uri).get_experiment_by_name("hers").experiment_id
        servers.run("a permission", replaced={'"7"': f'"{number}"', '"bob"': '"ann"'})
        assert "2 trainings" in sync(study.results, out=study.files.tracking.synced)
        # Through a file that jobs on all nodes find.
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        file = tmp_path / ".mlflow" / "credentials"
        file.parent.mkdir()
        file.write_text("[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = a long one of hers\n")
        assert "new: 0 curve points" in sync(study.results)
    finally:
        servers.kill()
    written = "".join(p.read_text(errors="replace") for p in study.results.rglob("*") if p.is_file())
    printed = capfd.readouterr()
    for text in (written, printed.out, printed.err):
        assert not any(password in text for password in (secret, "a long one of hers", "not this one"))


def test_a_copy_of_the_database_comes_back_and_what_it_lacks_is_sent_again(server: Team, tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "results" / "kept", folds=(0,)).finish()
    init_store(server.uri, "kept", study.files.tracking.store)
    sync(study.results)
    server.run("backup")
    count = "SELECT count(*) FROM runs", "SELECT count(*) FROM metrics", "SELECT count(*) FROM tags"
    before = [server.rows(query) for query in count]
    study.folds = (0, 1)
    study.finish()
    sync(study.results)
    assert [server.rows(query) for query in count] != before
    server.run("restore")
    assert [server.rows(query, "restored") for query in count] == before
    server.kill()
    monkeyed = {**server.environment, "PGDATABASE": "restored"}
    usual, server.environment = server.environment, monkeyed
    try:
        server.start()
        assert "2 trainings" in sync(study.results)
        assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(study.results)
        names = set(server.bucket.names())
        client = load_mlflow().MlflowClient(server.uri)
        experiment = client.get_experiment_by_name("kept").experiment_id
        client.delete_run(client.search_runs([experiment])[0].info.run_id)
        server.run("collect what was deleted", replaced={"30d": "0d"})
        assert len(server.rows("SELECT 1 FROM runs WHERE lifecycle_stage = 'deleted'", "restored")) == 0
        assert set(server.bucket.names()) < names
    finally:
        server.environment = usual
