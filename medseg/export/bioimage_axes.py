"""Axes and preprocessing in the words of the BioImage Model Zoo's specification."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.export.graph import example
from medseg.export.handover import Handover
from medseg.image.intensity import NORMALIZATIONS

UNITS = {"mm": "millimeter", "um": "micrometer"}
# Too small to change a number; the format wants one above 0.
EPS = 1e-8
AS_FLOAT = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
# Row of ``NORMALIZATIONS`` -> the step that does the same to each channel; what is not here has none.
STEPS = ("zscore", "ct", "percentile", "rescale", "rgb", "none")


def space_axes(model: Handover) -> list[dict[str, Any]]:
    """The spatial axes of the network's windows: names, sizes, and the voxel size that images are brought to."""
    plan = model.checkpoint.plan
    grid = plan.grid
    # Volumes with a world are turned to right, anterior, superior; others have slices first, as pictures have rows.
    names = ("x", "y", "z") if grid.dims == 3 and grid.oriented else ("z", "y", "x")[-grid.dims :]
    kept = [axis for axis in range(grid.dims) if axis != grid.slice_axis]
    unit = {"unit": UNITS[grid.unit]} if grid.unit in UNITS else {}
    return [
        {"type": "space", "id": names[axis], "size": size, "scale": grid.spacing[axis] or 1.0, **unit}
        for axis, size in zip(kept, plan.network.patch, strict=True)
    ]


def channel_axis(names: Sequence[str]) -> dict[str, Any]:
    """The axis of channels; the format wants names that are identifiers, and different ones."""
    made = [re.sub(r"\W", "_", name) for name in names]
    made = [name if name.isidentifier() else f"c_{name}" for name in made]
    unique = [name if made.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(made)]
    return {"type": "channel", "channel_names": unique}


def steps_of(model: Handover) -> list[dict[str, Any]]:
    """The preprocessing of the description; only the type, where the format has none for this normalisation."""
    grid = model.checkpoint.plan.grid
    names = set(grid.normalization)
    if len(names) > 1 or not names <= set(STEPS):
        return [AS_FLOAT]
    (name,) = names
    axes = [axis["id"] for axis in space_axes(model)]
    if name == "ct":
        low, high = ([stats[key] for stats in grid.statistics] for key in ("p00_5", "p99_5"))
        if len(set(low)) > 1 or len(set(high)) > 1:
            return [AS_FLOAT]  # it clips all channels alike
        mean, std = ([stats[key] for stats in grid.statistics] for key in ("mean", "std"))
        fixed: dict[str, Any] = {"axis": "channel", "mean": mean, "std": [max(one, EPS) for one in std]}
        if len(mean) == 1:
            fixed = {"mean": mean[0], "std": max(std[0], EPS)}
        clip = {"id": "clip", "kwargs": {"min": low[0], "max": high[0]}}
        return [AS_FLOAT, clip, {"id": "fixed_zero_mean_unit_variance", "kwargs": fixed}]
    steps: dict[str, list[dict[str, Any]]] = {
        "zscore": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": axes, "eps": EPS}}],
        "percentile": [_range(axes, 1.0, 99.8)],
        "rescale": [_range(axes, 0.0, 100.0)],
        "rgb": [{"id": "scale_linear", "kwargs": {"gain": 1 / 255, "offset": 0.0}}],
        "none": [],
    }
    return [AS_FLOAT, *steps[name]]


def _range(axes: Sequence[str], low: float, high: float) -> dict[str, Any]:
    kwargs = {"axes": list(axes), "min_percentile": low, "max_percentile": high, "eps": EPS}
    return {"id": "scale_range", "kwargs": kwargs}


def raw_window(model: Handover) -> NDArray[np.float32]:
    """A window (C, window) of made-up intensities before the steps of the description."""
    waves: NDArray[np.float32] = example(model, 2).numpy()[0]
    grid = model.checkpoint.plan.grid
    if not _scales(model):
        return waves
    if grid.normalization[0] == "ct":
        size = (-1, *[1] * (waves.ndim - 1))
        mean, std = (np.array([s[key] for s in grid.statistics]).reshape(size) for key in ("mean", "std"))
        return (mean + std * waves).astype(np.float32)
    return np.clip(100 + 50 * waves, 1, 254).round().astype(np.float32)


def normalised_by(model: Handover, window: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network gets of ``raw_window``: medseg's own normalisation, where the description has one."""
    grid = model.checkpoint.plan.grid
    if not _scales(model):
        return window
    rows = zip(window, grid.normalization, grid.statistics, strict=True)
    return np.stack([NORMALIZATIONS[name](channel, stats) for channel, name, stats in rows]).astype(np.float32)


def _scales(model: Handover) -> bool:
    return len(steps_of(model)) > 1
