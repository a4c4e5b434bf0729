"""The scores of one training as arrays, from rows of a score table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from medseg.compare.quantity import MEAN
from medseg.compare.score_rows import Codes, Rows, Run, described, several_subjects, where
from medseg.errors import DataError
from medseg.evaluate.score import FAILED, NOT_ANNOTATED
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of one training: n cases x C classes.

    Attributes:
        run: which.
        fingerprint: of the training.
        cases, subjects: (n,) ids, sorted by case.
        labels: C class names, sorted.
        values: metric or quantity of the tables -> (n, C); NaN where undefined, and where a row lacks.
        lacks: of the same: (n, C) where the class has rows of this case, and none of this.
        rows: (n, C) whether the class has rows of this case.
        definitions, units: (metric, class) -> what its rows say, each text once.
        n_ref: (n, C) voxels of the reference.
        diagonal: (n, C) of the reference's box.
        spacing: (n, C) places in ``spacings``.
        spacings: texts.
        failed, annotated: (n, C).
    """

    run: Run
    fingerprint: str
    cases: tuple[str, ...]
    subjects: tuple[str, ...]
    labels: tuple[str, ...]
    values: Mapping[str, Values]
    lacks: Mapping[str, NDArray[np.bool_]]
    rows: NDArray[np.bool_]
    definitions: Mapping[tuple[str, str], tuple[str, ...]]
    units: Mapping[tuple[str, str], tuple[str, ...]]
    n_ref: NDArray[np.int64]
    diagonal: Values
    spacing: Codes
    spacings: tuple[str, ...]
    failed: NDArray[np.bool_]
    annotated: NDArray[np.bool_]

    def where(self, k: int, c: int) -> str:
        """A case and class, for messages."""
        return "/".join(map(str, (*self.run, self.cases[k], self.subjects[k], self.labels[c])))


def of_frame(frame: pd.DataFrame) -> list[Scored]:
    """Scores of every training among rows of ``evaluate.score.COLUMNS``, sorted."""
    rows = Rows.of(pa.Table.from_pandas(frame, preserve_index=False), "score rows")
    return [scored(rows.take(mine)) for _, mine in sorted(rows.runs().items(), key=lambda item: item[0].order)]


def scored(rows: Rows) -> Scored:
    """The scores of one training from its rows.

    Raises:
        DataError: if rows are repeated; if a value contradicts its reference, or rows of one case one another about it;
            if a definition is another one than the table's; if there are several fingerprints.
    """
    ((run, _),) = rows.runs().items()
    place = _Places.of(rows)
    place.require_once(rows)
    labels = rows.text("label").texts
    if MEAN in labels:
        raise DataError(f"score rows: a class is called '{MEAN}', the name of the mean over classes; rename it")
    fingerprints = rows.text("fingerprint").texts
    if len(fingerprints) > 1:
        raise DataError(
            f"score rows: those of {'/'.join(map(str, run))} come from several trainings (their fingerprints differ); "
            "evaluate it again, once"
        )
    _require_values(rows)
    metric, value = rows.text("metric"), rows.numbers("value")
    values, lacks, known = {}, {}, np.zeros(place.shape, dtype=bool)
    for k, name in enumerate(metric.texts):
        if name in METRICS or name in QUANTITIES:
            mine = metric.codes == k
            values[name], there = np.full(place.shape, np.nan), np.zeros(place.shape, dtype=bool)
            values[name].ravel()[place.flat[mine]] = value[mine]
            there.ravel()[place.flat[mine]] = True
            lacks[name], known = there, known | there
    _require_definitions(rows)
    status = rows.text("status")
    failed = np.array([text.startswith(FAILED) for text in status.texts])[status.codes]
    annotated = np.array([text != NOT_ANNOTATED for text in status.texts])[status.codes]
    spacing = rows.text("spacing")
    return Scored(
        run,
        fingerprints[0],
        tuple(map(sys.intern, rows.text("case").texts)),
        place.subjects(rows),
        tuple(map(sys.intern, labels)),
        values,
        {name: known & ~there for name, there in lacks.items()},
        known,
        _texts(rows, "definition"),
        _texts(rows, "unit"),
        place.spread(rows, rows.numbers("n_ref"), "n_ref"),
        place.spread(rows, rows.numbers("diagonal"), "diagonal"),
        place.spread(rows, spacing.codes, "spacing"),
        spacing.texts,
        place.spread(rows, failed, "status"),
        place.spread(rows, annotated, "status"),
    )


@dataclass(frozen=True, slots=True)
class _Places:
    """Where the rows of a training stand in its arrays of cases x classes, flattened."""

    flat: Codes
    shape: tuple[int, int]

    @classmethod
    def of(cls, rows: Rows) -> _Places:
        case, label = rows.text("case"), rows.text("label")
        return cls(case.codes * len(label.texts) + label.codes, (len(case.texts), len(label.texts)))

    def require_once(self, rows: Rows) -> None:
        """Raise ``DataError`` if a metric of a case and class has several rows."""
        metric = rows.text("metric")
        every = self.flat * len(metric.texts) + metric.codes
        counts = np.bincount(every)
        if counts.max(initial=0) > 1:
            self.subjects(rows)  # a case of two subjects is another mistake
            row = int(np.flatnonzero(counts[every] > 1)[0])
            raise DataError(f"score rows: {where(rows, row)} is there twice; evaluate it again, once")

    def subjects(self, rows: Rows) -> tuple[str, ...]:
        """The subject of each case."""
        case, subject = rows.text("case"), rows.text("subject")
        first = np.zeros(len(case.texts), dtype=np.int64)
        first[case.codes] = subject.codes
        other = np.flatnonzero(first[case.codes] != subject.codes)
        if len(other):
            raise several_subjects(rows, int(other[0]))
        return tuple(sys.intern(subject.texts[k]) for k in first)

    def spread(self, rows: Rows, column: NDArray[Any], fact: str) -> NDArray[Any]:
        """(n, C) of a column whose rows of one case and class all say the same."""
        out = np.zeros(self.shape, dtype=column.dtype)
        out.ravel()[self.flat] = column
        other = np.flatnonzero(out.ravel()[self.flat] != column)
        if len(other):
            row = int(other[0])
            raise DataError(
                f"score rows: case {described(rows, row, 'dataset', 'case', 'label')} has references of different "
                f"{fact}; evaluate all models again"
            )
        return out


def _texts(rows: Rows, name: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """(metric, class) -> what the rows say in a column, each text once; of the metrics and quantities of the tables."""
    metric, label, text = rows.text("metric"), rows.text("label"), rows.text(name)
    code = (metric.codes * len(label.texts) + label.codes) * len(text.texts) + text.codes
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for one in np.flatnonzero(np.bincount(code)).tolist():
        rest, t = divmod(one, len(text.texts))
        m, c = divmod(rest, len(label.texts))
        if metric.texts[m] in METRICS or metric.texts[m] in QUANTITIES:
            key = metric.texts[m], label.texts[c]
            found[key] = (*found.get(key, ()), text.texts[t])
    return found


def _require_values(rows: Rows) -> None:
    """A score has a number exactly where the reference shows the class; everything else has one always."""
    metric, value = rows.text("metric"), rows.numbers("value")
    is_score, known, low, high = (np.zeros(len(metric.texts), dtype=kind) for kind in (bool, bool, float, float))
    for k, name in enumerate(metric.texts):
        is_score[k], known[k] = name in METRICS, name in METRICS or name in QUANTITIES
        low[k], high[k] = (METRICS[name].low, METRICS[name].high) if name in METRICS else (-np.inf, np.inf)
    codes, undefined = metric.codes, np.isnan(value)
    wrong = undefined != (is_score[codes] & (rows.numbers("n_ref") == 0))
    wrong |= np.isinf(value) | (value < low[codes]) | (value > high[codes])
    wrong &= known[codes]
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        status = rows.text("status")
        raise DataError(
            f"score rows: {where(rows, row)} has value {value[row]} and status '{status.texts[status.codes[row]]}', "
            f"{rows.numbers('n_ref')[row]} voxels in the reference; expected a number within the metric's bounds where "
            "the reference shows the class, and none where it does not; evaluate again"
        )


def _require_definitions(rows: Rows) -> None:
    """Every metric is that of this version's table."""
    for (name, label), texts in _texts(rows, "definition").items():
        expected = METRICS[name].definition if name in METRICS else QUANTITIES[name].definition
        for text in texts:
            if not (METRICS[name].matches(text) if name in METRICS else text == expected):
                ((run, _),) = rows.runs().items()
                raise DataError(
                    f"score rows: {name} of {'/'.join(map(str, (*run, label)))} is defined as '{text}', this version "
                    f"of medseg compares '{expected}'; evaluate again"
                )
