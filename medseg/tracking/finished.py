"""Finished trainings of an experiment, as their folders say what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import read_json
from medseg.results.folders import ModelFolder
from medseg.results.key import RunKey
from medseg.results.paths import Results
from medseg.tracking.spec import RunSpec, plan_params

VERSION = {"medseg": "version"}  # tag of our own version


@dataclass(frozen=True, slots=True)
class Trained:
    """A finished training.

    Attributes:
        spec: what it is.
        folder: with ``model.json`` and the weights.
        facts: ``model.json``.
        seconds: training time.
        scores: file of its score rows; may not exist.
    """

    spec: RunSpec
    folder: Path
    facts: Mapping[str, Any]
    seconds: float
    scores: Path


def find_trained(results: Path) -> list[Trained]:
    """All finished trainings under ``results/<experiment>``, by name.

    Raises:
        DataError: if a file of one is damaged, or says that it belongs elsewhere.
    """
    return [_trained(model) for model in Results(results).models()]


def _trained(files: ModelFolder) -> Trained:
    folder, facts = files.folder, read_json(files.description)
    dataset, model = folder.parents[2].name, folder.parent.name
    try:
        key = RunKey(facts["dataset"]["name"], facts["plan"]["model"], facts["fold"], facts["seed"])
        found = (key.dataset, key.model, key.run)
        if found != (dataset, model, folder.name):
            raise DataError(f"{files.description}: belongs to {'/'.join(found)}; was the folder copied?")
        versions = {f"medseg.{VERSION.get(k, k)}": str(v) for k, v in facts["provenance"].items()}
        tags = {**versions, "medseg.weights_sha256": facts["weights_sha256"]}
        params = plan_params(facts["plan"])
        spec = RunSpec(dataset, model, facts["fold"], facts["seed"], facts["fingerprint"], params, tags)
        seconds = float(read_json(files.timing)["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: not as written by `medseg train` ({error!r}); run it again") from error
    scores = Results(folder.parents[3]).scores(key)
    return Trained(spec, folder, facts, seconds, scores)
