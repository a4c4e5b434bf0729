"""Score rows of many trainings: read from the files of evaluate, checked, and completed where a case is missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medseg.compare.quantity import MEAN
from medseg.errors import DataError
from medseg.evaluate.score import COLUMNS, FAILED, NOT_ANNOTATED
from medseg.evaluate.table import read_table
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.row import Count, Metric, met
from medseg.metrics.table import METRICS
from medseg.results.key import ALL, RunKey, read_fold
from medseg.trained import read_trained, short

RUN = ["dataset", "split", "model", "fold", "seed"]
KEY = [*RUN, "case", "subject", "label"]
# What a row says of the reference, so that it must be the same whichever model was scored.
REFERENCE = ["subject", "n_ref", "spacing", "diagonal"]
# What columns are that are no text.
_NAMED: Mapping[str, Callable[[str], Any]] = {"fold": read_fold, "seed": int}
NO_ROW = "no score row of this case, which other trainings have"


def read_scores(files: Sequence[Path]) -> pd.DataFrame:
    """Read, check and complete score files; rows sorted by data set, split, model, fold, seed, case, label, metric.

    A case of a fold that one training lacks and another has is added as failed, with the worst values.

    Raises:
        DataError: if a file is missing, damaged or not a score table; if rows are repeated, or missing within a case;
            if a value contradicts its reference, or rows of one case contradict each other about the reference; if a
            metric has several units within a data set; if rows of one training have several fingerprints.
    """
    if not files:
        raise DataError("no score files to compare; run `medseg evaluate` first")
    scores = pd.concat([_read(path) for path in files], ignore_index=True)
    _check(scores)
    return _completed(scores).sort_values([*KEY, "metric"], kind="stable", ignore_index=True)


def trainings_of(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Which trainings rows are of: data set, model, fold, seed, split and fingerprint, sorted."""
    found = scores[[*RUN, "fingerprint"]].drop_duplicates().sort_values(RUN)
    columns = ("dataset", "model", "fold", "seed", "split", "fingerprint")
    return [{name: _NAMED.get(name, str)(str(row[name])) for name in columns} for row in found.to_dict("records")]


def require_trainings(found: Sequence[Mapping[str, Any]], models: Sequence[Path]) -> None:
    """Raise ``DataError`` unless scores are of just the trainings in these model folders.

    Args:
        found: from ``trainings_of``.
        models: folders.
    """
    present = {trained.key: trained for trained in map(read_trained, models)}
    scored = {RunKey(t["dataset"], t["model"], t["fold"], t["seed"]): t["fingerprint"] for t in found}
    for key in sorted({*scored, *present}, key=lambda key: key.name):
        if key not in present:
            raise DataError(
                f"score rows of {key.name}, which is none of the trainings of this study; leave its table out"
            )
        folder, fingerprint = present[key].folder, present[key].fingerprint
        if key not in scored:
            raise DataError(
                f"no score rows of {key.name}, whose model is in {folder}; run `medseg evaluate` for it first"
            )
        if scored[key] != fingerprint:
            raise DataError(
                f"score rows of {key.name}: come from another training (fingerprint {short(scored[key])}) than the one "
                f"in {folder} now ({short(fingerprint)}); delete its table of scores and its predictions, and run "
                "`medseg predict` and `medseg evaluate` again"
            )


def compared_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows that are averaged and compared: metrics and quantities that the table of metrics has."""
    return scores[scores["metric"].isin([*METRICS, *QUANTITIES])]


def _read(path: Path) -> pd.DataFrame:
    """One score file, its columns in their types."""
    table = read_table(path, "medseg evaluate")
    absent = [c for c in COLUMNS if c not in table.columns]
    if absent or table.empty:
        found = f"lacks columns {', '.join(absent)}" if absent else "has no rows"
        raise DataError(f"{path}: {found}; expected score rows as written by `medseg evaluate`; evaluate again")
    return _typed(table, path)


def _typed(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The score columns in their types, whatever the writer's text and category types were."""
    # Of a test set, networks that were trained on all cases are scored, too.
    folds = "object" if (table["fold"] == ALL).all() else "int64"
    numbers = {"fold": folds, "seed": "int64", "n_ref": "int64", "n_pred": "int64"}
    numbers |= {"value": "float64", "diagonal": "float64"}
    try:
        typed: dict[str, Any] = {c: table[c].astype(numbers.get(c, "object")) for c in COLUMNS}  # type: ignore[call-overload]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{path}: {error}; expected whole numbers for fold, seed, n_ref and n_pred, numbers for value and diagonal"
        ) from error
    return pd.DataFrame(typed)


def _check(scores: pd.DataFrame) -> None:
    """Refuse tables from which a mean could be taken that means something else."""
    twice = scores.duplicated([*KEY, "metric"])
    if twice.any():
        raise DataError(f"score rows: {_where(scores[twice].iloc[0])} is there twice; evaluate it again, once")
    if (scores["label"] == MEAN).any():
        raise DataError(f"score rows: a class is called '{MEAN}', the name of the mean over classes; rename it")
    mixed = scores.groupby(RUN, sort=True)["fingerprint"].nunique() > 1
    if mixed.any():
        raise DataError(
            f"score rows: those of {'/'.join(map(str, mixed.index[mixed][0]))} come from several trainings (their "
            "fingerprints differ); evaluate it again, once"
        )
    needed = compared_rows(scores)
    _check_values(needed)
    _check_presence(needed)
    _check_definitions(needed)
    for fact in REFERENCE:
        many = scores.groupby(["dataset", "case", "label"], sort=True)[fact].nunique() > 1
        if many.any():
            what = "belongs to several subjects" if fact == "subject" else f"has references of different {fact}"
            raise DataError(f"score rows: case {'/'.join(many.index[many][0])} {what}; evaluate all models again")


def _check_values(needed: pd.DataFrame) -> None:
    """A score has a number exactly where the reference shows the class; everything else has one always."""
    is_score = needed["metric"].isin(METRICS)
    wrong = needed["value"].isna() != (is_score & (needed["n_ref"] == 0))
    wrong |= np.isinf(needed["value"])
    for name, metric in METRICS.items():
        mine = needed["metric"] == name
        wrong |= mine & ((needed["value"] < metric.low) | (needed["value"] > metric.high))
    if wrong.any():
        row = needed[wrong].iloc[0]
        raise DataError(
            f"score rows: {_where(row)} has value {row['value']} and status '{row['status']}', {row['n_ref']} voxels "
            "in the reference; expected a number within the metric's bounds where the reference shows the class, and "
            "none where it does not; evaluate again"
        )


def _check_presence(needed: pd.DataFrame) -> None:
    """Every case has a row of each class, and of each metric and quantity that other cases have of this class."""
    if needed.empty:
        raise DataError(f"score rows: every case lacks {', '.join(_always(()))}; evaluate again")
    classes = ["dataset", "split", "label"]
    expected = {
        key: {*_always(metrics), *metrics} for key, metrics in needed.groupby(classes)["metric"].unique().items()
    }  # fmt: skip
    rows = needed.groupby(KEY, sort=True)["metric"].size().reset_index()
    short = rows[rows["metric"] < [len(expected[key]) for key in zip(*(rows[c] for c in classes), strict=True)]]
    if not short.empty:
        first = short.iloc[0]
        found = set(needed.loc[(needed[KEY] == first[KEY]).all(axis=1), "metric"])
        missing = sorted(expected[tuple(first[classes])] - found)
        raise DataError(
            f"score rows: {'/'.join(str(first[c]) for c in KEY)} lacks {', '.join(missing)}; every case needs "
            f"{', '.join(_always(found))}, and each class what other cases have of it; evaluate again"
        )
    labels = needed.groupby(["dataset", "split", "model"])["label"].transform("nunique")
    fewer = needed.groupby([*RUN, "case"])["label"].transform("nunique") != labels
    if fewer.any():
        row = needed[fewer].iloc[0]
        where = "/".join(str(row[c]) for c in [*RUN, "case"])
        raise DataError(f"score rows: {where} lacks some of the classes of its model; evaluate again")


def _always(found: Iterable[str]) -> list[str]:
    """Metrics and quantities that a class has in every table; those of objects if any of them is among ``found``."""
    rows: dict[str, Metric | Count] = {**METRICS, **QUANTITIES}
    objects = any(name in rows and "objects" in rows[name].needs for name in found)
    names = [name for name, metric in METRICS.items() if metric.scope == "always"] + list(QUANTITIES)
    return [name for name in names if met(rows[name].needs, objects=objects)]


def _check_definitions(needed: pd.DataFrame) -> None:
    """Every metric is that of this version's table, and has one unit within a data set."""
    for name, definition in needed[["metric", "definition"]].drop_duplicates().itertuples(index=False):
        expected = METRICS[name].definition if name in METRICS else QUANTITIES[name].definition
        same = METRICS[name].matches(definition) if name in METRICS else definition == expected
        if not same:
            row = needed[(needed["metric"] == name) & (needed["definition"] == definition)].iloc[0]
            raise DataError(
                f"score rows: {_where(row)} is defined as '{definition}', this version of medseg compares "
                f"'{expected}'; evaluate again"
            )
    # A definition holds the tolerance, which is one number for a class.
    several = needed.groupby(["dataset", "label", "metric"], sort=True)["definition"].unique()
    several = several[several.map(len) > 1]
    if not several.empty:
        raise DataError(
            f"score rows: {'/'.join(several.index[0])} has several definitions: {', '.join(sorted(several.iloc[0]))}; "
            "evaluate all models again with one configuration"
        )
    units = needed.groupby(["dataset", "metric"], sort=True)["unit"].unique()
    mixed = units[units.map(len) > 1]
    if not mixed.empty:
        raise DataError(
            f"score rows: {'/'.join(mixed.index[0])} has values in {' and '.join(sorted(mixed.iloc[0]))}; expected one "
            "unit within a data set; give all its cases the same unit of length (docs/data.md) and evaluate again"
        )


def _where(row: pd.Series) -> str:
    return "/".join(str(row[c]) for c in [*KEY, "metric"])


def _completed(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores with rows of status failed for every case that a training lacks and another one of its fold has."""
    added: list[dict[str, Any]] = []
    fingerprints = scores.drop_duplicates(RUN).set_index(RUN)["fingerprint"]
    for key, table in compared_rows(scores).groupby(["dataset", "split"], sort=True):
        # A test case is predicted by the trainings of all folds, a validation case by those of one.
        lacking = _lacking_cases(table, "fold" if key[1] == "val" else "split")
        if not lacking:
            continue
        known = table[table["case"].isin({case for cases in lacking.values() for case in cases})]
        rows: dict[str, list[dict[Any, Any]]] = {}
        for row in known.drop_duplicates(["case", "label", "metric"]).to_dict("records"):
            rows.setdefault(row["case"], []).append(row)
        for run, cases in lacking.items():
            labels = set(table.loc[(table[RUN] == list(run)).all(axis=1), "label"])
            missing = itertools.chain.from_iterable(rows[case] for case in cases)
            made = {**dict(zip(RUN, run, strict=True)), "fingerprint": fingerprints[run]}
            added += [_failed_row(row, made) for row in missing if row["label"] in labels]
    return pd.concat([scores, pd.DataFrame(added, columns=list(COLUMNS))], ignore_index=True) if added else scores


def _lacking_cases(table: pd.DataFrame, ground: str) -> dict[tuple[Any, ...], list[str]]:
    """Training -> the cases that it lacks and another one with the same value of column ``ground`` has."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for _, peers in table.groupby(ground, sort=True):
        cases = set(peers["case"])
        for run, mine in peers.groupby(RUN, sort=True):
            lacking = sorted(cases - set(mine["case"]))
            found |= {tuple(run): lacking} if lacking else {}
    return found


def _failed_row(known: Mapping[Any, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a case that a training lacks, from the row that another training has of it.

    Args:
        known: that row.
        training: columns that say which training lacks the case.
    """
    metric = known["metric"]
    row = {**known, **training}
    if known["status"] == NOT_ANNOTATED:  # nothing to fail at
        return {**row, "value": float("nan") if metric in METRICS else 0.0, "n_pred": 0, "prediction": ""}
    n_ref = int(known["n_ref"])
    if metric in METRICS:
        value = METRICS[metric].worst_of(float(known["diagonal"]), n_ref) if n_ref else float("nan")
    else:
        value = QUANTITIES[metric].failed_value(float(known["value"]), n_ref)
    return {**row, "value": value, "n_pred": 0, "status": f"{FAILED}: {NO_ROW}", "prediction": ""}
