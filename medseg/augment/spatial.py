"""Batched rotation and scaling. Images are interpolated linearly, labels looked up in integers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseg.augment.lookup import linear, nearest, places_of
from medseg.augment.moves import in_voxels
from medseg.augment.parts import parts


def draw_affine(
    count: int,
    dims: int,
    generator: torch.Generator,
    *,
    rotation_deg: float,
    scale: tuple[float, float],
    probability: float,
) -> Tensor:
    """Random linear maps (N, d, d), output to input coordinates, in voxels.

    Each sample is turned and scaled with ``probability``: by an isotropic factor drawn log-uniformly from ``scale``,
    and one angle in 2-D, one about each axis in 3-D.
    """
    active = torch.rand(count, generator=generator) < probability
    angles = (torch.rand(count, 3, generator=generator) * 2 - 1) * math.radians(rotation_deg)
    low, high = math.log(scale[0]), math.log(scale[1])
    factor = torch.exp(low + (high - low) * torch.rand(count, generator=generator))
    angles = torch.where(active[:, None], angles, torch.zeros(()))
    factor = torch.where(active, factor, torch.ones(()))
    matrix = torch.eye(dims).repeat(count, 1, 1)
    planes = [(0, 1)] if dims == 2 else [(1, 2), (0, 2), (0, 1)]
    for index, (a, b) in enumerate(planes):
        turn = torch.eye(dims).repeat(count, 1, 1)
        cos, sin = torch.cos(angles[:, index]), torch.sin(angles[:, index])
        turn[:, a, a], turn[:, b, b], turn[:, a, b], turn[:, b, a] = cos, cos, -sin, sin
        matrix = matrix @ turn
    return matrix / factor[:, None, None]


def apply_affine(images: Tensor, labels: Tensor, matrix: Tensor, spacing: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Move images and labels through linear maps about the patch centre.

    Args:
        images: (N, C, S) float.
        labels: (N, S) integers below 2^24; looked up at the nearest voxel, background outside.
        matrix: (N, d, d) from ``draw_affine``, in isotropic physical coordinates.
        spacing: voxel size per axis, so that rotations stay rotations on anisotropic grids.

    Returns:
        images (zero outside) and labels of the same shapes and types.
    """
    moved_images, moved_labels = images.clone(), labels.clone()
    # What does not move is there already, exactly.
    moving = (matrix != torch.eye(matrix.shape[-1])).flatten(1).any(dim=1)
    shape = labels.shape[1:]
    for where, drawn in parts(moving.numpy(), images.device):
        places = places_of(in_voxels(matrix[drawn].numpy(), spacing), shape, shape, images.device)
        moved_images[where] = linear(images[where], places)
        moved_labels[where] = nearest(labels[where][:, None], places)[:, 0]
    return moved_images, moved_labels
