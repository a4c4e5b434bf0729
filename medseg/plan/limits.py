"""Bounds on a plan besides the data: on a GPU its memory (nnU-Net's rules), on a processor the time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds within which a network is planned; a planner that tries several widths makes one of these for each.

    Attributes:
        voxels: volume of the patch that planning starts from, before it is clipped to the median image.
        base_width: feature channels of the first stage.
        width_cap: most feature channels of a stage.
        max_batch: most patches per step; None: as memory and data allow.
        max_stages: most resolution stages; None: as the patch allows.
        object_voxels: where labels are object numbers, axes are halved while so many voxels fit across the median
            object; None: the size of objects has no influence.
        refill: whether the voxels that clipping to the median image removed go to the other axes. nnU-Net starts far
            above what memory holds and does not need it; a small start does.
    """

    voxels: int
    base_width: int
    width_cap: int
    max_batch: int | None = None
    max_stages: int | None = None
    refill: bool = False
    object_voxels: float | None = None


# Voxels of the coarsest stage across the median object: the surroundings far from an object say little about its
# outline, and six stages instead of four cost a quarter of the steps of a budget (docs/notebook.md).
OBJECT_VOXELS = 2.0

# Our own, measured (docs/notebook.md): on a processor time runs out before memory does.
_processor = partial(Limits, base_width=16, width_cap=256, max_stages=6, refill=True, object_voxels=OBJECT_VOXELS)

LIMITS: dict[tuple[str, int], Limits] = {
    # Isensee et al. 2021.
    ("cuda", 2): Limits(voxels=2048**2, base_width=32, width_cap=512),
    ("cuda", 3): Limits(voxels=256**3, base_width=32, width_cap=320),
    ("cpu", 2): _processor(voxels=256**2, max_batch=8),
    ("cpu", 3): _processor(voxels=2**17, max_batch=4),
}


# Base widths that a budget in minutes chooses from, narrow to wide, each with the steps it must get to be preferred to
# the one before it. 16 against 8 on a processor: in 3 minutes both reached the same Dice, at 320 and 820 steps
# (docs/notebook.md). 32: published results on small data gain nothing from larger networks, so it must cost little.
BASE_WIDTHS: dict[str, tuple[tuple[int, int], ...]] = {
    "cpu": ((8, 1), (16, 320), (32, 1500)),
    "cuda": ((16, 1), (32, 320)),
}


def limits_of(device: str, dims: int) -> Limits:
    """The bounds for networks of ``dims`` axes that are trained on ``device``."""
    return LIMITS[_kind(device), dims]


def base_widths_of(device: str) -> tuple[tuple[int, int], ...]:
    """(base width, least steps) that a budget in minutes chooses from on ``device``, narrow to wide."""
    return BASE_WIDTHS[_kind(device)]


def _kind(device: str) -> str:
    return "cpu" if device == "cpu" else "cuda"
