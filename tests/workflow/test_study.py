"""A whole study, as a user sees it: it runs, it says what it did, it does nothing twice, it refuses what is wrong."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medseg.formats.read import read_image, read_labels
from tests.choices import few
from tests.workflow.study import TINY, digests, jobs, make_study, medseg, run, start

pytestmark = pytest.mark.workflow
R = "results/tiny"
RUN = f"{R}/cells/train/unet/fold0-seed0"


def test_says_what_it_did(finished: Path) -> None:
    log = (finished / "first.log").read_text()
    assert "Dice" in log
    assert f"{R}/report/index.html" in log
    assert "medseg ui" in log
    assert "train cells/unet fold 0 seed 0 ████████████████████ 300/300" in log
    assert (finished / R / "report" / "index.html").stat().st_size > 10_000


def test_again_does_nothing_and_says_so(finished: Path) -> None:
    before = digests(finished)
    again = run(finished)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout
    assert digests(finished) == before


def test_scores_are_tidy_and_true(finished: Path) -> None:
    scores = pd.read_parquet(finished / R / "cells/evaluate/unet/fold0-seed0.parquet")
    assert set(scores["metric"]) >= {"dice", "iou", "tp", "fp", "fn"}
    predictions = json.loads((finished / R / "cells/postprocess/unet/fold0-seed0/predictions.json").read_text())
    for case, entry in predictions["cases"].items():
        predicted, grid = read_labels(finished / R / "cells/postprocess/unet/fold0-seed0" / entry["file"])
        image, image_grid = read_image(finished / "data/cells/images" / entry["file"])
        reference, _ = read_labels(finished / "data/cells/masks" / entry["file"])
        assert grid == image_grid
        assert predicted.shape == image.shape[1:]
        a, b = reference > 0, predicted > 0
        row = scores[(scores["case"] == case) & (scores["metric"] == "dice")]
        assert row["value"].item() == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=1e-12)


def test_predicts_new_images(finished: Path, tmp_path: Path) -> None:
    image = next((finished / "data/cells/images").glob("*.png"))
    done = medseg(finished, "predict", str(image), "--model", RUN, "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout
    predicted, grid = read_labels(tmp_path / "out" / image.name)
    assert grid == read_image(image)[1]
    assert np.unique(predicted).tolist() == list(range(predicted.max() + 1)), "objects, numbered without gaps"


def test_each_step_by_hand_gives_the_same(finished: Path, tmp_path: Path) -> None:
    base = f"{R}/cells"
    config = ("--config", f"{R}/config.json", "--manifest", f"{base}/ingest/manifest.tsv")
    done = medseg(
        finished, "evaluate", *config, "--predictions", f"{base}/postprocess/unet/fold0-seed0/predictions.json",
        "-o", str(tmp_path / "scores.parquet"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    theirs = finished / base / "evaluate/unet/fold0-seed0.parquet"
    assert (tmp_path / "scores.parquet").read_bytes() == theirs.read_bytes()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_code_changes_rerun_what_depends_on_them_and_nothing_else(finished_copy: Path) -> None:
    folder = finished_copy
    score = folder / "medseg/evaluate/score.py"
    edit(score, '"""One case -> score rows', '"""Words about: one case -> score rows')
    assert jobs(run(folder, "-n").stdout) == set()
    edit(score, '"ml", 1e-3', '"ml", 2e-3')
    assert jobs(run(folder, "-n").stdout) == {"evaluate", "compare", "report", "track"}
    edit(score, '"ml", 2e-3', '"ml", 1e-3')
    edit(folder / "medseg/train/schedule.py", "POLY_POWER = 0.9", "POLY_POWER = 1.0")
    downstream = {"train", "predict", "choose", "postprocess", "evaluate", "compare", "report", "track"}
    assert jobs(run(folder, "-n").stdout) == downstream


SCORED = {"evaluate", "compare", "report", "track"}
# change of the configuration -> the rules that run again; tests/unit/test_config.py has one for every slice
CHANGES = [
    ("budget: {steps: 300}", "budget: {steps: 301}", {"plan", "train", "predict", "choose", "postprocess", *SCORED}),
    ("run: [0]", "run: [0, 1]", {"train", "predict", "choose", "postprocess", *SCORED}),
    ("instances: true", "instances: true\n    metrics: {names: [hd95]}", SCORED),
    ("instances: true", "instances: true\n    choices: [the loss]", {"report", "track"}),
]


@pytest.mark.parametrize(("old", "new", "rerun"), few(CHANGES, lambda old, *_: old == "instances: true"))
def test_config_changes_rerun_what_depends_on_them_and_nothing_else(
    old: str, new: str, rerun: set[str], finished_copy: Path
) -> None:
    edit(finished_copy / "config/config.yaml", old, new)
    done = run(finished_copy, "-n")
    assert jobs(done.stdout) == rerun, done.stdout[-2000:]


def test_a_model_that_is_written_first_reruns_nothing_of_the_others(finished_copy: Path) -> None:
    edit(finished_copy / "config/config.yaml", "models:\n", "models:\n  first: {network: fcn32s}\n")
    done = run(finished_copy, "-n")
    assert jobs(done.stdout) == {"plan", "train", "predict", "choose", "postprocess", *SCORED}
    assert "model=unet" not in done.stdout, done.stdout
    assert "preprocess" not in jobs(done.stdout)


def test_nested_values_can_be_overridden_on_the_command_line(finished_copy: Path) -> None:
    found = run(finished_copy, "-n", "--config", "budget={steps: 301}", "seeds=[0, 1]")
    assert {"plan", "train"} <= jobs(found.stdout), found.stdout
    assert "preprocess" not in jobs(found.stdout)


def test_second_pipeline_is_refused_and_names_the_first(finished_copy: Path) -> None:
    shutil.rmtree(finished_copy / R / "compare")
    first = start(finished_copy, "--until", "compare")
    try:
        lock = finished_copy / ".snakemake/medseg.lock"
        while f"process {first.pid} " not in lock.read_text():
            assert first.poll() is None
        # On a busy machine it might end before the second one looks.
        first.send_signal(signal.SIGSTOP)
        second = run(finished_copy)
        assert second.returncode == 2
        assert f"process {first.pid} " in second.stdout
        assert "Traceback" not in second.stdout
    finally:
        first.send_signal(signal.SIGCONT)
        assert first.wait() == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("budget: {steps: 300}", "budgett: {steps: 24}", ["unknown key 'budgett'", "did you mean 'budget'"]),
        ("{network: unet,", "{network: unet, lr: 1e-4,", ["models.unet.lr", "0.0001"]),
        ("threads: 1", "threads: two", ["threads", "two"]),
    ],
)
def test_bad_config_is_refused_before_any_rule(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    folder = make_study(tmp_path / "study")
    edit(folder / "config/config.yaml", old, new)
    done = run(folder)
    assert done.returncode == 2
    assert all(word in done.stdout for word in words), done.stdout
    assert "Traceback" not in done.stdout
    assert not (folder / "results").exists()


def test_bad_data_is_refused_in_one_pass_before_training(finished_copy: Path) -> None:
    folder = finished_copy
    edit(folder / "config/config.yaml", "    generate: {kind: cells, cases: 4, seed: 3}\n", "")
    images = sorted((folder / "data/cells/images").glob("*.png"))
    images[0].write_bytes(images[0].read_bytes()[:100])
    (folder / "data/cells/masks" / images[1].name).unlink()
    done = run(folder)
    assert done.returncode == 2
    log = (folder / R / "logs/cells/ingest.log").read_text()
    assert "unreadable" in log
    assert "image-without-label" in log
    assert log.count(" · ") >= 4
    assert "rule train" not in done.stdout
    checked = medseg(folder, "ingest", "--check", "--config", "config/config.yaml", "--dataset", "cells")
    assert checked.returncode == 2
    assert "Traceback" not in checked.stdout


def test_pickle_is_refused_by_predict(finished: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(b"\x80\x04csomething")
    image = next((finished / "data/cells/images").glob("*.png"))
    done = medseg(finished, "predict", str(image), "--model", str(model), "-o", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "pickle" in done.stdout
    assert "expected" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.exhaustive
def test_training_on_all_cases_alone_ends_with_models_and_no_report(tmp_path: Path) -> None:
    alone = TINY.replace("folds: {count: 2, run: [0]}", "folds: all").replace("steps: 300", "steps: 8")
    folder = make_study(tmp_path / "study", alone)
    done = run(folder)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "none to validate on, so no scores and no report" in done.stdout
    made = {path.name for path in (folder / R).iterdir()}
    assert (folder / R / "cells/train/unet/foldall-seed0/model.json").is_file()
    assert not made & {"compare", "report"}
    assert "Nothing to be done" in run(folder).stdout
    # A fold beside it: the scores are of that one alone.
    edit(folder / "config/config.yaml", "folds: all", "folds: {count: 2, run: [0, all]}")
    planned = jobs(run(folder, "-n").stdout)
    assert {"train", "predict", "evaluate", "compare", "report", "track"} <= planned
