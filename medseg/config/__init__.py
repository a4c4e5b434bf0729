"""The typed configuration: one source for the YAML that users write, its checks and its JSON schema.

An unknown key is an error that names the nearest valid one; types are strict (YAML 1.1 reads ``1e-4`` as text). After
parsing, the configuration is passed on as these types, never as dictionaries.
"""

from medseg.config.dataset import DatasetConfig
from medseg.config.ensemble import EnsembleConfig, ensemble_runs, members_of
from medseg.config.folds import FoldsConfig
from medseg.config.metrics import MetricsConfig
from medseg.config.model import AUGMENTATION, Loss, ModelConfig, Network, PlanOverrides, is_elsewhere
from medseg.config.object_classes import is_table, wrong_classes
from medseg.config.origin import BidsConfig, DownloadConfig, GenerateConfig, KnownArchive, TestConfig
from medseg.config.postprocess import CrfConfig, PostprocessConfig
from medseg.config.study import (
    BudgetConfig,
    Config,
    LoaderConfig,
    TrackingConfig,
    config_schema,
    load_config,
)

__all__ = [
    "AUGMENTATION",
    "BidsConfig",
    "BudgetConfig",
    "Config",
    "CrfConfig",
    "DatasetConfig",
    "DownloadConfig",
    "EnsembleConfig",
    "FoldsConfig",
    "GenerateConfig",
    "KnownArchive",
    "LoaderConfig",
    "Loss",
    "MetricsConfig",
    "ModelConfig",
    "Network",
    "PlanOverrides",
    "PostprocessConfig",
    "TestConfig",
    "TrackingConfig",
    "config_schema",
    "ensemble_runs",
    "is_elsewhere",
    "is_table",
    "load_config",
    "members_of",
    "wrong_classes",
]
