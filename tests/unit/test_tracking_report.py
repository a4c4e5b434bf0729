"""The report of an experiment is in MLflow once, linked from the models, and only while it is of their scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from medseg.tracking import init_store, sync
from medseg.tracking.library import load_mlflow
from tests.fake_study import FakeStudy, made_up_rows


@pytest.fixture
def study(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    """A finished study of three models, in a store of its own."""
    load_mlflow()

    # MLflow's form of a model takes most of the time, and has tests of its own.
    def write_model(trained: Path, folder: Path) -> None:
        folder.mkdir(parents=True)
        shutil.copy(trained / "model.json", folder)

    monkeypatch.setattr("medseg.tracking.models.write_model", write_model)
    shutil.copy(template, tmp_path / "mlflow.db")
    made = FakeStudy(tmp_path / "results" / "study", dict.fromkeys(("unet", "other", "third"), 6), (0,)).finish()
    init_store(f"sqlite:///{tmp_path}/mlflow.db", "study", made.files.tracking.store)
    return made


def client_of(study: FakeStudy) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{study.results.parents[1]}/mlflow.db")


def reports(study: FakeStudy) -> list[Any]:
    """Runs that have a report."""
    client = client_of(study)
    (experiment,) = (e for e in client.search_experiments() if e.name == "study")
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if client.list_artifacts(run.info.run_id, "report")]


def links(study: FakeStudy) -> dict[str, str]:
    """Run of a model -> the run that it links to, for its description and its tag say the same."""
    client, found = client_of(study), {}
    (experiment,) = (e for e in client.search_experiments() if e.name == "study")
    for run in client.search_runs([experiment.experiment_id], "tags.`medseg.kind` = 'models'"):
        link, note = run.data.tags.get("medseg.report_run", "none"), run.data.tags["mlflow.note.content"]
        place = f"](#/experiments/{experiment.experiment_id}/runs/{link}/artifacts/report/index.html)"
        assert (place in note) == (link != "none") == ("Report" in note)
        found[run.info.run_name] = link
    return found


def shown(study: FakeStudy, run: Any) -> str:
    path = client_of(study).download_artifacts(run.info.run_id, "report/index.html", str(study.results))
    return Path(path).read_text()


def test_the_report_is_there_once_and_every_model_links_to_it(study: FakeStudy) -> None:
    sync(study.results)
    (run,) = reports(study)
    assert shown(study, run) == study.files.report.page.read_text()
    assert links(study) == {f"organs/{model}": run.info.run_id for model in study.models}
    assert run.info.status == "FINISHED"
    # It is no run of the study: neither of the two tables has it.
    assert not {"medseg.key", "medseg.kind", "medseg.superseded"} & set(run.data.tags)
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(study.results)


def test_a_new_report_takes_the_place_of_the_old_one(study: FakeStudy) -> None:
    sync(study.results)
    (before,) = reports(study)
    study.rows = lambda key, fingerprint: made_up_rows(key, fingerprint, how="otherwise")
    for key in study.trainings():
        study.evaluate(key)
    study.compare()
    study.report()
    sync(study.results)
    (run,) = reports(study)
    assert run.info.run_id == before.info.run_id
    assert shown(study, run) == study.files.report.page.read_text()


def test_a_report_of_other_scores_is_not_shown(study: FakeStudy) -> None:
    sync(study.results)
    study.rows = lambda key, fingerprint: made_up_rows(key, fingerprint, how="otherwise")
    for key in study.trainings():
        study.evaluate(key)
    study.compare()
    sync(study.results)
    assert reports(study) == []
    assert set(links(study).values()) == {"none"}
    study.report()
    sync(study.results)
    (run,) = reports(study)
    assert set(links(study).values()) == {run.info.run_id}


def test_of_several_that_were_created_at_once_one_stays(study: FakeStudy) -> None:
    sync(study.results)
    (run,) = reports(study)
    client_of(study).create_run(run.info.experiment_id, tags={"medseg.report": "true"}, run_name="report")
    sync(study.results)
    client = client_of(study)
    (left,) = client.search_runs([run.info.experiment_id], "tags.`medseg.report` = 'true'")
    assert left.info.run_id == run.info.run_id
