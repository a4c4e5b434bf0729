"""The chain of fingerprints: a stage refuses results of another training than the one that is there now."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.compare.run import read_summary
from medseg.compare.run import run as compare
from medseg.config import Config
from medseg.errors import CheckpointError, DataError
from medseg.evaluate import run as evaluate
from medseg.evaluate.choice import require_chosen
from medseg.plan.plan import read_plan, write_plan
from medseg.postprocess import run as postprocess
from medseg.predict import run as predict
from medseg.predict.record import read_predictions
from medseg.records import read_record, write_record
from medseg.shards import Shard
from medseg.train import run as train
from medseg.train.identity import Inputs, Wanted
from medseg.trained import read_trained
from tests.conftest import Study
from tests.score_tables import counts_of, score_rows, write_scores


def changed(config: Config, **sections: Any) -> Config:
    """A configuration with other sections of the data set ``flat``."""
    value = config.model_dump(mode="json")
    value["datasets"]["flat"] |= sections
    return Config.model_validate(value)


def inputs_of(study: Study) -> Inputs:
    return Inputs(study.manifest("flat"), study.plan("flat"), study.index("flat"), study.splits("flat"), 0, 0)


def predicted(study: Study, out: Path, wanted: Wanted, model: Path | None = None) -> Path:
    inputs = wanted.inputs
    model = model or study.model("flat")
    predict.run(study.config, inputs.manifest, inputs.splits, inputs.fold, model, out, wanted=wanted)
    return out / "predictions.json"


def rewritten(path: Path, out: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    facts = read_record(path, "")
    change(facts)
    write_record(out, facts)
    return out


def other_plan(study: Study, folder: Path) -> Wanted:
    write_plan(folder / "plan.json", read_plan(study.plan("flat")).changed(steps=7, lr=0.5))
    return Wanted(replace(inputs_of(study), plan=folder / "plan.json"), "code")


def other_data(study: Study, folder: Path) -> Wanted:
    def change(facts: dict[str, Any]) -> None:
        next(iter(facts["cases"].values()))["parts"]["image"][2] = "0" * 64

    return Wanted(
        replace(inputs_of(study), index=rewritten(study.index("flat"), folder / "index.json", change)), "code"
    )


def other_split(study: Study, folder: Path) -> Wanted:
    def change(facts: dict[str, Any]) -> None:
        facts["folds"][0]["train"].reverse()

    splits = rewritten(study.splits("flat"), folder / "splits.json", change)
    return Wanted(replace(inputs_of(study), splits=splits), "code")


REFUSED: list[tuple[Callable[[Study, Path], Wanted], str]] = [
    (other_plan, r"another plan \(training.lr 0.002 instead of 0.5, training.steps 4 instead of 7\)"),
    (other_data, "other prepared data"),
    (other_split, "other cases in the fold"),
    (lambda study, folder: Wanted(inputs_of(study), "newer"), "other code of training"),
    (lambda study, folder: Wanted(replace(inputs_of(study), seed=3), "code"), "seed 0 instead of 3"),
    (
        lambda study, folder: Wanted(replace(inputs_of(study), start=study.model("flat")), "code"),
        "another model that it started from",
    ),
    (
        lambda study, folder: Wanted(replace(inputs_of(study), manifest=study.manifest("solid")), "code"),
        "data set 'flat' instead of 'solid'",
    ),
]


@pytest.mark.parametrize(("wanted", "words"), REFUSED, ids=[words[:24] for _, words in REFUSED])
def test_predict_refuses_a_model_of_another_training_and_says_what_differs(
    study: Study, tmp_path: Path, wanted: Callable[[Study, Path], Wanted], words: str
) -> None:
    with pytest.raises(CheckpointError, match=f"holds another training than .*{words}.*run `medseg train` again"):
        predicted(study, tmp_path / "out", wanted(study, tmp_path))
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_the_model_of_the_present_plan_is_predicted_with_and_named(study: Study, tmp_path: Path) -> None:
    for number, wanted in enumerate((Wanted(inputs_of(study), "code"), Wanted(inputs_of(study), any_start=True))):
        found = read_predictions(predicted(study, tmp_path / str(number), wanted))
        trained = read_trained(study.model("flat"))
        assert (found.fingerprint, found.weights_sha256) == (trained.fingerprint, trained.weights_sha256)
        assert set(trained.inputs) == {"plan", "data", "split", "code"}


def test_a_copied_model_is_refused_and_training_again_helps(study: Study, tmp_path: Path) -> None:
    """Advice of the message is followed: delete the folder, train, and the same prediction passes."""
    wanted, model = other_plan(study, tmp_path), tmp_path / "model"
    shutil.copytree(study.model("flat"), model)
    with pytest.raises(CheckpointError, match="delete this folder and run `medseg train` again"):
        predicted(study, tmp_path / "out", wanted, model)
    shutil.rmtree(model)
    train.run(wanted.inputs, tmp_path / "state", model, "code")
    path = predicted(study, tmp_path / "out", wanted, model)
    assert read_predictions(path).fingerprint != read_predictions(study.predictions("flat")).fingerprint


def test_without_a_plan_data_set_and_fold_are_asked(study: Study, tmp_path: Path) -> None:
    options = (study.config, study.manifest("flat"), study.splits("flat"))
    with pytest.raises(CheckpointError, match="model of data set 'solid', fold 0; expected one of 'flat', fold 0"):
        predict.run(*options, 0, study.model("solid"), tmp_path)


def retrained(study: Study, folder: Path) -> Path:
    """A model folder with another training of the same name."""
    shutil.copytree(study.model("flat"), folder)
    rewritten(folder / "model.json", folder / "model.json", lambda facts: facts.update(fingerprint="e" * 64))
    return folder


@pytest.mark.parametrize("stage", ["postprocess", "evaluate", "evaluate --join"])
def test_predictions_of_another_training_are_refused(study: Study, tmp_path: Path, stage: str) -> None:
    given, out = (study.config, study.manifest("flat"), study.predictions("flat")), tmp_path / "out"

    def run(model: Path) -> None:
        if stage == "postprocess":
            postprocess.run(*given, out, model=model)
        elif stage == "evaluate":
            evaluate.run(*given, out / "s.parquet", model=model)
        else:
            evaluate.join(given[0], given[-1], out / "s.parquet", 1, model=model)

    with pytest.raises(DataError, match=r"predictions.json: comes from another training of flat/unet/fold0-seed0"):
        run(retrained(study, tmp_path / "model"))
    with pytest.raises(DataError, match=r"holds the training solid/unet/fold0-seed0, where that of .*flat/unet"):
        run(study.model("solid"))
    facts = read_record(study.model("flat") / "model.json", "")
    write_record(tmp_path / "model" / "model.json", {**facts, "weights_sha256": "a" * 64})
    with pytest.raises(DataError, match="made with weights"):
        run(tmp_path / "model")
    if not stage.endswith("--join"):
        run(study.model("flat"))


def test_predictions_that_were_made_in_another_way_than_configured_are_not_scored(study: Study, tmp_path: Path) -> None:
    manifest, raw, out = study.manifest("flat"), study.predictions("flat"), tmp_path / "s.parquet"
    small = changed(study.config, postprocess={"min_size": 5})
    with pytest.raises(
        DataError, match=r"is none, and datasets.flat.postprocess asks for {'min_size': 5}; run `medseg po"
    ):
        evaluate.run(small, manifest, raw, out)
    with pytest.raises(DataError, match=r"is none, and datasets\.flat\.postprocess asks for"):
        evaluate.join(small, raw, out, 1)
    # The advice is followed.
    postprocess.run(small, manifest, raw, tmp_path / "small")
    processed = tmp_path / "small" / "predictions.json"
    evaluate.run(small, manifest, processed, out, model=study.model("flat"))
    for other in (study.config, changed(study.config, postprocess={"min_size": 6})):
        with pytest.raises(DataError, match=r"post-processing is {'min_size': 5}, and"):
            evaluate.run(other, manifest, processed, tmp_path / "other.parquet")
    mirror = bool(read_predictions(raw).mirror)
    wish = study.config.model_copy(update={"predict": study.config.predict.model_copy(update={"mirror": not mirror})})
    with pytest.raises(DataError, match=r"mirror images \(predict.mirror\); run `medseg predict` again"):
        evaluate.run(wish, manifest, raw, tmp_path / "other.parquet")
    # Without a wish, what follows from the training counts.
    turned = rewritten(raw, tmp_path / "turned" / "predictions.json", lambda facts: facts.update(mirror=not mirror))
    with pytest.raises(DataError, match=r"mirror images \(predict.mirror\); run `medseg predict` again"):
        evaluate.run(study.config, manifest, turned, tmp_path / "other.parquet", model=study.model("flat"))
    assert not (tmp_path / "other.parquet").exists()


def test_scores_of_other_metrics_than_configured_are_noticed(study: Study, tmp_path: Path) -> None:
    from medseg.evaluate.table import read_table

    manifest, raw, out = study.manifest("flat"), study.predictions("flat"), tmp_path / "s.parquet"
    wide = changed(study.config, metrics={"tolerance": {"ball": 2.0}})
    evaluate.run(study.config, manifest, raw, out)
    scores = read_table(out, "")
    labels = list(dict.fromkeys(scores["label"]))
    require_chosen(study.config, "flat", labels, scores)
    with pytest.raises(DataError, match=r"nsd of 'ball' is not there, .*asks for nsd/.*@2 px.*`medseg evaluate`"):
        require_chosen(wide, "flat", labels, scores)
    with pytest.raises(DataError, match=r"assd of 'ball' is assd/.*asks for none of it"):
        require_chosen(changed(study.config, metrics={"names": ["hd95"]}), "flat", labels, scores)
    evaluate.run(study.config, manifest, raw, out, Shard(0, 1))
    with pytest.raises(DataError, match="nsd of 'ball' is not there"):
        evaluate.join(wide, raw, out, 1)
    evaluate.run(wide, manifest, raw, out, Shard(0, 1))
    evaluate.join(wide, raw, out, 1)


def test_scores_name_the_training(study: Study, tmp_path: Path) -> None:
    from medseg.evaluate.table import read_table

    evaluate.run(study.config, study.manifest("flat"), study.predictions("flat"), tmp_path / "s.parquet")
    fingerprint = read_trained(study.model("flat")).fingerprint
    assert set(read_table(tmp_path / "s.parquet", "")["fingerprint"]) == {fingerprint}
    compare([tmp_path / "s.parquet"], tmp_path / "compare", models=[study.model("flat")])
    expected = {"dataset": "flat", "model": "unet", "fold": 0, "seed": 0, "split": "val", "fingerprint": fingerprint}
    assert read_summary(tmp_path / "compare")["trainings"] == [expected]
    for model, words in (
        (retrained(study, tmp_path / "model"), "score rows of flat/unet/fold0-seed0: come from another training"),
        (study.model("solid"), "score rows of flat/unet/fold0-seed0, which is none of the trainings of this study"),
    ):
        with pytest.raises(DataError, match=words):
            compare([tmp_path / "s.parquet"], tmp_path / "other", models=[model])
    with pytest.raises(DataError, match="no score rows of solid/unet/fold0-seed0"):
        compare([tmp_path / "s.parquet"], tmp_path / "other", models=[study.model("flat"), study.model("solid")])
    assert not list((tmp_path / "other").glob("[!.]*"))


def test_tables_that_mix_two_trainings_of_one_name_are_refused(tmp_path: Path) -> None:
    rows = score_rows({"a": {"cell": counts_of(0.5)}}, fingerprint="a" * 64)
    rows += score_rows({"b": {"cell": counts_of(0.5)}}, fingerprint="b" * 64)
    with pytest.raises(DataError, match="cells/val/unet/0/0 come from several trainings"):
        compare([write_scores(tmp_path / "s.parquet", rows)], tmp_path / "out")


def test_the_leaderboard_notices_a_changed_digit(tmp_path: Path) -> None:
    rows = score_rows({case: {"cell": counts_of(0.5 + n / 20)} for n, case in enumerate("abcdefgh")})
    compare([write_scores(tmp_path / "s.parquet", rows)], tmp_path / "compare")
    assert CliRunner().invoke(app, ["leaderboard", str(tmp_path / "compare")]).exit_code == 0
    path = tmp_path / "compare" / "leaderboard.csv"
    text = path.read_text()
    assert text.count("0.675")
    path.write_text(text.replace("0.675", "0.975", 1))
    done = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "compare")])
    assert done.exit_code != 0
    assert isinstance(
        done.exception, DataError
    ) and "leaderboard.csv: damaged, edited, or of another comparison" in str(done.exception)


def test_the_command_asks_for_all_of_a_training_or_nothing(study: Study, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(study.config.model_dump_json())
    given = inputs_of(study)
    words = ["predict", "--config", str(tmp_path / "config.json"), "--manifest", str(given.manifest)]
    words += ["--splits", str(given.splits), "--fold", "0", "--model", str(study.model("flat")), "-o", str(tmp_path)]
    done = CliRunner().invoke(app, [*words, "--plan", str(given.plan)])
    assert done.exit_code == 2 and "--index and --seed" in " ".join(done.output.split())
    training = ["--plan", str(given.plan), "--index", str(given.index), "--seed", "0", "--train-code"]
    assert isinstance(CliRunner().invoke(app, [*words, *training, "newer"]).exception, CheckpointError)
    done = CliRunner().invoke(app, [*words, *training, "code"])
    assert done.exit_code == 0, done.output
