"""The augmentation recipes that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medseg.augment.intensity import brightness_contrast, gamma, noise
from medseg.augment.spatial import apply_affine, draw_affine

Recipe = Callable[[Tensor, Tensor, torch.Generator, tuple[float, ...], bool], tuple[Tensor, Tensor]]


def default_recipe(
    images: Tensor, labels: Tensor, generator: torch.Generator, spacing: tuple[float, ...], oriented: bool
) -> tuple[Tensor, Tensor]:
    """Rotate, scale, gamma, brightness, contrast, noise; and mirror what has no orientation.

    Ranges follow nnU-Net (Isensee et al. 2021) but for two choices: an oriented volume (a patient lies in it) is turned
    by at most 15 degrees and never mirrored, since its sides are not alike and short trainings gain from knowing it.

    Args:
        images: (N, C, S) float; labels: (N, S) integer.
        generator: source of every draw, keyed by (seed, step).
        spacing: voxel size per axis.
        oriented: whether the axes have a meaning (world orientation) that must be kept.
    """
    matrix = draw_affine(
        len(images),
        labels.ndim - 1,
        generator,
        rotation_deg=15.0 if oriented else 180.0,
        scale=(0.85, 1.2),
        mirror=not oriented,
        probability=0.5,
    )
    images, labels = apply_affine(images, labels, matrix, spacing)
    images = gamma(images, generator, 0.3)
    images = brightness_contrast(images, generator, 0.3)
    return noise(images, generator, 0.3), labels


def no_recipe(
    images: Tensor, labels: Tensor, generator: torch.Generator, spacing: tuple[float, ...], oriented: bool
) -> tuple[Tensor, Tensor]:
    """Leave the batch as it is."""
    return images, labels


RECIPES: dict[str, Recipe] = {"default": default_recipe, "none": no_recipe}
