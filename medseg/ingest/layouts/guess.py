"""Which layout a folder has, by its landmarks, where the configuration names none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from medseg.config import DatasetConfig
from medseg.errors import ConfigError
from medseg.ingest.layouts.found import visible
from medseg.ingest.layouts.index import INDEX
from medseg.progress import say


def _index_has(root: Path, *keys: str) -> bool:
    """Whether dataset.json is there and has one of the keys; a broken one is the layout's to complain about."""
    try:
        index = json.loads((root / INDEX).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(index, dict) and any(key in index for key in keys)


def _has_subjects(root: Path) -> bool:
    return any(name.startswith("sub-") and (root / name).is_dir() for name in visible(root, "."))


def _has_object_masks(root: Path) -> bool:
    """Whether some folder, directly in ``root`` or in ``stage1_train``, has folders images and masks."""
    return any((p.parent / "masks").is_dir() for part in ("*/images", "stage1_train/*/images") for p in root.glob(part))


# Layout -> (what it is known by, the test), in this order.
LANDMARKS: dict[str, tuple[str, Callable[[Path, DatasetConfig], bool]]] = {
    "table": ("`table:` in the configuration", lambda root, config: config.table is not None),
    "nnunet": ("channel_names in dataset.json", lambda root, config: _index_has(root, "channel_names")),
    "decathlon": ("dataset.json", lambda root, config: (root / INDEX).exists()),
    "pairs": (
        "folders images and masks",
        lambda root, config: (root / "images").is_dir() and (root / "masks").is_dir(),
    ),
    "bids": ("folders sub-…", lambda root, config: _has_subjects(root)),
    "dsb2018": ("folders with images and masks in each", lambda root, config: _has_object_masks(root)),
}


def guess_layout(dataset: str, root: Path, config: DatasetConfig) -> str:
    """The layout of a folder by its landmarks; it is printed.

    Raises:
        ConfigError: if none is there.
    """
    for layout, (landmark, there) in LANDMARKS.items():
        if there(root, config):
            say(f"ingest {dataset}: layout {layout} ({landmark})")
            return layout
    known = "; ".join(f"{layout}: {landmark}" for layout, (landmark, _) in LANDMARKS.items())
    raise ConfigError(
        f"datasets.{dataset}.layout: not given, and {root} has no landmark of any ({known}); correct `path`, or give "
        "the layout (docs/data.md)"
    )
