"""The leaderboard and its verdicts as text for the terminal, at most 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.compare.run import read_leaderboard, read_summary
from medseg.compare.verdict import ABOUT_NETWORKS

NAME_WIDTH = 28
WIDTH = 100
# Verdicts shown per data set; the report has all of them.
PAIRS_SHOWN = 10


def terminal_leaderboard(compare_dir: Path) -> str:
    """A table per data set with its verdicts, and what the columns mean.

    Raises:
        DataError: if the comparison is missing or damaged.
    """
    rows, summary = read_leaderboard(compare_dir), read_summary(compare_dir)
    parts = []
    for dataset, split in dict.fromkeys((row["dataset"], row["split"]) for row in rows):
        mine = [row for row in rows if (row["dataset"], row["split"]) == (dataset, split)]
        title = dataset if split == "val" else f"{dataset}, {split} set"
        pairs = [p for p in summary["pairs"] if (p["dataset"], p["split"]) == (dataset, split)]
        winner = [w for w in summary["winners"] if (w["dataset"], w["split"]) == (dataset, split)]
        parts.append("\n".join([_table(title, mine), *_below(mine, pairs, winner)]))
    return "\n\n".join([*parts, *_notes(rows)])


def _table(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    columns = _columns(rows)
    body = [[show(row) for _, show in columns] for row in rows]
    head = [name for name, _ in columns]
    widths = [max(len(line[c]) for line in [head, *body]) for c in range(len(head))]
    lines = [
        "  ".join(_pad(t, w, c) for c, (t, w) in enumerate(zip(line, widths, strict=True))) for line in [head, *body]
    ]
    rule = "─" * len(lines[0])
    return "\n".join([title, rule, lines[0], rule, *lines[1:], rule])


def _columns(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, Any]]:
    """Heading and text of each column; what is the same for all, or says nothing here, is left out."""
    columns: list[tuple[str, Any]] = [("rank", lambda r: r["rank"]), ("model", lambda r: _short(r["model"]))]
    lacking = any(int(r["n_lacking"]) for r in rows)
    if any(r["score_subject"] != r["dice_subject"] for r in rows):
        columns.append(("score", lambda r: _three(r["score_subject"])))
    columns += [("Dice", lambda r: _three(r["dice_subject"])), ("95 % interval", _interval)]
    if any(r["dice_case"] != r["dice_subject"] for r in rows):
        columns.append(("by case", lambda r: _three(r["dice_case"])))
    columns.append(("mIoU", lambda r: _three(r["miou_subject"])))
    if lacking:
        columns.append(("left empty", lambda r: _three(r["left_empty"])))
    if any(int(r["n_failed"]) for r in rows):
        columns.append(("failed", lambda r: r["n_failed"]))
    columns.append(("cases", lambda r: r["n_cases"]))
    if any(r["n_subjects"] != r["n_cases"] for r in rows):
        columns.append(("subjects", lambda r: r["n_subjects"]))
    return columns


def _below(
    rows: Sequence[Mapping[str, str]], pairs: Sequence[Mapping[str, Any]], winners: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Verdicts, the winner's luck, and subjects' own means where there is no interval."""
    lines = [f"{_short(r['model'])}: subjects {r['points']} ({r['note']})" for r in rows if r["points"]]
    shown = pairs[:PAIRS_SHOWN]
    lines += ["; ".join([p["sentence"], *(n for n in p["notes"] if n != ABOUT_NETWORKS)]) for p in shown]
    lines += [ABOUT_NETWORKS] if any(ABOUT_NETWORKS in p["notes"] for p in shown) else []
    if len(pairs) > PAIRS_SHOWN:
        lines.append(f"{len(pairs) - PAIRS_SHOWN} more comparisons in summary.json and in the report")
    lines += [winner["sentence"] for winner in winners]
    return [wrapped for line in lines for wrapped in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]


def _notes(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """What the columns mean."""
    notes = ["Dice, mIoU: mean over classes of the mean of subject means (dice_subject, miou_subject), where the "]
    notes[0] += "reference shows the class; 95 % bootstrap-t interval over subjects."
    if any(int(r["n_lacking"]) for r in rows):
        notes.append(
            "score: what models are ranked by; like Dice, but cases whose reference lacks the class count 1 if it was "
            "left empty, 0 if not. left empty: the share of those cases."
        )
    return ["\n".join(textwrap.fill(note, WIDTH) for note in notes)]


def _interval(row: Mapping[str, str]) -> str:
    return f"[{_three(row['dice_low'])}, {_three(row['dice_high'])}]" if row["dice_low"] else "none"


def _pad(text: str, width: int, column: int) -> str:
    """Model names to the left, everything else to the right."""
    return text.ljust(width) if column == 1 else text.rjust(width)


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


def _three(value: str) -> str:
    return f"{float(value):.3f}" if value else "none"
