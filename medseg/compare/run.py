"""The compare stage, and the leaderboard as text for the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.errors import DataError
from medseg.files import write_json, write_text, write_with
from medseg.progress import say

NAME_WIDTH = 32


def run(score_files: Sequence[Path], out: Path) -> None:
    """Compare all models of an experiment; write ``scores.parquet``, ``leaderboard.csv``, ``summary.json``.

    Args:
        score_files: the tables of every data set, model, fold and seed, written by ``medseg evaluate``.
        out: folder to write into.

    Raises:
        DataError: if a table is missing, damaged, or contradicts itself or another one.
    """
    from medseg.compare.leaderboard import COLUMNS, DEFINITIONS, leaderboard_rows, pair_rows, summary_rows
    from medseg.compare.scores import blocks, read_scores

    scores = read_scores(score_files)
    found = blocks(scores)
    summary = [row for block in found for row in summary_rows(block)]
    ranking = leaderboard_rows(found, summary)
    pairs = pair_rows(found, ranking)

    write_with(out / "scores.parquet", lambda path: scores.to_parquet(path, index=False))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ranking)
    write_text(out / "leaderboard.csv", text.getvalue())
    write_json(out / "summary.json", {"rows": summary, "pairs": pairs, "definitions": DEFINITIONS})
    say(f"compare: {len(ranking)} rows in the leaderboard, {len(pairs)} paired comparisons -> {out}")


def read_leaderboard(compare_dir: Path) -> list[dict[str, str]]:
    """Rows of ``leaderboard.csv`` as text, in its order.

    Raises:
        DataError: if it is missing or not as written by ``run``.
    """
    path = compare_dir / "leaderboard.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run `medseg compare` first") from None
    needed = {
        "dataset",
        "rank",
        "model",
        "dice_mean",
        "dice_low",
        "dice_high",
        "miou_mean",
        "n_cases",
        "n_subjects",
    }
    if not rows or needed - set(rows[0]):
        raise DataError(f"{path}: not a leaderboard written by `medseg compare`; run it again")
    return rows


def terminal_leaderboard(compare_dir: Path) -> str:
    """The leaderboard as aligned plain text, a table per data set, at most 100 columns wide."""
    rows = read_leaderboard(compare_dir)
    tables = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset]
        tables.append(_table(dataset, mine))
    note = "Dice: mean over classes of the means over cases, with its 95 % bootstrap interval over subjects"
    return "\n\n".join([*tables, note])


def _table(dataset: str, rows: Sequence[Mapping[str, str]]) -> str:
    head = ("rank", "model", "Dice", "95 % interval", "mIoU", "n")
    body = [
        (
            row["rank"],
            _short(row["model"]),
            _three(row["dice_mean"]),
            f"[{_three(row['dice_low'])}, {_three(row['dice_high'])}]" if row["dice_low"] else "none",
            _three(row["miou_mean"]),
            row["n_cases"],
        )
        for row in rows
    ]
    widths = [max(len(line[c]) for line in [head, *body]) for c in range(len(head))]
    lines = [
        "  ".join(_pad(t, w, c) for c, (t, w) in enumerate(zip(line, widths, strict=True))) for line in [head, *body]
    ]
    rule = "─" * len(lines[0])
    return "\n".join([dataset, rule, lines[0], rule, *lines[1:], rule])


def _pad(text: str, width: int, column: int) -> str:
    """Model names to the left, everything else to the right."""
    return text.ljust(width) if column == 1 else text.rjust(width)


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


def _three(value: str) -> str:
    return f"{float(value):.3f}" if value else "undefined"
