"""Files of the stages from train on, for ``test_flips.py``."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from medseg.compare.rows import read_scores
from medseg.compare.run import read_compared_scores, read_leaderboard, read_summary
from medseg.compare.run import run as compare
from medseg.engine.step import Step
from medseg.errors import DataError
from medseg.evaluate.table import read_table, write_table
from medseg.image.labels import LabelTable
from medseg.losses.build import build_loss
from medseg.models.zoo import build_model
from medseg.predict.record import PredictedCase, Predictions, read_predictions, write_predictions
from medseg.results.folders import CompareFolder, ModelFolder, PredictionFolder
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.testset.openings import OpenedSet, Opening, append_opening, read_openings
from medseg.train.checkpoint import (
    Checkpoint,
    network_tensors,
    pack_tensors,
    read_description,
    unpack_tensors,
    write_checkpoint,
)
from medseg.train.history import read_history, read_timing, write_history
from medseg.train.journal import line_of
from medseg.train.lineage import TrainedOn
from medseg.train.resume import LossHistory, generations, load_state, save_state
from medseg.trained import read_facts, read_trained
from tests.faults.flips import FileKind
from tests.plans import tiny_plan
from tests.score_tables import counts_of, score_rows, write_scores

LABELS = LabelTable.create({"ball": 1, "rod": 3})
FINGERPRINT = "f" * 64
PLAN = tiny_plan()


def _model(name: str, folder: Path) -> Path:
    """A model folder; the file to damage is the one called ``name``."""
    seen = TrainedOn({("d", "s0"): {"c0": ("a" * 64,)}})
    inputs = {"plan": "1" * 64, "data": "2" * 64, "split": "3" * 64, "code": "4" * 16}
    about = Checkpoint("d", ("MRI",), LABELS, PLAN, 1, 2, FINGERPRINT, {"medseg": "0"}, seen, (), inputs)
    journal = "".join(line_of(step, 1_700_000_000_000 + step, {"train/loss": 1 / step}) for step in range(1, 6))
    write_history(ModelFolder(folder), journal.encode(), FINGERPRINT, {"seconds": 12.5, "steps": 5, "attempts": 1})
    torch.manual_seed(0)
    write_checkpoint(folder, about, build_model(PLAN.network.name, PLAN.network))
    return folder / name


def _state(name: str, folder: Path) -> Path:
    """Two generations of the state of a training; the file to damage is in the newest."""
    for step in (3, 4):
        save_state(folder, step, _trained(), LossHistory([0.5], [0.75, 0.5]))
    return generations(folder)[0] / name


def _trained() -> Step:
    """A network after one step, with the moments of its optimiser."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    step = Step(network, torch.optim.AdamW(network.parameters()), build_loss("ce"), "cpu", "fp32")
    network(torch.ones(1, 3)).sum().backward()
    step.optimizer.step()
    return step


def _read_state(path: Path) -> Any:
    """The newest state; the one before it, which a training falls back to, is what must be said."""
    with tempfile.TemporaryDirectory() as scratch:
        # A damaged generation is deleted when it is read.
        folder, step = shutil.copytree(path.parents[1], Path(scratch) / "state"), _trained()
        done, losses = load_state(folder, step)
    if done == 3:
        raise DataError("taking the generation before")
    return done, losses, pack_tensors(network_tensors(step.network))


def _predictions(folder: Path) -> Path:
    soft = {"file": "a.b2nd", "sha256": "cd"}
    cases = {"a": PredictedCase("a.png", "12", probabilities=soft), "b": PredictedCase(failed="not finite")}
    key = RunKey("cells", "unet", 1, 7, "test")
    write_predictions(Predictions(folder, key, FINGERPRINT, "ab" * 32, True, cases, {"min_size": 5}))
    return PredictionFolder(folder).record


def _rows() -> list[dict[str, Any]]:
    cases = {case: {"cell": counts_of(0.5 + number / 20), "wall": (0, 3, 0)} for number, case in enumerate("abcdefgh")}
    return score_rows(cases) + score_rows(cases, model="other")


def _shard(folder: Path) -> Path:
    write_table(folder / "shard-0-of-2.parquet", pd.DataFrame(_rows()))
    return folder / "shard-0-of-2.parquet"


def _compared(name: str, folder: Path) -> Path:
    """A comparison; the file to damage is the one called ``name``."""
    compare([write_scores(folder / "scores" / "s.parquet", _rows())], folder)
    return folder / name


def _opened(folder: Path) -> Path:
    sets = {"cells": OpenedSet(4, 3, "a" * 64, "b" * 64)}
    for day in ("2026-03-01T12:00:00Z", "2026-03-02T12:00:00Z"):
        append_opening(folder, Opening(day, "c" * 64, sets, {"cells/unet/fold0-seed0": "d" * 64}))
    return Results(folder).test.opened


def _values(read: Callable[[Path], pd.DataFrame]) -> Callable[[Path], Any]:
    return lambda path: read(path).to_dict("list")


_COMPARE = CompareFolder(Path())
DOWNSTREAM: dict[str, FileKind] = {
    "model.json": FileKind(functools.partial(_model, "model.json"), lambda path: read_description(path.parent)),
    "model.json without torch": FileKind(
        functools.partial(_model, "model.json"), lambda path: (read_facts(path.parent), read_trained(path.parent))
    ),
    "weights": FileKind(
        functools.partial(_model, "model.safetensors"),
        lambda path: pack_tensors(unpack_tensors(path, read_trained(path.parent).weights_sha256)),
    ),
    "timing.json": FileKind(
        functools.partial(_model, "timing.json"), lambda path: read_timing(ModelFolder(path.parent), FINGERPRINT)
    ),
    "history.jsonl": FileKind(
        functools.partial(_model, "history.jsonl"), lambda path: read_history(ModelFolder(path.parent), FINGERPRINT)
    ),
    "state.json": FileKind(functools.partial(_state, "state.json"), _read_state),
    "state.safetensors": FileKind(functools.partial(_state, "state.safetensors"), _read_state),
    "predictions.json": FileKind(_predictions, read_predictions),
    "score table": FileKind(
        lambda folder: write_scores(folder / "s.parquet", _rows()),
        lambda path: [table.to_pydict() for table in read_scores([path]).tables()],
    ),
    "score table of a shard": FileKind(_shard, _values(lambda path: read_table(path, "medseg evaluate"))),
    "compared scores": FileKind(
        functools.partial(_compared, _COMPARE.scores.name), _values(lambda path: read_compared_scores(path.parent))
    ),
    "leaderboard.csv": FileKind(
        functools.partial(_compared, _COMPARE.leaderboard.name), lambda path: read_leaderboard(path.parent)
    ),
    "summary.json": FileKind(
        functools.partial(_compared, _COMPARE.summary.name), lambda path: read_summary(path.parent)
    ),
    "opened.json": FileKind(_opened, lambda path: read_openings(path.parents[1])),
}
