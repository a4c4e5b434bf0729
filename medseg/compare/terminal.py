"""The leaderboard and its verdicts as text for the terminal, at most 100 columns wide."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.compare.quantity import SCORE, Quantity, quantity
from medseg.compare.run import read_leaderboard, read_summary
from medseg.compare.text import heading
from medseg.compare.tolerance import behind_mean, class_tolerances, common_tolerance
from medseg.compare.verdict import ABOUT_NETWORKS

NAME_WIDTH = 28
WIDTH = 100
# Metrics that the table has room for, beside the ranking score and what it rests on, by the family of that one; all
# others are in leaderboard.csv and in the report.
SHOWN = {"overlap": ("iou", "hd95", "nsd"), "objects": ("ap50", "map", "dice")}
# Verdicts shown per data set; the report has all of them.
PAIRS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Table:
    """A table of the terminal: its title, and a data set's rows of ``leaderboard.csv`` and ``summary.json``."""

    title: str
    rows: Sequence[Mapping[str, str]]
    summary: Sequence[Mapping[str, Any]]

    @property
    def beside(self) -> list[Quantity]:
        """The metrics that its columns are of, beside the ranked one."""
        shown = {name for name, _ in self.columns()}
        return [one for one in metrics_beside(self.rows) if self.heading(one) in shown]

    def heading(self, one: Quantity) -> str:
        """``mIoU``, ``HD95 (mm)``, ``NSD (2 mm)``."""
        title = one.title if one.column == one.name else one.mean_title
        unit = (
            next((r[f"{one.column}_unit"] for r in self.rows if r[f"{one.column}_unit"]), "1") if one.is_length else "1"
        )
        return heading(title, unit, tolerance=common_tolerance(class_tolerances(self.summary, one)))

    def columns(self) -> list[tuple[str, Any]]:
        """Heading and text of each column; what is the same for all, says nothing here, or has no room is left out."""
        out = self.left_out()
        return [column for column in _every_column(self) if column[0] not in out]

    def left_out(self) -> list[str]:
        """Headings of the columns that there is no room for, in their order."""
        columns, out = _every_column(self), []
        for dispensable in ["by case", *(self.heading(one) for one in reversed(metrics_beside(self.rows)[1:]))]:
            kept = [column for column in columns if column[0] not in out]
            if len(_lines(kept, self.rows)[0]) > WIDTH and any(name == dispensable for name, _ in kept):
                out.append(dispensable)
        return [name for name, _ in columns if name in out]


def terminal_leaderboard(compare_dir: Path) -> str:
    """A table per data set with its verdicts, and what the columns mean.

    Raises:
        DataError: if the comparison is missing or damaged.
    """
    rows, summary = read_leaderboard(compare_dir), read_summary(compare_dir)
    parts, tables = [], []
    for dataset, split in dict.fromkeys((row["dataset"], row["split"]) for row in rows):
        mine, means, pairs, winner = (
            [row for row in found if (row["dataset"], row["split"]) == (dataset, split)]
            for found in (rows, summary["rows"], summary["pairs"], [*summary["winners"], *summary["best"]])
        )
        tables.append(_Table(dataset if split == "val" else f"{dataset}, {split} set", mine, means))
        parts.append("\n".join([_text(tables[-1]), *_below(tables[-1], pairs, winner)]))
    return "\n\n".join([*parts, _notes(tables)])


def _text(table: _Table) -> str:
    """The table of one data set, its title above it."""
    lines = _lines(table.columns(), table.rows)
    rule = "─" * len(lines[0])
    return "\n".join([table.title, rule, lines[0], rule, *lines[1:], rule])


def _lines(columns: Sequence[tuple[str, Any]], rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Heading and rows, aligned."""
    cells = [[name for name, _ in columns], *([show(row) for _, show in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_pad(t, w, c) for c, (t, w) in enumerate(zip(line, widths, strict=True))) for line in cells]


def _every_column(table: _Table) -> list[tuple[str, Any]]:
    """Heading and text of the columns of a table that may be of any width."""
    rows = table.rows
    ranked = ranked_by(rows)
    columns: list[tuple[str, Any]] = [("rank", lambda r: r["rank"]), ("model", lambda r: _short(r["model"]))]
    lacking = any(int(r["n_lacking"]) for r in rows)
    if any(r[f"{SCORE}_subject"] != r[f"{ranked.column}_subject"] for r in rows):
        columns.append((SCORE, lambda r: _number(r[f"{SCORE}_subject"])))
    columns += [
        (ranked.title, lambda r: _number(r[f"{ranked.column}_subject"])),
        ("95 % interval", functools.partial(_interval, ranked)),
    ]
    if any(r[f"{ranked.column}_case"] != r[f"{ranked.column}_subject"] for r in rows):
        columns.append(("by case", lambda r: _number(r[f"{ranked.column}_case"])))
    columns += [(table.heading(one), _shower(one)) for one in metrics_beside(rows)]
    if lacking:
        columns.append(("left empty", lambda r: _number(r["left_empty"])))
    if any(int(r["n_failed"]) for r in rows):
        columns.append(("failed", lambda r: r["n_failed"]))
    columns.append(("cases", lambda r: r["n_cases"]))
    if any(r["n_subjects"] != r["n_cases"] for r in rows):
        columns.append(("subjects", lambda r: r["n_subjects"]))
    return columns


def ranked_by(rows: Sequence[Mapping[str, str]]) -> Quantity:
    """The metric that the models of a data set are ranked by, from its rows of the leaderboard."""
    return quantity(rows[0]["ranked_by"])


def metrics_beside(rows: Sequence[Mapping[str, str]]) -> list[Quantity]:
    """The metrics of ``SHOWN`` that were computed for these rows; the first one also where it is undefined."""
    known = [quantity(name) for name in SHOWN[ranked_by(rows).family]]
    return [one for k, one in enumerate(known) if k == 0 or any(r[f"{one.column}_subject"] for r in rows)]


def _shower(one: Quantity) -> Any:
    """The text of a metric's column: a function of a row."""
    digits = 1 if one.is_length else 3
    return lambda row: _number(row[f"{one.column}_subject"], digits)


def _below(table: _Table, pairs: Sequence[Mapping[str, Any]], winners: Sequence[Mapping[str, Any]]) -> list[str]:
    """Classes behind a mean of few, verdicts, the winner's luck, and subjects' means where there is no interval."""
    rows = table.rows
    lines = list(filter(None, (behind_mean(table.summary, one) for one in table.beside)))
    lines += [f"{_short(r['model'])}: subjects {r['points']} ({r['note']})" for r in rows if r["points"]]
    shown = pairs[:PAIRS_SHOWN]
    lines += ["; ".join([p["sentence"], *(n for n in p["notes"] if n != ABOUT_NETWORKS)]) for p in shown]
    lines += [ABOUT_NETWORKS] if any(ABOUT_NETWORKS in p["notes"] for p in shown) else []
    if len(pairs) > PAIRS_SHOWN:
        lines.append(f"{len(pairs) - PAIRS_SHOWN} more comparisons in summary.json and in the report")
    lines += [winner["sentence"] for winner in winners]
    return [wrapped for line in lines for wrapped in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]


def _notes(tables: Sequence[_Table]) -> str:
    """What the columns that are shown mean, and where those are that are not."""
    ranked = list(dict.fromkeys(ranked_by(table.rows) for table in tables))
    beside = list(dict.fromkeys(one for table in tables for one in table.beside if one not in ranked))
    named = ", ".join(one.title if one.column == one.name else one.mean_title for one in [*ranked, *beside])
    columns = ", ".join(f"{one.column}_subject" for one in [*ranked, *beside])
    titles = " or ".join(one.title for one in ranked)
    notes = [
        f"{named}: mean over classes of the mean of subject means ({columns}), where the reference shows the class; "
        f"95 % bootstrap-t interval over subjects, of {titles}."
    ]
    lower = [one.title for one in beside if not one.higher_is_better]
    if lower:
        notes.append(
            f"{', '.join(lower)}: lower is better; a case that was missed or failed counts the diagonal of its image."
        )
    shown = {name for table in tables for name, _ in table.columns()}
    if SCORE in shown:
        notes.append(
            f"score: what models are ranked by; like {titles}, but cases whose reference lacks the class count 1 "
            "if it was left empty, 0 if not."
        )
    if "left empty" in shown:
        notes.append("left empty: the share of the cases whose reference lacks the class in which it was left empty.")
    out = list(dict.fromkeys(name for table in tables for name in table.left_out()))
    no_room = f"No room here for {', '.join(out)}. " if out else ""
    notes.append(f"{no_room}What has no column here is in leaderboard.csv and in the report, medians among it.")
    return "\n".join(textwrap.fill(note, WIDTH) for note in notes)


def _interval(ranked: Quantity, row: Mapping[str, str]) -> str:
    low, high = (row[f"{ranked.column}_{end}"] for end in ("low", "high"))
    return f"[{_number(low)}, {_number(high)}]" if low else "none"


def _pad(text: str, width: int, column: int) -> str:
    """Model names to the left, everything else to the right."""
    return text.ljust(width) if column == 1 else text.rjust(width)


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


def _number(value: str, digits: int = 3) -> str:
    return f"{float(value):.{digits}f}" if value else "none"
