"""The scores of one model on one data set as arrays of cases x classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg.compare.quantity import SCORE, ranking_metric
from medseg.compare.scored import Scored
from medseg.compare.tolerance import tolerance_of
from medseg.errors import DataError
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.results.key import Fold, fold_order

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
        members: of an ensemble, the models whose trainings predict together; else empty.
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
    members: tuple[str, ...] = ()

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


def blocks(found: Iterable[Scored], ensembles: Mapping[tuple[str, str], Sequence[str]] | None = None) -> list[Block]:
    """One block per data set, split and model, in the order of their names.

    Args:
        found: scores of trainings.
        ensembles: (data set, name) of what is none of one model -> its models.

    Raises:
        DataError: if models of one data set were scored on different folds or classes.
    """
    groups: dict[tuple[str, str, str], list[Scored]] = {}
    for training in sorted(found, key=lambda training: training.run.order):
        groups.setdefault(training.run[:3], []).append(training)
    together = {key: tuple(members) for key, members in (ensembles or {}).items()}
    made = [replace(_block(key, one), members=together.get((key[0], key[2]), ())) for key, one in groups.items()]
    for one, other in itertools.pairwise(made):
        _require_same_cases(one, other)
    return made


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


class _Training(Mapping[str, Values]):
    """Scores of one training as (N, C) tables, NaN for the cases that it did not predict."""

    def __init__(self, rows: NDArray[np.intp], values: Mapping[str, Values], cases: int) -> None:
        self._rows, self._values, self._cases = rows, values, cases

    def __getitem__(self, name: str) -> Values:
        values = self._values[name]
        out = np.full((self._cases, values.shape[1]), np.nan)
        out[self._rows] = values
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _predicted(one: Scored) -> Mask:
    """(n, C) the prediction has some of the class."""
    found: Mask = one.values["tp"] + one.values["fp"] > 0
    return found


def _left_empty(one: Scored) -> Values:
    """(n, C) 1 where a training gave the class no voxel and did not fail, else 0."""
    return (~_predicted(one) & ~one.failed).astype(np.float64)


def _texts(
    found: Sequence[Scored], metrics: Sequence[str], labels: Sequence[str]
) -> tuple[dict[str, str], dict[str, Mask], dict[tuple[str, str], str]]:
    """Units of metrics and quantities, the classes that have rows of each metric, tolerances by metric and class."""
    units = {name: text for one in found for (name, _), (text, *_) in one.units.items()}
    having = {name: {label for one in found for m, label in one.definitions if m == name} for name in metrics}
    covered = {name: np.array([label in mine for label in labels]) for name, mine in having.items()}
    tolerances = {
        (name, label): size
        for one in found
        for (name, label), texts in one.definitions.items()
        if (size := tolerance_of(texts[0]))
    }
    return units, covered, tolerances


def _trainings(
    found: Sequence[Scored], rows: Sequence[NDArray[np.intp]], metrics: Sequence[str], shown: Mask, counted: Mask
) -> dict[tuple[Fold, int], _Training]:
    """The scores of each training; ``rows`` are the places of its cases among all."""
    trainings: dict[tuple[Fold, int], _Training] = {}
    for one, mine in zip(found, rows, strict=True):
        score = _score(one.values[ranking_metric(metrics)], _left_empty(one), shown[mine], counted[mine])
        own = {SCORE: score, **{name: one.values[name] for name in metrics}}
        trainings[one.run.fold, one.run.seed] = _Training(mine, own, len(shown))
    return trainings


def _bounds(metric: str, diagonal: float, voxels: int) -> tuple[float, float]:
    """Smallest and largest value of a metric; one without a bound is at most what the worst of the cases counts."""
    row = METRICS[metric]
    if not isinstance(row.worst, str):
        return row.low, row.high
    return row.low, min(row.high, row.worst_of(diagonal, voxels))


def _block(key: tuple[str, str, str], found: Sequence[Scored]) -> Block:
    """The block of one data set, split and model, from the scores of its trainings, which all have the same classes."""
    subject_of = {case: subject for one in found for case, subject in zip(one.cases, one.subjects, strict=True)}
    cases, labels = tuple(sorted(subject_of)), found[0].labels
    place, shape = {case: k for k, case in enumerate(cases)}, (len(cases), len(labels))
    rows = [np.array([place[case] for case in one.cases], dtype=np.intp) for one in found]
    times = np.zeros(len(cases))
    for mine in rows:
        times[mine] += 1

    def mean(values: Iterable[Values]) -> Values:
        """Over the trainings that have the case."""
        total = np.zeros(shape)
        for mine, one in zip(rows, values, strict=True):
            total[mine] += one
        return np.asarray(total / times[:, None])

    def some(masks: Iterable[Mask]) -> Mask:
        """Whether it is so under any training."""
        out = np.zeros(shape, dtype=bool)
        for mine, one in zip(rows, masks, strict=True):
            out[mine] |= one
        return out

    names = {name for one in found for name in one.values}
    metrics, quantities = ([name for name in table if name in names] for table in (METRICS, QUANTITIES))
    ranked = ranking_metric(metrics)
    nothing = np.full(shape, np.nan)
    values = {name: mean(one.values.get(name, nothing[: len(one.cases)]) for one in found) for name in names}
    left_empty = mean(map(_left_empty, found))
    shown = some(one.n_ref > 0 for one in found)
    lacking = some(one.annotated for one in found) & ~shown
    # A class that no reference shows has no place in a mean: one stray voxel would move it.
    counted = lacking & shown.any(axis=0)
    units, covered, tolerances = _texts(found, metrics, labels)
    largest = max(float(one.diagonal.max()) for one in found), max(int(one.n_ref.max()) for one in found)
    bounds = {name: _bounds(name, *largest) for name in metrics}
    return Block(
        *key,
        cases,
        tuple(subject_of[case] for case in cases),
        labels,
        ranked,
        {SCORE: _score(values[ranked], left_empty, shown, counted), **{name: values[name] for name in metrics}},
        {SCORE: units[ranked], **{name: units[name] for name in metrics}},
        {SCORE: bounds[ranked], **bounds},
        tolerances,
        {SCORE: covered[ranked], **covered},
        {name: values[name] for name in quantities},
        values["volume_pred"],
        shown,
        lacking,
        left_empty,
        some((one.n_ref > 0) & ~_predicted(one) & ~one.failed for one in found),
        some(one.failed for one in found),
        _trainings(found, rows, metrics, shown, counted),
        units["volume_pred"],
    )


def _score(ranked: Values, left_empty: Values, shown: Mask, counted: Mask) -> Values:
    """The ranked metric where the reference shows the class; where it lacks one that others show, if left empty."""
    return np.where(shown, ranked, np.where(counted, left_empty, np.nan))
