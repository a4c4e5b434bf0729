"""Scores of matched objects: AP, PQ, F1, AJI, errors of the count; of one case, and of quantities summed over cases.

All functions of a pair are for a reference and a prediction that both have objects; what is returned where one has none
is said by the table. "AP" is what microscopy calls average precision (Caicedo 2019, Schmidt 2018): the share of matched
objects among all of both sides. COCO's AP, the area under a curve of ranked detections, is something else.
"""

from __future__ import annotations

from collections.abc import Mapping

from medseg.metrics.object_errors import merged_objects, split_objects
from medseg.metrics.pair import Pair
from medseg.metrics.quantities import HUNDREDTHS

# Up to where means of AP go: to 0.90 (StarDist's table), and to 0.95 (the Data Science Bowl).
_TO_90, _TO_95 = HUNDREDTHS[:-1], HUNDREDTHS
Sums = Mapping[str, float]


def ap50(pair: Pair) -> float:
    """TP / (TP + FP + FN) at an IoU of 0.5 and above (Caicedo 2019)."""
    return pooled_ap50(pair.object_quantities)


def pooled_ap50(sums: Sums) -> float:
    """AP at 0.5 of matches summed over cases."""
    return _ap(sums, 50)


def ap75(pair: Pair) -> float:
    """TP / (TP + FP + FN) at an IoU of 0.75 and above (Caicedo 2019)."""
    return pooled_ap75(pair.object_quantities)


def pooled_ap75(sums: Sums) -> float:
    """AP at 0.75 of matches summed over cases."""
    return _ap(sums, 75)


def mean_ap(pair: Pair) -> float:
    """Mean of AP at 0.5, 0.55, ..., 0.9 (Schmidt 2018)."""
    return pooled_mean_ap(pair.object_quantities)


def pooled_mean_ap(sums: Sums) -> float:
    """Mean AP to 0.9 of matches summed over cases."""
    return sum(_ap(sums, k) for k in _TO_90) / len(_TO_90)


def mean_ap95(pair: Pair) -> float:
    """Mean of AP at 0.5, 0.55, ..., 0.95 (Caicedo 2019)."""
    return pooled_mean_ap95(pair.object_quantities)


def pooled_mean_ap95(sums: Sums) -> float:
    """Mean AP to 0.95 of matches summed over cases."""
    return sum(_ap(sums, k) for k in _TO_95) / len(_TO_95)


def f1_50(pair: Pair) -> float:
    """2 TP / (2 TP + FP + FN) at an IoU of 0.5 and above."""
    return pooled_f1_50(pair.object_quantities)


def pooled_f1_50(sums: Sums) -> float:
    """F1 at 0.5 of matches summed over cases."""
    return _ratio(2 * sums["matched_50"], _total(sums))


def pq(pair: Pair) -> float:
    """Panoptic quality: sum of the matches' IoU / (TP + FP / 2 + FN / 2), IoU above 0.5 (Kirillov 2019)."""
    return pooled_pq(pair.object_quantities)


def pooled_pq(sums: Sums) -> float:
    """Panoptic quality of matches summed over cases."""
    return _ratio(2 * sums["pq_iou"], _total(sums))


def sq(pair: Pair) -> float:
    """Segmentation quality: mean IoU of the matches (Kirillov 2019); 0 without any."""
    return pooled_sq(pair.object_quantities)


def pooled_sq(sums: Sums) -> float:
    """Mean IoU of all cases' matches."""
    return _ratio(sums["pq_iou"], sums["pq_tp"]) if sums["pq_tp"] else 0.0


def rq(pair: Pair) -> float:
    """Recognition quality: TP / (TP + FP / 2 + FN / 2), IoU above 0.5 (Kirillov 2019)."""
    return pooled_rq(pair.object_quantities)


def pooled_rq(sums: Sums) -> float:
    """Recognition quality of matches summed over cases."""
    return _ratio(2 * sums["pq_tp"], _total(sums))


def aji(pair: Pair) -> float:
    """Aggregated Jaccard index: every reference object with the predicted one of the largest IoU (Kumar 2017)."""
    return pooled_aji(pair.object_quantities)


def pooled_aji(sums: Sums) -> float:
    """AJI of intersections and unions summed over cases."""
    return _ratio(sums["aji_intersection"], sums["aji_union"])


def aji_plus(pair: Pair) -> float:
    """Aggregated Jaccard index of one-to-one matches (Graham 2019)."""
    return pooled_aji_plus(pair.object_quantities)


def pooled_aji_plus(sums: Sums) -> float:
    """AJI+ of intersections and unions summed over cases."""
    return _ratio(sums["aji_plus_intersection"], sums["aji_plus_union"])


def count_error(pair: Pair) -> float:
    """|P - R| / max(P, R) of P predicted objects and R of the reference; 1 if there are none of either."""
    counts = pair.objects.n_reference, pair.objects.n_prediction
    return (max(counts) - min(counts)) / max(counts)


def merge_rate(pair: Pair) -> float:
    """Share of the reference objects that were merged with another one (see ``object_errors``)."""
    return float(merged_objects(pair.objects).mean())


def split_rate(pair: Pair) -> float:
    """Share of the reference objects that were split (see ``object_errors``)."""
    return float(split_objects(pair.objects).mean())


def _ap(sums: Sums, hundredths: int) -> float:
    tp = sums[f"matched_{hundredths}"]
    return _ratio(tp, _total(sums) - tp)


def _total(sums: Sums) -> float:
    """Objects of both sides: 2 TP + FP + FN at any threshold."""
    return sums["n_objects_ref"] + sums["n_objects_pred"]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
