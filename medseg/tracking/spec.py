"""What a training is, for tracking: its names, and all decisions of its plan as flat parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.files import canonical_json
from medseg.ingest.recorded import read_dataset
from medseg.plan.plan import flat_values, read_plan
from medseg.results.key import Fold

Value = str | int | float

# Names of parameters that differ from those of the plan's fields, and fields that are none: numbers of the data alone.
PARAMETER_NAMES = {"name": "network"}
NO_PARAMETERS = {"statistics"}
# Fields that are one number per axis.
CROSSED = {"spacing", "patch"}


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What a training is, for tracking.

    Attributes:
        dataset, model, fold, seed: which.
        fingerprint: digest of all that its weights depend on; another one is another run.
        params: flat and comparable; those of the parent run, without fold and seed.
        tags: more facts, e.g. versions.
    """

    dataset: str
    model: str
    fold: Fold
    seed: int
    fingerprint: str
    params: Mapping[str, Value]
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def parent_key(self) -> str:
        """Name of the parent run."""
        return f"{self.dataset}/{self.model}"

    @property
    def key(self) -> str:
        """Name of the run itself."""
        return f"{self.parent_key} fold{self.fold} seed{self.seed}"

    @property
    def parent_params(self) -> dict[str, Value]:
        """Parameters of the parent run."""
        own = {"fold", "seed"}
        return {
            "dataset": self.dataset,
            "model": self.model,
            **{k: v for k, v in self.params.items() if k not in own},
        }

    @property
    def child_params(self) -> dict[str, Value]:
        """Parameters of the run itself."""
        return {**self.parent_params, "fold": self.fold, "seed": self.seed}


def training_spec(manifest: Path, plan: Path, fold: Fold, seed: int, fingerprint: str) -> RunSpec:
    """The spec of a training from the files that it reads.

    Args:
        manifest: ``manifest.tsv`` (its ``dataset.json`` is read).
        plan: plan of the model.
        fold, seed: which training.
        fingerprint: digest of all that its weights depend on.
    """
    planned, dataset = read_plan(plan), str(read_dataset(manifest)["dataset"])
    return RunSpec(dataset, planned.model, fold, seed, fingerprint, plan_params(planned.to_json()))


def plan_params(plan: Mapping[str, Any]) -> dict[str, Value]:
    """All decisions of a plan, flat and comparable by their fields' names: ``patch`` is ``40 x 56 x 40``."""
    fields = {key.split(".")[1]: value for key, value in flat_values(plan).items()}
    return {
        PARAMETER_NAMES.get(name, name): _text(value, " x " if name in CROSSED else ", ")
        for name, value in fields.items()
        if name not in NO_PARAMETERS
    }


def _text(value: Any, separator: str) -> Value:
    if value is None or value in ([], ()):
        return "-"
    if isinstance(value, list | tuple):
        if any(isinstance(v, list | tuple) for v in value):
            return separator.join(str(_text(v, "x")) for v in value)
        return separator.join(str(v) for v in value)
    if isinstance(value, Mapping):
        return canonical_json(value)
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str | int | float) else str(value)
