"""The section with the metrics of a data set; a change of it repeats evaluate and what follows, nothing else."""

from __future__ import annotations

from pydantic import Field

from medseg.config.section import Positive, Section


class MetricsConfig(Section):
    """Which metrics of the table (docs/metrics.md) are computed."""

    names: list[str] | None = Field(
        default=None,
        description="metrics beside dice and iou, e.g. [hd95, nsd, assd_faces], and beside pq where labels number "
        "objects, e.g. [ap50, map, are]; none: hd, hd95, assd, masd, nsd where there is a tolerance, and of objects "
        "ap50, map, sq, rq, aji_plus, f1_50, count_error, merge_rate, split_rate",
    )
    tolerance: dict[str, Positive] = Field(
        default_factory=dict,
        description="class or region -> distance that does not matter, in the data's unit (mm, um, else pixels): NSD "
        "is computed for these, and there is no default",
    )
