"""Flow fields: at each voxel of an object, the direction from which heat of its centre arrives.

After Cellpose (Stringer et al. 2021): heat is fed in at the centre, spreads within the object and is lost at its
border. Its gradient leads around bends to the centre, and away from the border on both sides of two that touch.

Heat needs as many iterations as an object is long, so those of large objects begin with what a grid of half the
resolution gives, and only the objects that still need iterations take part in one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Objects whose extents sum to more voxels than this begin on a coarser grid, and then have FINE iterations.
LARGE = 64
FINE = 12
# Between looks at whether heat has come to where it had not been.
LOOK = 8


@dataclass(frozen=True, slots=True)
class _Voxels:
    """The F voxels of all objects of a batch, those whose objects need most iterations first.

    Attributes:
        places: (F,) flat indices in the batch.
        objects: (F,) the object 1..K that each belongs to.
        neighbours: (F, 2d) int32 positions among the F of its face neighbours in the same object, F where there is
            none: down and up the first axis, down and up the second, and so on.
        towards: (F, d) vectors to the object's centre, in the unit of the spacing.
        centres: positions of the centres among the F.
        active: for each iteration, how many of the F are still iterated.
    """

    places: Tensor
    objects: Tensor
    neighbours: Tensor
    towards: Tensor
    centres: Tensor
    active: list[int]


def flow_field(objects: Tensor, spacing: Sequence[float]) -> Tensor:
    """Unit vectors towards the centres of objects, by diffusion of heat from the centre.

    The centre is the voxel of an object that is nearest to the median of its voxels. Parts of an object that share no
    face with that of the centre, which heat does not reach, point straight at the centre.

    Args:
        objects: (N, S) integers on any device, two or three spatial axes.
        spacing: (d,) distance of neighbouring voxels along each axis; vectors are in its unit, not in voxels.

    Returns:
        (N, d, S) float32: length 1 in objects, but 0 at their centres; 0 outside.
    """
    dims, labels = objects.dim() - 1, _compact(objects)
    flow = torch.zeros((dims, objects.numel()), device=objects.device)
    if bool((labels > 0).any()):
        medians, extents = _boxes(labels)
        voxels, heat = _heated(labels, spacing, medians, extents)
        near = _at(heat, voxels.neighbours)
        gradient = (near[:, 1::2] - near[:, ::2]) / torch.tensor(spacing, dtype=heat.dtype, device=heat.device)
        # Far from the centre, heat can be too small to be squared.
        gradient /= gradient.abs().amax(dim=1, keepdim=True)
        gradient = torch.where(gradient.isfinite().all(dim=1, keepdim=True), gradient, voxels.towards)
        gradient[voxels.centres] = 0
        flow[:, voxels.places] = torch.nn.functional.normalize(gradient, dim=1).T.float()
    return flow.view(dims, *objects.shape).transpose(0, 1).contiguous()


def keyed(labels: Tensor) -> tuple[Tensor, int, int]:
    """Batch item and number in one: keys (N, S) int64, keys per item, and keys in all. Key 0 of an item: background."""
    stride = int(labels.max()) + 1 if labels.numel() else 1
    items = torch.arange(len(labels), device=labels.device).view(-1, *[1] * (labels.dim() - 1))
    return labels.long() + items * stride, stride, stride * len(labels)


def _compact(objects: Tensor) -> Tensor:
    """(N, S) 1..K for the K objects of all items, 0 for background."""
    keys, stride, count = keyed(objects)
    there = torch.bincount(keys.flatten(), minlength=count) > 0
    there[::stride] = False
    return torch.where(there, there.cumsum(0), 0)[keys]


def _boxes(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Median coordinates (K + 1, d) and extents (K + 1, d) of objects, in voxels."""
    places = labels.flatten().nonzero().flatten()
    objects, count = labels.flatten()[places], int(labels.max()) + 1
    medians, extents = [], []
    for coords, size in zip(torch.unravel_index(places, labels.shape)[1:], labels.shape[1:], strict=True):
        below = torch.bincount(objects * size + coords, minlength=count * size).view(count, size).cumsum(dim=1)
        total = below[:, -1:]
        medians.append(((below <= (total - 1) // 2).sum(dim=1) + (below <= total // 2).sum(dim=1)) / 2)
        extents.append(((below > 0) & (below < total)).sum(dim=1) + 1)
    return torch.stack(medians, dim=1), torch.stack(extents, dim=1)


def _heated(labels: Tensor, spacing: Sequence[float], points: Tensor, extents: Tensor) -> tuple[_Voxels, Tensor]:
    """The voxels of objects and their heat (F + 1), fed in nearest to ``points`` (K + 1, d); 0 stands last."""
    large = extents.sum(dim=1) > LARGE
    iterations = torch.where(large, FINE, 2 * extents.sum(dim=1))
    voxels = _voxels(labels, spacing, points, iterations)
    heat = torch.zeros(len(voxels.places) + 1, dtype=torch.float64, device=labels.device)
    if bool(large.any()):
        # The finest axes are halved.
        stride = [2 if s < 2 * min(spacing) else 1 for s in spacing]
        every = tuple(slice(None, None, n) for n in stride)
        halves = torch.where(large[labels], labels, 0)[(slice(None), *every)]
        divisor = torch.tensor(stride, device=labels.device)
        coarse, warm = _heated(
            halves,
            [s * n for s, n in zip(spacing, stride, strict=True)],
            points / divisor,
            -(-extents // divisor) * large[:, None],
        )
        grid = torch.zeros(halves.numel(), dtype=heat.dtype, device=heat.device)
        grid[coarse.places] = warm[:-1]
        grid = grid.view(halves.shape)
        for axis, n in enumerate(stride, start=1):
            grid = grid.repeat_interleave(n, dim=axis).narrow(axis, 0, labels.shape[axis])
            halves = halves.repeat_interleave(n, dim=axis).narrow(axis, 0, labels.shape[axis])
        heat[:-1] = torch.where(halves == labels, grid, 0).flatten()[voxels.places]
    return voxels, _diffused(heat, voxels, spacing)


def _diffused(heat: Tensor, voxels: _Voxels, spacing: Sequence[float]) -> Tensor:
    """Heat (F + 1) after the iterations, and after as many more as it takes to come everywhere it can."""
    # Heat exchanged with a neighbour falls with the square of its distance.
    rates = torch.tensor([1 / s**2 for s in spacing for _ in (0, 1)], dtype=heat.dtype, device=heat.device)
    rates /= rates.sum()

    def iterate(n: int) -> None:
        heat[voxels.centres] += 1
        heat[:n] = _at(heat, voxels.neighbours[:n]) @ rates

    for n in voxels.active:
        iterate(n)
    cold = int((heat == 0).sum())
    while cold > 1:
        for _ in range(LOOK):
            iterate(len(voxels.places))
        before, cold = cold, int((heat == 0).sum())
        if cold == before:
            break
    return heat


def _at(values: Tensor, positions: Tensor) -> Tensor:
    return values.index_select(0, positions.flatten()).view(positions.shape)


def _voxels(labels: Tensor, spacing: Sequence[float], points: Tensor, iterations: Tensor) -> _Voxels:
    places = labels.flatten().nonzero().flatten()
    needed = iterations[labels.flatten()[places]]
    # Objects with most iterations first, so that those still iterated are always the first n.
    order = torch.argsort(needed, descending=True, stable=True)
    places = places[order]
    objects = labels.flatten()[places]
    coords = torch.stack(torch.unravel_index(places, labels.shape)[1:], dim=1)
    steps = torch.tensor(spacing, dtype=torch.float64, device=labels.device)
    distances = ((points[objects] - coords) * steps).square().sum(dim=1)
    centres = _nearest(objects, distances, places, len(points))
    at = torch.zeros(len(points), dtype=torch.long, device=labels.device)
    at[objects[centres]] = centres
    still = torch.bincount(needed).flip(0).cumsum(0).flip(0)
    return _Voxels(
        places=places,
        objects=objects,
        neighbours=_neighbours(labels.shape, places, objects),
        towards=(coords[at[objects]] - coords) * steps,
        centres=centres,
        active=still[1:].tolist(),
    )


def _nearest(objects: Tensor, distances: Tensor, places: Tensor, count: int) -> Tensor:
    """Positions of the nearest voxel of each object, of equal ones the first in raster order."""
    least = torch.full((count,), math.inf, dtype=distances.dtype, device=distances.device)
    least.scatter_reduce_(0, objects, distances, "amin")
    nearest = (distances == least[objects]).nonzero().flatten()
    first = torch.full((count,), torch.iinfo(torch.long).max, device=objects.device)
    first.scatter_reduce_(0, objects[nearest], places[nearest], "amin")
    return nearest[places[nearest] == first[objects[nearest]]]


def _neighbours(shape: Sequence[int], places: Tensor, objects: Tensor) -> Tensor:
    """Positions (F, 2d) of face neighbours in the same object, F where there is none."""
    none = len(places)
    padded = [n + 2 for n in shape[1:]]
    inner, *coords = torch.unravel_index(places, tuple(shape))
    for c, n in zip(coords, padded, strict=True):
        inner = inner * n + c + 1
    grid = torch.full((shape[0] * math.prod(padded),), none, dtype=torch.int32, device=places.device)
    grid[inner] = torch.arange(none, dtype=torch.int32, device=places.device)
    owners = torch.cat([objects, objects.new_zeros(1)])
    found = []
    for axis in range(len(padded)):
        step = math.prod(padded[axis + 1 :])
        for offset in (-step, step):
            near = grid[inner + offset]
            found.append(torch.where(owners.index_select(0, near) == objects, near, none))
    return torch.stack(found, dim=1)
