"""Planning rules on the data: spacing, intensities, resolution, batch and steps. Small pure functions.

Rules without another source are nnU-Net's (Isensee et al. 2021; behaviour of version 2.8.1). Those on the network are
in ``topology.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

ANISOTROPY = 3.0  # an axis this much coarser than the others is treated differently
# Added to the spacing of an axis that is refined to that of the others, so that it stays the coarsest one.
STILL_COARSEST = 1e-5
# Where cropping to the non-zero box keeps less than this share of the median case, zeros are left out of statistics.
MASKED_BELOW = 0.75
# Where a patch covers less than this share of the median image, there is a low-resolution model, too.
COVERED = 0.25
LOWRES_STEP = 1.03
# The images of a low-resolution model must be smaller by this factor.
LOWRES_GAIN = 2.0
# A batch covers at most this share of all voxels.
DATA_SHARE = 0.05
MIN_BATCH = 2

# Channel names that decide the scaling, whatever the unit.
BY_NAME = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale",
    "rgb_to_0_1": "rgb",
    **dict.fromkeys(("rgb", "r", "g", "b"), "rgb"),
}


def target_spacing(median: Sequence[float], p10: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Median spacing; on a badly resolved axis its 10th percentile, not finer than the other axes."""
    spacing = [float(v) for v in median]
    axis = badly_resolved_axis(median, median_shape)
    if axis is not None:
        others = max(s for a, s in enumerate(spacing) if a != axis)
        spacing[axis] = float(p10[axis]) if p10[axis] >= others else others + STILL_COARSEST
    return tuple(spacing)


def badly_resolved_axis(spacing: Sequence[float], shape: Sequence[float]) -> int | None:
    """The axis that is more than 3 times coarser than the others and has less than a third of their voxels, if any."""
    worst = max(range(len(spacing)), key=lambda a: spacing[a])
    others = [a for a in range(len(spacing)) if a != worst]
    coarse = spacing[worst] > ANISOTROPY * max(spacing[a] for a in others)
    thin = shape[worst] * ANISOTROPY < min(shape[a] for a in others)
    return worst if coarse and thin else None


def coarsest_axis(spacing: Sequence[float]) -> int:
    """The axis of the largest spacing, the last of equals: slices of a volume are taken along it."""
    return max(range(len(spacing)), key=lambda a: (spacing[a], a))


def normalization_of(channel: str, unit: str, kept: float) -> str:
    """The intensity scaling of a channel, a row of ``NORMALIZATIONS``.

    By its name if that says it (CT; nnU-Net's own names; colours). Otherwise pictures (unit not mm) are scaled by
    percentiles of the image, as is usual in microscopy, and volumes to mean 0 and standard deviation 1: over the
    non-zero voxels alone if cropping to them kept less than three quarters of the median case.

    Args:
        channel: its name; case is ignored.
        unit: of the spacing.
        kept: median share of a case's voxels inside its non-zero box.
    """
    name = channel.strip().casefold()
    chosen = BY_NAME.get(name, "zscore" if unit == "mm" else "percentile")
    return "zscore_nonzero" if chosen == "zscore" and kept < MASKED_BELOW else chosen


def lowres_spacing(
    spacing: Sequence[float],
    shape: Sequence[float],
    patch_voxels: Callable[[tuple[float, ...], tuple[float, ...]], float],
) -> tuple[float, ...] | None:
    """Spacing of the low-resolution model beside a full-resolution one; None: the data need none.

    They need one if the patch covers less than a quarter of the median image. Spacing then grows in steps of 3 %, first
    along axes less than half as coarse as the coarsest, until the patch covers a quarter; if that does not at least
    halve the image, there is none.

    Args:
        spacing, shape: at full resolution, voxels of the median image.
        patch_voxels: voxels of the patch that is planned for a spacing and a median image.
    """
    low, full = list(map(float, spacing)), math.prod(shape)
    small, patch = full, patch_voxels(tuple(low), tuple(shape))
    while patch / small < COVERED:
        fine = [max(low) / s > 2 for s in low]
        low = [s * LOWRES_STEP if f or not any(fine) else s for s, f in zip(low, fine, strict=True)]
        exact = [s / v * n for s, v, n in zip(spacing, low, shape, strict=True)]
        small = math.prod(exact)
        patch = patch_voxels(tuple(low), tuple(float(round(n)) for n in exact))
    return tuple(low) if full / small >= LOWRES_GAIN and small < full else None


def batch_size(
    voxel_budget: float, feature_voxels: float, patch_voxels: float, data_voxels: float, cap: int | None
) -> int:
    """As many patches as memory holds, rounded, but at most 5 % of all voxels and ``cap``; at least 2.

    Args:
        voxel_budget: feature-map voxels that memory holds.
        feature_voxels: feature-map voxels of one patch.
        patch_voxels, data_voxels: voxels of a patch and of all images.
        cap: upper bound; None: none.
    """
    fits = round(voxel_budget / feature_voxels)
    share = round(data_voxels * DATA_SHARE / patch_voxels)
    return max(MIN_BATCH, min(fits, share, cap or fits))


def shared_batch(batch: int, processes: int) -> int:
    """The batch as processes share it: the next multiple of their number."""
    return math.ceil(batch / processes) * processes


def lr_factor(optimizer: str, growth: float) -> float:
    """What the learning rate is multiplied by where a batch has ``growth`` times the samples it was chosen for.

    Linear for SGD (Goyal et al. 2017, arXiv:1706.02677), the square root for Adam's family, whose steps are divided by
    the gradient's own size (Malladi et al. 2022, arXiv:2205.10287).
    """
    return growth if optimizer == "sgd" else math.sqrt(growth)


def epochs_to_steps(epochs: int, cases: int, folds: int, batch: int) -> int:
    """Steps for ``epochs`` passes over the training cases of a fold; of one fold alone, over all cases."""
    share = epochs * cases * (folds - 1) / folds if folds > 1 else epochs * cases
    return math.ceil(share / batch)
