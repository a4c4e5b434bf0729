"""The section of a model: network, loss, optimisation, augmentation, and fixed values of the plan."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from medseg import limits
from medseg.bounds import LARGEST
from medseg.config.explain import explain_option
from medseg.config.section import Name, Number, Rate, Section, Spacing, Steps
from medseg.heads import HEADS
from medseg.losses.table import LOSSES
from medseg.networks import NETWORKS, options_of
from medseg.recipes import LEARNING_RATES, NNUNET_FROM, RECIPES, Recipe, recipe_for

if TYPE_CHECKING:
    Network = str
    Loss = str
    HeadName = str
else:
    Network, Loss, HeadName = Literal[tuple(NETWORKS)], Literal[tuple(LOSSES)], Literal[tuple(HEADS)]
Stride = Annotated[int, Field(ge=1, le=limits.MAX_STRIDE)]
Normalization = Literal["zscore", "zscore_nonzero", "ct", "percentile", "rescale", "rgb", "none"]


class PlanOverrides(Section):
    """Values of the plan that the user fixes; all others are planned from the data and the budgets."""

    resolution: Literal["full", "low"] = Field(
        default="full", description="low: the coarser grid that nnU-Net plans for volumes far larger than a patch"
    )
    spacing: list[Spacing] | None = Field(
        default=None,
        description="target spacing per axis, in the data's unit; a 2-D model on volumes: per axis of a slice",
    )
    normalization: Normalization | None = Field(default=None, description="intensity scaling of every channel")
    patch: list[Annotated[int, Field(ge=1, le=limits.MAX_PATCH_AXIS)]] | None = Field(
        default=None, description="training patch, voxels per axis"
    )
    batch: int | None = Field(default=None, ge=1, le=limits.MAX_BATCH, description="patches per step")
    widths: list[Annotated[int, Field(ge=1, le=limits.MAX_WIDTH)]] | None = Field(
        default=None,
        max_length=limits.MAX_STAGES,
        description=f"feature channels per resolution stage, at least {limits.MIN_WIDTH}",
    )
    strides: list[list[Stride]] | None = Field(
        default=None, max_length=limits.MAX_STAGES, description="stride of each stage, per axis"
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = Field(
        default=None, description="arithmetic of the network"
    )
    channels_last: bool | None = Field(
        default=None, description="memory layout of images: channels innermost (what convolutions mostly prefer) or not"
    )
    steps: Steps | None = Field(default=None, description="training steps")

    @field_validator("patch")
    @classmethod
    def _patch_fits_somewhere(cls, value: list[int] | None) -> list[int] | None:
        if value and math.prod(value) > limits.MAX_PATCH_VOXELS:
            raise ValueError(f"{math.prod(value):,} voxels; expected at most {limits.MAX_PATCH_VOXELS:,} in all")
        return value

    @field_validator("widths")
    @classmethod
    def _widths_run_everywhere(cls, value: list[int] | None) -> list[int] | None:
        if value and min(value) < limits.MIN_WIDTH:
            raise ValueError(
                f"below {limits.MIN_WIDTH} channels, strided 1x1 convolutions of oneDNN can crash; "
                f"write {limits.MIN_WIDTH} or more"
            )
        return value


# Row of the augmentation recipes (medseg/augment/tables.py) -> the widest range that is accepted; None: it has none.
AUGMENTATION: dict[str, tuple[float, float] | None] = {
    "rotation": (-180, 180),
    "scaling": (0.1, 10),
    "elastic": (0, 0.4),
    "bias_field": (-2, 2),
    "stain": (-1, 1),
    "colour": (-1, 1),
    "noise": (0, 10),
    "blur": (0, 20),
    "brightness": (0, 10),
    "contrast": (0, 10),
    "low_resolution": (0.05, 1),
    "gamma_inverted": (0.1, 10),
    "gamma": (0.1, 10),
    "mirror": None,
    "quarter_turn": None,
}


class ChangeConfig(Section):
    """Changes of one row of an augmentation recipe; what is left out stays as in the recipe."""

    probability: float | None = Field(default=None, ge=0, le=1, description="share of the samples that are changed")
    range: list[Number] | None = Field(
        default=None, min_length=2, max_length=2, description="lowest and highest value (medseg/augment/steps.py)"
    )


class ModelConfig(Section):
    """One model of the study; everything that is left out is planned."""

    network: Network = Field(description="architecture, a row of NETWORKS in medseg/networks.py (docs/models.md)")
    options: dict[str, Any] = Field(default_factory=dict, description="options of that row; none: their defaults")
    head: HeadName | None = Field(
        default=None,
        description="on object data (`instances`): what the network learns to tell objects apart by, a row of HEADS in "
        "medseg/heads.py, or classes: the foreground alone (docs/objects.md); none: boundary; without effect on others",
    )
    dims: Literal[2, 3] | None = Field(default=None, description="spatial dimensions; none: those of the data")
    datasets: list[Name] | None = Field(default=None, min_length=1, description="data sets to train it on; none: all")
    start: str | None = Field(
        default=None,
        description="whose weights training starts from, where they fit: a model of this configuration, the folder of "
        "a trained one, or an MLflow run (its id, runs:/… or models:/…)",
    )
    freeze: list[str] = Field(
        default_factory=list,
        description="parts of the network that are not trained, by the beginning of their tensors' names; for `start`",
    )
    allow: list[Literal["start-overlap", "start-unrecorded"]] = Field(
        default_factory=list,
        description="what may be wrong with `start`: start-overlap, its weights have seen subjects of the "
        "validation or test cases; start-unrecorded, nobody wrote down whom they have seen (docs/training.md)",
    )
    recipe: Literal["auto", "short", "nnunet"] = Field(
        default="auto",
        description="what everything below is where it is not said (medseg/recipes.py); "
        f"auto: nnunet from {NNUNET_FROM:,} steps on, else short",
    )
    loss: Loss = Field(default="dice_ce", description="training loss (docs/losses.md)")
    optimizer: Literal["adamw", "sgd"] | None = Field(default=None, description="optimiser; none: the recipe's")
    lr: Rate | None = Field(default=None, description="peak learning rate; none: 2e-3 for adamw, 1e-2 for sgd")
    schedule: Literal["poly", "cosine", "constant"] | None = Field(
        default=None, description="how the learning rate falls (medseg/train/schedule.py); none: the recipe's"
    )
    warmup: float | None = Field(
        default=None, ge=0, lt=1, description="share of the steps, 100 at most, in which it rises; none: the recipe's"
    )
    weight_decay: float | None = Field(
        default=None, ge=0, le=limits.MAX_RATE, description="weight decay; none: the recipe's"
    )
    clip: float | None = Field(default=12.0, gt=0, le=LARGEST, description="largest norm of the gradient; none: any")
    average: float | None = Field(
        default=None, gt=0, lt=1, description="keep the exponential mean of the weights, e.g. 0.999; none: the last"
    )
    compile: bool = Field(default=False, description="let torch.compile translate the network first")
    augment: Literal["default", "nnunet", "microscopy", "none"] | None = Field(
        default=None, description="augmentation recipe (medseg/augment/tables.py); none: the recipe's"
    )
    augmentation: dict[str, ChangeConfig] = Field(
        default_factory=dict, description="changes of the recipes nnunet and microscopy, e.g. {blur: {probability: 0}}"
    )
    foreground: float = Field(
        default=0.33, ge=0, le=1, description="share of the patches of a batch that are centred on foreground"
    )
    plan: PlanOverrides = Field(default_factory=PlanOverrides)

    @model_validator(mode="after")
    def _augmentation_fits_the_recipe(self) -> ModelConfig:
        augment = self.training.augment
        if self.augmentation and augment in ("default", "none"):
            reached = ", and recipe: auto may mean it" if self.augment is None and self.recipe == "auto" else ""
            raise ValueError(
                f"augmentation: the recipe {augment} is fixed{reached}; write augment: nnunet or microscopy"
            )
        for name, row in self.augmentation.items():
            if name not in AUGMENTATION:
                near = difflib.get_close_matches(name, AUGMENTATION, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(AUGMENTATION)}"
                raise ValueError(f"augmentation: the recipes have no row '{name}', {hint}")
            widest = AUGMENTATION[name]
            if row.range is not None and (widest is None or not widest[0] <= row.range[0] <= row.range[1] <= widest[1]):
                wanted = f"two numbers, rising, within {list(widest)}" if widest else "no range: it has none"
                raise ValueError(f"augmentation.{name}.range: {row.range}, expected {wanted}")
        return self

    @field_validator("head")
    @classmethod
    def _network_has_head(cls, value: str | None, info: ValidationInfo) -> str | None:
        network = info.data.get("network")
        if network is not None and value is not None and value not in NETWORKS[network].heads:
            raise ValueError(f"'{value}': network '{network}' has {', '.join(NETWORKS[network].heads)}")
        return value

    @field_validator("options")
    @classmethod
    def _options_exist(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "network" in info.data:
            network = info.data["network"]
            try:
                options_of(network, value)
            except ValidationError as error:
                raise ValueError("; ".join(explain_option(network, detail) for detail in error.errors())) from None
        return value

    def settled(self, steps: int) -> ModelConfig:
        """The section with the recipe that ``auto`` means for this number of steps; itself if it names a recipe."""
        return self.model_copy(update={"recipe": recipe_for(steps)}) if self.recipe == "auto" else self

    @property
    def training(self) -> Recipe:
        """The recipe with the values of this section in place of its own; ``short`` until ``auto`` is settled."""
        recipe = RECIPES["short" if self.recipe == "auto" else self.recipe]
        own = {name: getattr(self, name) for name in ("optimizer", "weight_decay", "schedule", "warmup", "augment")}
        return replace(recipe, **{name: value for name, value in own.items() if value is not None})

    @property
    def peak_lr(self) -> float:
        """The peak learning rate: the section's, else the optimiser's default."""
        return self.lr or LEARNING_RATES[self.training.optimizer]

    @property
    def network_options(self) -> dict[str, Any]:
        """The options of the network, those of the recipe included."""
        fits = self.training.deep_supervision and "deep_supervision" in NETWORKS[self.network].options.model_fields
        return {"deep_supervision": True, **self.options} if fits else self.options


def is_elsewhere(start: str) -> bool:
    """Whether a model's ``start`` is a folder or a run of MLflow, and not a model of the same configuration."""
    return "/" in start or re.fullmatch(r"[0-9a-f]{32}", start) is not None
