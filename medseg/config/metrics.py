"""The section with the metrics of a data set; a change of it repeats evaluate and what follows, nothing else."""

from __future__ import annotations

from pydantic import Field

from medseg.config.section import Positive, Section


class MetricsConfig(Section):
    """Which metrics of the table (docs/metrics.md) are computed."""

    names: list[str] | None = Field(
        default=None,
        description="metrics beside dice and iou, e.g. [hd95, nsd, assd_faces]; none: hd, hd95, assd, masd, and nsd "
        "where there is a tolerance",
    )
    tolerance: dict[str, Positive] = Field(
        default_factory=dict,
        description="class or region -> distance that does not matter, in the data's unit (mm, um, else pixels): NSD "
        "is computed for these, and there is no default",
    )
