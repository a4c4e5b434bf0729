"""The scores of one model on one data set as arrays of cases x classes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg.compare.quantity import SCORE, ranking_metric
from medseg.compare.rows import KEY, compared_rows
from medseg.compare.tolerance import tolerance_of
from medseg.errors import DataError
from medseg.evaluate.score import FAILED, NOT_ANNOTATED
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.results.key import Fold, fold_order, read_fold

FLAGS = ("missed", "failed", "shown", "annotated")

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Block:
    """Scores of one model on one data set: N cases x C classes; the trainings of a case (its seeds) are averaged.

    Attributes:
        dataset, split, model: names; ``split`` is ``val`` (validation folds) or ``test``.
        cases: N case ids, sorted.
        subjects: subject of each case.
        labels: C class names, sorted.
        ranked: the metric that ``score`` extends: PQ where labels number objects, else Dice.
        values: ``score`` and each metric that has rows -> (N, C) means over trainings. A metric is NaN where the
            reference does not show the class, and for a class that has no row of it. ``score``, what models are ranked
            by, is the ranked metric where the reference shows the class; where it does not, the share of trainings
            that left it empty; NaN where nobody annotated, and for a class that no reference shows.
        units: of the same; ``1`` for those without.
        bounds: of the same: smallest and largest value; a distance is at most the longest diagonal of an image.
        tolerances: (metric, class) -> its tolerance (``2 mm``), for metrics that need one.
        covered: of ``values``: (C,) the classes that have rows of it, whether a reference shows them or not.
        counts: quantity -> (N, C) means over trainings, for pooled scores.
        volume: (N, C) predicted volume, mean over trainings, in ``volume_unit``.
        shown: (N, C) the reference shows the class.
        lacking: (N, C) annotated, and the reference does not show the class.
        left_empty: (N, C) share of trainings that gave the class no voxel and did not fail.
        missed, failed: (N, C) under some training.
        trainings: (fold, seed) -> the ``values`` of this training alone; NaN for the cases that it did not predict.
        volume_unit: of ``volume``.
    """

    dataset: str
    split: str
    model: str
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    labels: tuple[str, ...]
    ranked: str
    values: Mapping[str, Values]
    units: Mapping[str, str]
    bounds: Mapping[str, tuple[float, float]]
    tolerances: Mapping[tuple[str, str], str]
    covered: Mapping[str, Mask]
    counts: Mapping[str, Values]
    volume: Values
    shown: Mask
    lacking: Mask
    left_empty: Values
    missed: Mask
    failed: Mask
    trainings: Mapping[tuple[Fold, int], Mapping[str, Values]]
    volume_unit: str

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Folds that the scores come from."""
        return tuple(sorted({fold for fold, _ in self.trainings}, key=fold_order))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that the scores come from."""
        return tuple(sorted({seed for _, seed in self.trainings}))

    @property
    def score(self) -> Values:
        """(N, C) what models are ranked by."""
        return self.values[SCORE]

    @property
    def penalised(self) -> Mask:
        """(N, C) the value is the worst one under some training: the class was missed, or the case failed."""
        return (self.missed | self.failed) & self.shown


def blocks(scores: pd.DataFrame) -> list[Block]:
    """One block per data set, split and model, in the order of their names.

    Raises:
        DataError: if a case lacks a class that other cases of its model have, or models of one data set were scored
            on different folds or classes.
    """
    needed = compared_rows(scores)
    facts = [*KEY, "status", "n_ref"]
    wide = needed.pivot(index=facts, columns="metric", values="value").reset_index()
    failed = wide["status"].str.startswith(FAILED)
    predicted = wide["tp"] + wide["fp"] > 0
    wide["failed"], wide["shown"] = failed, wide["n_ref"] > 0
    wide["annotated"] = wide["status"] != NOT_ANNOTATED
    wide["left_empty"] = (~predicted & ~failed).astype(float)
    wide["missed"] = wide["shown"] & ~predicted & ~failed
    found = []
    for (dataset, split, model), table in wide.groupby(["dataset", "split", "model"], sort=True):
        rows = needed[(needed[["dataset", "split", "model"]] == [dataset, split, model]).all(axis=1)]
        found.append(_block((str(dataset), str(split), str(model)), table, rows))
    for one, other in itertools.pairwise(found):
        _require_same_cases(one, other)
    return found


def _require_same_cases(one: Block, other: Block) -> None:
    """Raise ``DataError`` unless two models of a data set were scored on the same folds and classes."""
    if (one.dataset, one.split) != (other.dataset, other.split):
        return
    compared: list[tuple[str, tuple[object, ...], tuple[object, ...]]] = [("classes", one.labels, other.labels)]
    if one.split == "val":  # cases of a test set are predicted by the networks of all folds
        compared.insert(0, ("folds", one.folds, other.folds))
    for what, mine, theirs in compared:
        if mine != theirs:
            raise DataError(
                f"{one.dataset}: '{one.model}' was scored on {what} {list(mine)}, '{other.model}' on {list(theirs)}; "
                f"evaluate both on the same {what}, or compare them apart"
            )


def _units(rows: pd.DataFrame) -> dict[str, str]:
    """Metric or quantity -> unit."""
    return {str(name): str(unit) for name, unit in rows.groupby("metric")["unit"].first().items()}


def _tolerances(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(metric, class) -> tolerance, from the definitions of the rows."""
    found = rows[["metric", "label", "definition"]].drop_duplicates().itertuples(index=False)
    return {(metric, label): size for metric, label, text in found if (size := tolerance_of(text))}


def _covered(rows: pd.DataFrame, ranked: str, metrics: Sequence[str], labels: Sequence[str]) -> dict[str, Mask]:
    """(C,) whether a class has rows of the score and of each metric."""
    found = rows.groupby("metric")["label"].unique()
    having = {SCORE: set(found[ranked]), **{name: set(found[name]) for name in metrics}}
    return {name: np.array([label in mine for label in labels]) for name, mine in having.items()}


def _bounds(metric: str, rows: pd.DataFrame) -> tuple[float, float]:
    """Smallest and largest value of a metric; one without a bound is at most what the worst of the cases counts."""
    row = METRICS[metric]
    if not isinstance(row.worst, str):
        return row.low, row.high
    return row.low, min(row.high, row.worst_of(float(rows["diagonal"].max()), int(rows["n_ref"].max())))


def _block(key: tuple[str, str, str], wide: pd.DataFrame, rows: pd.DataFrame) -> Block:
    """The block of one data set, split and model.

    Args:
        key: data set, split and model.
        wide: a row per training, case and class; metrics, quantities and flags are columns.
        rows: its score rows.
    """
    units = _units(rows)
    metrics, quantities = ([name for name in names if name in units] for names in (METRICS, QUANTITIES))
    means, ranked = [*metrics, *quantities, "left_empty"], ranking_metric(metrics)
    merged = (
        wide.groupby(["case", "subject", "label"], sort=True)
        .agg(**{m: (m, "mean") for m in means}, **{m: (m, "max") for m in FLAGS})
        .reset_index()
    )
    pairs = merged[["case", "subject"]].drop_duplicates()
    cases, labels = pairs["case"].tolist(), sorted(merged["label"].unique())
    shape = (len(cases), len(labels))
    if len(merged) != shape[0] * shape[1]:
        counts = merged.groupby("case", sort=True).size()
        case = counts.index[counts < shape[1]][0]
        raise DataError(f"score rows: {key[0]}/{key[2]}/{case} lacks some of the classes {labels}; evaluate again")
    tables = {c: merged[c].to_numpy().reshape(shape) for c in [*means, *FLAGS]}
    shown = tables["shown"].astype(bool)
    lacking = tables["annotated"].astype(bool) & ~shown
    # A class that no reference shows has no place in a mean: one stray voxel would move it.
    counted = lacking & shown.any(axis=0)
    place = {case: k for k, case in enumerate(cases)}
    trainings = {
        (read_fold(str(fold)), int(str(seed))): _training(table, place, metrics, ranked, shown, counted)
        for (fold, seed), table in wide.groupby(["fold", "seed"], sort=True)
    }
    values = {m: tables[m].astype(np.float64) for m in means}
    return Block(
        *key,
        tuple(cases),
        tuple(pairs["subject"]),
        tuple(labels),
        ranked,
        {SCORE: _score(values[ranked], values["left_empty"], shown, counted), **{m: values[m] for m in metrics}},
        {SCORE: units[ranked], **{m: units[m] for m in metrics}},
        {SCORE: _bounds(ranked, rows), **{m: _bounds(m, rows) for m in metrics}},
        _tolerances(rows),
        _covered(rows, ranked, metrics, labels),
        {m: values[m] for m in quantities},
        values["volume_pred"],
        shown,
        lacking,
        values["left_empty"],
        tables["missed"].astype(bool),
        tables["failed"].astype(bool),
        trainings,
        units["volume_pred"],
    )


def _training(
    table: pd.DataFrame, place: Mapping[str, int], metrics: list[str], ranked: str, shown: Mask, counted: Mask
) -> dict[str, Values]:
    """Scores of one training as (N, C) tables."""
    ordered = table.sort_values(["case", "label"], kind="stable")
    classes = shown.shape[1]
    rows = [place[case] for case in ordered["case"].iloc[::classes]]
    out = {name: np.full(shown.shape, np.nan) for name in (SCORE, *metrics)}
    for name in metrics:
        out[name][rows] = ordered[name].to_numpy(np.float64).reshape(-1, classes)
    empty = ordered["left_empty"].to_numpy(np.float64).reshape(-1, classes)
    out[SCORE][rows] = _score(out[ranked][rows], empty, shown[rows], counted[rows])
    return out


def _score(ranked: Values, left_empty: Values, shown: Mask, counted: Mask) -> Values:
    """The ranked metric where the reference shows the class; where it lacks one that others show, if left empty."""
    return np.where(shown, ranked, np.where(counted, left_empty, np.nan))
