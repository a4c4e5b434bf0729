"""The compare stage, and how its results are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import ConfigError, DataError
from medseg.files import read_made, sha256_bytes, sha256_file, write_text
from medseg.outputs import writing
from medseg.progress import say
from medseg.records import read_record, write_record
from medseg.results.folders import CompareFolder
from medseg.text import csv_table, text_of_cell

if TYPE_CHECKING:
    import pandas as pd

MAKER = "medseg compare"


def run(
    score_files: Sequence[Path], out: Path, margin: float | None = None, models: Sequence[Path] | None = None
) -> None:
    """Compare all models of an experiment; write ``scores.parquet``, ``leaderboard.csv``, ``summary.json``.

    Args:
        score_files: the tables of every data set, model, fold and seed, written by ``medseg evaluate``.
        out: folder to write into.
        margin: largest difference of the mean score that does not matter; none: equivalence is not tested.
        models: model folders of just these trainings; none: tables may be of any.

    Raises:
        DataError: if a table is missing, damaged, or contradicts itself or another one; or if it comes from another
            training than the one that is there now.
        ConfigError: if the margin is not above 0.
    """
    if margin is not None and not margin > 0:
        raise ConfigError(f"margin of equivalence {margin}: expected a number above 0")
    with writing(CompareFolder(out).summary, out):
        _compare(score_files, out, margin, models)


def _compare(score_files: Sequence[Path], out: Path, margin: float | None, models: Sequence[Path] | None) -> None:
    from medseg.compare.best import best_rows
    from medseg.compare.block import blocks
    from medseg.compare.definitions import definitions
    from medseg.compare.leaderboard import columns, leaderboard_rows
    from medseg.compare.objects import object_rows
    from medseg.compare.pairs import pair_rows
    from medseg.compare.rows import read_scores, require_trainings, trainings_of
    from medseg.compare.summary import summary_rows, tail
    from medseg.compare.winner import winner_rows
    from medseg.evaluate.table import write_tables

    scores = read_scores(score_files)
    trainings = trainings_of(scores.trainings)
    known = [] if models is None else require_trainings(trainings, models)
    ensembles = {
        (one.key.dataset, one.key.model): list(dict.fromkeys(member.key.model for member in one.members))
        for one in known
        if one.members
    }
    files = CompareFolder(out)
    found = blocks(scores.trainings, ensembles)
    summary = summary_rows(found)
    ranking = leaderboard_rows(found, summary)
    pairs, secondary = pair_rows(found, ranking, margin)
    tails = [{"dataset": b.dataset, "split": b.split, "model": b.model, **tail(b)} for b in found]

    write_tables(files.scores, scores.tables())
    write_text(files.leaderboard, csv_table(columns(), ([row[name] for name in columns()] for row in ranking)))
    write_record(
        files.summary,
        {
            "trainings": trainings,
            "rows": summary,
            "pairs": pairs,
            "secondary": secondary,
            "winners": winner_rows(found, ranking),
            "best": best_rows(found),
            "tails": tails,
            "objects": [row for block in found for row in object_rows(block)],
            "definitions": definitions(summary),
            "files": {path.name: sha256_file(path) for path in (files.scores, files.leaderboard)},
        },
    )
    say(f"compare: {len(ranking)} rows in the leaderboard, {len(pairs)} paired comparisons -> {out}")


def read_leaderboard(compare_dir: Path) -> list[dict[str, str]]:
    """Rows of ``leaderboard.csv`` as text, in its order.

    Raises:
        DataError: if it is missing or not as written by ``run``, together with ``summary.json``.
    """
    from medseg.compare.leaderboard import columns

    path = CompareFolder(compare_dir).leaderboard
    data = _checked(path, read_summary(compare_dir))
    rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    if not rows or set(columns()) - set(rows[0]):
        raise DataError(f"{path}: not a leaderboard written by this version of `{MAKER}`; run it again")
    return [{name: text_of_cell(text) for name, text in row.items()} for row in rows]


def read_compared_scores(compare_dir: Path) -> pd.DataFrame:
    """``scores.parquet`` of a comparison: the score rows of all trainings.

    Raises:
        DataError: if it is missing or not as written by ``run``, together with ``summary.json``.
    """
    frame: pd.DataFrame = ComparedScores(compare_dir).stored.read().to_pandas()
    return frame


class ComparedScores:
    """``scores.parquet`` of a comparison, from which the rows of one training at a time are taken.

    Attributes:
        stored: the file.
        trainings: those of ``summary.json``.
    """

    def __init__(self, compare_dir: Path, summary: Mapping[str, Any] | None = None) -> None:
        """Check the file.

        Args:
            compare_dir: of the comparison.
            summary: its ``summary.json``; none: it is read.

        Raises:
            DataError: if it is missing or not as written by ``run``, together with ``summary.json``.
        """
        from medseg.evaluate.table import Stored

        path = CompareFolder(compare_dir).scores
        known = read_summary(compare_dir) if summary is None else summary
        self.stored = Stored(path, MAKER)
        _require_digest(path, self.stored.sha256, known)
        self.trainings: Sequence[Mapping[str, Any]] = known["trainings"]
        if len(self.stored) != len(self.trainings):
            raise DataError(f"{path}: not as written by this version of `{MAKER}`; run it again")

    def frame(self, training: int, columns: Sequence[str] | None = None, distinct: bool = False) -> pd.DataFrame:
        """Rows of a training, by its place in ``trainings``.

        Args:
            training: place.
            columns: of them; none: all.
            distinct: whether equal rows are wanted once.
        """
        coded = self.stored.coded([training], columns).to_pandas()
        frame: pd.DataFrame = coded.drop_duplicates(ignore_index=True) if distinct else coded
        text = [name for name in frame.columns if frame[name].dtype == "category"]
        return frame.astype(dict.fromkeys(text, "object"))


def _checked(path: Path, summary: Mapping[str, Any]) -> bytes:
    """The bytes of a file whose digest is in the summary."""
    data = read_made(path, MAKER)
    _require_digest(path, sha256_bytes(data), summary)
    return data


def _require_digest(path: Path, sha256: str, summary: Mapping[str, Any]) -> None:
    if sha256 != summary["files"].get(path.name):
        raise DataError(
            f"{path}: damaged, edited, or of another comparison than {CompareFolder(path.parent).summary.name} beside "
            f"it (SHA-256 differs); run `{MAKER}` again"
        )


def read_summary(compare_dir: Path) -> dict[str, Any]:
    """``summary.json`` of a comparison.

    Raises:
        DataError: if it is missing, damaged or of another version.
    """
    path = CompareFolder(compare_dir).summary
    value = read_record(path, MAKER)
    needed = {
        "trainings",
        "rows",
        "pairs",
        "secondary",
        "winners",
        "best",
        "tails",
        "objects",
        "definitions",
        "files",
    }
    if needed - set(value):
        raise DataError(f"{path}: not as written by this version of `{MAKER}`; run it again")
    return value
