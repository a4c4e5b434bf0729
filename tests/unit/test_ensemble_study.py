"""An ensemble in a study: what it is of, the chain from its members to its scores, and cases that nobody has seen."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg import whole
from medseg.compare import run as compare
from medseg.compare.verdict import about_ensemble
from medseg.config import Config, ensemble_runs, load_config, members_of
from medseg.errors import ConfigError, DataError
from medseg.evaluate import run as evaluate
from medseg.formats.read import open_image, read_labels
from medseg.jobs import Job
from medseg.predict import together
from medseg.predict.ensemble import Ensemble
from medseg.predict.record import read_predictions
from medseg.predict.trainings import read_trainings
from medseg.results.key import RunKey
from medseg.shards import Shard
from medseg.train.checkpoint import read_checkpoint, write_checkpoint
from medseg.trained import read_trained, require_members, write_ensemble
from tests.score_tables import counts_of, score_rows, write_scores


def config(**given: Any) -> Config:
    base = {
        "datasets": {name: {"path": name, "layout": "pairs", "labels": {"a": 1}} for name in ("one", "two")},
        "models": {"unet": {"network": "unet"}, "fcn": {"network": "fcn8s", "datasets": ["two"]}},
        "ensembles": {"both": {"of": ["unet", "fcn"]}},
        "folds": {"count": 3, "run": [0, 2, "all"]},
        "seeds": [0, 5],
        "budget": {"steps": 1},
    }
    return load_config([], {**base, **given})


# What an ensemble is of


def test_an_ensemble_is_scored_where_all_its_members_are_trained_and_validated() -> None:
    made = config(ensembles={"both": {"of": ["unet", "fcn"]}, "seeds": {"of": ["unet"]}})
    runs = [*(("two", "both", f, 0) for f in (0, 2)), *((d, "seeds", f, 0) for d in ("one", "two") for f in (0, 2))]
    assert ensemble_runs(made) == runs
    assert members_of(made, "two", "both", 2) == [("two", m, 2, s) for m in ("unet", "fcn") for s in (0, 5)]
    assert [key.name for key in whole.ensemble_keys(made)][:2] == ["two/both/fold0-seed0", "two/both/fold2-seed0"]
    assert set(whole.judged_keys(made)) == {*whole.scored_keys(made), *whole.ensemble_keys(made)}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ensembles": {"x": {"of": ["unet", "resnet"]}}}, r"ensembles\.x\.of: no model \['resnet'\]; there are: unet"),
        ({"ensembles": {"x": {"of": ["unet", "unet"]}}}, "a model is named twice"),
        ({"ensembles": {"unet": {"of": ["unet", "fcn"]}}}, "a model has this name; .*rename one"),
        ({"ensembles": {"x": {"of": ["unet"]}}, "seeds": [0]}, r"with one seed is one training; .*`seeds: \[0, 1\]`"),
        ({"folds": "all"}, "nothing is validated on .*--model A --model B"),
        ({"datasets": {"one": {"path": "one", "layout": "pairs"}}, "models": {
            "unet": {"network": "unet"}, "fcn": {"network": "fcn8s", "datasets": ["one"]}},
          "ensembles": {"x": {"of": []}}}, "of"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**given)


def test_members_of_what_is_not_there_are_refused() -> None:
    made = config()
    with pytest.raises(ConfigError, match="no ensemble 'bot' in the configuration; there are: both"):
        members_of(made, "two", "bot", 0)
    with pytest.raises(ConfigError, match=r"ensembles\.both: is not of data set 'one'; it is of two"):
        members_of(made, "one", "both", 0)


def test_a_job_of_an_ensemble_has_the_memory_of_one_member_and_the_time_of_all() -> None:
    made = config()
    job = Job(made, "predict_together", 1, False, "two", "both")
    members = [Job(made, "predict", 1, False, "two", model) for model in ("unet", "fcn")]
    most = max(member.memory_mb() for member in members)
    assert most < job.memory_mb() < 1.5 * most
    start = Job(made, "report", 1, False).minutes()
    assert job.minutes() - start == 2 * sum(member.minutes() - start for member in members)
    assert (
        Job(made, "evaluate", 1, False, "two", "both").memory_mb()
        == Job(made, "evaluate", 1, False, "two", "unet").memory_mb()
    )


# The chain


@pytest.fixture
def members(study: Any, tmp_path: Path) -> list[Path]:
    """Two trainings of fold 0 of the data set ``flat``: that of the study, and another of a further seed."""
    folders = [tmp_path / "train" / "unet" / f"fold0-seed{seed}" for seed in (0, 1)]
    checkpoint, network = read_checkpoint(study.model("flat"))
    shutil.copytree(study.model("flat"), folders[0])
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
    write_checkpoint(folders[1], replace(checkpoint, seed=1, fingerprint="1" * 64), network)
    return folders


@pytest.fixture
def described(members: list[Path]) -> Path:
    folder = members[0].parents[1] / "seeds" / "fold0-seed0"
    write_ensemble(folder, RunKey("flat", "seeds", 0, 0), [read_trained(one) for one in members])
    return folder


def run(study: Any, described: Path, out: Path, **how: Any) -> Path:
    together.run(study.config, study.manifest("flat"), study.splits("flat"), 0, described, out, "code", **how)
    return out / "predictions.json"


def test_an_ensemble_is_known_by_its_members(members: list[Path], described: Path, tmp_path: Path) -> None:
    found = read_trained(described)
    assert found.key == RunKey("flat", "seeds", 0, 0)
    assert [one.folder for one in found.members] == members
    write_ensemble(tmp_path / "x", found.key, found.members[::-1])
    assert read_trained(tmp_path / "x").fingerprint == found.fingerprint
    shutil.copytree(members[1].parents[1], tmp_path / "elsewhere")
    assert read_trained(tmp_path / "elsewhere" / "seeds" / "fold0-seed0").fingerprint == found.fingerprint
    checkpoint, network = read_checkpoint(members[1])
    write_checkpoint(members[1], replace(checkpoint, fingerprint="2" * 64), network)
    with pytest.raises(DataError, match=r"its member flat/unet/fold0-seed1 \(fingerprint 1+\) is .* \(2+\) now"):
        read_trained(described)


def test_members_are_just_those_that_are_wanted(members: list[Path]) -> None:
    keys = [RunKey("flat", "unet", 0, seed) for seed in (1, 0)]
    assert [one.key for one in require_members(members, keys)] == keys
    with pytest.raises(
        DataError, match="found flat/unet/fold0-seed0; expected flat/unet/fold0-seed0, flat/unet/fold0-s"
    ):
        require_members(members[:1], keys)


def test_validation_cases_are_predicted_together_scored_and_compared(
    study: Any, members: list[Path], described: Path, tmp_path: Path
) -> None:
    record = run(study, described, tmp_path / "out")
    found = read_predictions(record)
    assert found.key == RunKey("flat", "seeds", 0, 0)
    assert found.fingerprint == read_trained(described).fingerprint
    assert set(found.members) == {"flat/unet/fold0-seed0", "flat/unet/fold0-seed1"}
    predictor = Ensemble(read_trainings(members))
    for case, entry in found.cases.items():
        image = next((study.folder("flat") / "images").glob(f"{case}.*"))
        expected = predictor.label_map(open_image(image), case)
        np.testing.assert_array_equal(read_labels(record.parent / entry.file)[0], expected)
    bytes_ = record.read_bytes()
    files = {path: path.stat().st_mtime_ns for path in record.parent.glob("f*.png")}
    assert run(study, described, tmp_path / "out").read_bytes() == bytes_
    assert {path: path.stat().st_mtime_ns for path in record.parent.glob("f*.png")} == files
    for index in range(2):
        run(study, described, tmp_path / "parts", shard=Shard(index, 2))
    given = study.config, study.manifest("flat"), study.splits("flat"), 0, described, tmp_path / "parts", 2, "code"
    together.join(*given)
    assert (tmp_path / "parts" / "predictions.json").read_bytes() == bytes_

    scores = tmp_path / "seeds.parquet"
    evaluate.run(study.config, study.manifest("flat"), record, scores, model=described)
    alone = tmp_path / "unet.parquet"
    evaluate.run(study.config, study.manifest("flat"), study.predictions("flat"), alone, model=members[0])
    compare.run([scores, alone], tmp_path / "compare", models=[described, members[0]])
    assert {row["model"] for row in compare.read_leaderboard(tmp_path / "compare")} == {"seeds", "unet"}
    with pytest.raises(DataError, match=r"no score rows of flat/seeds/fold0-seed0"):
        compare.run([alone], tmp_path / "compare", models=[described, members[0]])

    checkpoint, network = read_checkpoint(members[1])
    write_checkpoint(members[1], replace(checkpoint, fingerprint="2" * 64), network)
    with pytest.raises(DataError, match="run `medseg ensemble` again"):
        evaluate.run(study.config, study.manifest("flat"), record, scores, model=described)
    write_ensemble(described, RunKey("flat", "seeds", 0, 0), [read_trained(one) for one in members])
    with pytest.raises(DataError, match="comes from another training of flat/seeds/fold0-seed0"):
        evaluate.run(study.config, study.manifest("flat"), record, scores, model=described)


def test_the_command_takes_the_folder_of_an_ensemble(study: Any, described: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from medseg.cli.commands import app

    (tmp_path / "c.json").write_text(study.config.model_dump_json())
    place = ["--config", tmp_path / "c.json", "--manifest", study.manifest("flat"), "--splits", study.splits("flat")]
    words = ["predict", *place, "--fold", 0, "--model", described, "-o", tmp_path / "o"]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    assert read_predictions(tmp_path / "o" / "predictions.json").key.model == "seeds"
    training = ["--plan", study.plan("flat"), "--index", study.index("flat"), "--seed", 0]
    assert "is an ensemble" in CliRunner().invoke(app, list(map(str, [*words, *training]))).output.replace("\n", " ")
    images = ["predict", study.folder("flat") / "images" / "f0.png", "--model", described, "-o", tmp_path / "new"]
    done = CliRunner().invoke(app, list(map(str, images)))
    assert done.exit_code == 0 and "the mean of 2 models" in done.stderr, done.output


def test_a_member_that_has_seen_the_cases_is_refused(study: Any, members: list[Path], tmp_path: Path) -> None:
    checkpoint, network = read_checkpoint(members[1])
    write_checkpoint(members[1], replace(checkpoint, fold=1, trained_on=None), network)
    folder = tmp_path / "ensemble"
    write_ensemble(folder, RunKey("flat", "seeds", 0, 0), [read_trained(one) for one in members])
    with pytest.raises(Exception, match="a model of data set 'flat', fold 1; expected one of 'flat', fold 0"):
        run(study, folder, tmp_path / "out")


# What is said of it


def test_a_verdict_on_an_ensemble_does_not_ask_for_seeds(tmp_path: Path) -> None:
    from medseg.compare.block import blocks
    from medseg.compare.leaderboard import leaderboard_rows
    from medseg.compare.pairs import pair_rows
    from medseg.compare.rows import read_scores
    from medseg.compare.summary import summary_rows
    from medseg.compare.verdict import ABOUT_NETWORKS

    rows = []
    for model, dice in (("both", 0.9), ("unet", 0.6), ("fcn", 0.3)):
        for fold in (0, 1):
            cases = {f"c{k:02d}": {"liver": counts_of(dice + 0.001 * k)} for k in range(12) if k % 2 == fold}
            rows += score_rows(cases, dataset="organs", model=model, fold=fold)
    write_scores(tmp_path / "t.parquet", rows)
    scores = read_scores([tmp_path / "t.parquet"]).trainings
    found = blocks(scores, {("organs", "both"): ["unet", "fcn"]})
    pairs, _ = pair_rows(found, leaderboard_rows(found, summary_rows(found)))
    said = {(row["first"], row["second"]): row["notes"] for row in pairs}
    note = about_ensemble("both", ["unet", "fcn"])
    assert note in said["both", "unet"] and ABOUT_NETWORKS not in said["both", "unet"]
    assert ABOUT_NETWORKS in said["unet", "fcn"] and note not in said["unet", "fcn"]
