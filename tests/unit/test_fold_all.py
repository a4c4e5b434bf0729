"""``folds: all``: a training on all cases, which leaves none to validate on; every stage says so by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medseg import slices, whole
from medseg.cli.commands import app
from medseg.config import Config, load_config
from medseg.errors import ConfigError, DatasetFaults
from medseg.files import read_json
from medseg.ingest import run as ingest
from medseg.ingest.phantoms import generate
from medseg.patches.sampling import fold_seed
from medseg.plan.rules import epochs_to_steps
from medseg.predict import run as predict
from medseg.report.sources import read_experiment
from medseg.report.statements import require_scores, statements
from medseg.results.key import ALL, RunKey, fold_order, read_fold
from medseg.results.paths import Results
from medseg.tracking import init_store, sync
from medseg.tracking.library import load_mlflow
from medseg.tracking.listed import our_runs
from medseg.train import run as train
from tests.fake_study import FakeStudy

CELLS = {"layout": "pairs", "path": "data", "labels": {"cell": 1}, "instances": True}


def config(root: Path, folds: Any, **section: Any) -> Config:
    value = {"data_root": str(root), "datasets": {"data": {**CELLS, **section}}, "folds": folds}
    return load_config([], {**value, "results": str(root / "results"), "budget": {"steps": 1}})


# Configuration and names


def test_all_in_short_and_beside_folds(tmp_path: Path) -> None:
    short = config(tmp_path, "all")
    assert short == config(tmp_path, {"run": ["all"]})
    assert [run[2] for run in short.runs()] == ["all"]
    beside = config(tmp_path, {"count": 3, "run": [0, 2, "all"]})
    assert [run[2] for run in beside.runs()] == [0, 2, "all"]
    assert beside.folds.validated == [0, 2]
    # What was written down is read again.
    assert load_config([], json.loads(beside.model_dump_json())) == beside
    assert [key.run for key in whole.keys(beside)] == ["fold0-seed0", "fold2-seed0", "foldall-seed0"]
    assert [key.run for key in whole.scored_keys(beside)] == ["fold0-seed0", "fold2-seed0"]


@pytest.mark.parametrize("run", [["all", "all"], ["every"], ["0"], [5, "all"], []])
def test_other_folds_are_refused(run: list[Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"folds\.?"):
        config(tmp_path, {"count": 5, "run": run})


def test_names_of_folds() -> None:
    assert [read_fold(text) for text in ("0", "17", "all")] == [0, 17, "all"]
    for wrong in ("", "-1", "ALL", "1.0", "²"):
        with pytest.raises(ValueError, match="a number from 0 on, or all"):
            read_fold(wrong)
    assert sorted(["all", 3, 0], key=fold_order) == [0, 3, "all"]  # type: ignore[arg-type]
    assert len({fold_seed(seed, fold) for seed in (0, 1) for fold in (0, 1, "all")}) == 6


def test_what_is_made_of_scores_is_made_of_the_folds_alone(tmp_path: Path) -> None:
    mixed, alone = config(tmp_path, {"run": [0, "all"]}), config(tmp_path, "all")
    root = tmp_path / "results/study"
    made = {str(path.relative_to(root)) for path in whole.made_by(mixed) if path.is_relative_to(root)}
    assert {"data/train/unet/foldall-seed0/model.json", "data/evaluate/unet/fold0-seed0.parquet"} <= made
    assert "report/index.html" in made
    assert not [name for name in made if "foldall" in name and "/train/" not in name]
    made = {str(path.relative_to(root)) for path in whole.made_by(alone) if path.is_relative_to(root)}
    assert "data/train/unet/foldall-seed0/model.json" in made
    assert not [name for name in made if name.startswith(("compare", "report")) or "/evaluate/" in name]


def test_how_cases_are_split_matters_only_where_they_are(tmp_path: Path) -> None:
    alone = [config(tmp_path, {"run": ["all"], "count": n, "seed": n}) for n in (2, 3)]
    assert slices.dataset_slice(alone[0], "data") == slices.dataset_slice(alone[1], "data")
    assert slices.plan_slice(alone[0], "unet") == slices.plan_slice(alone[1], "unet")
    mixed = config(tmp_path, {"run": [0, "all"], "count": 2})
    assert slices.dataset_slice(mixed, "data") == slices.dataset_slice(config(tmp_path, {"count": 2}), "data")


def test_an_epoch_is_the_cases_that_are_trained_on() -> None:
    assert epochs_to_steps(10, cases=100, folds=5, batch=2) == 400
    # One fold of the user's own, or none at all: how many are left out is not known here, or nobody is.
    assert epochs_to_steps(10, cases=100, folds=1, batch=2) == 500


# Ingest


def test_one_subject_can_be_trained_on_but_not_split(tmp_path: Path) -> None:
    generate("cells", 2, 0, tmp_path / "data")
    one = {"subject": r"(cells)_\d+"}
    with pytest.raises(ConfigError, match=r"folds need 5 subjects, there are 1; train on all cases .*`folds: all`"):
        ingest.check(config(tmp_path, {"run": [0, "all"]}, **one), "data")
    ingest.run(config(tmp_path, "all", **one), "data", tmp_path / "out")
    assert read_json(tmp_path / "out/splits.json")["folds"] == []


def test_a_class_that_no_case_shows_is_named(tmp_path: Path) -> None:
    generate("cells", 2, 0, tmp_path / "data")
    labels = {"instances": False, "labels": {f"c{k}": k for k in range(1, 254)}}
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(config(tmp_path, "all", **labels), "data")
    found = [f for f in caught.value.faults if f.code == "class-absent"]
    assert found
    assert all("0 of 2 cases show class c" in f.cause for f in found)
    assert "on which alone networks are trained" in found[0].cause


# Training and prediction


@pytest.fixture(scope="module")
def trained(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("all")
    # No file of folds is read.
    files = study.manifest("flat"), study.plan("flat"), study.index("flat"), root / "no-splits.json"
    train.run(train.Inputs(*files, ALL, 0), root / "state", root / "foldall-seed0", "code")
    return root / "foldall-seed0"


def test_a_training_on_all_cases_has_no_validation(trained: Path) -> None:
    facts = read_json(trained / "model.json")
    assert facts["fold"] == "all"
    assert sorted(c for row in facts["trained_on"]["subjects"] for c in row["cases"]) == ["f0", "f1", "f2", "f3"]
    records = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()[1:]]
    names = {name for record in records for name in record.get("metrics", {})}
    assert "train/loss" in names
    assert not [name for name in names if name.startswith("val/")]
    assert all(math.isfinite(v) for record in records for v in record.get("metrics", {}).values())


def test_it_predicts_new_images_and_no_fold(study: Any, trained: Path, tmp_path: Path) -> None:
    image = str(study.folder("flat") / "images/f0.png")
    done = CliRunner().invoke(app, ["predict", image, "--model", str(trained), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/f0.png").is_file()
    where = study.config, study.manifest("flat"), study.splits("flat")
    with pytest.raises(ConfigError, match=r"--fold all: .*medseg predict IMAGES"):
        predict.run(*where, ALL, trained, tmp_path / "fold")
    # It has seen every case of any fold.
    with pytest.raises(Exception, match="was trained on 2 subjects of the validation cases of fold 0"):
        predict.run(*where, 0, trained, tmp_path / "fold")


@pytest.mark.parametrize("wrong", ["-1", "first", ""])
def test_the_option_takes_a_number_or_all(wrong: str, tmp_path: Path) -> None:
    files = [f"--{name}={tmp_path / name}" for name in ("manifest", "plan", "index", "splits", "state", "out")]
    done = CliRunner().invoke(app, ["train", *files, "--seed", "0", f"--fold={wrong}"])
    assert done.exit_code == 2
    assert "expected a number from 0 on, or all" in done.output


# Comparison, report, tracking


def test_without_folds_there_is_nothing_to_compare_or_report(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path / "results/study", folds=(ALL,)).finish()
    with pytest.raises(ConfigError, match=r"folds.run: \[all\] .* no scores to report; .*run: \[0, all\]"):
        read_experiment(study.results, study.files.config)
    with pytest.raises(ConfigError, match=r"no scores to compare"):
        require_scores(study.files.compare.folder)
    # Other studies without a comparison are told to make one.
    require_scores(FakeStudy(tmp_path / "results/other", folds=(0,)).finish().files.compare.folder)


def test_the_report_says_that_no_number_is_of_it(study: Any) -> None:
    from medseg.ingest.manifest import read_manifest

    manifest = read_manifest(study.manifest("flat"))
    value = json.loads(study.config.model_dump_json())
    for folds, words in (([0], None), ([0, "all"], "no number here is of it"), (["all"], "nothing was evaluated")):
        value["folds"]["run"] = folds
        found = dict(statements(load_config([], value), manifest, 0, "not opened", ()))
        assert found.get("Trained on all cases") is None if words is None else words in found["Trained on all cases"]


def store(study: FakeStudy, root: Path, template: Path) -> Any:
    (root / "mlflow.db").write_bytes(template.read_bytes())
    init_store(f"sqlite:///{root}/mlflow.db", "study", study.files.tracking.store)
    sync(study.results)
    client = load_mlflow().MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("study").experiment_id
    return {run.info.run_name: run for run in our_runs(client, experiment)}


def test_tracking_has_it_beside_the_folds_and_scores_of_these_alone(tmp_path: Path, template: Path) -> None:
    study = FakeStudy(tmp_path / "results/study", folds=(0, ALL)).finish()
    runs = store(study, tmp_path, template)
    assert set(runs) == {"organs/unet", "organs/unet fold0 seed0", "organs/unet foldall seed0"}
    parent, on_all = runs["organs/unet"], runs["organs/unet foldall seed0"]
    assert parent.data.tags["medseg.folds"] == "0 all"
    assert "cv/score_subject/mean" in parent.data.metrics
    assert on_all.data.params["fold"] == "all"
    assert "train/loss" in on_all.data.metrics
    assert not [name for name in on_all.data.metrics if name.startswith("cv/")]
    assert [n for n in runs["organs/unet fold0 seed0"].data.metrics if n.startswith("cv/")]


def test_tracking_has_it_alone(tmp_path: Path, template: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = FakeStudy(tmp_path / "results/study", folds=(ALL,)).finish()
    runs = store(study, tmp_path, template)
    assert set(runs) == {"organs/unet", "organs/unet foldall seed0"}
    said = capsys.readouterr()
    assert "no scores of the model, since all its trainings are on all cases" in said.out + said.err
    assert not [name for run in runs.values() for name in run.data.metrics if name.startswith("cv/")]
    assert Results(study.results).model(RunKey("organs", "unet", ALL, 0)).folder.name == "foldall-seed0"
