"""Score tables of many trainings: read one at a time, checked, and completed where a case is missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from medseg.compare.score_rows import Rows, Run, joined
from medseg.compare.scored import Scored, scored
from medseg.errors import DataError
from medseg.evaluate.score import COLUMNS, FAILED, NOT_ANNOTATED
from medseg.evaluate.table import Stored
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.row import Count, Metric, met
from medseg.metrics.table import METRICS
from medseg.results.key import RunKey
from medseg.trained import Trained, read_trained, short

MAKER = "medseg evaluate"
NO_ROW = "no score row of this case, which other trainings have"
# What a row says of the reference, so that it must be the same whichever model was scored.
REFERENCE = ("n_ref", "spacing", "diagonal")


@dataclass
class Scores:
    """The scores of all trainings, checked and completed.

    Attributes:
        trainings: sorted by data set, split, model, fold and seed.
    """

    trainings: list[Scored]
    _files: _Files
    _added: Mapping[Run, Rows] = field(default_factory=dict)

    def tables(self) -> Iterator[pa.Table]:
        """The rows of each training, by case, class and metric; read again, since all together are large."""
        # Networks that were trained on all cases have no number of a fold.
        numbered = all(isinstance(one.run.fold, int) for one in self.trainings)
        for one in self.trainings:
            rows = self._files.rows(one.run)
            added = self._added.get(one.run)
            yield (rows if added is None else joined([rows, added])).sorted_table(numbered)


def read_scores(files: Sequence[Path]) -> Scores:
    """Read, check and complete score files.

    A case of a fold that one training lacks and another has is added as failed, with the worst values.

    Raises:
        DataError: if a file is missing, damaged or not a score table; if rows are repeated, or missing within a case;
            if a value contradicts its reference, or rows of one case contradict each other about the reference; if a
            metric has several units within a data set; if rows of one training have several fingerprints.
    """
    if not files:
        raise DataError("no score files to compare; run `medseg evaluate` first")
    source = _Files(files)
    found = [scored(source.rows(run)) for run in source.runs]
    check(found)
    lacking = _lacking(found)
    added = {run: _failed_rows(found, run, cases) for run, cases in lacking.items()}
    complete = [scored(joined([source.rows(one.run), added[one.run]])) if one.run in added else one for one in found]
    return Scores(complete, source, added)


def trainings_of(found: Iterable[Scored]) -> list[dict[str, Any]]:
    """Which trainings scores are of: data set, model, fold, seed, split and fingerprint, sorted."""
    columns = ("dataset", "model", "fold", "seed", "split")
    return [
        {**{name: getattr(one.run, name) for name in columns}, "fingerprint": one.fingerprint}
        for one in sorted(found, key=lambda one: one.run.order)
    ]


def require_trainings(found: Sequence[Mapping[str, Any]], models: Sequence[Path]) -> list[Trained]:
    """The trainings and ensembles in model folders; ``DataError`` unless scores are of just these.

    Args:
        found: from ``trainings_of``.
        models: folders.
    """
    present = {trained.key: trained for trained in map(read_trained, models)}
    scored_ = {RunKey(t["dataset"], t["model"], t["fold"], t["seed"]): t["fingerprint"] for t in found}
    for key in sorted({*scored_, *present}, key=lambda key: key.name):
        if key not in present:
            raise DataError(
                f"score rows of {key.name}, which is none of the trainings of this study; leave its table out"
            )
        folder, fingerprint = present[key].folder, present[key].fingerprint
        if key not in scored_:
            raise DataError(
                f"no score rows of {key.name}, whose model is in {folder}; run `medseg evaluate` for it first"
            )
        if scored_[key] != fingerprint:
            raise DataError(
                f"score rows of {key.name}: come from another training (fingerprint {short(scored_[key])}) than the "
                f"one in {folder} now ({short(fingerprint)}); delete its table of scores and its predictions, and run "
                "`medseg predict` and `medseg evaluate` again"
            )
    return list(present.values())


class _Files:
    """Score files, and in which of them the rows of each training are.

    Attributes:
        runs: the trainings, sorted.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._places: dict[Run, list[Path]] = {}
        self._digests: dict[Path, str] = {}
        self._last: tuple[Path, Rows, dict[Run, Any]] | None = None
        for path in files:
            for run in self._load(path)[2]:
                self._places.setdefault(run, []).append(path)
        self.runs = sorted(self._places, key=lambda run: run.order)

    def rows(self, run: Run) -> Rows:
        """All rows of a training."""
        parts = [self._load(path) for path in self._places[run]]
        return joined([rows.take(runs[run]) if len(runs) > 1 else rows for _, rows, runs in parts])

    def _load(self, path: Path) -> tuple[Path, Rows, dict[Run, Any]]:
        """A file; the last one is kept, since it may hold many trainings."""
        if self._last is None or self._last[0] != path:
            self._last = None
            stored = Stored(path, MAKER)
            if self._digests.setdefault(path, stored.digest) != stored.digest:
                raise DataError(f"{path}: was changed while it was compared; run `medseg compare` again")
            rows = Rows.of(stored.coded(), str(path))
            self._last = (path, rows, rows.runs())
        return self._last


def check(found: Sequence[Scored]) -> None:
    """Refuse scores from which a mean could be taken that means something else."""
    _check_presence(found)
    _check_texts(found)
    _check_references(found)


def _check_presence(found: Sequence[Scored]) -> None:
    """Every case has a row of each class, and of each metric and quantity that other cases have of this class."""
    if not any(one.values for one in found):
        raise DataError(f"score rows: every case lacks {', '.join(_always(()))}; evaluate again")
    metrics: dict[tuple[str, str, str], set[str]] = {}
    labels: dict[tuple[str, str, str], set[str]] = {}
    for one in found:
        labels.setdefault(one.run[:3], set()).update(one.labels)
        for name, label in one.definitions:
            metrics.setdefault((*one.run[:2], label), set()).add(name)
    expected = {key: {*_always(names), *names} for key, names in metrics.items()}
    for one in found:
        _require_rows(one, expected)
    for one in found:
        short_ = np.flatnonzero(~one.rows.all(axis=1)) if set(one.labels) == labels[one.run[:3]] else [0]
        if len(short_):
            case = "/".join(map(str, (*one.run, one.cases[int(short_[0])])))
            raise DataError(f"score rows: {case} lacks some of the classes of its model; evaluate again")


def _require_rows(one: Scored, expected: Mapping[tuple[str, str, str], set[str]]) -> None:
    """Raise ``DataError`` unless a training's cases have rows of all that is expected of the classes that they have."""
    lacking = np.zeros(one.rows.shape, dtype=bool)
    for c, label in enumerate(one.labels):
        wanted = expected.get((*one.run[:2], label), set())
        for name in wanted:
            lacking[:, c] |= one.lacks[name][:, c] if name in one.lacks else one.rows[:, c]
    for k, c in np.argwhere(lacking)[:1]:
        wanted = expected[(*one.run[:2], one.labels[c])]
        has = {name for name, lacks in one.lacks.items() if not lacks[k, c]}
        missing = ", ".join(sorted(wanted - has))
        raise DataError(
            f"score rows: {one.where(k, c)} lacks {missing}; every case needs {', '.join(_always(has))}, and each "
            "class what other cases have of it; evaluate again"
        )


def _always(found: Iterable[str]) -> list[str]:
    """Metrics and quantities that a class has in every table; those of objects if any of them is among ``found``."""
    rows: dict[str, Metric | Count] = {**METRICS, **QUANTITIES}
    objects = any(name in rows and "objects" in rows[name].needs for name in found)
    names = [name for name, metric in METRICS.items() if metric.scope == "always"] + list(QUANTITIES)
    return [name for name in names if met(rows[name].needs, objects=objects)]


def _check_texts(found: Sequence[Scored]) -> None:
    """Every metric has one definition within a class of a data set, and one unit within a data set."""
    definitions: dict[tuple[str, str, str], set[str]] = {}
    units: dict[tuple[str, str], set[str]] = {}
    for one in found:
        for (name, label), texts in one.definitions.items():
            definitions.setdefault((one.run.dataset, label, name), set()).update(texts)
        for (name, _), texts in one.units.items():
            units.setdefault((one.run.dataset, name), set()).update(texts)
    # A definition holds the tolerance, which is one number for a class.
    for key in sorted(key for key, texts in definitions.items() if len(texts) > 1):
        raise DataError(
            f"score rows: {'/'.join(key)} has several definitions: {', '.join(sorted(definitions[key]))}; evaluate all "
            "models again with one configuration"
        )
    for where in sorted(where for where, texts in units.items() if len(texts) > 1):
        raise DataError(
            f"score rows: {'/'.join(where)} has values in {' and '.join(sorted(units[where]))}; expected one unit "
            "within a data set; give all its cases the same unit of length (docs/data.md) and evaluate again"
        )


def _check_references(found: Sequence[Scored]) -> None:
    """Raise ``DataError`` where trainings contradict each other about a case's subject or reference."""
    known: dict[tuple[str, str], dict[str, tuple[Any, ...]]] = {}
    subjects: dict[tuple[str, str], str] = {}
    # Most trainings have the cases of another one, and say the same.
    seen: dict[tuple[Any, ...], Scored] = {}
    for one in found:
        same = seen.setdefault((one.run.dataset, one.cases, one.labels), one)
        if same is not one and _same_references(same, one):
            continue
        for k, (case, subject) in enumerate(zip(one.cases, one.subjects, strict=True)):
            if subjects.setdefault((one.run.dataset, case), subject) != subject:
                raise DataError(
                    f"score rows: case {one.run.dataset}/{case} belongs to several subjects; evaluate all models again"
                )
            for c, label in enumerate(one.labels):
                facts = (int(one.n_ref[k, c]), one.spacings[one.spacing[k, c]], float(one.diagonal[k, c]))
                if not one.rows[k, c]:
                    continue
                other = known.setdefault((one.run.dataset, label), {}).setdefault(case, facts)
                for fact, mine, theirs in zip(REFERENCE, facts, other, strict=True):
                    if mine != theirs:
                        raise DataError(
                            f"score rows: case {one.run.dataset}/{case}/{label} has references of different {fact}; "
                            "evaluate all models again"
                        )


def _same_references(one: Scored, other: Scored) -> bool:
    """Whether two trainings with the same cases and classes say the same of them."""
    arrays = ("n_ref", "diagonal", "spacing", "rows")
    same = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
    return same and one.spacings == other.spacings and one.subjects == other.subjects


def _lacking(found: Sequence[Scored]) -> dict[Run, list[str]]:
    """Training -> the cases that it lacks and another one of the same fold (on a test set: any other one) has."""
    grounds: dict[tuple[Any, ...], list[Scored]] = {}
    for one in found:
        # A test case is predicted by the trainings of all folds, a validation case by those of one.
        grounds.setdefault((*one.run[:2], one.run.fold if one.run.split == "val" else None), []).append(one)
    lacking: dict[Run, list[str]] = {}
    for peers in grounds.values():
        if len({one.cases for one in peers}) > 1:
            cases = set(itertools.chain.from_iterable(one.cases for one in peers))
            lacking |= {one.run: sorted(cases - set(one.cases)) for one in peers}
    return {run: cases for run, cases in lacking.items() if cases}


def _failed_rows(found: Sequence[Scored], run: Run, cases: Sequence[str]) -> Rows:
    """The rows of cases that a training lacks, from what other trainings say of them."""
    (mine,) = (one for one in found if one.run == run)
    wanted, rows = set(cases), []
    for known in found:
        if known.run[:2] != run[:2] or not wanted:
            continue
        for k in [k for k, case in enumerate(known.cases) if case in wanted]:
            wanted.discard(known.cases[k])
            for name, label in mine.definitions:
                if (name, label) in known.definitions:
                    row = _failed_row(known, k, known.labels.index(label), name)
                    rows.append({**row, **run._asdict(), "fingerprint": mine.fingerprint})
    return Rows.of(pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows]), "score rows")


def _failed_row(known: Scored, k: int, c: int, metric: str) -> dict[str, Any]:
    """The row of a metric of a case and class that a training lacks, from another training that has it."""
    label, n_ref, diagonal = known.labels[c], int(known.n_ref[k, c]), float(known.diagonal[k, c])
    row: dict[str, Any] = {"case": known.cases[k], "subject": known.subjects[k], "label": label, "metric": metric}
    row |= {"definition": known.definitions[metric, label][0], "unit": known.units[metric, label][0]}
    row |= {"n_ref": n_ref, "n_pred": 0, "spacing": known.spacings[known.spacing[k, c]], "diagonal": diagonal}
    row |= {"prediction": "", "status": f"{FAILED}: {NO_ROW}"}
    if not known.annotated[k, c]:  # nothing to fail at
        return {**row, "status": NOT_ANNOTATED, "value": float("nan") if metric in METRICS else 0.0}
    if metric in METRICS:
        return {**row, "value": METRICS[metric].worst_of(diagonal, n_ref) if n_ref else float("nan")}
    return {**row, "value": QUANTITIES[metric].failed_value(float(known.values[metric][k, c]), n_ref)}
