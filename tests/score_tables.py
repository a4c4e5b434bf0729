"""Score tables for tests, as evaluate writes them of classes without numbered objects, from counts.

Dice and IoU follow from the counts. Every other metric of the table gets a made-up value that Dice decides: Dice itself
or, of distances, ``LONGEST`` times what is missing of it; the worst value where the prediction lacks the class.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.evaluate.score import ABSENT, COLUMNS, MISSED, OK, SPURIOUS
from medseg.evaluate.table import write_table
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.row import TOLERANCE_MARK, Metric
from medseg.metrics.table import METRICS

# A case is {class: (tp, fp, fn)}.
Counts = Mapping[str, tuple[int, int, int]]
# Of distances, in mm, where nothing overlaps; and the diagonal of every image.
LONGEST, DIAGONAL = 20.0, 50.0
# Rows that the table of metrics may not have: a distance, and one that needs a tolerance.
GAP = Metric(
    title="Gap",
    definition="gap/made-up-v1",
    formula="a made-up distance",
    paper="nobody",
    function="nowhere:gap",
    family="surface",
    needs=("labels", "spacing"),
    unit="length",
    better="lower",
    high=math.inf,
    worst="diagonal",
)
NEAR = replace(GAP, title="Near", definition="near/made-up-v1", needs=("labels", "spacing", "tolerance"), unit="1")
NEAR = replace(NEAR, better="higher", high=1.0, worst=0.0)


def score_rows(
    cases: Mapping[str, Counts],
    *,
    dataset: str = "cells",
    model: str = "unet",
    fold: int = 0,
    seed: int = 0,
    split: str = "val",
    subjects: Mapping[str, str] | None = None,
    tolerances: Mapping[str, str] | None = None,
    fingerprint: str = "f" * 64,
) -> list[dict[str, Any]]:
    """Score rows as evaluate writes them, from counts; metrics with a tolerance for the classes that have one."""
    rows = []
    for case, classes in cases.items():
        for label, (tp, fp, fn) in classes.items():
            shown, found = tp + fn > 0, tp + fp > 0
            status = {(True, True): OK, (True, False): MISSED, (False, True): SPURIOUS, (False, False): ABSENT}
            about = {"dataset": dataset, "split": split, "model": model, "fold": fold, "seed": seed, "case": case}
            about |= {"subject": (subjects or {}).get(case, case), "label": label}
            seen = {"status": status[shown, found], "n_ref": tp + fn, "n_pred": tp + fp, "spacing": "1 x 1 mm"}
            seen |= {"diagonal": DIAGONAL, "prediction": "ab" * 32, "fingerprint": fingerprint}
            for metric, definition, value, unit in _values((tp, fp, fn), (tolerances or {}).get(label, "")):
                row = {**about, "metric": metric, "definition": definition, "value": value, "unit": unit, **seen}
                rows.append({column: row[column] for column in COLUMNS})
    return rows


def _values(counts: tuple[int, int, int], tolerance: str) -> Iterable[tuple[str, str, float, str]]:
    """Metric, definition, value and unit of every row of one class of one case."""
    tp, fp, fn = counts
    dice = 2 * tp / (2 * tp + fp + fn) if tp + fn else math.nan
    for name, metric in METRICS.items():
        definition = metric.definition
        if "objects" in metric.needs:
            continue
        if "tolerance" in metric.needs:
            if not tolerance:
                continue
            definition += f"{TOLERANCE_MARK}{tolerance}"
        value = dice if metric.unit == "1" else LONGEST * (1 - dice)
        if name == "iou":
            value = tp / (tp + fp + fn) if tp + fn else math.nan
        elif tp + fn and not tp + fp:
            value = metric.worst_of(DIAGONAL, tp + fn)
        yield name, definition, float(value), metric.unit_of("mm")
    quantities = {"tp": (tp, "voxel"), "fp": (fp, "voxel"), "fn": (fn, "voxel")}
    quantities |= {"volume_ref": ((tp + fn) * 0.5, "ml"), "volume_pred": ((tp + fp) * 0.5, "ml")}
    for name, (value, unit) in quantities.items():
        yield name, QUANTITIES[name].definition, float(value), unit


def counts_of(dice: float, voxels: int = 10_000) -> tuple[int, int, int]:
    """Counts of a reference of so many voxels whose Dice is this, to 1e-4."""
    tp = round(dice * voxels)
    return tp, voxels - tp, voxels - tp


def write_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    write_table(path, pd.DataFrame(rows))
    return path
