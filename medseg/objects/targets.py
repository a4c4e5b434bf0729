"""What networks learn of objects: codes of foreground and boundary, and distances to the border.

All targets are functions of object numbers (N, S): 0 is background, and equal numbers of different batch items have
nothing to do with one another. They are computed at every training step on patches that augmentation has moved, so
they must be cheap. **Beyond the edge of the array nothing is known**: an object that the edge cuts has no border there.
Flow fields have a file of their own, ``diffusion``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg.objects.diffusion import flow_field, keyed
from medseg.objects.seeds import LEAST

__all__ = ["BACKGROUND", "BAND", "CORE", "RING", "boundary_codes", "flow_field", "inner_distance"]

# Codes of ``boundary_codes``.
BACKGROUND, CORE, BAND, RING = 0, 1, 2, 3
# 2-D: objects of fewer pixels than these have bands of 1 and 2 pixels, larger ones of 3.
AREAS = (300, 2000)
# 3-D: width of the band as a share of the diameter of a ball of the object's volume.
SHARE = 0.08
# The widest band, in units of the finest spacing.
WIDEST = 3.0
# Bands that are tried where a wider one cuts an object's core in two.
NARROWER = (2.0, 1.0, 0.0)
# Distances that differ by rounding only are equal.
EPSILON = 1e-6


def boundary_codes(objects: Tensor, spacing: Sequence[float]) -> Tensor:
    """Foreground F and boundary B in one code.

    The band of an object is its voxels whose distance to a voxel of another label (another object or background) is at
    most w, and its voxels that share a face with another object. The finest spacing is the unit of w. 2-D: 1 for
    objects below 300 pixels, 2 below 2000, else 3 (the winners of the 2018 Data Science Bowl let the border grow like
    that); areas count in squares of the finest spacing. 3-D: 0.08 times the equivalent diameter, from 1 to 3. Where
    that cuts the core in two, at a neck, w is reduced to 2, 1 or 0. No object is erased: if its band would cover it,
    the voxels furthest from other labels stay core. Sizes are those seen in the array; along the array's edge there is
    no band.

    Args:
        objects: (N, S) integers on any device, two or three spatial axes.
        spacing: (d,) distance of neighbouring voxels along each axis.

    Returns:
        (N, S) uint8: 0 background, 1 core (F), 2 band (F and B), 3 background that shares a face with an object (B).
    """
    steps = [s / min(spacing) for s in spacing]
    labels = objects.to(torch.int32)
    keys, stride, count = keyed(labels)
    offsets, levels = _ball(steps)
    rank = torch.full_like(labels, len(levels), dtype=torch.uint8)
    faced = torch.zeros_like(labels, dtype=torch.bool)
    touched = torch.zeros_like(faced)
    inside = labels > 0
    # From far to near, so that the nearest is what stays. Both voxels of a pair see the other's label.
    for offset, level in offsets:
        here, there = _shifted(offset)
        differs = labels[here] != labels[there]
        rank[here].masked_fill_(differs, level)
        rank[there].masked_fill_(differs, level)
        if sum(map(abs, offset)) == 1:
            both = differs & inside[here] & inside[there]
            for side in (here, there):
                faced[side] |= differs
                touched[side] |= both

    sizes = torch.bincount(keys.flatten(), minlength=count)
    widths = _widths(sizes * math.prod(steps), len(steps)) + EPSILON
    core = inside & (rank >= torch.bucketize(widths, _tensor(levels, labels)).byte()[keys]) & ~touched
    for width in NARROWER:
        broken = _broken(core, keys, count)
        if not bool(broken.any()):
            break
        within = torch.bucketize(widths.clamp_max(width + EPSILON), _tensor(levels, labels)).byte()
        core |= broken[keys] & (rank >= within[keys]) & ~touched
    erased = (sizes > 0) & (torch.bincount(keys[core], minlength=count) == 0)
    erased[::stride] = False
    if bool(erased.any()):
        furthest = torch.zeros(count, dtype=torch.uint8, device=labels.device)
        furthest.scatter_reduce_(0, keys.flatten(), rank.flatten(), "amax")
        core |= erased[keys] & (rank == furthest[keys])
    codes = torch.where(faced & ~inside, RING, BACKGROUND).byte()
    return codes.masked_fill_(inside, BAND).masked_fill_(core, CORE)


def inner_distance(objects: Tensor, spacing: Sequence[float]) -> Tensor:
    """Distance to the object's border as a share of the object's maximum.

    The border is half the finest spacing before the nearest voxel of another label. An object that nothing else is
    seen of, because it fills the array, is 1 everywhere.

    Args:
        objects: (N, S) integers, two or three spatial axes; other devices than the CPU are copied from and to.
        spacing: (d,) distance of neighbouring voxels along each axis.

    Returns:
        (N, S) float32, 0 outside objects, above 0 inside, 1 where an object is thickest.
    """
    items = [_inner(item, spacing) for item in objects.cpu().numpy()]
    return torch.from_numpy(np.stack(items)).to(objects.device)


def _inner(labels: NDArray[np.integer], spacing: Sequence[float]) -> NDArray[np.float32]:
    out = np.zeros(labels.shape, dtype=np.float32)
    half = min(spacing) / 2
    for number, box in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if box is None:
            continue
        # One voxel more on each side, so that all neighbours of the object are seen, but none beyond the edge.
        wide = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        own = labels[wide] == number
        if own.all():
            out[wide] = 1
            continue
        distance = ndimage.distance_transform_edt(own, sampling=spacing)
        out[wide][own] = (distance[own] - half) / (distance.max() - half)
    return out


def _broken(core: Tensor, keys: Tensor, count: int) -> Tensor:
    """Which objects' cores have more parts that can be seeds than the objects have parts: (count,)."""
    from skimage.measure import label

    dims, owners = core.dim() - 1, keys.cpu().numpy()
    face = ndimage.generate_binary_structure(dims, 1)[None]
    parts, found = ndimage.label(core.cpu().numpy(), np.concatenate([0 * face, face, 0 * face]))
    seeds = np.bincount(parts.ravel(), minlength=found + 1) >= LEAST[dims]
    seeds[0] = False
    owner = np.zeros(found + 1, dtype=np.int64)
    owner[parts.ravel()] = owners.ravel()
    cores = np.bincount(owner[seeds], minlength=count)
    several = cores > 1
    for item in np.flatnonzero(several.reshape(len(core), -1).any(axis=1)):
        whole = np.where(several[owners[item]], owners[item], 0)
        pieces, total = label(whole, return_num=True, connectivity=1)
        of_piece = np.zeros(total + 1, dtype=np.int64)
        of_piece[pieces.ravel()] = whole.ravel()
        number, pieces_of = np.unique(of_piece[1:], return_counts=True)
        several[number] &= cores[number] > pieces_of
    return torch.from_numpy(several).to(core.device)


def _widths(volumes: Tensor, dims: int) -> Tensor:
    """Width of the band for areas or volumes in squares or cubes of the finest spacing, in that unit."""
    if dims == 2:
        return 1.0 + (volumes >= AREAS[0]).float() + (volumes >= AREAS[1]).float()
    return (SHARE * (6 / math.pi * volumes.float()) ** (1 / 3)).clamp(1.0, WIDEST)


def _ball(steps: Sequence[float]) -> tuple[list[tuple[tuple[int, ...], int]], list[float]]:
    """Offsets within the widest band and to all face neighbours, one of each opposite pair, from far to near.

    Returns:
        each offset with the index of its length among the lengths; the lengths, rising.
    """
    reach = [max(1, math.floor(WIDEST / s + EPSILON)) for s in steps]
    lengths: dict[tuple[int, ...], float] = {}
    for offset in itertools.product(*(range(-r, r + 1) for r in reach)):
        length = round(math.sqrt(sum((o * s) ** 2 for o, s in zip(offset, steps, strict=True))), 6)
        if offset > (0,) * len(steps) and (length <= WIDEST or sum(map(abs, offset)) == 1):
            lengths[offset] = length
    levels = sorted(set(lengths.values()))
    return [(o, levels.index(lengths[o])) for o in sorted(lengths, key=lambda o: -lengths[o])], levels


def _shifted(offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Two views of a batch: voxels p, and voxels p + offset."""
    here = tuple(slice(max(-o, 0), -o if o > 0 else None) for o in offset)
    there = tuple(slice(max(o, 0), o if o < 0 else None) for o in offset)
    return (slice(None), *here), (slice(None), *there)


def _tensor(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)
