"""Names of the stores of prepared cases: models that ask for the same grid share one.

No part of the package's own names (``medseg.config``), so that it is in no stage's code digest.
"""

from __future__ import annotations

from medseg.config.study import Config
from medseg.errors import ConfigError
from medseg.files import digest_of


def grid_name(config: Config, model: str) -> str:
    """Name of the store of prepared cases that a model uses; models without overrides of the grid share ``default``."""
    fixed = config.models[model].plan
    # A 2-D model may be one on slices of volumes, which have a grid of their own.
    slices = config.models[model].dims == 2 or None
    low = fixed.resolution if fixed.resolution != "full" else None
    overrides = {"spacing": fixed.spacing, "normalization": fixed.normalization, "slices": slices, "resolution": low}
    return "default" if not any(overrides.values()) else f"grid-{digest_of(overrides)[:8]}"


def grid_model(config: Config, grid: str, dataset: str) -> str:
    """A model that is trained on a data set and uses a grid; which of them it is changes nothing.

    Raises:
        ConfigError: if there is none.
    """
    trained = [name for name, model in config.models.items() if model.datasets is None or dataset in model.datasets]
    names = {grid_name(config, name): name for name in reversed(trained)}
    if grid not in names:
        raise ConfigError(f"no model of data set '{dataset}' uses a grid '{grid}'; there are: {', '.join(names)}")
    return names[grid]
