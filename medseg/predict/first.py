"""Which predictions to look at first: those of the lowest estimated Dice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.files import write_text
from medseg.predict.batch import Batch
from medseg.predict.quality import Estimate, Quality
from medseg.text import csv_table

TABLE = "quality.csv"
# Lines on a terminal.
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Row:
    """The estimate of one prediction.

    Attributes:
        image: first file of the image.
        labels: its label map.
        estimate: None: the prediction shows no class.
    """

    image: Path
    labels: Path
    estimate: Estimate | None


def rows_of(batch: Batch, quality: Quality) -> list[Row]:
    """The predictions of a batch, those to look at first in front; without an estimate, before all others."""
    rows = [
        Row(one.files[0], one.labels(batch.out), quality.estimate(batch.expected[one]))
        for one in batch.inputs
        if one in batch.expected and one not in batch.failed
    ]
    return sorted(rows, key=lambda row: -1.0 if row.estimate is None else row.estimate.dice)


def write_rows(out: Path, rows: Sequence[Row], quality: Quality) -> Path:
    """Write the estimates as a table, in their order; returns its path."""
    names = list(quality.lines)
    header = ["image", "prediction", "dice", "low", "high", *(f"dice_{name}" for name in names)]
    cells = []
    for row in rows:
        found = row.estimate
        numbers: list[float | None] = [None] * (3 + len(names))
        if found is not None:
            numbers = [found.dice, found.low, found.high, *(found.classes.get(name) for name in names)]
        shown = (None if number is None else f"{number:.4f}" for number in numbers)
        cells.append([str(row.image), str(row.labels), *shown])
    write_text(out / TABLE, csv_table(header, cells))
    return out / TABLE


def lines_of(rows: Sequence[Row], quality: Quality) -> list[str]:
    """What a terminal shows: how good the estimate is, then the first rows."""
    held = (
        ""
        if quality.coverage is None
        else f", {quality.coverage:.0%} of the cases within the {quality.level:.0%} interval"
    )
    about = f"mean error {quality.mae:.3f} on {quality.subjects} validation subjects{held}"
    doubt = "" if quality.tells else ": no better on validation, where cases were alike"
    plain = f"the mean for every case {quality.mae_of_mean:.3f}{doubt}"
    lines = [f"estimated Dice, look at the first ones first ({about}; {plain}):"]
    for row in rows[:SHOWN]:
        lines.append(f"  {_shown(row.estimate)}  {row.image}")
    if len(rows) > SHOWN:
        lines.append(f"  and {len(rows) - SHOWN} more in {TABLE}")
    return lines


def _shown(found: Estimate | None) -> str:
    if found is None:
        return "nothing found"
    ends = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.dice:.2f}{ends}"
