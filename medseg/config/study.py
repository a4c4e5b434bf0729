"""The whole configuration: data sets, models, folds, budgets; its loader and its JSON schema."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from medseg.config.dataset import DatasetConfig
from medseg.config.explain import explain_error
from medseg.config.model import ModelConfig, is_elsewhere
from medseg.config.section import Count, Name, Positive, Section
from medseg.errors import ConfigError
from medseg.settings import merge, read_settings


class FoldsConfig(Section):
    """Cross-validation."""

    scheme: Literal["balanced", "nnunet", "site"] = Field(
        default="balanced",
        description="balanced: whole subjects, equal shares of classes and sites; nnunet: that program's own split of "
        "cases; site: one fold per site, validated on it",
    )
    count: int = Field(default=5, ge=2, description="number of folds; the scheme site and files have their own")
    run: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], description="folds to train")
    group: Literal["subject"] = Field(default="subject", description="what stays together: a subject's cases")
    seed: int = Field(default=0, ge=0, description="seed of the shuffle")
    file: str | None = Field(
        default=None,
        description="folds of your own: splits.json, nnU-Net's splits_final.json, or a table with columns case and "
        "fold; in the data set's folder or the working folder",
    )

    @model_validator(mode="after")
    def _file_or_scheme(self) -> FoldsConfig:
        if self.file is not None and self.scheme != "balanced":
            raise ValueError(f"file: the folds of {self.file} and scheme {self.scheme} exclude each other; give one")
        return self

    @model_validator(mode="after")
    def _folds_exist(self) -> FoldsConfig:
        # The number of folds that sites and files give is known only when they are read.
        last = self.count - 1 if self.scheme != "site" and self.file is None else max(self.run, default=0)
        if not self.run or max(self.run) > last or len(set(self.run)) != len(self.run):
            raise ValueError(f"run: {self.run} must be distinct numbers from 0 to {last}")
        return self


class BudgetConfig(Section):
    """How long each training lasts, and how much memory it may take."""

    steps: Count | None = Field(default=None, description="training steps")
    epochs: Count | None = Field(default=None, description="passes over the training cases")
    minutes: Positive | None = Field(
        default=None,
        description="wall-clock per training, validation included; turned into steps once, by plan",
    )
    patience: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="end early, after a short tail, once the training loss has not fallen for this share of the steps",
    )
    memory_gb: Positive | None = Field(
        default=None, description="memory of the training device; none: what the machine has"
    )
    host_gb: Positive | None = Field(
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
        default=None, ge=0, description="processes that read ahead; none: 2 beside a GPU, else 0 (training reads)"
    )
    timeout_s: Positive = Field(default=300.0, description="a batch that takes longer is an error that names its cases")


class PredictConfig(Section):
    """How validation cases are predicted; a change repeats no training."""

    mirror: bool | None = Field(
        default=None,
        description="average over all mirror images, 4 in 2-D and 8 in 3-D; none: where the training mirrored",
    )


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
    folds: FoldsConfig = Field(default_factory=FoldsConfig)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)
    budget: BudgetConfig
    predict: PredictConfig = Field(default_factory=PredictConfig)
    compare: CompareConfig = Field(default_factory=CompareConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    threads: Count = Field(default=2, description="CPU threads of a training or prediction job; part of its exactness")
    processes: Count = Field(
        default=1, description="processes (GPUs) that share each batch of a training; part of its exactness"
    )
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    shards: Count = Field(
        default=1,
        description="jobs that share the cases of preprocess, predict and evaluate, for clusters; results are equal",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="where networks run")

    @model_validator(mode="after")
    def _starts_exist(self) -> Config:
        for name in self.models:
            seen = [name]
            while (start := self.models[seen[-1]].start) is not None and not is_elsewhere(start):
                if start not in self.models:
                    raise ValueError(
                        f"models.{seen[-1]}.start: no model '{start}'; there are: {', '.join(self.models)}; "
                        "the path of a folder needs a '/'"
                    )
                if start in seen:
                    raise ValueError(f"models.{name}.start: {' -> '.join([*seen, start])} is a cycle")
                seen.append(start)
        return self

    @model_validator(mode="after")
    def _datasets_of_models_exist(self) -> Config:
        for name, model in self.models.items():
            unknown = sorted(set(model.datasets or ()) - self.datasets.keys())
            if unknown:
                raise ValueError(
                    f"models.{name}.datasets: no data set {unknown}; there are: {', '.join(self.datasets)}"
                )
            if model.start is not None and not is_elsewhere(model.start):
                here, there = (m.datasets or list(self.datasets) for m in (model, self.models[model.start]))
                apart = sorted(set(here) - set(there))
                if apart:
                    raise ValueError(f"models.{name}.start: '{model.start}' is not trained on {', '.join(apart)}")
        return self

    def runs(self) -> list[tuple[str, str, int, int]]:
        """All trainings of the experiment: data set, model, fold, seed."""
        return [
            (dataset, name, fold, seed)
            for dataset in self.datasets
            for name, model in self.models.items()
            if model.datasets is None or dataset in model.datasets
            for fold in self.folds.run
            for seed in self.seeds
        ]

    def dataset(self, name: str) -> DatasetConfig:
        """The data set of this name; ``ConfigError`` names those there are."""
        return _named(self.datasets, name, "data set")

    def folder_of(self, dataset: str) -> Path:
        """The folder that holds the files of a data set; ``ConfigError`` if there is no data set of this name."""
        return Path(self.data_root) / self.dataset(dataset).path

    def model(self, name: str) -> ModelConfig:
        """The model of this name; ``ConfigError`` names those there are."""
        return _named(self.models, name, "model")


T = TypeVar("T")


def _named(table: Mapping[str, T], name: str, what: str) -> T:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(table)}"
        raise ConfigError(f"no {what} '{name}' in the configuration; {hint}")
    return table[name]


def load_config(paths: Sequence[Path], overrides: Mapping[str, Any] | None = None) -> Config:
    """Read, merge (later files win, ``overrides`` last) and check a configuration.

    Raises:
        ConfigError: with one line per problem: the key, what was found, and the nearest valid key or a hint.
    """
    value: dict[str, Any] = {}
    for path in paths:
        value = merge(value, read_settings(path))
    value = merge(value, overrides or {})
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        source = ", ".join(str(p) for p in paths) or "configuration"
        lines = [f"{source}: {explain_error(detail, Config)}" for detail in error.errors()]
        raise ConfigError("\n".join(lines)) from None
    return config


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration, as shipped in ``workflow/schemas/config.schema.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
