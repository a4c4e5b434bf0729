"""The training recipes that a configuration can name: values of everything that it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Peak learning rate of an optimiser, whatever the recipe.
LEARNING_RATES: Mapping[str, float] = {"adamw": 2e-3, "sgd": 1e-2}
# From this many steps on, ``auto`` means ``nnunet``. Published trainings of hippocampus by SGD with strong augmentation
# reached nnU-Net's accuracy of 250,000 steps in 9,250 (Auto-nnU-Net, Becktepe et al. 2025: 37 epochs of 250) and 12,650
# (MONAI's DynUNet pipeline), while our measurements of ``short`` end at some 2,000 (docs/notebook.md).
NNUNET_FROM = 10_000


@dataclass(frozen=True, slots=True)
class Recipe:
    """One row of ``RECIPES``; its attributes are keys of a model's section in the configuration.

    Attributes:
        optimizer, weight_decay, schedule, warmup, augment: as there.
        deep_supervision: whether networks that have this option use it.
    """

    optimizer: str
    weight_decay: float
    schedule: str
    warmup: float
    augment: str
    deep_supervision: bool


RECIPES: Mapping[str, Recipe] = {
    # For hundreds or thousands of steps: an adaptive optimiser, and little augmentation.
    "short": Recipe("adamw", 1e-4, "poly", 0.05, "default", False),
    # Isensee et al. 2021, for 250,000 steps: Nesterov momentum at the full rate from the first step, all of their
    # augmentation, a loss at every resolution.
    "nnunet": Recipe("sgd", 3e-5, "poly", 0.0, "nnunet", True),
}


def recipe_for(steps: int) -> str:
    """The row of ``RECIPES`` that ``auto`` means for a training of this many steps."""
    return "nnunet" if steps >= NNUNET_FROM else "short"
