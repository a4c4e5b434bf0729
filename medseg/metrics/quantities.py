"""The table of what is counted and measured beside the metrics; free of numpy."""

from __future__ import annotations

from medseg.metrics.row import Count

# Thresholds of the IoU in hundredths, at which matched objects are counted.
HUNDREDTHS = tuple(range(50, 100, 5))

QUANTITIES: dict[str, Count] = {
    "tp": Count("count/voxels-v1", "voxel"),
    "fp": Count("count/voxels-v1", "voxel"),
    "fn": Count("count/voxels-v1", "voxel", failed="missed"),
    "volume_ref": Count("volume/voxels-v1", "volume", failed="same"),
    "volume_pred": Count("volume/voxels-v1", "volume"),
    "n_objects_ref": Count("count/objects-v1", "object", ("objects",), "same"),
    "n_objects_pred": Count("count/objects-v1", "object", ("objects",)),
    **{f"matched_{k}": Count(f"matched/one-to-one/iou-at-least-0.{k}-v1", "object", ("objects",)) for k in HUNDREDTHS},
    "pq_tp": Count("matched/iou-above-0.50-v1", "object", ("objects",)),
    "pq_iou": Count("iou-sum/iou-above-0.50-v1", "1", ("objects",)),
    "aji_intersection": Count("aji-intersection/best-iou-v1", "voxel", ("objects",)),
    "aji_union": Count("aji-union/best-iou-v1", "voxel", ("objects",), "missed"),
    "aji_plus_intersection": Count("aji-plus-intersection/one-to-one-v1", "voxel", ("objects",)),
    "aji_plus_union": Count("aji-plus-union/one-to-one-v1", "voxel", ("objects",), "missed"),
    "n_merged": Count("merged/more-than-half-v1", "object", ("objects",)),
    "n_split": Count("split/more-than-half-v1", "object", ("objects",)),
}
