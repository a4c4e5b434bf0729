"""Training batches as a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.augment.policy import RECIPES, margins
from medseg.models.step import memory_format
from medseg.patches.sampling import case_of, forced_foreground, generator, patch_start
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase

# Enough for a linear classifier of regions: a batch holds hundreds of them.
FINISHING_BATCHES = 16


def batch_cases(cases: Sequence[PreparedCase], plan: Plan, seed: int, step: int) -> list[PreparedCase]:
    """The cases of one step's batch."""
    return [cases[case_of(step, i, plan.batch, len(cases), seed)] for i in range(plan.batch)]


def make_batch(cases: Sequence[PreparedCase], plan: Plan, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """One augmented batch on the plan's device; a 2-D network gets slices of volumes.

    Returns:
        images (N, C, patch) float32 in channels-last order, labels (N, patch) int64, ``IGNORE`` where not annotated.
    """
    draws = torch.Generator().manual_seed(int(generator(seed, 4, step).integers(2**62)))
    around = _margins(plan, draws)
    widest = around.max(axis=0)
    # One size for the batch: of its margin, a sample only reads what it looks at.
    size = np.add(plan.window, 2 * widest).tolist()
    images = np.zeros((plan.batch, plan.in_channels, *size), dtype=np.float32)
    labels = np.zeros((plan.batch, *size), dtype=np.int64)
    for position, case in enumerate(batch_cases(cases, plan, seed, step)):
        rng = generator(seed, 2, step, position)
        start = patch_start(case.shape, plan.window, rng, _centres(case, plan, position))
        margin = around[position]
        inner = tuple(slice(k, n - k) for k, n in zip((widest - margin).tolist(), size, strict=True))
        corner = np.subtract(start, margin).tolist()
        _read_patch(case, corner, images[position][(slice(None), *inner)], labels[position][inner])
    # Windows are one voxel thick along the slice axis, if there is one.
    size = [n for axis, n in enumerate(size) if axis != plan.slice_axis]
    x = torch.from_numpy(images.reshape(plan.batch, plan.in_channels, *size)).to(plan.device)
    y = torch.from_numpy(labels.reshape(plan.batch, *size)).to(plan.device)
    x, y = RECIPES[plan.augment](x, y, draws, plan.patch_spacing, plan.oriented, plan.patch, plan.augmentation)
    return x.contiguous(memory_format=memory_format(plan.dims)), y


def finishing_batches(cases: Sequence[PreparedCase], plan: Plan, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that a part of a network is fitted to after the last step: as they are, not augmented."""
    plain = replace(plan, augment="none")
    return (make_batch(cases, plain, seed, plan.steps + i) for i in range(FINISHING_BATCHES))


def _margins(plan: Plan, draws: torch.Generator) -> NDArray[np.int64]:
    """Voxels (batch, axes of the data) that the augmentation of each sample looks beyond its window, on either side."""
    around = margins(plan.augment, plan.batch, plan.patch, plan.patch_spacing, draws, plan.augmentation).numpy()
    return around if plan.slice_axis is None else np.insert(around, plan.slice_axis, 0, axis=1)


def _centres(case: PreparedCase, plan: Plan, position: int) -> NDArray[np.int32] | None:
    """Voxels that a patch may be centred on: foreground, or where annotation is sparse annotated ones; None: any."""
    forced = forced_foreground(position, plan.batch, plan.foreground)
    if not forced and not plan.ignore:
        return None
    rows = case.read_locations()
    foreground = rows[rows[:, 0] > 0]
    return foreground if forced and len(foreground) else rows[rows[:, 0] == 0]


def _read_patch(
    case: PreparedCase, start: Sequence[int], image: NDArray[np.float32], labels: NDArray[np.int64]
) -> None:
    """Fill ``image`` (C, patch) and ``labels`` (patch) from the case; what hangs over its edge stays 0."""
    source, target = [], []
    for begin, size, length in zip(start, labels.shape, case.shape, strict=True):
        low, high = max(0, begin), min(length, begin + size)
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    image[(slice(None), *target)] = case.read_image(tuple(source))
    labels[tuple(target)] = case.read_labels(tuple(source))
