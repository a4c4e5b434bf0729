"""The whole configuration: data sets, models, folds, budgets; its loader and its JSON schema."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from medseg import limits
from medseg.bounds import shortened
from medseg.config.dataset import DatasetConfig
from medseg.config.ensemble import EnsembleConfig, wrong_ensemble
from medseg.config.explain import explain_error, listed
from medseg.config.folds import FoldsConfig
from medseg.config.model import ModelConfig, is_elsewhere
from medseg.config.predict import PredictConfig
from medseg.config.section import Epochs, Gigabytes, Minutes, Name, Positive, Section, Seed, Shards, Steps, Wait
from medseg.errors import RUN_STUDY, ConfigError
from medseg.records import DIGEST, is_signed
from medseg.results.key import ALL, Fold
from medseg.settings import merge, read_settings

# Problems of a configuration that are printed.
MAX_PROBLEMS = 100


class BudgetConfig(Section):
    """How long each training lasts, and how much memory it may take."""

    steps: Steps | None = Field(default=None, description="training steps")
    epochs: Epochs | None = Field(default=None, description="passes over the training cases")
    minutes: Minutes | None = Field(
        default=None,
        description="wall-clock per training, validation included; turned into steps once, by plan",
    )
    patience: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="end early, after a short tail, once the training loss has not fallen for this share of the steps",
    )
    memory_gb: Gigabytes | None = Field(
        default=None, description="memory of the training device; none: what the machine has"
    )
    host_gb: Gigabytes | None = Field(
        default=None, description="main memory of a preprocessing job; none: half of the machine's"
    )

    @model_validator(mode="after")
    def _one_stop(self) -> BudgetConfig:
        if sum(v is not None for v in (self.steps, self.epochs, self.minutes)) != 1:
            raise ValueError("give exactly one of steps, epochs, minutes")
        return self


class LoaderConfig(Section):
    """Processes that read the training batches; no result depends on them."""

    workers: int | None = Field(
        default=None,
        ge=0,
        le=limits.MAX_WORKERS,
        description="processes that read ahead; none: 2 beside a GPU, else 0 (training reads)",
    )
    timeout_s: Wait = Field(default=300.0, description="a batch that takes longer is an error that names its cases")


class CompareConfig(Section):
    """How models are compared."""

    margin: Positive | None = Field(
        default=None,
        description="difference in mean score that does not matter: models are then tested for equivalence within it",
    )


class TrackingConfig(Section):
    """Where runs are recorded."""

    uri: str | None = Field(default=None, description="MLflow server; none: SQLite file mlflow.db in this folder")


class Config(Section):
    """A whole experiment: data sets x models x folds x seeds."""

    experiment: Name = Field(
        default="study", description="name of the experiment; its results lie under results/<experiment>/"
    )
    data_root: str = Field(default="data", description="folder that the data sets' paths are relative to")
    results: str = Field(default="results", description="folder of all results")
    datasets: dict[Name, DatasetConfig] = Field(min_length=1)
    models: dict[Name, ModelConfig] = Field(
        default_factory=lambda: {"unet": ModelConfig(network="unet")}, min_length=1, description="none: a U-Net"
    )
    ensembles: dict[Name, EnsembleConfig] = Field(
        default_factory=dict,
        description="further rows of the leaderboard: models that predict together (docs/ensembles.md)",
    )
    folds: FoldsConfig = Field(
        default_factory=FoldsConfig, description="how cases are split; all: every training is on all cases"
    )
    seeds: list[Seed] = Field(default_factory=lambda: [0], min_length=1)
    budget: BudgetConfig
    predict: PredictConfig = Field(default_factory=PredictConfig)
    compare: CompareConfig = Field(default_factory=CompareConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    threads: int = Field(
        default=2,
        ge=1,
        le=limits.MAX_THREADS,
        description="CPU threads of a training or prediction job; part of its exactness",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=limits.MAX_PROCESSES,
        description="processes (GPUs) that share each batch of a training; part of its exactness",
    )
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    shards: Shards = Field(
        default=1,
        description="jobs that share the cases of preprocess, predict and evaluate, for clusters; results are equal",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="where networks run")
    container: str | None = Field(
        default=None,
        min_length=1,
        description="image in which jobs run with `--sdm apptainer`: a .sif file, or docker://...; none: no container",
    )

    @field_validator("folds", mode="before", json_schema_input_type=FoldsConfig | Literal["all"])
    @classmethod
    def _folds_in_short(cls, value: Any) -> Any:
        return {"run": [ALL]} if value == ALL else value

    @model_validator(mode="after")
    def _seeds_differ(self) -> Config:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: {shortened(self.seeds)} must be distinct")
        return self

    @model_validator(mode="after")
    def _one_fold_is_given(self) -> Config:
        given = self.folds.scheme == "site" or self.folds.file is not None
        if self.folds.count == 1 and self.folds.validated and not given:
            made = [name for name, one in self.datasets.items() if one.splits is None and one.table is None]
            if made:
                raise ValueError(
                    f"folds.count: 1 fold of {made[0]} would leave no case to validate on; give 2 or more, or a fold "
                    "of your own (docs/data.md): `splits: FILE` of the data set, or `folds.file`; without validation, "
                    "`folds: all`"
                )
        return self

    @model_validator(mode="after")
    def _trainings_can_be_planned(self) -> Config:
        pairs = sum(len(self.datasets if m.datasets is None else set(m.datasets)) for m in self.models.values())
        count = pairs * len(self.folds.run) * len(self.seeds) * self.shards
        if count > limits.MAX_TRAININGS:
            what = "parts of trainings (data sets x models x folds x seeds x shards)"
            if self.shards == 1:
                what = "trainings (data sets x models x folds x seeds)"
            raise ValueError(f"{count:,} {what}; a study has at most {limits.MAX_TRAININGS:,}; divide it into several")
        return self

    @model_validator(mode="after")
    def _starts_exist(self) -> Config:
        # Models from which the chain of starts comes to an end: each is followed once, however many start from it.
        ended: set[str] = set()
        for name in self.models:
            chain: dict[str, None] = {}
            current: str | None = name
            while current is not None and current not in ended:
                if current in chain:
                    raise ValueError(f"models.{name}.start: {' -> '.join(_ends([*chain, current]))} is a cycle")
                chain[current] = None
                start = self.models[current].start
                if start is not None and not is_elsewhere(start) and start not in self.models:
                    raise ValueError(
                        f"models.{current}.start: no model '{start}'; there are: {listed(self.models)}; "
                        "the path of a folder needs a '/'"
                    )
                current = None if start is None or is_elsewhere(start) else start
            ended.update(chain)
        return self

    @model_validator(mode="after")
    def _datasets_of_models_exist(self) -> Config:
        every = frozenset(self.datasets)
        chosen = {name: every if m.datasets is None else frozenset(m.datasets) for name, m in self.models.items()}
        for name, model in self.models.items():
            if unknown := sorted(chosen[name] - every):
                raise ValueError(f"models.{name}.datasets: no data set {unknown}; there are: {listed(self.datasets)}")
            inside = model.start is not None and not is_elsewhere(model.start)
            if inside and (apart := sorted(chosen[name] - chosen[str(model.start)])):
                raise ValueError(f"models.{name}.start: '{model.start}' is not trained on {', '.join(apart)}")
        return self

    @model_validator(mode="after")
    def _ensembles_have_members(self) -> Config:
        for name in self.ensembles:
            if cause := wrong_ensemble(self, name):
                raise ValueError(cause)
        return self

    def runs(self) -> list[tuple[str, str, Fold, int]]:
        """All trainings of the experiment: data set, model, fold (or ``all``), seed."""
        return [
            (dataset, name, fold, seed)
            for dataset, names in self.models_of_datasets().items()
            for name in names
            for fold in self.folds.run
            for seed in self.seeds
        ]

    def models_of_datasets(self) -> dict[str, list[str]]:
        """Data set -> the models that are trained on it, both in the configuration's order."""
        trained: dict[str, list[str]] = {dataset: [] for dataset in self.datasets}
        for name, model in self.models.items():
            for dataset in self.datasets if model.datasets is None else set(model.datasets):
                trained[dataset].append(name)
        return trained

    def dataset(self, name: str) -> DatasetConfig:
        """The data set of this name; ``ConfigError`` names those there are."""
        return _named(self.datasets, name, "data set")

    def folder_of(self, dataset: str) -> Path:
        """The folder that holds the files of a data set; ``ConfigError`` if there is no data set of this name."""
        return Path(self.data_root) / self.dataset(dataset).path

    def model(self, name: str) -> ModelConfig:
        """The model of this name; ``ConfigError`` names those there are."""
        return _named(self.models, name, "model")


def _ends(names: list[str]) -> list[str]:
    """Names, of a long list only those at its ends."""
    return names if len(names) <= 10 else [*names[:5], "…", *names[-4:]]


T = TypeVar("T")


def _named(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {listed(table)}"
        raise ConfigError(f"no {what} '{name}' in the configuration; {hint}")
    return table[name]


def load_config(
    paths: Sequence[Path], overrides: Mapping[str, Any] | None = None, defaults: Mapping[str, Any] | None = None
) -> Config:
    """Read, merge (later files win, ``overrides`` last) and check a configuration.

    Sections of ``defaults`` stand in for those that are nowhere given.

    A JSON file may have a digest of itself, as the ``config.json`` has that the workflow writes for the stages.

    Raises:
        ConfigError: with one line per problem: the key, what was found, and the nearest valid key or a hint.
    """
    value: dict[str, Any] = {}
    for path in paths:
        value = merge(value, _unsigned(path, read_settings(path)))
    value = {**(defaults or {}), **merge(value, overrides or {})}
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        source = ", ".join(str(p) for p in paths) or "configuration"
        found = error.errors(include_url=False)
        lines = [f"{source}: {explain_error(detail, Config)}" for detail in found[:MAX_PROBLEMS]]
        more = len(found) - MAX_PROBLEMS
        raise ConfigError("\n".join(lines + ([f"{source}: and {more:,} problems more"] if more > 0 else []))) from None
    return config


def _unsigned(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """A configuration without its digest, which must be right; users' own files have none."""
    if path.suffix != ".json" or DIGEST not in value:
        return value
    if not is_signed(value):
        raise ConfigError(
            f"{path}: damaged or edited since the workflow wrote it (its digest differs); {RUN_STUDY}, which "
            f"writes it from your configuration; for a configuration of your own, copy it without the key '{DIGEST}'"
        )
    return {key: inner for key, inner in value.items() if key != DIGEST}


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration, as shipped in ``workflow/schemas/config.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
