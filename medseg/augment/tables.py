"""What each recipe changes, how often and how far: the numbers, and nothing that computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# An axis is coarse where the patch is this many times longer along another one (Isensee et al. 2021).
ANISOTROPY = 3.0
# Slices longer than this along one axis than along the other are turned a little only (Isensee et al. 2021).
ELONGATED = 1.5


@dataclass(frozen=True, slots=True)
class Change:
    """One row of a recipe.

    Attributes:
        probability: share of the samples that are changed.
        low, high: range of the value that is drawn uniformly; what it means stands with the transform.
        per_channel: share of the channels of a changed sample that are changed.
        shared: whether all channels of a sample get the same value.
    """

    probability: float
    low: float = 0.0
    high: float = 0.0
    per_channel: float = 1.0
    shared: bool = False


Table = Mapping[str, Change]

# nnU-Net's table, in its order; what has the probability 0 is there to be switched on. Mirrors are taken along with the
# turns: what comes between does not depend on direction, and a pass is saved.
NNUNET: Table = {
    "rotation": Change(0.2, -30.0, 30.0),
    "scaling": Change(0.2, 0.7, 1.4),
    "elastic": Change(0.0, 0.0, 0.25),
    "bias_field": Change(0.0, -0.2, 0.2),
    "stain": Change(0.0, -0.05, 0.05),
    "colour": Change(0.0, -0.05, 0.05),
    "noise": Change(0.1, 0.0, 0.1),
    "blur": Change(0.2, 0.5, 1.0, per_channel=0.5),
    "brightness": Change(0.15, 0.75, 1.25),
    "contrast": Change(0.15, 0.75, 1.25),
    "low_resolution": Change(0.25, 0.5, 1.0, per_channel=0.5),
    "gamma_inverted": Change(0.1, 0.7, 1.5),
    "gamma": Change(0.3, 0.7, 1.5),
    "mirror": Change(0.5),
    "quarter_turn": Change(0.0),
}

# Fields of view that have no up and no down; colours change together, as light and stains do.
MICROSCOPY: Table = {
    "rotation": Change(0.3, -180.0, 180.0),
    "scaling": Change(0.3, 0.75, 1.33),
    "elastic": Change(0.3, 0.0, 0.25),
    "bias_field": Change(0.0, -0.2, 0.2, shared=True),
    "stain": Change(0.3, -0.05, 0.05),
    "colour": Change(0.2, -0.05, 0.05),
    "blur": Change(0.2, 0.5, 1.0, shared=True),
    "low_resolution": Change(0.0, 0.5, 1.0, shared=True),
    "gamma_inverted": Change(0.0, 0.7, 1.5, shared=True),
    "gamma": Change(0.3, 0.7, 1.5, shared=True),
    "noise": Change(0.15, 0.0, 0.05, shared=True),
    "brightness": Change(0.2, 0.8, 1.2, shared=True),
    "contrast": Change(0.2, 0.75, 1.25, shared=True),
    "mirror": Change(0.5),
    "quarter_turn": Change(0.75),
}

TABLES: Mapping[str, Table] = {"nnunet": NNUNET, "microscopy": MICROSCOPY}


def coarse_axis(patch: Sequence[int], spacing: Sequence[float]) -> int | None:
    """The axis along which volumes are neither turned nor stretched ("dummy 2-D"); None: none.

    It is the axis of the largest spacing (of several, the one along which the patch is shortest), if the patch is more
    than ``ANISOTROPY`` times longer along another axis.
    """
    if len(patch) < 3:
        return None
    axis = max(range(len(patch)), key=lambda a: (spacing[a], -patch[a]))
    return axis if max(patch) / patch[axis] > ANISOTROPY else None


def table_of(
    recipe: str,
    patch: Sequence[int],
    spacing: Sequence[float],
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Table:
    """The recipe's rows for patches of this shape: nnU-Net turns slices further than volumes.

    Args:
        recipe: name in ``TABLES``.
        patch, spacing: per axis.
        overrides: row -> ``probability`` and ``range`` (low, high) that take the place of the recipe's.
    """
    table = dict(TABLES[recipe])
    if recipe == "nnunet" and (len(patch) == 2 or coarse_axis(patch, spacing) is not None):
        far = 15.0 if len(patch) == 2 and max(patch) / min(patch) > ELONGATED else 180.0
        table["rotation"] = replace(table["rotation"], low=-far, high=far)
    for name, change in (overrides or {}).items():
        row = table[name]
        low, high = change.get("range", (row.low, row.high))
        table[name] = replace(row, probability=change.get("probability", row.probability), low=low, high=high)
    return table


def mirrors(recipe: str, oriented: bool, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> bool:
    """Whether a recipe mirrors samples, so that a network trained with it takes mirror images as it takes images.

    Args:
        recipe: name in ``AUGMENTATIONS`` (``medseg.augment.policy``).
        oriented: whether the axes have a meaning.
        overrides: see ``table_of``.
    """
    if recipe not in TABLES:
        return recipe == "default" and not oriented
    return bool((overrides or {}).get("mirror", {}).get("probability", TABLES[recipe]["mirror"].probability))
