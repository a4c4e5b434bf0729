"""Which layout a folder has, by its landmarks, where the configuration names none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from medseg.config import DatasetConfig
from medseg.errors import ConfigError
from medseg.ingest.layouts.corrections import TABLE
from medseg.ingest.layouts.detect import PATTERNS, Seen, look_for_patterns
from medseg.ingest.layouts.found import by_stem, visible
from medseg.ingest.layouts.index import INDEX
from medseg.progress import say

# Folders that are looked at for images with masks.
FOLDERS = 50


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
    """Whether folders, directly in ``root`` or in ``stage1_train``, hold one image and any number of masks each."""
    folders = [p.parent for part in ("*/images", "stage1_train/*/images") for p in sorted(root.glob(part))[:FOLDERS]]
    folders = [folder for folder in folders if (folder / "masks").is_dir()]
    single = [folder for folder in folders if len(visible(folder, "images")) < 2]
    # One mask each is a label map per image.
    return 2 * len(single) > len(folders) and any(len(visible(folder, "masks")) != 1 for folder in single)


def _has_pairs(root: Path) -> bool:
    """Whether folders images and masks are there, and some names in both are equal."""
    images, masks = (by_stem(root, visible(root, name)) for name in ("images", "masks"))
    return bool(images.keys() & masks.keys())


def _has_folders(root: Path) -> bool:
    return (root / "images").is_dir() and (root / "masks").is_dir()


def _is_corrections_alone(root: Path) -> bool:
    return (root / TABLE).is_file() and not visible(root, ".")


# Layout -> (what it is known by, the test), in this order.
LANDMARKS: dict[str, tuple[str, Callable[[Path, DatasetConfig], bool]]] = {
    "patterns": (
        "`images:` and `masks:` in the configuration",
        lambda root, config: bool(config.images or config.masks),
    ),
    "table": ("`table:` in the configuration", lambda root, config: config.table is not None),
    "corrections": (f"{TABLE} and nothing else", lambda root, config: _is_corrections_alone(root)),
    "nnunet": ("channel_names in dataset.json", lambda root, config: _index_has(root, "channel_names")),
    "decathlon": ("dataset.json", lambda root, config: (root / INDEX).exists()),
    "pairs": ("folders images and masks with equal names", lambda root, config: _has_pairs(root)),
    "bids": ("folders sub-…", lambda root, config: _has_subjects(root)),
    "dsb2018": ("folders with images and masks in each", lambda root, config: _has_object_masks(root)),
}


@dataclass(frozen=True, slots=True)
class Guess:
    """What a folder looks like.

    Attributes:
        layout: a row of ``LAYOUTS``; empty: none.
        how: what it is known by.
        seen: the patterns that were found, for the layout ``patterns``.
    """

    layout: str
    how: str
    seen: Seen = field(default_factory=Seen)

    def apply(self, config: DatasetConfig) -> DatasetConfig:
        """The section with the layout, and the patterns, in it."""
        found = {"images": self.seen.images, "masks": self.seen.masks} if self.seen.images else {}
        return config.model_copy(update={"layout": self.layout, **found})


def guess(root: Path, config: DatasetConfig) -> Guess:
    """The layout of a folder by its landmarks, or else by what its files are called; nothing is raised."""
    for layout, (landmark, there) in LANDMARKS.items():
        if there(root, config):
            return Guess(layout, landmark)
    seen = look_for_patterns(root)
    if seen.images:
        return Guess("patterns", seen.sentence, seen)
    return Guess("pairs", "folders images and masks", seen) if _has_folders(root) else Guess("", seen.why, seen)


def guess_layout(dataset: str, root: Path, config: DatasetConfig) -> DatasetConfig:
    """The section with the layout of the folder, by its landmarks or by what its files are called; it is printed.

    Raises:
        ConfigError: if none can be seen.
    """
    found = guess(root, config)
    if found.layout:
        say(f"ingest {dataset}: layout {found.layout} ({found.how})")
        for remark in found.seen.remarks:
            say(f"ingest {dataset}: {remark}")
        return found.apply(config)
    raise ConfigError(
        f"datasets.{dataset}.layout: not given, and {root} does not show one: {found.how}; correct `path`, or write "
        f"where they lie, {PATTERNS}, or give the layout (docs/data.md)"
    )
