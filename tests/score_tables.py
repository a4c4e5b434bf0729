"""Score tables for tests, as evaluate writes them, from counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.evaluate.score import ABSENT, COLUMNS, MISSED, OK, SPURIOUS
from medseg.metrics.table import METRICS, QUANTITIES

# A case is {class: (tp, fp, fn)}.
Counts = Mapping[str, tuple[int, int, int]]


def score_rows(
    cases: Mapping[str, Counts],
    *,
    dataset: str = "cells",
    model: str = "unet",
    fold: int = 0,
    seed: int = 0,
    split: str = "val",
    subjects: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Score rows as evaluate writes them, from counts."""
    rows = []
    for case, classes in cases.items():
        for label, (tp, fp, fn) in classes.items():
            shown, found = tp + fn > 0, tp + fp > 0
            values = {
                "dice": 2 * tp / (2 * tp + fp + fn) if shown else math.nan,
                "iou": tp / (tp + fp + fn) if shown else math.nan,
                "tp": tp,
                "fp": fp,
                "fn": fn,
                "volume_ref": (tp + fn) * 0.5,
                "volume_pred": (tp + fp) * 0.5,
            }
            status = {(True, True): OK, (True, False): MISSED, (False, True): SPURIOUS, (False, False): ABSENT}
            for metric, value in values.items():
                rows.append(
                    {
                        "dataset": dataset,
                        "split": split,
                        "model": model,
                        "fold": fold,
                        "seed": seed,
                        "case": case,
                        "subject": (subjects or {}).get(case, case),
                        "label": label,
                        "metric": metric,
                        "definition": METRICS[metric].definition if metric in METRICS else QUANTITIES[metric],
                        "value": float(value),
                        "unit": "ml" if metric.startswith("volume") else "1",
                        "status": status[shown, found],
                        "n_ref": tp + fn,
                        "n_pred": tp + fp,
                        "spacing": "1 x 1 mm",
                        "prediction": "ab" * 32,
                    }
                )
    assert set(rows[0]) == set(COLUMNS)
    return rows


def counts_of(dice: float, voxels: int = 10_000) -> tuple[int, int, int]:
    """Counts of a reference of so many voxels whose Dice is this, to 1e-4."""
    tp = round(dice * voxels)
    return tp, voxels - tp, voxels - tp


def write_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path
