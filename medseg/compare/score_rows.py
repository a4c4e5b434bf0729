"""Rows of score tables as columns, texts as numbers into a list of the different ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.evaluate.score import COLUMNS
from medseg.results.key import Fold, fold_order, read_fold

WHOLE, NUMBERS = ("seed", "n_ref", "n_pred"), ("value", "diagonal")
KEY = ("dataset", "split", "model", "fold", "seed", "case", "subject", "label")
Codes = NDArray[np.int64]


class Run(NamedTuple):
    """Which training, and on which cases."""

    dataset: str
    split: str
    model: str
    fold: Fold
    seed: int

    @property
    def order(self) -> tuple[Any, ...]:
        """What trainings are sorted by."""
        return self.dataset, self.split, self.model, fold_order(self.fold), self.seed


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of texts: places of the rows' texts in the different ones, which are sorted."""

    codes: Codes
    texts: tuple[str, ...]

    def take(self, rows: NDArray[np.intp]) -> Coded:
        """Of some rows, with the texts that these have."""
        codes = self.codes[rows]
        used = np.flatnonzero(np.bincount(codes, minlength=len(self.texts)))
        place = np.zeros(len(self.texts), dtype=np.int64)
        place[used] = np.arange(len(used))
        return Coded(place[codes], tuple(self.texts[k] for k in used))

    def array(self) -> pa.Array:
        """As Arrow writes it."""
        return pa.DictionaryArray.from_arrays(pa.array(self.codes, pa.int32()), pa.array(self.texts, pa.string()))


class Rows:
    """Rows of a score table as columns: ``Coded`` texts, whole numbers, numbers."""

    def __init__(self, columns: Mapping[str, Coded | NDArray[Any]]) -> None:
        self.columns = columns

    @classmethod
    def of(cls, table: pa.Table, where: str) -> Rows:
        """From an Arrow table; a ``DataError`` that begins with ``where`` if columns lack or are of other types."""
        absent = [c for c in COLUMNS if c not in table.column_names]
        if absent or not table.num_rows:
            found = f"lacks columns {', '.join(absent)}" if absent else "has no rows"
            raise DataError(f"{where}: {found}; expected score rows as written by `medseg evaluate`; evaluate again")
        columns: dict[str, Coded | NDArray[Any]] = {}
        for name in COLUMNS:
            try:
                columns[name] = _column(name, table.column(name))
            except (pa.ArrowException, ValueError) as error:
                raise DataError(
                    f"{where}: column {name}: {error}; expected whole numbers for fold, {', '.join(WHOLE)}, numbers "
                    f"for {' and '.join(NUMBERS)}, text elsewhere; evaluate again"
                ) from error
        return cls(columns)

    def __len__(self) -> int:
        return len(self.numbers("seed"))

    def text(self, name: str) -> Coded:
        """A column of texts."""
        column = self.columns[name]
        assert isinstance(column, Coded), name
        return column

    def numbers(self, name: str) -> NDArray[Any]:
        """A column of numbers."""
        column = self.columns[name]
        assert isinstance(column, np.ndarray), name
        return column

    def take(self, rows: NDArray[np.intp]) -> Rows:
        """Some of them."""
        return Rows({n: c.take(rows) if isinstance(c, Coded) else c[rows] for n, c in self.columns.items()})

    def runs(self) -> dict[Run, NDArray[np.intp]]:
        """Training -> its rows."""
        _, code = np.unique(self.numbers("seed"), return_inverse=True)
        for name in ("dataset", "split", "model", "fold"):
            code = code * len(self.text(name).texts) + self.text(name).codes
        different, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        order = np.argsort(inverse, kind="stable") if len(different) > 1 else np.arange(len(self))
        parts = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
        return {self._run(row): part for row, part in zip(first, parts, strict=True)}

    def _run(self, row: int) -> Run:
        columns = (self.text(name) for name in ("dataset", "split", "model", "fold"))
        dataset, split, model, fold = (column.texts[column.codes[row]] for column in columns)
        return Run(dataset, split, model, read_fold(fold), int(self.numbers("seed")[row]))

    def sorted_table(self, numbered: bool) -> pa.Table:
        """Rows of one training by case, class and metric; equal rows give equal bytes.

        Args:
            numbered: whether folds are written as numbers, not as texts.
        """
        case, label, metric = (self.text(name) for name in ("case", "label", "metric"))
        key = (case.codes * len(label.texts) + label.codes) * len(metric.texts) + metric.codes
        ordered = self.take(np.argsort(key, kind="stable"))
        columns: dict[str, Any] = dict(ordered.columns)
        if numbered:
            fold = ordered.text("fold")
            columns["fold"] = np.array([int(text) for text in fold.texts], dtype=np.int64)[fold.codes]
        return pa.table({n: c.array() if isinstance(c := columns[n], Coded) else pa.array(c) for n in COLUMNS})


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several tables below one another."""
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Coded | NDArray[Any]] = {}
    for name in COLUMNS:
        if name in WHOLE or name in NUMBERS:
            columns[name] = np.concatenate([part.numbers(name) for part in parts])
            continue
        mine = [part.text(name) for part in parts]
        texts = tuple(sorted({text for one in mine for text in one.texts}))
        place = {text: k for k, text in enumerate(texts)}
        codes = [np.array([place[t] for t in one.texts], dtype=np.int64)[one.codes] for one in mine]
        columns[name] = Coded(np.concatenate(codes), texts)
    return Rows(columns)


def several_subjects(rows: Rows, row: int) -> DataError:
    """What is said of a case that belongs to several subjects."""
    return DataError(
        f"score rows: case {described(rows, row, 'dataset', 'case', 'label')} belongs to several subjects; evaluate "
        "all models again"
    )


def where(rows: Rows, row: int) -> str:
    """Which row, for messages."""
    return described(rows, row, *KEY, "metric")


def described(rows: Rows, row: int, *names: str) -> str:
    """What a row has in some columns, for messages."""
    cells = (rows.columns[name] for name in names)
    return "/".join(str(c.texts[c.codes[row]] if isinstance(c, Coded) else c[row]) for c in cells)


def _column(name: str, column: pa.ChunkedArray) -> Coded | NDArray[Any]:
    """A column in its type, whatever the writer's was."""
    if name in WHOLE or name in NUMBERS:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        typed = column.cast(pa.int64() if name in WHOLE else pa.float64())
        if name in WHOLE and typed.null_count:
            raise ValueError("has rows without a number")
        return np.asarray(typed.to_numpy())
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    coded = column.unify_dictionaries().combine_chunks()
    if coded.null_count:
        raise ValueError("has rows without a text")
    texts = coded.dictionary.cast(pa.string()).to_pylist()
    if name == "fold":
        texts = [str(read_fold(text)) for text in texts]
    order = sorted(range(len(texts)), key=texts.__getitem__)
    place = np.zeros(len(texts), dtype=np.int64)
    place[order] = np.arange(len(texts))
    return Coded(place[coded.indices.to_numpy()], tuple(texts[k] for k in order)).take(np.arange(len(coded)))
