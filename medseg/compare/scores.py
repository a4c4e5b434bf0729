"""Score rows of many runs: reading, checking, and the cases x classes blocks that statistics work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.evaluate.score import COLUMNS

KEY = ["dataset", "model", "fold", "seed", "case", "subject", "label"]
OVERLAPS = ("dice", "iou")
COUNTS = ("tp", "fp", "fn")
# Stands for the macro mean over classes in every table, so no class may be called that.
MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Block:
    """Scores of one model on one data set: N cases x C foreground classes, the seeds of a case averaged.

    Attributes:
        dataset, model: names.
        cases: N case ids, sorted.
        subjects: subject of each case.
        labels: C class names, sorted.
        values: metric -> (N, C) means over seeds; NaN where undefined under every seed.
        partly: (N, C) undefined under some seeds only.
        missed: (N, C) under some seed the prediction lacks a class that the reference has.
        spurious: (N, C) under some seed the prediction has a class that the reference lacks.
        folds, seeds: those the scores come from.
    """

    dataset: str
    model: str
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    labels: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    partly: NDArray[np.bool_]
    missed: NDArray[np.bool_]
    spurious: NDArray[np.bool_]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]


def read_scores(files: Sequence[Path]) -> pd.DataFrame:
    """Read and check score files; rows sorted by dataset, model, fold, seed, case, label, metric.

    Raises:
        DataError: if a file is missing, damaged or not a score table; if rows are repeated or missing; if a
            value and its status contradict each other.
    """
    if not files:
        raise DataError("no score files to compare; run `medseg evaluate` first")
    tables = []
    for path in files:
        try:
            table = pd.read_parquet(path)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; run `medseg evaluate` first") from None
        except (OSError, ValueError) as error:  # pyarrow's own errors are both
            raise DataError(f"{path}: not a readable score table ({error}); delete it and evaluate again") from error
        absent = [c for c in COLUMNS if c not in table.columns]
        if absent or table.empty:
            found = f"lacks columns {', '.join(absent)}" if absent else "has no rows"
            raise DataError(f"{path}: {found}; expected score rows as written by `medseg evaluate`")
        tables.append(_typed(table, path))
    scores = pd.concat(tables, ignore_index=True)
    _check(scores)
    return scores.sort_values([*KEY, "metric"], kind="stable", ignore_index=True)


def _typed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The score columns in their types, whatever the writer's text and category types were."""
    numbers: dict[str, Any] = {"fold": "int64", "seed": "int64", "value": "float64"}
    try:
        typed: dict[str, Any] = {c: table[c].astype(numbers.get(c, "object")) for c in COLUMNS}
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: {error}; expected whole numbers for fold and seed, numbers for value") from error
    return pd.DataFrame(typed)


def _check(scores: pd.DataFrame) -> None:
    """Refuse tables from which a mean could be taken that means something else."""
    twice = scores.duplicated([*KEY, "metric"])
    if twice.any():
        raise DataError(f"score rows: {_where(scores[twice].iloc[0])} stands there twice; evaluate it again, once")
    if (scores["label"] == MEAN).any():
        raise DataError(f"score rows: a class is called '{MEAN}', the name of the mean over classes; rename it")
    wrong = scores["value"].isna() != (scores["status"] != "ok")
    wrong |= np.isinf(scores["value"])
    if wrong.any():
        row = scores[wrong].iloc[0]
        raise DataError(
            f"score rows: {_where(row)} has value {row['value']} and status '{row['status']}'; "
            "expected a finite number with 'ok' or no number with 'undefined: <reason>'; evaluate again"
        )
    needed = scores[scores["metric"].isin([*OVERLAPS, *COUNTS])]
    short = needed.groupby(KEY, sort=True)["metric"].size() != len(OVERLAPS) + len(COUNTS)
    if needed.empty or short.any():
        where = "/".join(map(str, short.index[short][0])) if short.any() else "every case"
        raise DataError(f"score rows: {where} lacks some of {', '.join([*OVERLAPS, *COUNTS])}; evaluate again")
    many = scores.groupby(["dataset", "case"], sort=True)["subject"].nunique() > 1
    if many.any():
        raise DataError(f"score rows: case {'/'.join(many.index[many][0])} belongs to several subjects; evaluate again")


def _where(row: pd.Series) -> str:
    return "/".join(str(row[c]) for c in [*KEY, "metric"])


def blocks(scores: pd.DataFrame) -> list[Block]:
    """One block per data set and model, in the order of their names.

    A case that was evaluated under several seeds counts once, with the mean of its defined values; folds are
    pooled.

    Raises:
        DataError: if a case lacks a class that other cases of its data set have.
    """
    needed = scores[scores["metric"].isin([*OVERLAPS, *COUNTS])]
    wide = needed.pivot(index=KEY, columns="metric", values="value").reset_index()
    has_reference, has_prediction = wide["tp"] + wide["fn"] > 0, wide["tp"] + wide["fp"] > 0
    wide["missed"], wide["spurious"] = has_reference & ~has_prediction, has_prediction & ~has_reference
    wide["defined"] = wide["dice"].notna()
    return [
        _block(str(dataset), str(model), table)
        for (dataset, model), table in wide.groupby(["dataset", "model"], sort=True)
    ]


def _block(dataset: str, model: str, wide: pd.DataFrame) -> Block:
    folds = tuple(sorted({int(v) for v in wide["fold"]}))
    seeds = tuple(sorted({int(v) for v in wide["seed"]}))
    merged = (
        wide.groupby(["case", "subject", "label"], sort=True)
        .agg(
            **{m: (m, "mean") for m in (*OVERLAPS, *COUNTS)},
            **{m: (m, "max") for m in ("missed", "spurious")},
            some=("defined", "max"),
            every=("defined", "min"),
        )
        .reset_index()
    )
    pairs = merged[["case", "subject"]].drop_duplicates()
    cases, labels = pairs["case"].tolist(), sorted(merged["label"].unique())
    shape = (len(cases), len(labels))
    if len(merged) != shape[0] * shape[1]:
        counts = merged.groupby("case", sort=True).size()
        case = counts.index[counts < shape[1]][0]
        raise DataError(f"score rows: {dataset}/{model}/{case} lacks some of the classes {labels}; evaluate again")
    tables = {c: merged[c].to_numpy().reshape(shape) for c in merged.columns[3:]}
    return Block(
        dataset,
        model,
        tuple(cases),
        tuple(pairs["subject"]),
        tuple(labels),
        {m: tables[m].astype(np.float64) for m in (*OVERLAPS, *COUNTS)},
        (tables["some"] & ~tables["every"]).astype(bool),
        tables["missed"].astype(bool),
        tables["spurious"].astype(bool),
        folds,
        seeds,
    )
