"""Flow fields: at each voxel of an object, the direction from which heat of its centre arrives.

After Cellpose (Stringer et al. 2021): heat is fed in at the centre, spreads within the object and is lost at its
border. Its gradient leads around bends to the centre, and away from the border on both sides of two that touch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _Voxels:
    """The F voxels of all K objects of a batch, those whose objects need most iterations first.

    Attributes:
        places: (F,) flat indices in the batch.
        objects: (F,) which object each belongs to.
        neighbours: (F, 2d) positions among the F of its face neighbours in the same object, F where there is none:
            down and up the first axis, down and up the second, and so on.
        towards: (F, d) vectors to the object's centre, in the unit of the spacing.
        centres: (K,) positions of the centres among the F.
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

    The centre is the voxel of an object that is nearest to the median of its voxels. Heat is fed in for twice the sum
    of the object's extents in voxels, as in Cellpose. Parts of an object that share no face with that of the centre,
    which heat does not reach, point straight at the centre.

    Args:
        objects: (N, S) integers on any device, two or three spatial axes.
        spacing: (d,) distance of neighbouring voxels along each axis; vectors are in its unit, not in voxels.

    Returns:
        (N, d, S) float32: length 1 in objects, but 0 at their centres; 0 outside.
    """
    shape, dims = objects.shape, objects.dim() - 1
    flow = torch.zeros((dims, objects.numel()), device=objects.device)
    if bool((objects > 0).any()):
        voxels = _voxels(objects, spacing)
        heat = _diffuse(voxels, spacing)
        near = heat[voxels.neighbours]
        gradient = (near[:, 1::2] - near[:, ::2]) / torch.tensor(spacing, dtype=heat.dtype, device=heat.device)
        # Far from the centre, heat can be too small to be squared.
        gradient /= gradient.abs().amax(dim=1, keepdim=True)
        gradient = torch.where(gradient.isfinite().all(dim=1, keepdim=True), gradient, voxels.towards)
        gradient[voxels.centres] = 0
        unit = torch.nn.functional.normalize(gradient, dim=1)
        flow[:, voxels.places] = unit.T.float()
    return flow.view(dims, *shape).transpose(0, 1).contiguous()


def keyed(labels: Tensor) -> tuple[Tensor, int, int]:
    """Batch item and number in one: keys (N, S) int64, keys per item, and keys in all. Key 0 of an item: background."""
    stride = int(labels.max()) + 1 if labels.numel() else 1
    items = torch.arange(len(labels), device=labels.device).view(-1, *[1] * (labels.dim() - 1))
    return labels.long() + items * stride, stride, stride * len(labels)


def _voxels(labels: Tensor, spacing: Sequence[float]) -> _Voxels:
    keys = keyed(labels)[0].flatten()
    places = (labels.flatten() > 0).nonzero().flatten()
    found, objects = torch.unique(keys[places], return_inverse=True)
    count = len(found)
    coords = torch.stack(torch.unravel_index(places, labels.shape)[1:])
    along = [_extent(objects, c, count, n) for c, n in zip(coords, labels.shape[1:], strict=True)]
    medians, extents = torch.stack([m for m, _ in along]), torch.stack([e for _, e in along])
    steps = torch.tensor(spacing, dtype=torch.float64, device=labels.device)
    towards = (medians[:, objects] - coords).T * steps
    centres = _first(objects, (towards**2).sum(dim=1), count)
    iterations = 2 * extents.sum(dim=0)

    # Objects with most iterations first, so that those still iterated are always the first n.
    order = torch.argsort(iterations[objects], descending=True, stable=True)
    position = torch.empty_like(order)
    position[order] = torch.arange(len(order), device=order.device)
    places, objects, coords, centres = places[order], objects[order], coords[:, order], position[centres]
    needed = torch.flip(torch.bincount(iterations[objects]), (0,)).cumsum(0).flip(0)
    return _Voxels(
        places=places,
        objects=objects,
        neighbours=_neighbours(labels.shape, places, objects),
        towards=(coords[:, centres][:, objects] - coords).T * steps,
        centres=centres,
        active=needed[1:].tolist(),
    )


def _extent(objects: Tensor, coords: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Median coordinate and extent of each object along one axis."""
    below = torch.bincount(objects * size + coords, minlength=count * size).view(count, size).cumsum(dim=1)
    total = below[:, -1:]
    low = (below <= (total - 1) // 2).sum(dim=1)
    high = (below <= total // 2).sum(dim=1)
    return (low + high) / 2, ((below > 0) & (below < total)).sum(dim=1) + 1


def _first(objects: Tensor, distances: Tensor, count: int) -> Tensor:
    """Position of the nearest voxel of each object, the first of equal ones."""
    least = torch.full((count,), math.inf, dtype=distances.dtype, device=distances.device)
    least.scatter_reduce_(0, objects, distances, "amin")
    nearest = (distances == least[objects]).nonzero().flatten()
    first = torch.full((count,), len(objects), dtype=torch.long, device=objects.device)
    return first.scatter_reduce_(0, objects[nearest], nearest, "amin")


def _neighbours(shape: Sequence[int], places: Tensor, objects: Tensor) -> Tensor:
    """Positions (F, 2d) of face neighbours in the same object, F where there is none."""
    none = len(places)
    padded = [n + 2 for n in shape[1:]]
    item, *coords = torch.unravel_index(places, tuple(shape))
    inner = item
    for c, n in zip(coords, padded, strict=True):
        inner = inner * n + c + 1
    grid = torch.full((shape[0] * math.prod(padded),), none, dtype=torch.long, device=places.device)
    grid[inner] = torch.arange(none, device=places.device)
    owners = torch.cat([objects, objects.new_tensor([-1])])
    found = []
    for axis in range(len(padded)):
        step = math.prod(padded[axis + 1 :])
        for offset in (-step, step):
            near = grid[inner + offset]
            found.append(torch.where(owners[near] == objects, near, none))
    return torch.stack(found, dim=1)


def _diffuse(voxels: _Voxels, spacing: Sequence[float]) -> Tensor:
    """Heat (F + 1), 0 in the last place, which stands for all that is outside an object."""
    # Heat exchanged with a neighbour falls with the square of its distance.
    rates = torch.tensor([1 / s**2 for s in spacing for _ in (0, 1)], dtype=torch.float64, device=voxels.places.device)
    rates /= rates.sum()
    heat = torch.zeros(len(voxels.places) + 1, dtype=torch.float64, device=rates.device)
    for n in voxels.active:
        heat[voxels.centres] += 1
        heat[:n] = heat[voxels.neighbours[:n]] @ rates
    return heat
