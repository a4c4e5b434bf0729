"""The law of tracking, over random histories of a study: a current parent's scores are those of its own trainings.

A history changes the configuration (models, folds, seeds, steps, data) again and again and lets the study be made, with
live curves, up to a kill or to its end. Trainings and scores are made up (``tests/fake_study.py``), everything else is
real. A history follows from its seed, which every failure names.
"""

from __future__ import annotations

import functools
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medseg.compare.run import read_leaderboard
from medseg.results.key import ALL, RunKey, fold_order
from medseg.tracking import init_store, models, needs_sync, runs, sending, sync, training_spec, uploads, values
from medseg.tracking.curves import CurvePoint
from medseg.tracking.failures import StoreError
from medseg.tracking.library import load_mlflow
from medseg.tracking.listed import our_runs
from medseg.tracking.live import _Link
from medseg.tracking.runs import is_current
from medseg.tracking.store import read_store
from tests.fake_study import FakeStudy, made_up_rows

MODELS = ("unet", "other", "third")
STEPS = (6, 9, 12)
DEAD = "4194304"  # no process has this number
OF_RUNS = ("set_tag", "log_batch", "create_run", "set_terminated", "set_experiment_tag", "log_inputs", "log_outputs")
OF_MODELS = ("create_logged_model", "finalize_logged_model", "set_logged_model_tags")
WRITES = (*OF_RUNS, *OF_MODELS, "delete_logged_model")
SHORT, LONG = 1, 150
HOUR_MS = 3_600_000


class Killed(BaseException):
    """In place of SIGKILL."""


class Clock:
    """The machine's clock, which may be set back."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.back = 0
        for module in (runs, values):
            patch.setattr(module, "now_ms", lambda: int(time.time() * 1000) - self.back)


class Calls:
    """Lets the n-th call that writes to the store be the last one, done or not."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        from mlflow import MlflowClient

        self.left: int | None = None
        self.done = False
        for name in WRITES:
            patch.setattr(MlflowClient, name, self._wrapped(getattr(MlflowClient, name)))
        for module in (models, sending):
            patch.setattr(module, "upload", self._wrapped(uploads.upload))

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.left is None:
                return function(*arguments, **named)
            self.left -= 1
            if self.left > 0:
                return function(*arguments, **named)
            if self.done:
                function(*arguments, **named)
            raise Killed

        return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    load_mlflow()

    # MLflow's form of a model takes most of the time, and has tests of its own.
    def write_model(trained: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        shutil.copy(trained / "model.json", folder)

    monkeypatch.setattr(models, "write_model", write_model)
    return Calls(monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def change(rng: random.Random, study: FakeStudy) -> str:
    """Change the configuration, or the data, in one way."""
    kind = rng.choice(("models", "folds", "seeds", "steps", "steps", "salt", "scores", "nothing"))
    if kind == "models":
        name = rng.choice(MODELS)
        if name in study.models and len(study.models) > 1:
            del study.models[name]
        else:
            study.models.setdefault(name, 6)
    elif kind == "folds":
        # One more training may be on all cases, which no score is of.
        left = set(study.folds) ^ {rng.choice((0, 1, ALL))}
        study.folds = tuple(sorted(left if left - {ALL} else {0, *left}, key=fold_order))
    elif kind == "seeds":
        study.seeds = tuple(sorted(set(study.seeds) ^ {rng.randrange(2)})) or (0,)
    elif kind == "steps":
        study.models[rng.choice(sorted(study.models))] = rng.choice(STEPS)
    elif kind == "salt":
        study.salt = rng.choice(("", "other data"))
    elif kind == "scores":  # the same trainings, evaluated in another way
        study.rows = rng.choice((made_up_rows, functools.partial(made_up_rows, how="otherwise")))
    return kind


def train(rng: random.Random, study: FakeStudy, key: RunKey, kill: bool) -> None:
    """What the rule train does: its outputs go, curves are sent while it works, its outputs come."""
    shutil.rmtree(study.files.model(key).folder, ignore_errors=True)
    study.files.scores(key).unlink(missing_ok=True)
    manifest, plan = study.files.ingest(key.dataset).manifest, study.files.plan(key.dataset).plan(key.model)
    spec = training_spec(manifest, plan, key.fold, key.seed, study.fingerprint(key))
    link = _Link(read_store(study.files.tracking.store), spec)
    link.sender.keep()
    records = study.records(study.models[key.model])
    points = [CurvePoint(name, v, step, time) for step, time, metrics in records for name, v in metrics.items()]
    link.curves.send(points[: rng.randrange(len(points))] if kill else points, link.sender.turn)
    if kill:
        link.tag({"medseg.pid": DEAD})
        raise Killed
    link.sender.close("FINISHED")
    study.train(key)


def make(rng: random.Random, study: FakeStudy, calls: Calls) -> str:
    """Make what the configuration asks for, as the workflow does, to the end or to a kill.

    Returns:
        ``made``, ``killed``, or ``killed, replayed``: the user sent by hand what there was.
    """
    kill_at = rng.choice((None, "train", "train", "before compare", "before compare", "before track", "track", "track"))
    study.configure()
    uri = f"sqlite:///{study.results.parents[1]}/mlflow.db"
    init_store(uri, "study", study.files.tracking.store)
    for model in study.models:
        study.plan(model)
    missing = [key for key in study.trainings() if not study.is_trained(key)]
    rng.shuffle(missing)
    last = rng.randrange(len(missing)) if missing and kill_at == "train" else None
    try:
        for number, key in enumerate(missing):
            train(rng, study, key, kill=number == last)
        for key in study.trainings():
            if key.validates:
                study.evaluate(key)
        if kill_at == "before compare":
            raise Killed
        study.compare()
        study.report()
        if kill_at == "before track":
            raise Killed
        most = 13 * (len(study.trainings()) + len(study.models))  # about all calls there are
        calls.left, calls.done = rng.randint(1, most) if kill_at == "track" else None, rng.random() < 0.5
        sync(study.results, out=study.files.tracking.synced)
    except Killed:
        calls.left = None
        if rng.random() < 0.5:
            return "killed"
        sync(study.results)
        return "killed, replayed"
    finally:
        calls.left = None
    return "made"


def current_runs(client: Any) -> list[Any]:
    (experiment,) = (e for e in client.search_experiments() if e.name == "study")
    return our_runs(client, experiment.experiment_id)


def cases_of(client: Any, run: Any, folder: Path) -> pd.DataFrame:
    """The table of scores of a training, from the store."""
    path = client.download_artifacts(run.info.run_id, "evaluate/cases.csv", str(folder))
    return pd.read_csv(path)


def check_parents(client: Any, folder: Path) -> dict[str, float]:
    """Every current parent that has scores agrees with its own trainings; name -> score of such parents."""
    runs = current_runs(client)
    check_models(client, runs)
    found = {}
    for parent in runs:
        scores = {k: v for k, v in parent.data.metrics.items() if k.startswith("cv/") and v == v}
        if not is_current(parent) or "mlflow.parentRunId" in parent.data.tags or not scores:
            continue
        name = parent.info.run_name
        below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        scored = [run for run in below if any(k.startswith("cv/") for k in run.data.metrics)]
        assert all(map(is_current, scored)), name
        assert len({run.info.run_name for run in scored}) == len(scored), name
        assert name not in found, name
        assert {run.data.params["steps"] for run in scored} == {parent.data.params["steps"]}, name
        for what in ("fold", "seed"):
            values = sorted({int(run.data.params[what]) for run in scored})
            assert parent.data.tags[f"medseg.{what}s"].removesuffix(f" {ALL}") == " ".join(map(str, values)), name
        tables = [cases_of(client, run, folder).assign(run=run.info.run_name) for run in scored]
        # Seeds are averaged first, then cases, then classes.
        by_case = pd.concat(tables).groupby(["label", "case"])["dice"].mean()
        mean = by_case.groupby("label").mean().mean()
        assert scores["cv/dice_case/mean"] == pytest.approx(mean, abs=2e-6), name
        assert f"| {scores['cv/dice_subject/mean']:.3f} |" in parent.data.tags["mlflow.note.content"], name
        found[name] = scores["cv/score_subject/mean"]
    return found


def check_models(client: Any, runs: list[Any], *, complete: bool = False) -> None:
    """A stored model that is not marked as outdated is that of a current run, and shows its scores."""
    of_run: dict[str, list[Any]] = {run.info.run_id: [] for run in runs}
    for model in client.search_logged_models([runs[0].info.experiment_id]) if runs else ():
        of_run[model.source_run_id].append(model)
    for run in runs:
        shown = [model for model in of_run[run.info.run_id] if model.tags["medseg.superseded"] != "true"]
        assert len(shown) <= is_current(run), run.info.run_name
        for model in shown:
            newest = {m.key: m.value for m in sorted(model.metrics or [], key=lambda metric: metric.timestamp)}
            assert newest.items() <= run.data.metrics.items(), run.info.run_name
            if complete:
                assert str(model.status) == "READY"
                assert {key for key in run.data.metrics if key.startswith(("cv/", "time/"))} == set(newest)
        if complete and "mlflow.parentRunId" in run.data.tags:
            assert len(shown) == is_current(run), run.info.run_name


def check_curves(database: Path) -> None:
    """No step of a curve is there twice."""
    query = "SELECT run_uuid, key, step FROM metrics WHERE key LIKE 'train/%' GROUP BY 1, 2, 3 HAVING count(*) > 1"
    connection = sqlite3.connect(database)
    assert connection.execute(query).fetchall() == []
    connection.close()


def check_board(study: FakeStudy, found: dict[str, float]) -> set[str]:
    """Scores that are shown are those of the leaderboard; the models on it."""
    if not study.files.compare.leaderboard.is_file():
        assert not found
        return set()
    board = {f"{row['dataset']}/{row['model']}": row for row in read_leaderboard(study.files.compare.folder)}
    for name, score in found.items():
        assert score == pytest.approx(float(board[name]["score_subject"]), abs=1e-9), name
    return set(board)


def check_complete(client: Any, study: FakeStudy, found: dict[str, float]) -> None:
    """What is current is what the configuration runs, and its scores are the leaderboard's."""
    assert check_board(study, found) == set(found) == {f"organs/{model}" for model in study.models}
    check_models(client, current_runs(client), complete=True)
    current = [run for run in current_runs(client) if is_current(run)]
    children = {run.info.run_name: run for run in current if "mlflow.parentRunId" in run.data.tags}
    names = {f"{k.dataset}/{k.model} fold{k.fold} seed{k.seed}": study.fingerprint(k) for k in study.trainings()}
    assert {name: run.data.tags["medseg.fingerprint"] for name, run in children.items()} == names
    assert len(current) == len(children) + len(found)
    assert {run.info.status for run in current} == {"FINISHED"}
    for run in children.values():
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(study.models[run.data.params["model"]]))


def scored(client: Any) -> dict[str, str]:
    """Current parents with scores -> their folds."""
    runs = [run for run in current_runs(client) if is_current(run) and "mlflow.parentRunId" not in run.data.tags]
    return {
        run.info.run_name: run.data.tags["medseg.folds"] for run in runs if "cv/score_subject/mean" in run.data.metrics
    }


def test_scores_are_joined_by_fingerprint_and_what_the_configuration_lacks_is_outdated(
    template: Path, tmp_path: Path, calls: Calls, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    shutil.copy(template, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    study = FakeStudy(tmp_path / "results" / "study", {"unet": 12, "other": 6}).finish()
    init_store(f"sqlite:///{tmp_path}/mlflow.db", "study", study.files.tracking.store)

    def shown() -> dict[str, str]:
        sync(study.results)
        check_board(study, check_parents(client, tmp_path))
        return scored(client)

    both = {"organs/unet": "0 1", "organs/other": "0 1"}
    assert shown() == both
    # Fewer steps, killed when one fold has been trained: the other fold's model is none of the study's.
    study.models["unet"] = 9
    study.plan("unet")
    study.train(study.trainings()[0])
    assert shown() == {"organs/other": "0 1"}
    assert (
        "organs/unet: no scores of the model, since fold1-seed0 was trained with an earlier plan"
        in capfd.readouterr().err
    )
    study.finish()
    assert shown() == both
    # Other data: the name is the same, the training is not.
    study.salt = "other data"
    study.train(study.trainings()[0])
    assert shown() == {"organs/other": "0 1"}
    assert "since fold 0 seed 0 was trained again since the comparison" in capfd.readouterr().err
    study.folds = (0,)
    study.configure()
    assert shown() == {}
    assert "the comparison has fold 1 seed 0, which the study does not have" in capfd.readouterr().err
    study.finish()
    assert shown() == {"organs/unet": "0", "organs/other": "0"}
    check_complete(client, study, check_parents(client, tmp_path))


def tracked(template: Path, tmp_path: Path) -> tuple[Any, FakeStudy]:
    """A study of one training that was sent to a store of its own, and a client of that."""
    from mlflow import MlflowClient

    shutil.copy(template, tmp_path / "mlflow.db")
    study = FakeStudy(tmp_path / "results" / "study", {"unet": 6}, (0,)).finish()
    init_store(f"sqlite:///{tmp_path}/mlflow.db", "study", study.files.tracking.store)
    sync(study.results)
    return MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), study


def test_what_is_measured_after_the_clock_was_set_back_is_what_is_shown(
    template: Path, tmp_path: Path, calls: Calls, clock: Clock
) -> None:
    client, study = tracked(template, tmp_path)
    for rows in (functools.partial(made_up_rows, how="otherwise"), made_up_rows):
        clock.back += HOUR_MS
        study.rows = rows
        study.evaluate(study.trainings()[0])
        study.compare()
        sync(study.results)
        check_complete(client, study, check_parents(client, tmp_path))
    assert "0 results" in sync(study.results)


def test_a_store_that_goes_on_showing_old_scores_is_not_called_current(
    template: Path, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client, study = tracked(template, tmp_path)
    study.rows = functools.partial(made_up_rows, how="otherwise")
    study.evaluate(study.trainings()[0])
    study.compare()
    log_batch = MlflowClient.log_batch

    def late(self: Any, run_id: str, metrics: list[Any] = (), **named: Any) -> None:  # type: ignore[assignment]
        moved = [Metric(m.key, m.value, 1, m.step, model_id=m.model_id) for m in metrics]
        log_batch(self, run_id, metrics=moved, **named)

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_batch", late)
        with pytest.raises(StoreError, match=r"the store shows .* though .* was sent; .*; not sent: 1 training"):
            sync(study.results)
    assert scored(client) == {}
    sync(study.results)
    check_complete(client, study, check_parents(client, tmp_path))


@pytest.mark.parametrize(
    "seed", [*range(SHORT), *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(SHORT, LONG))]
)
def test_whatever_changes_and_wherever_it_is_killed_parents_show_their_own_trainings(
    template: Path, tmp_path: Path, calls: Calls, clock: Clock, seed: int
) -> None:
    from mlflow import MlflowClient

    rng = random.Random(seed)
    shutil.copy(template, tmp_path / "mlflow.db")
    study = FakeStudy(tmp_path / "results" / "study", {"unet": rng.choice(STEPS)}, folds=(0, 1)[: rng.randint(1, 2)])
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    history = []
    for _ in range(2 if seed < SHORT else 6):
        history.append(change(rng, study))
        if rng.random() < 0.3:
            clock.back += HOUR_MS
            history.append("clock set back")
        ended = make(rng, study, calls)
        history.append(ended)
        print(f"seed {seed}: {history} {study.models} folds {study.folds} seeds {study.seeds} {study.salt}")
        found = check_parents(client, tmp_path)
        check_curves(tmp_path / "mlflow.db")
        if ended != "killed":
            check_board(study, found)
        if ended == "made":
            check_complete(client, study, found)
            assert not needs_sync(study.results)
    if ended != "made":
        assert make(Calm(), study, calls) == "made"
        check_complete(client, study, check_parents(client, tmp_path))


class Calm(random.Random):
    """Chooses what is first: no kill."""

    def choice(self, seq: Any) -> Any:
        return seq[0]
