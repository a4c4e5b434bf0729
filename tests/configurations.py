"""A configuration with one data set, for tests of what is done with its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.config import Config


def config(root: Path, folds: int | str | Mapping[str, Any] = 2, **section: Any) -> Config:
    """A study of the data set ``data`` in ``root/data``.

    Args:
        root: folder that holds it.
        folds: how many, or the whole section, or `all`.
        section: what the configuration says of the data set.
    """
    return Config.model_validate(
        {
            "experiment": "test",
            "data_root": str(root),
            "datasets": {"data": {"path": "data", **section}},
            "models": {"unet": {"network": "unet"}},
            "folds": {"count": folds} if isinstance(folds, int) else folds,
            "budget": {"steps": 1},
        }
    )
