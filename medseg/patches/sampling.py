"""Sampling of training patches: functions of (seed, fold, step), not draws from a random stream with a history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A patch may hang over the edge of the image by this share of its size, so that border voxels are seen often enough.
OVERHANG = 1 / 8
# Smaller seeds are one word of numpy's ``SeedSequence``: what follows in a key cannot be taken for a part of them.
ONE_WORD = 2**32


def generator(*key: int) -> np.random.Generator:
    """The random generator of a key: equal keys give equal draws, whatever was drawn before."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))


def fold_seed(seed: int, fold: int | str) -> int:
    """The seed of every draw of a training on a fold: first weights, batches, augmentation and dropout.

    In fold 0 it is the study's own seed. In any other it is the SHA-256 of both numbers, eight words long: numpy fills
    keys of up to four words with zeros, so that sums or appended numbers could name the stream of another training.
    """
    if fold == 0 and seed < ONE_WORD:
        return seed
    return int.from_bytes(hashlib.sha256(f"seed {seed} fold {fold}".encode()).digest(), "little")


def case_of(step: int, position: int, batch: int, cases: int, seed: int) -> int:
    """Index of the case at ``position`` of the batch of ``step``: shuffled passes over all cases."""
    epoch, index = divmod(step * batch + position, cases)
    return int(generator(seed, 1, epoch).permutation(cases)[index])


def forced_foreground(position: int, batch: int, share: float) -> bool:
    """Whether this position of the batch is centred on foreground: the last ``share`` of it (as nnU-Net does)."""
    return position >= round(batch * (1 - share))


def patch_start(
    shape: Sequence[int],
    patch: Sequence[int],
    rng: np.random.Generator,
    locations: NDArray[Any] | None = None,
) -> tuple[int, ...]:
    """Corner of a patch, possibly outside the image (the caller pads).

    Args:
        shape, patch: voxels per axis of image and patch.
        rng: source of the draw.
        locations: (n, 1 + d) rows (class, voxel); if given and not empty, a class present is drawn uniformly, then one
            of its voxels, and the patch is centred there as far as the image allows.
    """
    centre = None
    if locations is not None and len(locations):
        classes = np.unique(locations[:, 0])
        rows = locations[locations[:, 0] == classes[rng.integers(len(classes))]]
        centre = rows[rng.integers(len(rows)), 1:]
    start = []
    for axis, (n, p) in enumerate(zip(shape, patch, strict=True)):
        if n <= p:
            low, high = n - p, 0
        else:
            low, high = -int(p * OVERHANG), n - p + int(p * OVERHANG)
        free = int(rng.integers(low, high + 1))
        start.append(free if centre is None or n <= p else int(np.clip(int(centre[axis]) - p // 2, low, high)))
    return tuple(start)
