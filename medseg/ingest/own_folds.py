"""Folds from a file of the user's own, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from medseg.errors import DataError, Fault
from medseg.ingest.faults import fault
from medseg.ingest.ids import case_id
from medseg.ingest.splits import Fold, repeated
from medseg.ingest.tables import read_table

# Case ids shown in one fault; there can be thousands.
IDS_SHOWN = 3


def own_folds(
    path: Path,
    name: str,
    subject_of: Mapping[str, str],
    faulty: Set[str] = frozenset(),
    excluded: Set[str] = frozenset(),
    test: Set[str] = frozenset(),
) -> tuple[list[Fold], list[Fault]]:
    """Folds from a file of the user's own, with everything that is wrong with it.

    The file is JSON, ``{"folds": [{"train": ids, "val": ids}, …]}`` or nnU-Net's list without ``folds``; or TSV or CSV
    with columns ``case`` and ``fold`` (the number of the fold that validates on it).

    Args:
        path: the file.
        name: what to call it in faults.
        subject_of: subject of every case of the data set, less those of the test set.
        faulty: ids of cases that are missing here only because of faults that are reported anyway.
        excluded: ids of cases that are left out by name: of the folds, too.
        test: ids of the test set, which may be in no fold; a table can hold other words than numbers for them.

    Returns:
        The folds, ids sorted, and faults of code ``splits``; folds are of use only without faults.
    """
    try:
        folds = _from_json(path) if path.suffix == ".json" else _from_table(path, subject_of, excluded | test)
    except DataError as error:
        return [], [fault("splits", "-", name, str(error).removeprefix(f"{path}: "))]
    folds = [{part: [case for case in ids if case not in excluded] for part, ids in fold.items()} for fold in folds]
    causes = [f"fold {k}: {c}" for k, fold in enumerate(folds) for c in _causes(fold, subject_of, faulty, test)]
    if not folds:
        causes = ["no folds"]
    ordered = [{part: sorted(ids) for part, ids in fold.items()} for fold in folds]
    return ordered, [fault("splits", "-", name, cause) for cause in causes]


def _causes(fold: Fold, subject_of: Mapping[str, str], faulty: Set[str], test: Set[str]) -> list[str]:
    """What is wrong with one fold."""
    train, val = fold["train"], fold["val"]
    causes = [f"no case in '{part}'" for part, ids in fold.items() if not ids]
    listed = {*train, *val}
    if kept_apart := sorted(listed & test):
        causes.append(f"{_some(kept_apart)} of the test set")
    unknown = sorted({case for case in listed - test if case not in subject_of and case not in faulty})
    if unknown:
        causes.append(f"{_some(unknown)} not in the data set")
    both = sorted(set(train) & set(val))
    if both:
        causes.append(f"{_some(both)} in both 'train' and 'val'")
    for part, ids in fold.items():
        if twice := repeated(ids):
            causes.append(f"{_some(twice)} twice in '{part}'")
    sides: list[set[str]] = [{subject_of[c] for c in ids if c in subject_of and c not in both} for ids in (train, val)]
    leaking = sorted(sides[0] & sides[1])
    if leaking:
        pair = [next(c for c in ids if subject_of.get(c) == leaking[0] and c not in both) for ids in (train, val)]
        causes.append(
            f"{len(leaking)} subjects on both sides, first {leaking[0]} ({pair[0]} in 'train', {pair[1]} in 'val')"
        )
    return causes


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    return f"{', '.join(ids[:IDS_SHOWN])}{more}"


def _from_json(path: Path) -> list[Fold]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no JSON ({error})") from None
    folds = value.get("folds") if isinstance(value, dict) else value
    if not isinstance(folds, list):
        raise DataError(f'{path}: no list of folds; expected [{{"train": [ids], "val": [ids]}}, …]')
    for number, fold in enumerate(folds):
        for part in ("train", "val"):
            ids = fold.get(part) if isinstance(fold, dict) else None
            if not isinstance(ids, list) or not all(isinstance(case, str) for case in ids):
                raise DataError(f"{path}: fold {number} has no list of case ids '{part}'")
    return [{part: [case_id(case) for case in fold[part]] for part in ("train", "val")} for fold in folds]


def _from_table(path: Path, subject_of: Mapping[str, str], apart: Set[str]) -> list[Fold]:
    """Folds from the columns ``case`` and ``fold``; every case has to have one, those apart need not."""
    header, rows = read_table(path)
    lacking = [name for name in ("case", "fold") if name not in header]
    if lacking:
        raise DataError(f"{path}: no column '{lacking[0]}'; there are {', '.join(header)}")
    rows = [row | {"case": case_id(row["case"])} for row in rows]
    rows = [row for row in rows if row["case"] not in apart or _is_fold(row["fold"])]
    wrong = [row for row in rows if not _is_fold(row["fold"])]
    if wrong:
        found = f"case {wrong[0]['case']}: fold {wrong[0]['fold']!r}"
        raise DataError(f"{path}: {found}, expected a number from 0 on ({len(wrong)} such rows)")
    without = sorted(subject_of.keys() - {row["case"] for row in rows})
    if without:
        raise DataError(f"{path}: no fold for {_some(without)}")
    count = 1 + max((int(row["fold"]) for row in rows), default=-1)
    if count > len(rows):
        raise DataError(f"{path}: a fold {count - 1} for {len(rows)} cases; folds count from 0 on")
    return [
        {
            "train": [row["case"] for row in rows if int(row["fold"]) != k],
            "val": [row["case"] for row in rows if int(row["fold"]) == k],
        }
        for k in range(count)
    ]


def _is_fold(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
