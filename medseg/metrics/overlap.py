"""Overlap of two masks: Dice and IoU from exact counts, as 64-bit floats, without a smoothing term."""

from __future__ import annotations

from collections.abc import Mapping

from medseg.metrics.counts import OverlapCounts, dice_of_counts
from medseg.metrics.pair import Pair


def dice(pair: Pair) -> float:
    """2 TP / (2 TP + FP + FN) (Dice 1945)."""
    return dice_of_counts(pair.counts)


def iou(pair: Pair) -> float:
    """TP / (TP + FP + FN) (Jaccard 1912)."""
    return iou_of_counts(pair.counts)


def iou_of_counts(counts: OverlapCounts) -> float:
    """TP / (TP + FP + FN) (Jaccard 1912); NaN if the class is absent from both maps."""
    union = counts.tp + counts.fp + counts.fn
    return counts.tp / union if union else float("nan")


def pooled_dice(sums: Mapping[str, float]) -> float:
    """Dice of counts summed over cases."""
    total = (sums["tp"] + sums["fn"]) + (sums["tp"] + sums["fp"])
    return 2 * sums["tp"] / total if total else float("nan")


def pooled_iou(sums: Mapping[str, float]) -> float:
    """IoU of counts summed over cases."""
    union = sums["tp"] + sums["fp"] + sums["fn"]
    return sums["tp"] / union if union else float("nan")
