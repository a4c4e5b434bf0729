"""From blocks and their summary to the ranked table of models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medseg.compare.scores import MEAN, Block
from medseg.compare.summary import tail

# Column of the leaderboard -> metric of the summary's row for the mean over classes, and its field.
_FROM_SUMMARY = {
    "score_subject": ("score_subject", "mean"),
    "score_low": ("score_subject", "low"),
    "score_high": ("score_subject", "high"),
    "dice_subject": ("dice_subject", "mean"),
    "dice_low": ("dice_subject", "low"),
    "dice_high": ("dice_subject", "high"),
    "dice_case": ("dice_case", "mean"),
    "dice_pooled": ("dice_pooled", "mean"),
    "miou_subject": ("iou_subject", "mean"),
    "miou_low": ("iou_subject", "low"),
    "miou_high": ("iou_subject", "high"),
    "miou_case": ("iou_case", "mean"),
    "miou_pooled": ("iou_pooled", "mean"),
    "n_missed": ("dice_subject", "n_missed"),
    "n_failed": ("dice_subject", "n_failed"),
    "n_lacking": ("dice_subject", "n_lacking"),
    "left_empty": ("dice_subject", "left_empty"),
    "false_volume": ("dice_subject", "false_volume"),
    "volume_unit": ("dice_subject", "volume_unit"),
}
COLUMNS = (
    "dataset",
    "split",
    "rank",
    "model",
    *_FROM_SUMMARY,
    "worst_tenth",
    "trimmed",
    "n_cases",
    "n_subjects",
    "folds",
    "seeds",
    "points",
    "note",
)


def leaderboard_rows(blocks: Sequence[Block], summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of ``leaderboard.csv``: per data set and split, models by falling ``score_subject``, undefined ones last."""
    found = {
        (r["dataset"], r["split"], r["model"], r["metric"]): r for r in summary if r["label"] == MEAN
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for block in blocks:
        mine = {m: found[block.dataset, block.split, block.model, m] for m, _ in _FROM_SUMMARY.values()}
        ends = tail(block)
        row = {
            "dataset": block.dataset,
            "split": block.split,
            "rank": 0,
            "model": block.model,
            **{column: mine[metric][field] for column, (metric, field) in _FROM_SUMMARY.items()},
            "worst_tenth": ends["worst_tenth"],
            "trimmed": ends["trimmed"],
            "n_cases": len(block.cases),
            "n_subjects": len(set(block.subjects)),
            "folds": " ".join(map(str, block.folds)),
            "seeds": " ".join(map(str, block.seeds)),
            "points": " ".join(f"{v:.4f}" for v in mine["dice_subject"]["points"]),
            "note": mine["dice_subject"]["note"],
        }
        rows.append({column: row[column] for column in COLUMNS})
    rows.sort(key=lambda r: (r["dataset"], r["split"], -_or_worst(r["score_subject"]), r["model"]))
    for row in rows:
        rivals = [r for r in rows if (r["dataset"], r["split"]) == (row["dataset"], row["split"])]
        row["rank"] = 1 + sum(_or_worst(r["score_subject"]) > _or_worst(row["score_subject"]) for r in rivals)
    return rows


def _or_worst(value: float | None) -> float:
    return -math.inf if value is None else value
