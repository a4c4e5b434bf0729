"""The state of a running training: generations on disk, each complete or absent, two kept.

They lie outside the workflow's declared outputs, which Snakemake deletes when a job fails, in a folder named by the
fingerprint of all that the training depends on: state of another plan, data set or code is never continued.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.engine.step import Step
from medseg.errors import CheckpointError, DataError
from medseg.files import fsync_folder, sha256_bytes, write_bytes
from medseg.progress import say
from medseg.records import read_record, write_record
from medseg.train.average import Average
from medseg.train.checkpoint import load_tensors, network_tensors, pack_tensors, unpack_tensors

KEPT = 2
PREFIX = "step-"


@dataclass
class LossHistory:
    """The training losses, which a resumed training needs besides the weights.

    Attributes:
        losses: of the steps since the journal's last record, so that after a resume the next one covers the same steps.
        records: means that the journal has.
    """

    losses: list[float] = field(default_factory=list)
    records: list[float] = field(default_factory=list)


def save_state(folder: Path, step: int, trained: Step, losses: LossHistory, average: Average | None = None) -> None:
    """Save everything that the next step depends on, after ``step`` steps; older generations beyond two are removed."""
    scalars, tensors = _optimizer_state(trained.optimizer)
    weights = {f"model.{name}": tensor for name, tensor in network_tensors(trained.network).items()}
    mean = {f"average.{name}": t.detach().cpu().contiguous() for name, t in (average.mean if average else {}).items()}
    data = pack_tensors({**weights, **tensors, **mean})
    building = folder / f".{PREFIX}{step:09d}.{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    write_bytes(building / "state.safetensors", data)
    facts = {
        "step": step,
        "sha256": sha256_bytes(data),
        "optimizer": scalars,
        "scaler": trained.scaler.state_dict(),
        "at_once": trained.at_once,
        **asdict(losses),
    }
    write_record(building / "state.json", facts)
    final = folder / f"{PREFIX}{step:09d}"
    if final.exists():
        shutil.rmtree(final)
    os.rename(building, final)
    fsync_folder(folder)
    for old in generations(folder)[KEPT:]:
        shutil.rmtree(old)


def load_state(folder: Path, trained: Step, average: Average | None = None) -> tuple[int, LossHistory]:
    """Load the newest generation that is whole; return the steps done (0 if there is none) and the losses.

    A damaged generation is reported and the one before it is taken.
    """
    for leftover in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for generation in generations(folder):
        try:
            facts = read_record(generation / "state.json", "medseg train")
            if generation.name != f"{PREFIX}{facts['step']:09d}":
                raise CheckpointError(f"{generation}: holds step {facts['step']}")
            scalars, scale, losses = facts["optimizer"], facts["scaler"], LossHistory(facts["losses"], facts["records"])
            at_once = facts["at_once"]
            tensors = unpack_tensors(generation / "state.safetensors", facts["sha256"])
            weights, mean = _named(tensors, "model."), _named(tensors, "average.")
            if average is not None and average.mean.keys() != mean.keys():
                raise CheckpointError(f"{generation / 'state.safetensors'}: holds another mean of the weights")
            load_tensors(trained.network, weights, generation / "state.safetensors", type(trained.network).__name__)
            if average is not None:
                average.load(mean)
        except (CheckpointError, DataError, KeyError, TypeError, ValueError, AttributeError) as error:
            say(f"resume: {generation.name} is damaged ({error}); taking the generation before")
            shutil.rmtree(generation)
            continue
        _restore_optimizer(trained.optimizer, scalars, tensors)
        trained.scaler.load_state_dict(scale)
        trained.at_once = at_once
        return int(facts["step"]), losses
    return 0, LossHistory()


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def generations(folder: Path) -> list[Path]:
    """Saved generations, newest first."""
    return sorted(folder.glob(f"{PREFIX}*"), reverse=True)


def saved_step(folder: Path) -> int:
    """Steps of the newest generation; a finished training saves its last."""
    return int(generations(folder)[0].name.removeprefix(PREFIX))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimiser's state as JSON scalars and tensors, keyed ``optimizer.<parameter>.<name>``."""
    tensors, scalars = {}, {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value.detach().cpu().contiguous()
            elif value is not None:
                scalars[f"{index}.{name}"] = value
    return scalars, tensors


def _restore_optimizer(optimizer: torch.optim.Optimizer, scalars: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    for key, value in scalars.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
