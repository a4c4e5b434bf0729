"""Layout ``pairs``: ``images/NAME.*`` and ``masks/NAME.*``, paired by name; a folder is one image (a DICOM series).

Where masks number objects of several classes, a third folder may hold the class of each voxel, ``classes/NAME.*``.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from pathlib import Path

from medseg.config import DatasetConfig, is_table
from medseg.ingest.faults import fault
from medseg.ingest.layouts.detect import PATTERNS, look_for_patterns
from medseg.ingest.layouts.found import Candidate, Found, by_stem, outside, required_table, visible


def pairs_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """Pair the entries of two folders.

    Raises:
        ConfigError: if the configuration names no classes.
    """
    found = Found(labels=required_table(dataset, config))
    third = config.classes if config.classes is not None and not is_table(config.classes) else None
    named = "images, masks and, as `classes` says, " + third if third else "images and masks"
    lacking = [n for n in ("images", "masks", *([third] if third else [])) if not (root / n).is_dir()]
    if lacking:
        fix = f"the pairs layout has folders {named}{_instead(root)}"
        found.faults = [fault("missing", "-", name, "no such folder", fix) for name in lacking]
        return found
    images, masks = (by_stem(root, visible(root, name)) for name in ("images", "masks"))
    if images and masks and not images.keys() & masks.keys():
        one, other = (next(iter(files.values()))[0] for files in (images, masks))
        cause = f"no name is in both folders: {one}, {other}, …"
        fix = f"say which belong together by two patterns, without `layout: pairs`, such as {PATTERNS}{_instead(root)}"
        found.faults.append(fault("missing", "-", "-", cause, fix))
        return found
    for case in sorted(images.keys() | masks.keys()):
        pictures, labels = images.get(case, []), masks.get(case, [])
        escapes = outside(root, pictures + labels)
        found.faults += escapes
        if not labels:
            found.faults += [fault("image-without-label", case, p, f"no file masks/{case}.*") for p in pictures]
        elif not pictures:
            found.faults += [fault("label-without-image", case, m, f"no file images/{case}.*") for m in labels]
        else:
            found.faults += [fault("duplicate-id", case, m, f"the same id as {labels[0]}") for m in labels[1:]]
            bad = {escape.file for escape in escapes}
            pairs = [(picture, labels[0]) for picture in pictures if not bad & {picture, labels[0]}]
            found.candidates += [Candidate(case, "", (picture,), (label,)) for picture, label in pairs]
    if third:
        add_class_maps(found, root, third, images.keys() | masks.keys())
    return found


def _instead(root: Path) -> str:
    """What the folder looks like instead."""
    seen = look_for_patterns(root)
    return f'; it looks like `images: "{seen.images}"` and `masks: "{seen.masks}"`' if seen.images else ""


def add_class_maps(found: Found, root: Path, folder: str, names: Set[str]) -> None:
    """Give each case its file in the folder of class maps, in place; ``names`` are those that cases can have."""
    maps = by_stem(root, visible(root, folder))
    for case in sorted(maps.keys() - names):
        cause = "a class map without an image and a mask of this name"
        found.faults += [fault("object-class", case, file, cause, "remove it or rename it") for file in maps[case]]
    for place, candidate in enumerate(found.candidates):
        files = maps.get(candidate.id, [])
        found.faults += [fault("duplicate-id", candidate.id, f, f"the same id as {files[0]}") for f in files[1:]]
        if not files:
            cause = f"no file {folder}/{candidate.id}.*"
            found.faults.append(fault("object-class", candidate.id, candidate.labels[0], cause))
        elif escapes := outside(root, files):
            found.faults += escapes
        else:
            found.candidates[place] = replace(candidate, class_map=files[0])
