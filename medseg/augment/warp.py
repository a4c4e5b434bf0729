"""Look batches up where their moves say: images linearly, labels at the nearest voxel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.augment.moves import Moves, bends_in_voxels, cells, in_voxels
from medseg.augment.parts import parts


def warp(
    images: Tensor, labels: Tensor, moves: Moves, patch: Sequence[int], spacing: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Look the patch up where ``moves`` says: images linearly, labels at the nearest voxel; zeros outside.

    Args:
        images: (N, C, S) float; labels: (N, S) integers below 2^24, the patch at their centre.
        moves: one per sample.
        patch: shape of the result; S may be larger by an even number of voxels along each axis.
        spacing: voxel size per axis.

    Returns:
        New tensors (N, C, patch) and (N, patch); samples that do not move are copied exactly.
    """
    dims, device = len(patch), images.device
    out = torch.empty(*images.shape[:-dims], *patch, dtype=images.dtype, device=device)
    looked = torch.empty(len(labels), *patch, dtype=labels.dtype, device=device)
    for where, _ in parts((~moves.active).nonzero().flatten(), device):
        out[where], looked[where] = centre(images, patch)[where], centre(labels, patch)[where]
    coarse = moves.coarse
    slices = None if coarse is None else (coarse, patch[coarse])
    moving = [axis for axis in range(dims) if axis != coarse]
    shape, inner, space = (
        [labels.shape[1 + a] for a in moving],
        [patch[a] for a in moving],
        [spacing[a] for a in moving],
    )
    for where, chosen in parts(moves.active.nonzero().flatten(), device):
        grid = _grid(moves.chosen(chosen).within_slices(), shape, inner, space, device)
        out[where] = _sampled(images[where], grid, "bilinear", slices)
        # The nearest voxel is copied, and whole numbers below 2^24 are exact in single precision.
        numbers = _sampled(labels[where][:, None].float(), grid, "nearest", slices)
        looked[where] = numbers[:, 0].to(labels.dtype)
    return out, looked


def _sampled(values: Tensor, grid: Tensor, mode: str, slices: tuple[int, int] | None) -> Tensor:
    """Values (n, C, S) at the grid's places; of volumes with slices (axis, how many), all move alike, as channels."""
    if slices is None:
        return F.grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)
    axis, count = slices[0] + 2, slices[1]
    channels = values.shape[1]
    values = values.narrow(axis, (values.shape[axis] - count) // 2, count).movedim(axis, 2).flatten(1, 2)
    values = F.grid_sample(values, grid, mode=mode, padding_mode="zeros", align_corners=False)
    return values.reshape(len(values), channels, count, *values.shape[2:]).movedim(2, axis)


def centre(values: Tensor, patch: Sequence[int]) -> Tensor:
    """The part (..., patch) in the centre; ``ValueError`` if it has no equal margins."""
    for axis, size in enumerate(patch, start=-len(patch)):
        margin, odd = divmod(values.shape[axis] - size, 2)
        if margin < 0 or odd:
            raise ValueError(f"{values.shape[axis]} voxels do not hold a patch of {size} with equal margins")
        values = values.narrow(axis, margin, size)
    return values


def _grid(
    moves: Moves, shape: Sequence[int], patch: Sequence[int], spacing: Sequence[float], device: torch.device
) -> Tensor:
    """Places (n, patch, d) in the input: -1 and 1 at its outer edges, the last axis first, as grid_sample wants."""
    dims, count = len(patch), len(moves.matrix)
    size = torch.tensor(shape, dtype=torch.float32)
    matrix = (in_voxels(moves.matrix, spacing) * 2 / size[None, :, None]).to(device)
    # Planes of coordinates, seen as the last axis: written in one pass each.
    places = torch.empty(count, dims, *patch, device=device)
    for a in range(dims):
        place = torch.zeros((), device=device)
        for b, n in enumerate(patch):
            offsets = torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2
            along = [1] * dims
            along[b] = n
            place = place + (matrix[:, a, b, None] * offsets).reshape(count, *along)
        places[:, dims - 1 - a] = place
    if moves.bends is not None:
        points = (bends_in_voxels(moves, spacing) * 2 / size.reshape(1, -1, *[1] * dims)).to(device)
        places += spline_field(points, patch, spacing).flip(1)
    return places.movedim(1, -1)


def spline_field(points: Tensor, patch: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """Cubic B-spline fields (n, c, patch) of control points (n, c, K, ...) on the grid of ``cells``."""
    counts, size = cells(patch, spacing)
    for n, step, count in zip(patch, spacing, counts, strict=True):
        # Each product takes the first axis of the grid and puts the patch's at the end.
        points = torch.tensordot(points, _basis(n, step / size, count).to(points.device), dims=([2], [1]))
    return points


def _basis(length: int, step: float, count: int) -> Tensor:
    """Values (length, count + 3) of the uniform cubic B-splines at the voxels of an axis (Rueckert et al. 1999)."""
    if not count:
        return torch.ones(length, 1)
    place = (torch.arange(length) - (length - 1) / 2) * step + count / 2
    cell = place.floor().clamp(0, count - 1).long()
    t = place - cell
    weights = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    basis = torch.zeros(length, count + 3)
    for offset, weight in enumerate(weights):
        basis[torch.arange(length), cell + offset] = weight / 6
    return basis
