"""Post-processing that is chosen, in a whole study: a rule of its own between predict and postprocess."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.workflow.study import digests, jobs, make_study, medseg, run

pytestmark = pytest.mark.workflow
STUDY = """
experiment: tiny
data_root: data
datasets:
  organs:
    layout: decathlon
    path: organs
    channels: [CT]
    generate: {kind: organs, cases: 6, seed: 3}
    postprocess: {fill_holes: true, choose: [min_volume]}
models:
  unet: {network: unet, plan: {patch: [16, 32, 32], widths: [8, 8, 16], strides: [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}}
folds: {count: 3, run: [0, 1, all]}
budget: {steps: 20}
threads: 1
"""
R = "results/tiny/organs"


def test_a_choice_is_made_resumed_and_goes_with_the_model(tmp_path: Path) -> None:
    folder = make_study(tmp_path, STUDY)
    done = run(folder)
    assert done.returncode == 0, done.stdout[-3000:]
    before = digests(folder)
    models = {fold: folder / R / f"train/unet/fold{fold}-seed0" for fold in (0, 1, "all")}
    records = {fold: json.loads((model / "postprocess.json").read_text()) for fold, model in models.items()}
    assert [records[fold]["choice"]["folds"] for fold in (0, 1, "all")] == [[1], [0], [0, 1]]
    assert all(record["steps"]["fill_holes"] for record in records.values())
    assert "Post-processing chosen" in (folder / "results/tiny/report/index.html").read_text()

    # A folder of the model gives what the study scored; so does its copy in MLflow.
    predictions = json.loads((folder / R / "postprocess/unet/fold0-seed0/predictions.json").read_text())
    images = [f"data/organs/imagesTr/{entry['file']}" for entry in predictions["cases"].values()]
    copies = list((folder / "mlartifacts").rglob("postprocess.json")) or list(
        folder.rglob("artifacts/postprocess.json")
    )
    assert {json.loads(copy.read_text())["fingerprint"] for copy in copies} == {
        record["fingerprint"] for record in records.values()
    }
    mine = next(copy for copy in copies if copy.read_bytes() == (models[0] / "postprocess.json").read_bytes())
    for model in (models[0], mine.parent):
        made = medseg(folder, "predict", *images, "--model", str(model), "-o", "new")
        assert made.returncode == 0, made.stdout
        for entry in predictions["cases"].values():
            scored = folder / R / "postprocess/unet/fold0-seed0" / entry["file"]
            assert (folder / "new" / entry["file"]).read_bytes() == scored.read_bytes()
        shutil.rmtree(folder / "new")

    # Lost, or of another configuration: made again, with the same bits; gone with the last operation.
    (models[1] / "postprocess.json").unlink()
    shutil.rmtree(folder / R / "postprocess/unet/fold1-seed0")
    again = run(folder)
    assert again.returncode == 0, again.stdout[-3000:]
    assert digests(folder) == before
    assert json.loads((models[1] / "postprocess.json").read_text()) == records[1]
    assert "Nothing to be done" in run(folder).stdout
    text = (folder / "config/config.yaml").read_text()
    (folder / "config/config.yaml").write_text(text.replace("[min_volume]", "[largest_component]"))
    assert jobs(run(folder, "-n").stdout) == {"choose", "postprocess", "evaluate", "compare", "report", "track"}
    (folder / "config/config.yaml").write_text(
        text.replace("    postprocess: {fill_holes: true, choose: [min_volume]}\n", "")
    )
    last = run(folder, "--until", "evaluate")
    assert last.returncode == 0, last.stdout[-3000:]
    assert not any((model / "postprocess.json").exists() for model in models.values())
