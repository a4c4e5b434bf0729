"""Cross-validation folds that keep a subject's cases together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import ConfigError, DataError
from medseg.files import read_json, write_json

Fold = dict[str, list[str]]


def make_folds(case_ids: Sequence[str], subjects: Sequence[str], count: int, seed: int) -> list[Fold]:
    """Split cases into folds; every case is validated on once, and no subject is on both sides of a fold.

    Subjects are shuffled by ``seed``, then each, largest first, joins the fold with the fewest cases; so
    folds differ by at most the cases of one subject. The order of the input does not matter.

    Args:
        case_ids, subjects: one entry per case.
        count: number of folds.
        seed: seed of the shuffle.

    Returns:
        Per fold ``{"train": ids, "val": ids}``, sorted.

    Raises:
        ConfigError: if there are fewer subjects than folds.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for case, subject in zip(case_ids, subjects, strict=True):
        groups[subject].append(case)
    if len(groups) < count:
        raise ConfigError(f"folds.count: {count} folds need {count} subjects, there are {len(groups)}; lower the count")
    names = sorted(groups)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    parts: list[list[str]] = [[] for _ in range(count)]
    for name in sorted((names[i] for i in order), key=lambda n: -len(groups[n])):
        min(parts, key=len).extend(groups[name])
    return [{"train": sorted(set(case_ids) - set(part)), "val": sorted(part)} for part in parts]


def write_splits(path: Path, folds: Sequence[Fold], seed: int) -> None:
    """Write ``splits.json``."""
    write_json(path, {"seed": seed, "count": len(folds), "group": "subject", "folds": list(folds)})


def read_split(path: Path, fold: int) -> tuple[list[str], list[str]]:
    """The ids of a fold of ``splits.json``, which may have been written by hand.

    Returns:
        ``(train ids, validation ids)``.

    Raises:
        DataError: if the file is damaged, has no such fold, or a case stands on both sides or twice.
    """
    value = read_json(path)
    folds = value.get("folds") if isinstance(value, dict) else None
    if not isinstance(folds, list) or not 0 <= fold < len(folds):
        found = f"{len(folds)} folds" if isinstance(folds, list) else "no list of folds"
        raise DataError(f"{path}: {found}, fold {fold} wanted; run `medseg ingest` with more folds")
    train, val = (_ids(path, fold, folds[fold], part) for part in ("train", "val"))
    both = [*train, *val]
    twice = sorted({case for case in both if both.count(case) > 1})
    if twice:
        raise DataError(f"{path}: fold {fold} names {twice[0]!r} more than once ({len(twice)} such cases); correct it")
    return train, val


def _ids(path: Path, fold: int, value: Any, part: str) -> list[str]:
    ids = value.get(part) if isinstance(value, dict) else None
    if not isinstance(ids, list) or not ids or not all(isinstance(case, str) for case in ids):
        raise DataError(f"{path}: fold {fold} needs a non-empty list of case ids '{part}'; correct it")
    return ids
