"""Batched rotation, scaling and mirroring. Images are interpolated linearly, labels looked up in integers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.augment.mirror import mirror
from medseg.augment.parts import parts


def draw_affine(
    count: int,
    dims: int,
    generator: torch.Generator,
    *,
    rotation_deg: float,
    scale: tuple[float, float],
    mirror: bool,
    probability: float,
) -> Tensor:
    """Random linear maps (N, d, d), output to input coordinates, in voxels.

    Each sample is turned and scaled with ``probability`` (isotropic factor drawn log-uniformly from ``scale``; one
    angle in 2-D, one about each axis in 3-D), and mirrored per axis with probability 1/2 if ``mirror``.
    """
    active = torch.rand(count, generator=generator) < probability
    angles = (torch.rand(count, 3, generator=generator) * 2 - 1) * math.radians(rotation_deg)
    low, high = math.log(scale[0]), math.log(scale[1])
    factor = torch.exp(low + (high - low) * torch.rand(count, generator=generator))
    flips = torch.rand(count, dims, generator=generator) < 0.5
    angles = torch.where(active[:, None], angles, torch.zeros(()))
    factor = torch.where(active, factor, torch.ones(()))
    matrix = torch.eye(dims).repeat(count, 1, 1)
    planes = [(0, 1)] if dims == 2 else [(1, 2), (0, 2), (0, 1)]
    for index, (a, b) in enumerate(planes):
        turn = torch.eye(dims).repeat(count, 1, 1)
        cos, sin = torch.cos(angles[:, index]), torch.sin(angles[:, index])
        turn[:, a, a], turn[:, b, b], turn[:, a, b], turn[:, b, a] = cos, cos, -sin, sin
        matrix = matrix @ turn
    matrix = matrix / factor[:, None, None]
    if mirror:
        matrix = matrix * torch.where(flips, -1.0, 1.0)[:, None, :]
    return matrix


def apply_affine(images: Tensor, labels: Tensor, matrix: Tensor, spacing: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Move images and labels through linear maps about the patch centre.

    Args:
        images: (N, C, S) float.
        labels: (N, S) integer; looked up at the nearest voxel, background outside.
        matrix: (N, d, d) from ``draw_affine``, in isotropic physical coordinates.
        spacing: voxel size per axis, so that rotations stay rotations on anisotropic grids.

    Returns:
        images (zero outside) and labels of the same shapes and types.
    """
    moved_images, moved_labels = images.clone(), labels.clone()
    # Exact, and quicker than looking up: what does not move, or is mirrored and nothing else.
    plain = (matrix.abs() == torch.eye(matrix.shape[-1])).flatten(1).all(dim=1)
    mirror(moved_images, moved_labels, plain[:, None] & (matrix.diagonal(dim1=1, dim2=2) < 0))
    for where, drawn in parts((~plain).nonzero().flatten(), images.device):
        moved_images[where], moved_labels[where] = _looked_up(images[where], labels[where], matrix[drawn], spacing)
    return moved_images, moved_labels


def _looked_up(images: Tensor, labels: Tensor, matrix: Tensor, spacing: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    shape = labels.shape[1:]
    dims = len(shape)
    size = torch.tensor(shape, dtype=torch.float32, device=images.device)
    space = torch.tensor(spacing, dtype=torch.float32, device=images.device)
    matrix = matrix.to(images.device) * space[None, None, :] / space[None, :, None]
    axes = [torch.arange(n, dtype=torch.float32, device=images.device) - (n - 1) / 2 for n in shape]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, dims)
    moved = offsets[None] @ matrix.transpose(1, 2)
    # grid_sample wants (x, y, z) order, -1 and 1 at the outer voxel edges.
    grid = (moved * 2 / size).flip(-1).reshape(len(images), *shape, dims)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    index = torch.round(moved + (size - 1) / 2).long()
    inside = ((index >= 0) & (index < size.long())).all(dim=-1)
    flat = torch.zeros_like(index[..., 0])
    for axis in range(dims):
        flat = flat * shape[axis] + index[..., axis].clamp(0, shape[axis] - 1)
    looked = labels.reshape(len(labels), -1).gather(1, flat)
    return images, torch.where(inside, looked, torch.zeros_like(looked)).reshape(labels.shape)
