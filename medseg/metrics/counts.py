"""Counts of true positive, false positive and false negative voxels, and Dice from them.

A module of its own, since training's validation curves need it and no other metric: a change of those retrains nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.labels import IGNORE

# Voxels that are counted at once: they stay in the processor's cache, and most such blocks hold background alone.
_VOXELS = 1 << 16


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
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"{name} of type {labels.dtype}; expected integers")
    confusion = np.zeros(classes * classes, dtype=np.int64)
    for true, said in _annotated(reference, prediction):
        for name, labels in (("reference", true), ("prediction", said)):
            if labels.size and (labels.min() < 0 or labels.max() >= classes):
                raise ValueError(f"{name} has values {labels.min()}..{labels.max()}; expected 0..{classes - 1}")
        if not true.any() and not said.any():
            confusion[0] += true.size
        else:
            pairs = true.astype(np.int64) * classes + said
            confusion += np.bincount(pairs, minlength=classes * classes)
    table = confusion.reshape(classes, classes)
    counts = []
    for inside in members if members is not None else [(k,) for k in range(1, classes)]:
        rows = list(inside)
        tp = int(table[np.ix_(rows, rows)].sum())
        fp, fn = int(table[:, rows].sum()) - tp, int(table[rows].sum()) - tp
        counts.append(OverlapCounts(tp, fp, fn))
    return counts


def _annotated(reference: NDArray[Any], prediction: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """The annotated voxels of both maps, in blocks."""
    flat, other = reference.reshape(-1), prediction.reshape(-1)
    for start in range(0, flat.size, _VOXELS):
        block = slice(start, start + _VOXELS)
        true, said = flat[block], other[block]
        left_out = true == IGNORE
        if left_out.any():
            true, said = true[~left_out], said[~left_out]
        yield true, said


def dice_of_counts(counts: OverlapCounts) -> float:
    """2 TP / (2 TP + FP + FN) (Dice 1945), no smoothing term; NaN if the class is absent from both maps."""
    total = counts.reference + counts.predicted
    return 2 * counts.tp / total if total else float("nan")
