"""What is counted and summed of the matches of one class of one case, so that scores of summed quantities are exact."""

from __future__ import annotations

import numpy as np

from medseg.metrics.matching import Indices, Matching
from medseg.metrics.object_errors import merged_objects, split_objects
from medseg.metrics.quantities import HUNDREDTHS


def object_quantities(matching: Matching) -> dict[str, float]:
    """The quantities that objects have, by their names in ``QUANTITIES``."""
    panoptic = matching.at(0.5, strict=True)
    found: dict[str, float] = {"n_objects_ref": matching.n_reference, "n_objects_pred": matching.n_prediction}
    found |= {f"matched_{k}": len(matching.matched(k / 100)) for k in HUNDREDTHS}
    found |= {"pq_tp": panoptic.tp, "pq_iou": panoptic.iou_sum}
    found["aji_intersection"], found["aji_union"] = _best_overlaps(matching)
    found["aji_plus_intersection"], found["aji_plus_union"] = _closest_overlaps(matching)
    found["n_merged"] = int(merged_objects(matching).sum())
    found["n_split"] = int(split_objects(matching).sum())
    return {name: float(value) for name, value in found.items()}


def _best_overlaps(matching: Matching) -> tuple[int, int]:
    """Intersection and union of AJI; a predicted object may be the best one of several reference objects.

    Of equal IoU counts the object with the larger intersection, then the first one.
    """
    order = np.lexsort((matching.columns, -matching.intersections, -matching.iou, matching.rows))
    rows, first = np.unique(matching.rows[order], return_index=True)
    best = order[first]
    shared, unions = _sums(matching, best)
    unused = np.setdiff1d(np.arange(matching.n_prediction), matching.columns[best])
    alone = np.setdiff1d(np.arange(matching.n_reference), rows)
    unions += int(matching.prediction_sizes[unused].sum()) + int(matching.reference_sizes[alone].sum())
    return shared, unions


def _closest_overlaps(matching: Matching) -> tuple[int, int]:
    """Intersection and union of AJI+: of one-to-one matches with the largest sum of IoU, and all areas without one."""
    edges = matching.closest()
    shared = int(matching.intersections[edges].sum())
    return shared, int(matching.reference_sizes.sum() + matching.prediction_sizes.sum()) - shared


def _sums(matching: Matching, edges: Indices) -> tuple[int, int]:
    """Sum of the intersections and of the unions of pairs that overlap."""
    shared = matching.intersections[edges]
    sizes = matching.reference_sizes[matching.rows[edges]] + matching.prediction_sizes[matching.columns[edges]]
    return int(shared.sum()), int((sizes - shared).sum())
