"""Weights from outside a study that its trainings start from, as the Snakefile sees them.

Snakemake deletes the outputs of a job before it runs it: a training that runs again because its start was moved away
would lose its model and then fail. So a folder outside the study is no input of the workflow but a digest among the
parameters, which a finished training remembers; and before the first job runs, what the jobs start from must be there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medseg.config import Config, is_elsewhere
from medseg.errors import ConfigError, MedsegError
from medseg.results.folders import ModelFolder
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.trained import read_facts, read_trained

# The part of a training's fingerprint that is the weights that it started from.
PART = "model"


def start_folder(config: Config, model: str) -> Path | None:
    """The folder outside the study that a model's trainings start from; None without one, and for runs of MLflow."""
    start = config.models[model].start
    # A run is no folder, and what is logged to it never changes.
    if start is None or not is_elsewhere(start) or "/" not in start or start.startswith(("runs:/", "models:/")):
        return None
    return Path(start)


def start_digest(config: Config, key: RunKey) -> str:
    """Digest of the weights in ``start_folder``; where they have gone, of those that the finished training began from.

    Another model in the folder is a reason to train again; that the folder has gone is none.
    """
    folder = start_folder(config, key.model)
    if folder is None:
        return ""
    if _is_whole(folder):
        return str(read_facts(folder)["weights_sha256"])
    try:
        return read_trained(Results.of(config).model(key).folder).inputs.get(PART, "")
    except MedsegError:  # it was not trained yet, or is trained again
        return ""


def require_starts(config: Config, jobs: Iterable[tuple[str, Any]]) -> None:
    """Raise ``ConfigError`` if a job would start from a folder or a file that is not there.

    Args:
        config: the experiment.
        jobs: name of the rule and wildcards of each job that is to run.
    """
    lacking = {}
    for rule, wildcards in jobs:
        model = getattr(wildcards, "model", "")
        if rule == "train" and (folder := start_folder(config, model)) is not None and not _is_whole(folder):
            lacking[f"models.{model}.start"] = f"{folder}: no model folder (model.json and model.safetensors)"
        if rule == "weights" and (file := _weights_path(config, model)) is not None and not file.is_file():
            lacking[f"models.{model}.options.weights"] = f"{file}: no such file"
    if lacking:
        lines = [f"{where}: {found} is there, and a training is to start from it" for where, found in lacking.items()]
        raise ConfigError(
            "\n".join(f"{line}; nothing was removed; put it back or name where it is now" for line in lines)
        )


def weights_file(config: Config, model: str) -> Path | None:
    """The file of the weights of a model's encoder, if there is one on this machine; another file in its place is a
    reason to train again."""
    path = _weights_path(config, model)
    return path if path is not None and path.is_file() else None


def _weights_path(config: Config, model: str) -> Path | None:
    """The file that a model's encoder starts from, there or not; None without any, and for an address."""
    named = config.models[model].options.get("weights")
    try:
        return None if not named or urlsplit(named).scheme else Path(named)
    except ValueError:  # no valid address, which the weights stage says
        return None


def _is_whole(folder: Path) -> bool:
    try:
        read_facts(folder)
    except (MedsegError, OSError):  # the training itself says what is wrong
        return False
    return ModelFolder(folder).weights.is_file()
