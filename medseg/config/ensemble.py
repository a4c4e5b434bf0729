"""The section ``ensembles``: models that are scored together, and which trainings those are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from pydantic import Field, field_validator

from medseg.config.explain import listed
from medseg.config.folds import FoldsConfig
from medseg.config.section import Name, Section
from medseg.errors import ConfigError
from medseg.results.key import ALL, Fold


class EnsembleConfig(Section):
    """Models that are scored together, as one more model: the mean of their probabilities."""

    of: list[Name] = Field(
        min_length=1,
        description="models whose trainings predict together: of a fold, those with every seed; they are scored on "
        "what none of them was trained on",
    )

    @field_validator("of")
    @classmethod
    def _models_differ(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"{value}: a model is named twice; its trainings would count twice")
        return value


class Study(Protocol):
    """What of a configuration says which trainings an ensemble is of (``Config``)."""

    @property
    def datasets(self) -> Mapping[str, Any]:
        """Data sets by name."""
        ...

    @property
    def models(self) -> Mapping[str, Any]:
        """Models by name."""
        ...

    @property
    def ensembles(self) -> Mapping[str, EnsembleConfig]:
        """Ensembles by name."""
        ...

    @property
    def seeds(self) -> Sequence[int]:
        """Of every training."""
        ...

    @property
    def folds(self) -> FoldsConfig:
        """Which are trained."""
        ...

    def models_of_datasets(self) -> Mapping[str, Sequence[str]]:
        """Data set -> the models that are trained on it."""
        ...


def wrong_ensemble(config: Study, name: str) -> str:
    """What is wrong with an ensemble of a configuration; empty: nothing."""
    of = config.ensembles[name].of
    if name in config.models:
        return f"ensembles.{name}: a model has this name; both are rows of one leaderboard, rename one"
    if unknown := [one for one in of if one not in config.models]:
        return f"ensembles.{name}.of: no model {unknown}; there are: {listed(config.models)}"
    if len(of) * len(config.seeds) == 1:
        return (
            f"ensembles.{name}.of: {of} with one seed is one training; name two models, or give the study two seeds "
            "(`seeds: [0, 1]`)"
        )
    if not datasets_of(config, name):
        return f"ensembles.{name}.of: no data set on which all of {of} are trained"
    if not config.folds.validated:
        return (
            f"ensembles.{name}: nothing is validated on (folds.run: [{ALL}]), so it could not be scored; predict with "
            "several models by `medseg predict IMAGES --model A --model B`"
        )
    return ""


def datasets_of(config: Study, ensemble: str) -> list[str]:
    """The data sets on which all members of an ensemble are trained, in the configuration's order."""
    trained = config.models_of_datasets()
    return [dataset for dataset in config.datasets if set(config.ensembles[ensemble].of) <= set(trained[dataset])]


def ensemble_runs(config: Study) -> list[tuple[str, str, int, int]]:
    """What ensembles are scored as: data set, name, fold, and 0 in place of a seed, since all seeds are in it."""
    return [
        (dataset, name, fold, 0)
        for name in config.ensembles
        for dataset in datasets_of(config, name)
        for fold in config.folds.validated
    ]


def members_of(config: Study, dataset: str, ensemble: str, fold: Fold) -> list[tuple[str, str, Fold, int]]:
    """The trainings of an ensemble: of this fold, so that none has seen its validation cases.

    Raises:
        ConfigError: if there is no such ensemble, or it is not scored on this data set.
    """
    if ensemble not in config.ensembles:
        raise ConfigError(f"no ensemble '{ensemble}' in the configuration; there are: {listed(config.ensembles)}")
    if dataset not in (there := datasets_of(config, ensemble)):
        raise ConfigError(f"ensembles.{ensemble}: is not of data set '{dataset}'; it is of {', '.join(there)}")
    return [(dataset, model, fold, seed) for model in config.ensembles[ensemble].of for seed in config.seeds]
