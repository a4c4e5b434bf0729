"""The section ``predict``."""

from __future__ import annotations

from pydantic import Field

from medseg.config.section import Section


class PredictConfig(Section):
    """How validation cases are predicted; a change repeats no training."""

    mirror: bool | None = Field(
        default=None,
        description="average over all mirror images, 4 in 2-D and 8 in 3-D; none: where the training mirrored",
    )
    references: bool = Field(
        default=True,
        description="DICOM segmentations refer to their series by its UIDs, an identity, which viewers need",
    )
