"""Look batches up at moved places: images linearly, labels at the nearest voxel; mirrors alone are exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.augment.lookup import Places, coordinates, grid_of, linear, nearest, places_of
from medseg.augment.moves import Moves, bends_in_voxels, cells, in_voxels
from medseg.augment.parts import parts


def warp(
    images: Tensor, labels: Tensor, moves: Moves, patch: Sequence[int], spacing: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Look the patch up after ``moves``: images linearly, labels at the nearest voxel; zeros outside.

    Args:
        images: (N, C, S) float; labels: (N, S) integers below 2^24, the patch at their centre.
        moves: one per sample.
        patch: shape of the result; S may be larger by an even number of voxels along each axis.
        spacing: voxel size per axis.

    Returns:
        New tensors (N, C, patch) and (N, patch); samples that do not move are copied exactly, mirrored or not.
    """
    dims, device = len(patch), images.device
    out = torch.empty(*images.shape[:-dims], *patch, dtype=images.dtype, device=device)
    looked = torch.empty(len(labels), *patch, dtype=labels.dtype, device=device)
    middle = centre(images, patch), centre(labels, patch)
    # Axes from the last one back, which are the same of images and labels.
    mirrored = [
        [a - dims for a, m in enumerate(row) if m] for row in (moves.matrix.diagonal(axis1=1, axis2=2) < 0).tolist()
    ]
    for n in np.flatnonzero(~moves.active).tolist():
        out[n], looked[n] = (_flipped(of[n], mirrored[n]) for of in middle)
    slices = None if moves.coarse is None else (moves.coarse, patch[moves.coarse])
    moving = [axis for axis in range(dims) if axis != moves.coarse]
    inner, space, size = [patch[a] for a in moving], [spacing[a] for a in moving], [labels.shape[a + 1] for a in moving]
    for where, chosen in parts(moves.active, device):
        places = _places(moves.chosen(chosen).within_slices(), inner, space, size, device)
        out[where] = _looked_up(linear, images[where], places, slices)
        looked[where] = _looked_up(nearest, labels[where][:, None], places, slices)[:, 0]
    if moves.coarse is not None:
        for n in np.flatnonzero(moves.active).tolist():
            if moves.coarse - dims in mirrored[n]:
                out[n], looked[n] = out[n].flip(moves.coarse - dims), looked[n].flip(moves.coarse - dims)
    return out, looked


def _flipped(values: Tensor, axes: list[int]) -> Tensor:
    return values.flip(axes) if axes else values


def _looked_up(
    look: Callable[[Tensor, Places], Tensor], values: Tensor, places: Places, slices: tuple[int, int] | None
) -> Tensor:
    """Values (n, C, S) at places; of volumes with slices (axis, how many), all move alike, as channels."""
    if slices is None:
        return look(values, places)
    axis, count = slices[0] + 2, slices[1]
    channels = values.shape[1]
    values = values.narrow(axis, (values.shape[axis] - count) // 2, count).movedim(axis, 2).flatten(1, 2)
    values = look(values, places)
    return values.reshape(len(values), channels, count, *values.shape[2:]).movedim(2, axis)


def centre(values: Tensor, patch: Sequence[int]) -> Tensor:
    """The part (..., patch) in the centre; ``ValueError`` if it has no equal margins."""
    for axis, size in enumerate(patch, start=-len(patch)):
        margin, odd = divmod(values.shape[axis] - size, 2)
        if margin < 0 or odd:
            raise ValueError(f"{values.shape[axis]} voxels do not hold a patch of {size} with equal margins")
        values = values.narrow(axis, margin, size)
    return values


def _places(
    moves: Moves, patch: Sequence[int], spacing: Sequence[float], size: Sequence[int], device: torch.device
) -> Places:
    """Where to look in an input of this size."""
    matrix = in_voxels(moves.matrix, spacing)
    if moves.bends is None:
        return places_of(matrix, patch, size, device)
    bends = np.ascontiguousarray(coordinates(bends_in_voxels(moves, spacing), size, device))
    field = spline_field(torch.from_numpy(bends).to(device), patch, spacing)
    return grid_of(coordinates(matrix, size, device), patch, device).add_(field)


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
