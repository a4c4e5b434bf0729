"""Folds in files: ``splits.json``, which ingest writes and later stages read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.records import read_record, write_record

Fold = dict[str, list[str]]
MAKER = "medseg ingest"
AGAIN = f"run `{MAKER}` again"
INSTEAD = "folds of your own are `folds.file` of the configuration, or `splits` of one data set"


def write_splits(path: Path, folds: Sequence[Fold], seed: int, scheme: str = "balanced") -> None:
    """Write ``splits.json``; ``scheme``: how they were made (``file``: read from a file of the user's own)."""
    write_record(path, {"scheme": scheme, "seed": seed, "count": len(folds), "group": "subject", "folds": list(folds)})


def read_split(path: Path, fold: int) -> tuple[list[str], list[str]]:
    """The ids of a fold of ``splits.json``.

    Returns:
        ``(train ids, validation ids)``.

    Raises:
        DataError: if the file is damaged, has no such fold, or a case is on both sides or twice on one.
    """
    folds = read_folds(path).get("folds")
    if not isinstance(folds, list) or not 0 <= fold < len(folds):
        found = f"{len(folds)} folds" if isinstance(folds, list) else "no list of folds"
        raise DataError(f"{path}: {found}, fold {fold} wanted; run `medseg ingest` with more folds")
    train, val = (_ids(path, fold, folds[fold], part) for part in ("train", "val"))
    twice = repeated([*train, *val])
    if twice:
        raise DataError(f"{path}: fold {fold} names {twice[0]!r} more than once ({len(twice)} such cases); {AGAIN}")
    return train, val


def read_folds(path: Path) -> dict[str, Any]:
    """All that ``splits.json`` says; ``DataError`` if it is not as ``write_splits`` wrote it."""
    return read_record(path, MAKER, INSTEAD)


def _ids(path: Path, fold: int, value: Any, part: str) -> list[str]:
    ids = value.get(part) if isinstance(value, dict) else None
    if not isinstance(ids, list) or not ids or not all(isinstance(case, str) for case in ids):
        raise DataError(f"{path}: fold {fold} needs a non-empty list of case ids '{part}'; {AGAIN}")
    return ids


def repeated(ids: Iterable[str]) -> list[str]:
    """The ids that come more than once, sorted."""
    return sorted(case for case, count in Counter(ids).items() if count > 1)
