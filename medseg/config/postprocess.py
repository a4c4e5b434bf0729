"""The section of operations on predictions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medseg import limits
from medseg.bounds import LARGEST, shortened
from medseg.config.section import Positive, Section

# What `choose` may name, and what it tries if it is `true`: operations on label maps, whose price is small.
Choosable = Literal["crf", "threshold", "fill_holes", "largest_component", "min_volume"]
USUAL: tuple[Choosable, ...] = ("largest_component", "min_volume")
Share = Annotated[float, Field(gt=0, lt=1)]


class CrfConfig(Section):
    """Fully connected conditional random field (Kraehenbuehl & Koltun 2011): moves borders to the image's."""

    iterations: int = Field(default=5, ge=1, le=limits.MAX_ITERATIONS, description="iterations of mean field")
    position_weight: float = Field(
        default=1.0, ge=0, le=LARGEST, description="weight of neighbourhood alone; 0: without"
    )
    position_sigma: Positive = Field(
        default=1.0, description="how far it reaches: standard deviation in the data's unit (mm, um, else pixels)"
    )
    appearance_weight: float = Field(
        default=1.0, ge=0, le=LARGEST, description="weight of neighbours that look alike; 0: without"
    )
    appearance_sigma: Positive = Field(
        default=10.0, description="how far it reaches: standard deviation in the data's unit (mm, um, else pixels)"
    )
    intensity_sigma: Positive = Field(
        default=0.05,
        description="how alike: standard deviation of intensities, as a share of the range from each channel's 1st to "
        "its 99.8th percentile in the image",
    )


class PostprocessConfig(Section):
    """Operations on predictions, in this order: fixed ones, and what is chosen on inner data besides (`choose`)."""

    crf: CrfConfig | None = Field(
        default=None,
        description="refine probabilities by the image (docs/postprocess.md); {}: with the defaults; none: do not",
    )
    threshold: dict[str, Share] = Field(
        default_factory=dict,
        description="region, or the only class -> the probability above which a voxel is in it, in place of 1/2",
    )
    fill_holes: bool = Field(default=False, description="fill background holes enclosed by a class")
    largest_foreground: bool = Field(
        default=False, description="keep only the largest connected component of all that is not background"
    )
    largest_component: list[str] = Field(
        default_factory=list,
        description="names of classes (or regions) of which only the largest connected component is kept",
    )
    min_size: int = Field(
        default=0,
        ge=0,
        le=limits.MAX_VOXELS,
        description="remove connected components (of object data: objects) with fewer voxels than this",
    )
    min_volume: dict[str, Positive] = Field(
        default_factory=dict,
        description="class or region -> remove its connected components that are smaller than this, in the data's unit "
        "(mm3, um2, else pixels)",
    )
    objects: dict[str, Any] = Field(
        default_factory=dict,
        description="of object data, what is kept: a column of the table of measurements (docs/objects.md) -> lowest "
        "and highest value, e.g. {solidity: [0.8, null], touches_border: false}",
    )

    choose: list[Choosable] = Field(
        default_factory=list,
        description="operations that are tried on inner data and adopted where they help and harm no class; true: "
        f"{', '.join(USUAL)} (docs/postprocess.md)",
    )

    @field_validator("choose", mode="before", json_schema_input_type=bool | list[Choosable])
    @classmethod
    def _choose_in_short(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return list(USUAL) if value else []
        return list(dict.fromkeys(value)) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one_way_to_labels(self) -> PostprocessConfig:
        if self.crf is not None and self.threshold:
            raise ValueError("crf and threshold: both turn probabilities into labels; take one of them out")
        return self

    @field_validator("objects")
    @classmethod
    def _rules_are_ranges(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, rule in value.items():
            numbers = rule if isinstance(rule, list) and len(rule) == 2 else None
            ends = [n for n in numbers or () if n is not None]
            real = all(isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= LARGEST for n in ends)
            if not isinstance(rule, bool) and (numbers is None or not real or ends != sorted(ends)):
                raise ValueError(
                    f"{name}: {shortened(rule)}; expected [lowest, highest], null for any, as in [0.8, null], or true "
                    "or false"
                )
        return value

    @property
    def applies(self) -> bool:
        """Whether any operation is asked for, or may be chosen."""
        return any(self.model_dump().values())

    @property
    def may_refine(self) -> bool:
        """Whether the conditional random field is asked for, or may be chosen."""
        return self.crf is not None or "crf" in self.choose

    def with_steps(self, **changes: Any) -> PostprocessConfig:
        """These operations and others, nothing left to choose."""
        return PostprocessConfig(**{**self.model_dump(), **changes, "choose": []})
