"""The grid of a model's prepared images: apart from the rest of planning, so that preprocessing depends on little."""

from __future__ import annotations

from medseg.config import ModelConfig
from medseg.errors import PlanError
from medseg.plan import rules
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.plan import GridPlan


def plan_grid(fingerprint: Fingerprint, model: ModelConfig) -> GridPlan:
    """The grid of a model's images: depends on the data and on the overrides of spacing and normalization alone."""
    if model.dims is not None and model.dims != fingerprint.dims:
        raise PlanError(
            f"data set '{fingerprint.dataset}' has {fingerprint.dims} dimensions, the model asks for {model.dims}; "
            "leave `dims` out to take the data's"
        )
    spacing = model.plan.spacing or list(
        rules.target_spacing(fingerprint.median_spacing, fingerprint.p10_spacing, fingerprint.median_shape)
    )
    if len(spacing) != fingerprint.dims:
        raise PlanError(f"plan.spacing {spacing}: expected {fingerprint.dims} numbers, one per axis")
    names = [model.plan.normalization or rules.normalization_of(c, fingerprint.unit) for c in fingerprint.channels]
    return GridPlan(fingerprint.dims, tuple(spacing), tuple(names), fingerprint.intensities)
