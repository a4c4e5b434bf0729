"""Score rows of many trainings: read, checked, completed, and gathered into cases x classes blocks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.evaluate.score import COLUMNS, FAILED, NOT_ANNOTATED
from medseg.metrics.table import METRICS, QUANTITIES

RUN = ["dataset", "split", "model", "fold", "seed"]
KEY = [*RUN, "case", "subject", "label"]
# What a row says of the reference, so that it must be the same whichever model was scored.
REFERENCE = ["subject", "n_ref", "spacing"]
SCORES = tuple(METRICS)
COUNTS = ("tp", "fp", "fn")
WANTED = (*SCORES, *QUANTITIES)
# Stands for the mean over classes in every table, so no class may be called that.
MEAN = "mean"
NO_ROW = "no score row of this case, which other trainings have"

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Block:
    """Scores of one model on one data set: N cases x C classes; the trainings of a case (its seeds) are averaged.

    Attributes:
        dataset, split, model: names; ``split`` is ``val`` (validation folds) or ``test``.
        cases: N case ids, sorted.
        subjects: subject of each case.
        labels: C class names, sorted.
        values: metric -> (N, C) means over trainings; NaN exactly where the reference does not show the class.
        score: (N, C) what models are ranked by: Dice where the reference shows the class; where it does not, the share
            of trainings that left it empty; NaN where nobody annotated, and for a class that no reference shows.
        counts: ``tp``, ``fp``, ``fn`` -> (N, C) means over trainings.
        volume: (N, C) predicted volume, mean over trainings, in ``volume_unit``.
        shown: (N, C) the reference shows the class.
        lacking: (N, C) annotated, and the reference does not show the class.
        left_empty: (N, C) share of trainings that gave the class no voxel and did not fail.
        missed, failed: (N, C) under some training.
        trainings: (fold, seed) -> the scores of this training alone: ``score``, ``dice``, ``iou`` -> (N, C), NaN for
            the cases that it did not predict.
        volume_unit: of ``volume``.
    """

    dataset: str
    split: str
    model: str
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    labels: tuple[str, ...]
    values: Mapping[str, Values]
    score: Values
    counts: Mapping[str, Values]
    volume: Values
    shown: NDArray[np.bool_]
    lacking: NDArray[np.bool_]
    left_empty: Values
    missed: NDArray[np.bool_]
    failed: NDArray[np.bool_]
    trainings: Mapping[tuple[int, int], Mapping[str, Values]]
    volume_unit: str

    @property
    def folds(self) -> tuple[int, ...]:
        """Folds that the scores come from."""
        return tuple(sorted({fold for fold, _ in self.trainings}))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that the scores come from."""
        return tuple(sorted({seed for _, seed in self.trainings}))


def read_scores(files: Sequence[Path]) -> pd.DataFrame:
    """Read, check and complete score files; rows sorted by data set, split, model, fold, seed, case, label, metric.

    A case of a fold that one training lacks and another has is added as failed, with the worst values.

    Raises:
        DataError: if a file is missing, damaged or not a score table; if rows are repeated, or missing within a case;
            if a value contradicts its reference, or rows of one case contradict each other about the reference.
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
            raise DataError(f"{path}: {found}; expected score rows as written by `medseg evaluate`; evaluate again")
        tables.append(_typed(table, path))
    scores = pd.concat(tables, ignore_index=True)
    _check(scores)
    return _completed(scores).sort_values([*KEY, "metric"], kind="stable", ignore_index=True)


def _typed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The score columns in their types, whatever the writer's text and category types were."""
    numbers: dict[str, Any] = {"fold": "int64", "seed": "int64", "value": "float64", "n_ref": "int64"}
    numbers["n_pred"] = "int64"
    try:
        typed: dict[str, Any] = {c: table[c].astype(numbers.get(c, "object")) for c in COLUMNS}
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: {error}; expected whole numbers for fold, seed, n_ref and n_pred, numbers for value"
        ) from error
    return pd.DataFrame(typed)


def _check(scores: pd.DataFrame) -> None:
    """Refuse tables from which a mean could be taken that means something else."""
    twice = scores.duplicated([*KEY, "metric"])
    if twice.any():
        raise DataError(f"score rows: {_where(scores[twice].iloc[0])} stands there twice; evaluate it again, once")
    if (scores["label"] == MEAN).any():
        raise DataError(f"score rows: a class is called '{MEAN}', the name of the mean over classes; rename it")
    _check_values(scores)
    needed = scores[scores["metric"].isin(WANTED)]
    short = needed.groupby(KEY, sort=True)["metric"].size() != len(WANTED)
    if needed.empty or short.any():
        where = "/".join(map(str, short.index[short][0])) if short.any() else "every case"
        raise DataError(f"score rows: {where} lacks some of {', '.join(WANTED)}; evaluate again")
    labels = needed.groupby(["dataset", "split", "model"])["label"].transform("nunique")
    fewer = needed.groupby([*RUN, "case"])["label"].transform("nunique") != labels
    if fewer.any():
        row = needed[fewer].iloc[0]
        where = "/".join(str(row[c]) for c in [*RUN, "case"])
        raise DataError(f"score rows: {where} lacks some of the classes of its model; evaluate again")
    expected = {name: metric.definition for name, metric in METRICS.items()} | QUANTITIES
    other = needed[needed["definition"] != needed["metric"].map(expected)]
    if not other.empty:
        row = other.iloc[0]
        raise DataError(
            f"score rows: {_where(row)} is defined as '{row['definition']}', this version of medseg compares "
            f"'{expected[row['metric']]}'; evaluate again"
        )
    for fact in REFERENCE:
        many = scores.groupby(["dataset", "case", "label"], sort=True)[fact].nunique() > 1
        if many.any():
            what = "belongs to several subjects" if fact == "subject" else f"has references of different {fact}"
            raise DataError(f"score rows: case {'/'.join(many.index[many][0])} {what}; evaluate all models again")


def _check_values(scores: pd.DataFrame) -> None:
    """A score has a number exactly where the reference shows the class; everything else has one always."""
    is_score = scores["metric"].isin(SCORES)
    wrong = scores["value"].isna() != (is_score & (scores["n_ref"] == 0))
    wrong |= np.isinf(scores["value"])
    for name in SCORES:
        mine = scores["metric"] == name
        wrong |= mine & ((scores["value"] < METRICS[name].low) | (scores["value"] > METRICS[name].high))
    if wrong.any():
        row = scores[wrong].iloc[0]
        raise DataError(
            f"score rows: {_where(row)} has value {row['value']} and status '{row['status']}', {row['n_ref']} voxels "
            "in the reference; expected a number within the metric's bounds where the reference shows the class, and "
            "none where it does not; evaluate again"
        )


def _where(row: pd.Series) -> str:
    return "/".join(str(row[c]) for c in [*KEY, "metric"])


def _completed(scores: pd.DataFrame) -> pd.DataFrame:
    """With rows of status failed for every case that a training lacks and another one of the same fold has."""
    added: list[dict[str, Any]] = []
    for key, table in scores.groupby(["dataset", "split"], sort=True):
        known = table.drop_duplicates(["case", "label", "metric"]).set_index(["case", "label", "metric"])
        rows = {name: dict(row) for name, row in zip(known.index, known.to_dict("records"), strict=True)}
        # A test case is predicted by the trainings of all folds, a validation case by those of one.
        ground = "fold" if key[1] == "val" else "split"
        for _, peers in table.groupby(ground, sort=True):
            cases = set(peers["case"])
            for run, mine in peers.groupby(RUN, sort=True):
                missing = sorted(cases - set(mine["case"]))
                wanted = itertools.product(missing, sorted(mine["label"].unique()), WANTED)
                added += [_failed_row(rows[name], (*run, *name)) for name in wanted]
    return pd.concat([scores, pd.DataFrame(added, columns=list(COLUMNS))], ignore_index=True) if added else scores


def _failed_row(known: Mapping[Any, Any], key: Sequence[Any]) -> dict[str, Any]:
    """The row of a case that a training lacks, from the row that another training has of it."""
    metric = key[-1]
    row = {**known, **dict(zip([*RUN, "case", "label", "metric"], key, strict=True))}
    if known["status"] == NOT_ANNOTATED:  # nothing to fail at
        return {**row, "value": float("nan") if metric in METRICS else 0.0, "n_pred": 0, "prediction": ""}
    n_ref = int(known["n_ref"])
    worst = {"fn": float(n_ref), "volume_ref": float(known["value"])}
    if metric in METRICS:
        value = METRICS[metric].worst if n_ref else float("nan")
    else:
        value = worst.get(metric, 0.0)
    return {**row, "value": value, "n_pred": 0, "status": f"{FAILED}: {NO_ROW}", "prediction": ""}


def blocks(scores: pd.DataFrame) -> list[Block]:
    """One block per data set, split and model, in the order of their names.

    Raises:
        DataError: if a case lacks a class that other cases of its model have.
    """
    needed = scores[scores["metric"].isin(WANTED)]
    facts = [*KEY, "status", "n_ref"]
    wide = needed.pivot(index=facts, columns="metric", values="value").reset_index()
    failed = wide["status"].str.startswith(FAILED)
    predicted = wide["tp"] + wide["fp"] > 0
    wide["failed"], wide["shown"] = failed, wide["n_ref"] > 0
    wide["annotated"] = wide["status"] != NOT_ANNOTATED
    wide["left_empty"] = (~predicted & ~failed).astype(float)
    wide["missed"] = wide["shown"] & ~predicted & ~failed
    units = dict(scores[scores["metric"] == "volume_pred"].groupby("dataset")["unit"].first().items())
    found = []
    for (dataset, split, model), table in wide.groupby(["dataset", "split", "model"], sort=True):
        found.append(_block(str(dataset), str(split), str(model), table, str(units[dataset])))
    for one, other in itertools.pairwise(found):
        _same_ground(one, other)
    return found


def _same_ground(one: Block, other: Block) -> None:
    """Raise ``DataError`` unless two models of a data set were scored on the same folds and classes."""
    if (one.dataset, one.split) != (other.dataset, other.split):
        return
    grounds: list[tuple[str, tuple[object, ...], tuple[object, ...]]] = [("classes", one.labels, other.labels)]
    if one.split == "val":  # cases of a test set are predicted by the networks of all folds
        grounds.insert(0, ("folds", one.folds, other.folds))
    for what, mine, theirs in grounds:
        if mine != theirs:
            raise DataError(
                f"{one.dataset}: '{one.model}' was scored on {what} {list(mine)}, '{other.model}' on {list(theirs)}; "
                f"evaluate both on the same {what}, or compare them apart"
            )


def _block(dataset: str, split: str, model: str, wide: pd.DataFrame, unit: str) -> Block:
    means = [*SCORES, *COUNTS, "volume_pred", "left_empty"]
    flags = ["missed", "failed", "shown", "annotated"]
    merged = (
        wide.groupby(["case", "subject", "label"], sort=True)
        .agg(**{m: (m, "mean") for m in means}, **{m: (m, "max") for m in flags})
        .reset_index()
    )
    pairs = merged[["case", "subject"]].drop_duplicates()
    cases, labels = pairs["case"].tolist(), sorted(merged["label"].unique())
    shape = (len(cases), len(labels))
    where = f"{dataset}/{model}"
    if len(merged) != shape[0] * shape[1]:
        counts = merged.groupby("case", sort=True).size()
        case = counts.index[counts < shape[1]][0]
        raise DataError(f"score rows: {where}/{case} lacks some of the classes {labels}; evaluate again")
    tables = {c: merged[c].to_numpy().reshape(shape) for c in [*means, *flags]}
    shown = tables["shown"].astype(bool)
    lacking = tables["annotated"].astype(bool) & ~shown
    # A class that no reference shows has no place in a mean: one stray voxel would move it.
    counted = lacking & shown.any(axis=0)
    place = {case: k for k, case in enumerate(cases)}
    trainings = {
        (int(str(fold)), int(str(seed))): _training(table, place, shown, counted)
        for (fold, seed), table in wide.groupby(["fold", "seed"], sort=True)
    }
    values = {m: tables[m].astype(np.float64) for m in means}
    return Block(
        dataset,
        split,
        model,
        tuple(cases),
        tuple(pairs["subject"]),
        tuple(labels),
        {m: values[m] for m in SCORES},
        _score(values["dice"], values["left_empty"], shown, counted),
        {m: values[m] for m in COUNTS},
        values["volume_pred"],
        shown,
        lacking,
        values["left_empty"],
        tables["missed"].astype(bool),
        tables["failed"].astype(bool),
        trainings,
        unit,
    )


def _training(
    table: pd.DataFrame, place: Mapping[str, int], shown: NDArray[np.bool_], counted: NDArray[np.bool_]
) -> dict[str, Values]:
    """Scores of one training as (N, C) tables."""
    ordered = table.sort_values(["case", "label"], kind="stable")
    classes = shown.shape[1]
    rows = [place[case] for case in ordered["case"].iloc[::classes]]
    out = {name: np.full(shown.shape, np.nan) for name in ("score", *SCORES)}
    for name in SCORES:
        out[name][rows] = ordered[name].to_numpy(np.float64).reshape(-1, classes)
    empty = ordered["left_empty"].to_numpy(np.float64).reshape(-1, classes)
    out["score"][rows] = _score(out["dice"][rows], empty, shown[rows], counted[rows])
    return out


def _score(dice: Values, left_empty: Values, shown: NDArray[np.bool_], counted: NDArray[np.bool_]) -> Values:
    """Dice where the reference shows the class, whether it was left empty where it lacks one that others show."""
    return np.where(shown, dice, np.where(counted, left_empty, np.nan))
