"""The grid of a model's prepared images: apart from the rest of planning, so that preprocessing depends on little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from medseg.errors import PlanError
from medseg.plan import rules
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.limits import limits_of
from medseg.plan.plan import Grid
from medseg.plan.topology import REFERENCE_BYTES, PlanningInput, feature_voxel_budget, plan_topology


class GridOverrides(Protocol):
    """The values of a grid that a configuration may fix (its section ``models.<name>.plan``)."""

    @property
    def resolution(self) -> str:
        """``full`` or ``low``."""

    @property
    def spacing(self) -> Sequence[float] | None:
        """Target spacing per axis of the patch; None: planned."""

    @property
    def normalization(self) -> str | None:
        """Intensity scaling of every channel; None: planned."""


def plan_grid(fingerprint: Fingerprint, dims: int | None, overrides: GridOverrides) -> Grid:
    """The grid of a model's images: depends on the data, on ``dims`` and on overrides of the grid alone.

    A 2-D model on volumes keeps their coarsest axis as it is (spacing 0.0) and takes its slices along it.

    Args:
        fingerprint: the data.
        dims: of the network; None: those of the data.
        overrides: what the configuration fixes.

    Raises:
        PlanError: if ``dims`` or an override does not fit the data.
    """
    dims = dims or fingerprint.dims
    if dims > fingerprint.dims:
        raise PlanError(
            f"data set '{fingerprint.dataset}' has {fingerprint.dims} dimensions, the model asks for {dims}; "
            "leave `dims` out to use the data's"
        )
    spacing = list(full_spacing(fingerprint))
    slice_axis = rules.coarsest_axis(spacing) if dims < fingerprint.dims else None
    if overrides.resolution == "low":
        spacing = _low_spacing(fingerprint, overrides, dims)
    free = [a for a in range(fingerprint.dims) if a != slice_axis]
    if overrides.spacing and len(overrides.spacing) != len(free):
        where = "one per axis" if slice_axis is None else f"one per axis of a slice (all but axis {slice_axis})"
        raise PlanError(f"plan.spacing {overrides.spacing}: expected {len(free)} numbers, {where}")
    for axis, value in zip(free, overrides.spacing or (), strict=False):
        spacing[axis] = value
    if slice_axis is not None:
        spacing[slice_axis] = 0.0
    kept = fingerprint.median_relative_size
    names = [overrides.normalization or rules.normalization_of(c, fingerprint.unit, kept) for c in fingerprint.channels]
    return Grid(fingerprint.unit, fingerprint.oriented, tuple(spacing), tuple(names), fingerprint.intensities)


def full_spacing(fingerprint: Fingerprint) -> tuple[float, ...]:
    """Target spacing at full resolution, per canonical axis."""
    return rules.target_spacing(fingerprint.median_spacing, fingerprint.p10_spacing, fingerprint.median_shape)


def low_spacing(fingerprint: Fingerprint) -> tuple[float, ...] | None:
    """Spacing of the low-resolution model of these volumes; None: they need none.

    Planned for a GPU of nnU-Net's reference memory on every machine, so that prepared images are the same everywhere.
    """
    if fingerprint.dims != 3:
        return None
    spacing = full_spacing(fingerprint)
    shape = fingerprint.median_shape_at(spacing)
    voxel_budget = feature_voxel_budget(REFERENCE_BYTES, 3, "bf16")
    outputs = len(fingerprint.regions) or fingerprint.classes

    def patch_voxels(spacing: tuple[float, ...], shape: tuple[float, ...]) -> float:
        target = PlanningInput(spacing, shape, outputs, fingerprint.cases * math.prod(shape))
        return math.prod(plan_topology(target, limits_of("cuda", 3), voxel_budget)[0].patch)

    return rules.lowres_spacing(spacing, shape, patch_voxels)


def _low_spacing(fingerprint: Fingerprint, overrides: GridOverrides, dims: int) -> list[float]:
    if dims != 3 or overrides.spacing:
        raise PlanError("plan.resolution low: only for 3-D models without an override of plan.spacing")
    spacing = low_spacing(fingerprint)
    if spacing is None:
        raise PlanError(
            f"plan.resolution low: data set '{fingerprint.dataset}' needs no low-resolution model, since a patch "
            f"covers {rules.COVERED:.0%} of its median image at full resolution; leave `resolution` out"
        )
    return list(spacing)
