"""The state of a running training: generations on disk, each complete or absent, two kept.

They lie outside the workflow's declared outputs, which Snakemake deletes when a job fails, in a folder named by the
fingerprint of all that the training depends on: state of another plan, data set or code is never continued.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.errors import CheckpointError, DataError
from medseg.files import digest_of, fsync_folder, read_json, sha256_bytes, write_bytes, write_json
from medseg.progress import say
from medseg.train.checkpoint import load_tensors, network_tensors, pack_tensors, unpack_tensors

KEPT = 2
PREFIX = "step-"


def save_state(
    folder: Path,
    step: int,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    losses: Sequence[float] = (),
) -> None:
    """Save everything that the next step depends on, after ``step`` steps; older generations beyond two are removed.

    ``losses`` are those since the last journal record: after a resume the next record covers the same steps.
    """
    scalars, tensors = _optimizer_state(optimizer)
    weights = {f"model.{name}": tensor for name, tensor in network_tensors(network).items()}
    data = pack_tensors({**weights, **tensors})
    building = folder / f".{PREFIX}{step:09d}.{os.getpid()}"
    shutil.rmtree(building, ignore_errors=True)
    write_bytes(building / "state.safetensors", data)
    facts = {
        "step": step,
        "sha256": sha256_bytes(data),
        "optimizer": scalars,
        "scaler": scaler.state_dict(),
        "losses": list(losses),
    }
    write_json(building / "state.json", {**facts, "digest": digest_of(facts)})
    final = folder / f"{PREFIX}{step:09d}"
    if final.exists():
        shutil.rmtree(final)
    os.rename(building, final)
    fsync_folder(folder)
    for old in generations(folder)[KEPT:]:
        shutil.rmtree(old)


def load_state(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
) -> tuple[int, list[float]]:
    """Load the newest generation that is whole; return the steps done (0 if there is none) and the saved ``losses``.

    A damaged generation is reported and the one before it is taken.
    """
    for leftover in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    for generation in generations(folder):
        try:
            facts = read_json(generation / "state.json")
            if facts.pop("digest") != digest_of(facts):
                raise CheckpointError(f"{generation / 'state.json'}: its digest is wrong")
            if generation.name != f"{PREFIX}{facts['step']:09d}":
                raise CheckpointError(f"{generation}: holds step {facts['step']}")
            scalars, scale, losses = facts["optimizer"], facts["scaler"], facts["losses"]
            tensors = unpack_tensors(generation / "state.safetensors", facts["sha256"])
            weights = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
            load_tensors(network, weights, generation / "state.safetensors", type(network).__name__)
        except (CheckpointError, DataError, KeyError, TypeError, ValueError, AttributeError) as error:
            say(f"resume: {generation.name} is damaged ({error}); taking the generation before")
            shutil.rmtree(generation)
            continue
        _restore_optimizer(optimizer, scalars, tensors)
        scaler.load_state_dict(scale)
        return int(facts["step"]), losses
    return 0, []


def generations(folder: Path) -> list[Path]:
    """Saved generations, newest first."""
    return sorted(folder.glob(f"{PREFIX}*"), reverse=True)


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
