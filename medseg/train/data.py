"""Training batches as a function of (seed, step): read on the host, then augmented on the device.

The seed is that of a fold (``patches.sampling.fold_seed``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.augment.draws import Share
from medseg.augment.policy import AUGMENTATIONS, Setting, margins
from medseg.models.memory_layout import memory_format
from medseg.patches.sampling import case_of, forced_foreground, generator, patch_start
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase

# Enough for a linear classifier of regions: a batch holds hundreds of them.
FINISHING_BATCHES = 16


@dataclass(frozen=True, slots=True)
class RawBatch:
    """What was read for one step, not augmented yet.

    Attributes:
        step: which step.
        images: (N, C, S) float32 on the host; S is the patch and what the augmentation looks at beyond it.
        labels: (N, S) as they are stored, ``IGNORE`` where not annotated: uint8 channels, or where the network has a
            head for objects int32 codes of number and channel (``image/objects.py``).
    """

    step: int
    images: Tensor
    labels: Tensor

    def on(self, device: str) -> RawBatch:
        """The same on a device."""
        return RawBatch(self.step, self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, slots=True)
class Space:
    """Memory that holds one batch at a time.

    Attributes:
        images: flat float32, of the largest batch or larger.
        labels: flat, likewise, of ``label_type``.
    """

    images: NDArray[np.float32]
    labels: NDArray[Any]

    @classmethod
    def create(cls, shape: Sequence[int], labels: np.dtype[Any]) -> Space:
        """New memory, all zeros, for images of this shape (N, C, S) and their labels."""
        voxels = math.prod((shape[0], *shape[2:]))
        return cls(np.zeros(math.prod(shape), dtype=np.float32), np.zeros(voxels, dtype=labels))

    def shaped(self, shape: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Its beginning as images of this shape (N, C, S), and labels (N, S)."""
        flat = (shape[0], *shape[2:])
        return self.images[: math.prod(shape)].reshape(shape), self.labels[: math.prod(flat)].reshape(flat)

    def batch(self, step: int, shape: Sequence[int]) -> RawBatch:
        """The batch of images of this shape that lies in it."""
        images, labels = self.shaped(shape)
        return RawBatch(step, torch.from_numpy(images), torch.from_numpy(labels))


def label_type(plan: Plan) -> np.dtype[Any]:
    """The type of the labels that a plan's training reads: codes of objects, or channels."""
    return np.dtype(np.int32 if plan.network.learns_objects else np.uint8)


def batch_cases(cases: Sequence[PreparedCase], plan: Plan, seed: int, step: int) -> list[PreparedCase]:
    """The cases of one step's batch."""
    return [cases[case_of(step, i, plan.training.batch, len(cases), seed)] for i in range(plan.training.batch)]


def read_batch(
    cases: Sequence[PreparedCase],
    plan: Plan,
    seed: int,
    step: int,
    part: range | None = None,
    reading: Callable[[int], None] | None = None,
    into: Space | None = None,
) -> RawBatch:
    """Read what one step needs, on the host; a 2-D network gets slices of volumes.

    Args:
        cases, plan, seed, step: all that a batch depends on.
        part: positions of the batch that are read, where several processes read a share each; none: all.
        reading: called with the position whose case is read next.
        into: memory to read into; none: new memory.
    """
    positions = range(plan.training.batch) if part is None else part
    around = _margins(plan, _draws(seed, step))
    # One size for the batch, whatever part of it is read: of its margin, a sample only reads what it looks at.
    widest = around.max(axis=0)
    size = np.add(plan.window, 2 * widest).tolist()
    lead = (len(positions), plan.network.in_channels)
    space = into or Space.create((*lead, *size), label_type(plan))
    images, labels = space.shaped((*lead, *size))
    if into is not None:
        # An earlier batch lay there.
        images.fill(0)
        labels.fill(0)
    chosen = batch_cases(cases, plan, seed, step)
    for row, position in enumerate(positions):
        if reading is not None:
            reading(position)
        case, rng, margin = chosen[position], generator(seed, 2, step, position), around[position]
        start = patch_start(case.shape, plan.window, rng, _centres(case, plan, position))
        inner = tuple(slice(k, n - k) for k, n in zip((widest - margin).tolist(), size, strict=True))
        corner = np.subtract(start, margin).tolist()
        _read_patch(case, corner, images[row][(slice(None), *inner)], labels[row][inner])
    # Windows are one voxel thick along the slice axis, if there is one.
    size = [n for axis, n in enumerate(size) if axis != plan.grid.slice_axis]
    return space.batch(step, (*lead, *size))


def augment_batch(raw: RawBatch, plan: Plan, seed: int, part: range | None = None) -> tuple[Tensor, Tensor]:
    """Bring what was read to the plan's device and augment it there.

    Args:
        raw: from ``read_batch`` with the same plan, seed and part; a part becomes what it becomes in the whole batch.
        plan, seed, part: as they were when it was read.

    Returns:
        images (N, C, patch) float32 in the plan's layout, labels (N, patch) int64, channels or codes of objects.
    """
    raw = raw.on(plan.machine.device)
    x, y = raw.images, raw.labels
    share = None if part is None else Share(plan.training.batch, part)
    augment, draws = AUGMENTATIONS[plan.training.augment], _draws(seed, raw.step)
    x, y = augment(
        x,
        y,
        draws,
        Setting(plan.grid.patch_spacing, plan.grid.oriented, plan.network.patch, plan.training.augmentation, share),
    )
    return x.contiguous(memory_format=memory_format(plan.network.dims, plan.machine.channels_last)), y.long()


def make_batch(cases: Sequence[PreparedCase], plan: Plan, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """One batch, read and augmented, on the plan's device: see ``augment_batch``."""
    return augment_batch(read_batch(cases, plan, seed, step), plan, seed)


def finishing_batches(cases: Sequence[PreparedCase], plan: Plan, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches that a part of a network is fitted to after the last step: as they are, not augmented."""
    plain = plan.changed(augment="none")
    return (make_batch(cases, plain, seed, plan.training.steps + i) for i in range(FINISHING_BATCHES))


def _draws(seed: int, step: int) -> torch.Generator:
    """The source of all that is drawn for the augmentation of one step."""
    return torch.Generator().manual_seed(int(generator(seed, 4, step).integers(2**62)))


def _margins(plan: Plan, draws: torch.Generator) -> NDArray[np.int64]:
    """Voxels (batch, axes of the data) that the augmentation of each sample looks beyond its window, on either side."""
    around = margins(
        plan.training.augment,
        plan.training.batch,
        plan.network.patch,
        plan.grid.patch_spacing,
        draws,
        plan.training.augmentation,
    )
    return around if plan.grid.slice_axis is None else np.insert(around, plan.grid.slice_axis, 0, axis=1)


def _centres(case: PreparedCase, plan: Plan, position: int) -> NDArray[np.int32] | None:
    """Voxels that a patch may be centred on: foreground, or where annotation is sparse annotated ones; None: any."""
    forced = forced_foreground(position, plan.training.batch, plan.training.foreground)
    if not forced and not plan.training.ignore:
        return None
    rows = case.read_locations()
    foreground = rows[rows[:, 0] > 0]
    return foreground if forced and len(foreground) else rows[rows[:, 0] == 0]


def _read_patch(case: PreparedCase, start: Sequence[int], image: NDArray[np.float32], labels: NDArray[Any]) -> None:
    """Fill ``image`` (C, patch) and ``labels`` (patch) from the case; what hangs over its edge stays 0.

    Labels are channels in uint8, or else codes of objects.
    """
    source, target = [], []
    for begin, size, length in zip(start, labels.shape, case.shape, strict=True):
        low, high = max(0, begin), min(length, begin + size)
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    image[(slice(None), *target)] = case.read_image(tuple(source))
    read = case.read_labels if labels.dtype == np.uint8 else case.read_codes
    labels[tuple(target)] = read(tuple(source))
