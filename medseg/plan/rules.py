"""Planning rules: small pure functions, each naming its source.

The rules of nnU-Net (Isensee et al. 2021) are the base. Where a processor trains instead of a GPU they are bounded,
since there the wall-clock, not the memory, runs out: those bounds are ours, measured (``docs/notebook.md``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Axes = tuple[int, ...]

ANISOTROPY = 3.0  # an axis this much coarser than the others is treated apart (nnU-Net)
MIN_FEATURES = 4  # no feature map edge below this (nnU-Net)
MAX_STAGES = 6
MIN_STAGES = 3  # what both networks need: a fine, a middle and a coarse resolution
WIDTH_CAP = {("cuda", 2): 512, ("cuda", 3): 320, ("cpu", 2): 256, ("cpu", 3): 256}
BASE_WIDTH = {"cuda": 32, "cpu": 16}
START_VOXELS = {("cuda", 2): 2048**2, ("cuda", 3): 256**3, ("cpu", 2): 256**2, ("cpu", 3): 2**17}
CPU_BATCH = {2: 8, 3: 4}
# nnU-Net's reference: 5.6e8 feature-map voxels (3-D) at batch 2 fill 8 GB in 16-bit arithmetic.
BYTES_PER_FEATURE = 8e9 / 5.6e8 / 2


def target_spacing(median: Sequence[float], p10: Sequence[float], median_shape: Sequence[float]) -> tuple[float, ...]:
    """Median spacing; on a badly resolved axis its 10th percentile, never finer than the other axes (nnU-Net)."""
    spacing = [float(v) for v in median]
    worst = max(range(len(spacing)), key=lambda a: spacing[a])
    others = [a for a in range(len(spacing)) if a != worst]
    coarse = spacing[worst] > ANISOTROPY * max(spacing[a] for a in others)
    thin = median_shape[worst] * ANISOTROPY < min(median_shape[a] for a in others)
    if coarse and thin:
        spacing[worst] = max(float(p10[worst]), *[spacing[a] for a in others])
    return tuple(spacing)


def normalization_of(channel: str, unit: str) -> str:
    """CT by name: data set statistics; other volumes: z-score per image (nnU-Net); pictures: percentiles per image."""
    if channel.strip().lower() == "ct":
        return "ct"
    return "zscore" if unit == "mm" else "percentile"


def initial_patch(spacing: Sequence[float], shape: Sequence[float], voxels: int) -> Axes:
    """A patch of ``voxels`` voxels that is a cube (square) in the world, clipped to the median image (nnU-Net)."""
    side = [1 / s for s in spacing]
    scale = (voxels / math.prod(side)) ** (1 / len(side))
    patch = [min(max(1.0, scale * v), max(1.0, float(n))) for v, n in zip(side, shape, strict=True)]
    # What clipping saved on short axes is given to the others.
    for _ in range(len(patch)):
        spare = voxels / math.prod(patch)
        free = [a for a in range(len(patch)) if patch[a] < shape[a] - 0.5]
        if spare <= 1 or not free:
            break
        for a in free:
            patch[a] = min(patch[a] * spare ** (1 / len(free)), float(shape[a]))
    return tuple(max(1, round(p)) for p in patch)


def topology(patch: Axes, spacing: Sequence[float]) -> tuple[tuple[Axes, ...], tuple[Axes, ...], Axes]:
    """Strides and kernels per stage, and the patch padded to what they divide (nnU-Net).

    Axes are halved while they are at least twice the smallest allowed feature map and not much coarser than the finest
    axis; kernels are 1 along an axis until its spacing has come within a factor of two of the finest. An image too
    small for three stages gets them all the same, padded so that two voxels remain along every strided axis.
    """
    dims = len(patch)
    size, space = list(patch), [float(s) for s in spacing]
    strides: list[Axes] = [(1,) * dims]
    kernels: list[Axes] = []
    wide = [False] * dims
    while True:
        wide = [w or s < 2 * min(space) for w, s in zip(wide, space, strict=True)]
        kernels.append(tuple(3 if w else 1 for w in wide))
        large = [a for a in range(dims) if size[a] >= 2 * MIN_FEATURES]
        finest = min((space[a] for a in large), default=0.0)
        halve = [a for a in large if space[a] < 2 * finest]
        if len(halve) == 1 and size[halve[0]] < 3 * MIN_FEATURES:
            halve = []
        if not halve and len(strides) < MIN_STAGES:
            halve = [a for a in range(dims) if space[a] < 2 * min(space)]
        if not halve or len(strides) == MAX_STAGES:
            break
        strides.append(tuple(2 if a in halve else 1 for a in range(dims)))
        for a in halve:
            size[a] = math.ceil(size[a] / 2)
            space[a] *= 2
    kernels[-1] = (3,) * dims
    divisor = total_stride(strides)
    return tuple(strides), tuple(kernels), padded_patch(patch, divisor)


def padded_patch(patch: Axes, divisor: Axes) -> Axes:
    """The patch padded to multiples of the total stride; at least two, so that norms have something to average."""
    return tuple(max(math.ceil(p / d) * d, smallest(d)) for p, d in zip(patch, divisor, strict=True))


def smallest(divisor: int) -> int:
    """Shortest patch axis at a total stride."""
    return 2 * divisor if divisor > 1 else 1


def total_stride(strides: Sequence[Axes]) -> Axes:
    """Product of the strides of all stages, per axis."""
    return tuple(math.prod(s[axis] for s in strides) for axis in range(len(strides[0])))


def widths(stages: int, base: int, cap: int) -> tuple[int, ...]:
    """Feature channels: doubled per stage up to a cap (nnU-Net)."""
    return tuple(min(base * 2**i, cap) for i in range(stages))


def feature_voxels(patch: Axes, strides: Sequence[Axes], channels: Sequence[int]) -> int:
    """Voxels of all feature maps of a U-Net for one patch: two convolutions per stage on the way down and up."""
    size = list(patch)
    total = 0
    for stage, (stride, width) in enumerate(zip(strides, channels, strict=True)):
        size = [n // s for n, s in zip(size, stride, strict=True)]
        passes = 2 if stage == len(strides) - 1 else 5  # down twice, up twice, and the transposed convolution
        total += passes * width * math.prod(size)
    return total


def memory_bytes(voxels: int, batch: int, precision: str) -> float:
    """Estimated training memory: nnU-Net's proxy, doubled for 32-bit arithmetic."""
    return voxels * batch * BYTES_PER_FEATURE * (2 if precision == "fp32" else 1)


def shrink(patch: Axes, shape: Sequence[float], divisor: Axes) -> Axes:
    """The patch with its axis that is largest relative to the median image made one divisor step smaller (nnU-Net)."""
    room = [a for a in range(len(patch)) if patch[a] - divisor[a] >= smallest(divisor[a])]
    if not room:
        return patch
    axis = max(room, key=lambda a: patch[a] / max(shape[a], 1.0))
    return tuple(p - divisor[a] if a == axis else p for a, p in enumerate(patch))


def batch_size(memory: float, per_patch: float, patch: Axes, data_voxels: float, cap: int | None) -> int:
    """As many patches as memory holds, but at most 5 % of all voxels (nnU-Net) and ``cap``; at least 2."""
    fits = int(memory // per_patch)
    share = int(0.05 * data_voxels / math.prod(patch))
    return max(2, min(fits, max(share, 2), cap or fits))


def epochs_to_steps(epochs: int, cases: int, folds: int, batch: int) -> int:
    """Steps for ``epochs`` passes over the training cases of a fold."""
    return math.ceil(epochs * cases * (folds - 1) / folds / batch)


def minutes_to_steps(minutes: float, step_s: float, fixed_s: float) -> int:
    """Steps that fit into ``minutes`` at ``step_s`` each after ``fixed_s`` for start, validation and saving.

    3 % are kept back for checkpoints and the journal.
    """
    return max(1, int((minutes * 60 - fixed_s) * 0.97 / step_s))
