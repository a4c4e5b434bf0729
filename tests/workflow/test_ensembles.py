"""An ensemble in a study, from the configuration to the report: which jobs it makes, and which it makes again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.workflow.study import TINY, make_study, run

pytestmark = pytest.mark.exhaustive

CONFIG = TINY.replace("budget: {steps: 300}", "budget: {steps: 6}\nseeds: [0, 1]").replace("run: [0]", "run: [0, 1]")
SEEDS = "ensembles: {seeds: {of: [unet]}}\n"


def jobs(output: str) -> dict[str, int]:
    """Jobs of a run, by rule."""
    table = output.partition("Job stats:\n")[2].partition("total")[0]
    rows = [line.split() for line in table.splitlines() if line.split()[1:] and line.split()[1].isdigit()]
    return {rule: int(count) for rule, count in rows if rule not in ("all", "default")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_study(tmp_path_factory.mktemp("ensembles") / "study", CONFIG + SEEDS)
    done = run(folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "study", symlinks=True)
    return tmp_path / "study"


def test_it_is_scored_beside_its_members(finished: Path) -> None:
    results = finished / "results" / "tiny"
    board = pd.read_csv(results / "compare" / "leaderboard.csv")
    assert set(board["model"]) == {"unet", "seeds"}
    assert board["n_cases"].tolist() == [4, 4]
    summary = json.loads((results / "compare" / "summary.json").read_text())
    assert [row["models"] for row in summary["best"]] == [2]
    page = (results / "report" / "index.html").read_text()
    assert "the mean of the probabilities of unet with seeds 0, 1" in page
    assert "Chosen for each fold by the scores on the others" in page
    again = run(finished, "-n")
    assert "Nothing to be done" in again.stdout


def test_what_is_lost_or_changed_is_made_again_and_nothing_else(copy: Path) -> None:
    results = copy / "results" / "tiny" / "cells"
    record = results / "predict" / "seeds" / "fold1-seed0" / "predictions.json"
    before = record.read_bytes()
    label_map = next(record.parent.glob("[!.]*.tif*"), None) or next(record.parent.glob("[!.]*.png"))
    label_map.unlink()
    done = run(copy)
    assert done.returncode == 0, done.stdout[-3000:]
    assert record.read_bytes() == before
    assert set(jobs(done.stdout)) <= {"predict_together", "postprocess", "evaluate", "compare", "report", "track"}
    assert jobs(done.stdout)["predict_together"] == 1
    # Without it, nothing is trained or predicted.
    (copy / "config" / "config.yaml").write_text(CONFIG)
    assert set(jobs(run(copy, "-n").stdout)) <= {"compare", "report", "track"}
    (copy / "config" / "config.yaml").write_text(CONFIG + "ensembles: {seeds: {of: [unet]}, more: {of: [unet]}}\n")
    new = jobs(run(copy, "-n").stdout)
    assert new["predict_together"] == new["ensemble"] == 2
    assert not {"train", "predict", "plan"} & set(new)
