"""What trainings start from lies outside the study and may go away: no finished model is lost by it."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from medseg.records import read_record, write_record
from tests.workflow.study import TINY, jobs, run

pytestmark = [pytest.mark.workflow, pytest.mark.exhaustive]

TUNED = """
  tuned:
    network: unet
    start: outside/model
    plan: {patch: [64, 64], widths: [8, 8, 16], strides: [[1, 1], [2, 2], [2, 2]], steps: 2}
folds:"""
MODEL = Path("results/tiny/cells/train/tuned/fold0-seed0")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_start_that_has_gone_costs_no_model(finished_copy: Path) -> None:
    folder, target = finished_copy, str(MODEL / "model.json")
    shutil.copytree(folder / "results/tiny/cells/train/unet/fold0-seed0", folder / "outside" / "model")
    config = folder / "config" / "config.yaml"
    config.write_text(TINY.replace("\nfolds:", TUNED))
    done = run(folder, target)
    assert done.returncode == 0, done.stdout[-4000:]
    weights = digest(folder / MODEL / "model.safetensors")

    shutil.move(folder / "outside", folder / "moved")
    done = run(folder, target)
    assert (done.returncode, jobs(done.stdout)) == (0, set()), done.stdout[-4000:]

    # A reason to train again: refused before Snakemake removes what is there, as often as it is asked.
    config.write_text(TINY.replace("\nfolds:", TUNED.replace("steps: 2", "steps: 3")))
    for _ in range(2):
        done = run(folder, target, "--until", "train")
        assert done.returncode == 2, done.stdout[-4000:]
        said = "models.tuned.start: outside/model: no model folder (model.json and model.safetensors) is there"
        assert said in done.stdout
        assert "Traceback" not in done.stdout
        assert digest(folder / MODEL / "model.safetensors") == weights

    # Another model in its place is one, too; the same is none.
    config.write_text(TINY.replace("\nfolds:", TUNED))
    shutil.move(folder / "moved", folder / "outside")
    assert jobs(run(folder, target, "-n").stdout) == set()
    facts = read_record(folder / "outside" / "model" / "model.json", "")
    write_record(folder / "outside" / "model" / "model.json", {**facts, "weights_sha256": "a" * 64})
    assert jobs(run(folder, target, "-n").stdout) == {"train"}
