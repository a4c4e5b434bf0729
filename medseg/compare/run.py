"""The compare stage, and how its results are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.errors import ConfigError, DataError
from medseg.files import read_json, write_json, write_text, write_with
from medseg.outputs import writing
from medseg.progress import say
from medseg.results.folders import CompareFolder


def run(score_files: Sequence[Path], out: Path, margin: float | None = None) -> None:
    """Compare all models of an experiment; write ``scores.parquet``, ``leaderboard.csv``, ``summary.json``.

    Args:
        score_files: the tables of every data set, model, fold and seed, written by ``medseg evaluate``.
        out: folder to write into.
        margin: largest difference of the mean score that does not matter; none: equivalence is not tested.

    Raises:
        DataError: if a table is missing, damaged, or contradicts itself or another one.
        ConfigError: if the margin is not above 0.
    """
    if margin is not None and not margin > 0:
        raise ConfigError(f"margin of equivalence {margin}: expected a number above 0")
    with writing(CompareFolder(out).summary, out):
        _compare(score_files, out, margin)


def _compare(score_files: Sequence[Path], out: Path, margin: float | None) -> None:
    from medseg.compare.block import blocks
    from medseg.compare.definitions import definitions
    from medseg.compare.leaderboard import columns, leaderboard_rows
    from medseg.compare.pairs import pair_rows
    from medseg.compare.rows import read_scores
    from medseg.compare.summary import summary_rows, tail
    from medseg.compare.winner import winner_rows

    scores = read_scores(score_files)
    found = blocks(scores)
    summary = [row for block in found for row in summary_rows(block)]
    ranking = leaderboard_rows(found, summary)
    pairs, secondary = pair_rows(found, ranking, margin)
    tails = [{"dataset": b.dataset, "split": b.split, "model": b.model, **tail(b)} for b in found]

    files = CompareFolder(out)
    write_with(files.scores, lambda path: scores.to_parquet(path, index=False))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(ranking)
    write_text(files.leaderboard, text.getvalue())
    write_json(
        files.summary,
        {
            "rows": summary,
            "pairs": pairs,
            "secondary": secondary,
            "winners": winner_rows(found, ranking),
            "tails": tails,
            "definitions": definitions(summary),
        },
    )
    say(f"compare: {len(ranking)} rows in the leaderboard, {len(pairs)} paired comparisons -> {out}")


def read_leaderboard(compare_dir: Path) -> list[dict[str, str]]:
    """Rows of ``leaderboard.csv`` as text, in its order.

    Raises:
        DataError: if it is missing or not as written by ``run``.
    """
    from medseg.compare.leaderboard import columns

    path = CompareFolder(compare_dir).leaderboard
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `medseg compare` first") from None
    if not rows or set(columns()) - set(rows[0]):
        raise DataError(f"{path}: not a leaderboard written by this version of `medseg compare`; run it again")
    return rows


def read_summary(compare_dir: Path) -> dict[str, Any]:
    """``summary.json`` of a comparison.

    Raises:
        DataError: if it is missing, damaged or of another version.
    """
    path = CompareFolder(compare_dir).summary
    value = read_json(path)
    needed = {"rows", "pairs", "secondary", "winners", "tails", "definitions"}
    if not isinstance(value, dict) or needed - set(value):
        raise DataError(f"{path}: not as written by this version of `medseg compare`; run it again")
    return value
