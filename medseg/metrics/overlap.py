"""Overlap of two label maps: exact counts, and Dice and IoU from them.

The formulas are NaN if both masks are empty and 0 if exactly one is; whether a case counts for a mean is decided by
the reference alone (``medseg.evaluate.score``). No smoothing term. Counts are 64-bit integers, ratios 64-bit floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.labels import IGNORE


@dataclass(frozen=True, slots=True)
class OverlapCounts:
    """Voxel counts of one class or region: true positive, false positive, false negative."""

    tp: int
    fp: int
    fn: int

    @property
    def reference(self) -> int:
        """Voxels of the class in the reference."""
        return self.tp + self.fn

    @property
    def predicted(self) -> int:
        """Voxels of the class in the prediction."""
        return self.tp + self.fp


def overlap_counts(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    classes: int,
    members: Sequence[Sequence[int]] | None = None,
) -> list[OverlapCounts]:
    """Counts from two maps (S) of channel indices 0..classes-1; voxels that the reference leaves out are not counted.

    Args:
        reference: ``IGNORE`` where nobody annotated.
        prediction: on the same grid.
        classes: K, background included.
        members: the classes that make up each thing counted (a region); none: each foreground class for itself.

    Raises:
        ValueError: if shapes differ, a map is not integer, or a value lies outside the classes.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} differ in shape")
    if reference.dtype.kind in "iu" and (left_out := reference == IGNORE).any():
        reference, prediction = reference[~left_out], prediction[~left_out]
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{name} of type {labels.dtype}; expected integers")
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(f"{name} has values {labels.min()}..{labels.max()}; expected 0..{classes - 1}")
    pairs = reference.astype(np.int64).ravel() * classes + prediction.astype(np.int64).ravel()
    confusion = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    counts = []
    for inside in members if members is not None else [(k,) for k in range(1, classes)]:
        rows = list(inside)
        tp = int(confusion[np.ix_(rows, rows)].sum())
        fp, fn = int(confusion[:, rows].sum()) - tp, int(confusion[rows].sum()) - tp
        counts.append(OverlapCounts(tp, fp, fn))
    return counts


def dice(counts: OverlapCounts) -> float:
    """2 TP / (2 TP + FP + FN) (Dice 1945); NaN if the class is absent from both maps."""
    total = counts.reference + counts.predicted
    return 2 * counts.tp / total if total else float("nan")


def iou(counts: OverlapCounts) -> float:
    """TP / (TP + FP + FN) (Jaccard 1912); NaN if the class is absent from both maps."""
    union = counts.tp + counts.fp + counts.fn
    return counts.tp / union if union else float("nan")
