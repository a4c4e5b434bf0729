"""Stages, kernels, widths, patch and batch of a network, from spacing, image size and memory: nnU-Net's rules.

Pure functions. Rules without another source are those of Isensee et al. 2021 and of nnU-Net 2.8.1, whose published and
recorded plans ``tests/unit/test_parity.py`` compares with. Axes are canonical here, while nnU-Net brings the coarsest
axis to the front: results agree up to that order. Two rules are ours: networks need three stages, so a tiny image is
padded until it has them (``MIN_STAGES``), and ``Limits`` may bound a network on a processor, also by the size of the
objects (``max_stages``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from medseg.errors import PlanError
from medseg.models.spec import total_stride
from medseg.plan.limits import Limits
from medseg.plan.rules import MIN_BATCH, batch_size, coarsest_axis

Axes = tuple[int, ...]

MIN_FEATURES = 4  # no feature map edge is made shorter than this
MIN_STAGES = 3  # what the networks need: a fine, a middle and a coarse resolution
SIMILAR = 2.0  # spacings within this factor of the finest are treated as equal
# Feature-map voxels (of all patches of a batch) that train in 8 GB: 5.6e8 for one of two 3-D patches counted together
# with the other, 8.5e7 a patch for twelve 2-D ones. The numbers are nnU-Net's references times their batch.
REFERENCE_VOXELS = {2: 8.5e7 * 12, 3: 5.6e8 * 2}
REFERENCE_BYTES = 8e9


@dataclass(frozen=True, slots=True)
class PlanningInput:
    """What stages, patch and batch are planned from.

    Attributes:
        spacing: target spacing along the axes of the patch.
        shape: voxels of the median image at that spacing, along the same axes; halves occur.
        classes: output channels.
        data_voxels: voxels of all images of the data set, all axes counted.
        object_diameter: of the median object, in the unit of ``spacing``; 0: labels are classes.
    """

    spacing: tuple[float, ...]
    shape: tuple[float, ...]
    classes: int
    data_voxels: float
    object_diameter: float = 0.0

    @property
    def dims(self) -> int:
        """Axes of the patch."""
        return len(self.spacing)


@dataclass(frozen=True, slots=True)
class Topology:
    """Stages of a network, and the patch that they are planned for.

    Attributes:
        patch: voxels per axis, divisible by the product of the strides.
        strides, kernels: per stage and axis, finest stage first.
        widths: feature channels per stage.
        voxels: feature-map voxels of one patch (``feature_voxels``).
    """

    patch: Axes
    strides: tuple[Axes, ...]
    kernels: tuple[Axes, ...]
    widths: tuple[int, ...]
    voxels: int


def feature_voxel_budget(memory: float, dims: int, precision: str) -> float:
    """Feature-map voxels of a whole batch that can be trained in ``memory`` bytes; half as many in 32 bits."""
    return REFERENCE_VOXELS[dims] * (memory / REFERENCE_BYTES) * (0.5 if precision == "fp32" else 1.0)


def initial_patch(spacing: Sequence[float], shape: Sequence[float], voxels: int, refill: bool) -> tuple[float, ...]:
    """A patch of ``voxels`` voxels that is a cube (square) in world units, clipped to the median image.

    With ``refill``, the voxels that clipping removed on short axes are given to the others.
    """
    side = [1 / s for s in spacing]
    scale = (voxels / math.prod(side)) ** (1 / len(side))
    longest = [max(1.0, float(n)) for n in shape]
    if not refill:
        return tuple(min(max(1, round(scale * v)), n) for v, n in zip(side, longest, strict=True))
    patch = [min(max(1.0, scale * v), n) for v, n in zip(side, longest, strict=True)]
    for _ in range(len(patch)):
        spare = voxels / math.prod(patch)
        free = [a for a in range(len(patch)) if patch[a] < longest[a] - 0.5]
        if spare <= 1 or not free:
            break
        for a in free:
            patch[a] = min(patch[a] * spare ** (1 / len(free)), longest[a])
    return tuple(max(1, round(p)) for p in patch)


def max_stages(target: PlanningInput, limits: Limits) -> int | None:
    """The largest number of stages; None: no limit.

    Where labels are object numbers, ``Limits.object_voxels`` limits it too: the finest axis is halved while that many
    of its voxels still fit across the median object.
    """
    if limits.object_voxels is None or not target.object_diameter:
        return limits.max_stages
    across = target.object_diameter / min(target.spacing)
    seen = max(MIN_STAGES, 1 + math.floor(math.log2(max(1.0, across / limits.object_voxels))))
    return seen if limits.max_stages is None else min(seen, limits.max_stages)


def plan_strides(patch: Sequence[float], spacing: Sequence[float], most: int | None = None) -> tuple[Axes, ...]:
    """Strides per stage: axes are halved while their feature map stays at 4 voxels or more, coarse axes later.

    Each stage halves the axes that are long enough and whose spacing is within a factor of two of the finest of these;
    none if that were a single axis of fewer than 12 voxels. An image too small for three stages still gets three.

    Args:
        patch: voxels per axis before padding.
        spacing: along the same axes.
        most: largest number of stages; None: no limit.
    """
    dims = len(patch)
    size, space = list(patch), [float(s) for s in spacing]
    strides: list[Axes] = [(1,) * dims]
    while len(strides) != most:
        large = [a for a in range(dims) if size[a] >= 2 * MIN_FEATURES]
        finest = min((space[a] for a in large), default=0.0)
        halve = [a for a in large if space[a] / finest < SIMILAR]
        if len(halve) == 1 and size[halve[0]] < 3 * MIN_FEATURES:
            halve = []
        if not halve and len(strides) < MIN_STAGES:
            halve = [a for a in range(dims) if space[a] / min(space) < SIMILAR]
        if not halve:
            break
        strides.append(tuple(2 if a in halve else 1 for a in range(dims)))
        for a in halve:
            size[a] = math.ceil(size[a] / 2)
            space[a] *= 2
    return tuple(strides)


def plan_kernels(strides: Sequence[Axes], spacing: Sequence[float]) -> tuple[Axes, ...]:
    """Kernels per stage: 1 along an axis until its spacing is within a factor of two of the finest, 3 from then on.

    The coarsest stage has 3 along every axis.
    """
    space = [float(s) for s in spacing]
    wide = [False] * len(space)
    kernels: list[Axes] = []
    for stride in strides:
        space = [s * n for s, n in zip(space, stride, strict=True)]
        wide = [w or s / min(space) < SIMILAR for w, s in zip(wide, space, strict=True)]
        kernels.append(tuple(3 if w else 1 for w in wide))
    kernels[-1] = (3,) * len(space)
    return tuple(kernels)


def shortest_axis(divisor: int) -> int:
    """Shortest patch axis at a total stride: two voxels must remain, or norms have nothing to average over."""
    return 2 * divisor if divisor > 1 else 1


def padded_patch(patch: Sequence[float], divisor: Axes) -> Axes:
    """The patch padded to multiples of the total stride, at least ``shortest_axis``."""
    return tuple(max(math.ceil(p / d) * d, shortest_axis(d)) for p, d in zip(patch, divisor, strict=True))


def plan_widths(stages: int, base: int, cap: int) -> tuple[int, ...]:
    """Feature channels: doubled per stage up to a cap."""
    return tuple(min(base * 2**i, cap) for i in range(stages))


def feature_voxels(patch: Axes, strides: Sequence[Axes], widths: Sequence[int], classes: int) -> int:
    """Voxels of all feature maps of a plain U-Net for one patch: nnU-Net's estimate of memory.

    Counts two convolutions per stage on the way down and two on the way up, the transposed convolution before these,
    and the head.
    """
    size = list(patch)
    total = classes * math.prod(size)
    for stage, (stride, width) in enumerate(zip(strides, widths, strict=True)):
        size = [n // s for n, s in zip(size, stride, strict=True)]
        maps = 2 if stage == len(strides) - 1 else 2 + 2 + 1
        total += maps * width * math.prod(size)
    return total


def topology_for(
    patch: Sequence[float],
    target: PlanningInput,
    limits: Limits,
    strides: tuple[Axes, ...] | None = None,
    widths: tuple[int, ...] | None = None,
) -> Topology:
    """The topology for a patch of about this size; ``strides`` and ``widths`` that are given are kept.

    Raises:
        PlanError: if strides and widths do not fit together, or there are fewer than three stages.
    """
    strides = strides or plan_strides(patch, target.spacing, max_stages(target, limits))
    widths = widths or plan_widths(len(strides), limits.base_width, limits.width_cap)
    dims = target.dims
    if len(widths) != len(strides) or any(len(s) != dims for s in strides):
        raise PlanError(
            f"plan.widths {list(widths)} and strides {[list(s) for s in strides]}: expected one width and "
            f"{dims} strides per stage"
        )
    if len(strides) < MIN_STAGES:
        raise PlanError(f"plan.strides: {len(strides)} stages; the networks need at least {MIN_STAGES}")
    padded = padded_patch(patch, total_stride(strides))
    voxels = feature_voxels(padded, strides, widths, target.classes)
    return Topology(padded, strides, plan_kernels(strides, target.spacing), widths, voxels)


def axes_to_shorten(patch: Axes, target: PlanningInput, divisor: Axes) -> list[int]:
    """Axes that can be shortened, in order: the one that is longest relative to the median image first.

    Of equals the first, but the coarsest axis of a volume last, as nnU-Net's order of axes has it.
    """
    coarsest = coarsest_axis(target.spacing) if len(patch) == 3 else -1
    able = [a for a in range(len(patch)) if patch[a] - divisor[a] >= shortest_axis(divisor[a])]
    return sorted(able, key=lambda a: (-patch[a] / max(target.shape[a], 1.0), a == coarsest, a))


def next_smaller(
    topology: Topology,
    target: PlanningInput,
    limits: Limits,
    strides: tuple[Axes, ...] | None = None,
    widths: tuple[int, ...] | None = None,
) -> Topology | None:
    """The topology for the next smaller patch; None if no axis can be shortened.

    An axis is shortened by what the strides of the *shorter* patch require, so that no valid size is skipped: 256 at a
    total stride of 64 is followed by 224, not by 192.
    """
    build = partial(topology_for, target=target, limits=limits, strides=strides, widths=widths)
    divisor = total_stride(topology.strides)
    for axis in axes_to_shorten(topology.patch, target, divisor):
        step = divisor[axis]
        less = build([p - step if a == axis else p for a, p in enumerate(topology.patch)])
        step = total_stride(less.strides)[axis]
        fine = build([p - step if a == axis else p for a, p in enumerate(topology.patch)])
        # The strides of a shorter patch may be such that padding undoes the step.
        for made in (fine, less):
            if math.prod(made.patch) < math.prod(topology.patch):
                return made
    return None


def plan_topology(
    target: PlanningInput,
    limits: Limits,
    voxel_budget: float,
    *,
    patch: Sequence[int] | None = None,
    strides: tuple[Axes, ...] | None = None,
    widths: tuple[int, ...] | None = None,
) -> tuple[Topology, int]:
    """Topology and batch size: start with a large patch and shrink it until a batch of two fits into memory.

    Args:
        target: what to plan for.
        limits: bounds.
        voxel_budget: feature-map voxels of a batch that fit into memory (``feature_voxel_budget``).
        patch, strides, widths: fixed values; a fixed patch is only padded, never shrunk.

    Returns:
        topology and batch size.

    Raises:
        PlanError: if the fixed values do not fit together, or no patch fits.
    """
    start = patch or initial_patch(target.spacing, target.shape, limits.voxels, limits.refill)
    topology = topology_for(start, target, limits, strides, widths)
    while patch is None and MIN_BATCH * topology.voxels > voxel_budget:
        smaller = next_smaller(topology, target, limits, strides, widths)
        if smaller is None:
            raise PlanError(
                f"no patch fits: two of {list(topology.patch)} have {2 * topology.voxels:.2e} feature-map voxels, "
                f"memory is for {voxel_budget:.2e}; raise budget.memory_gb or lower plan.widths"
            )
        topology = smaller
    return topology, batch_size(
        voxel_budget, topology.voxels, math.prod(topology.patch), target.data_voxels, limits.max_batch
    )
