"""The augmentations that a configuration can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.augment.draws import Draws, Share
from medseg.augment.intensity import brightness_contrast, gamma, noise
from medseg.augment.mirror import mirror, quarter_turn, turning_plane
from medseg.augment.moves import draw_moves, reach
from medseg.augment.spatial import apply_affine, draw_affine
from medseg.augment.steps import STEPS, Batch
from medseg.augment.tables import TABLES, coarse_axis, table_of
from medseg.augment.warp import warp

Overrides = Mapping[str, Mapping[str, Any]]

# How far beyond the patch images are read, as a share of it; farther away there are zeros. nnU-Net reads this far for
# its rotations of volumes.
MAX_REACH = 0.3


@dataclass(frozen=True, slots=True)
class Setting:
    """What an augmentation gets besides the voxels of a batch.

    Attributes:
        spacing: voxel size per axis.
        oriented: whether the axes have a meaning (world orientation) that may have to be kept.
        patch: the part in the centre that is returned, where ``margins`` made the batch larger; none: all of it.
        overrides: probabilities and ranges that replace those of the table (``table_of``).
        share: which samples of a larger batch these are; they become what they become in it. None: all of it.
    """

    spacing: tuple[float, ...]
    oriented: bool
    patch: tuple[int, ...] | None = None
    overrides: Overrides | None = None
    share: Share | None = None


# Images (N, C, S) float and labels (N, S) integer, source of every draw, setting -> new ones of the patch's shape.
Augmentation = Callable[[Tensor, Tensor, torch.Generator, Setting], tuple[Tensor, Tensor]]


def default_augmentation(
    images: Tensor, labels: Tensor, generator: torch.Generator, setting: Setting
) -> tuple[Tensor, Tensor]:
    """Mirror, turn, scale; gamma, brightness, contrast, noise.

    For short trainings. An oriented volume (a patient lies in it) is turned by at most 15 degrees and never mirrored,
    since its sides are not alike and a network gains from knowing it. What has no orientation is mirrored, and turned
    by quarters where the patch is square: outlines stay as they were drawn, and no corner is empty (docs/notebook.md).
    Where it is not, any angle and other sizes are taken. Ranges of intensities follow nnU-Net (Isensee et al. 2021).

    Args:
        images: (N, C, S) float; labels: (N, S) integer.
        generator: source of every draw, keyed by (seed, step).
        setting: its patch and overrides are not used: nothing beyond the patch is looked at, nothing can be changed.
    """
    share = setting.share or Share.whole(len(images))
    dims, shape, spacing = labels.ndim - 1, labels.shape[1:], setting.spacing
    plane, square = turning_plane(shape, spacing)
    degrees = 15.0 if setting.oriented else 180.0
    matrix = draw_affine(share.batch, dims, generator, rotation_deg=degrees, scale=(0.85, 1.2), probability=0.5)
    matrix = matrix[share.rows]
    if setting.oriented or not square:
        images, labels = apply_affine(images, labels, matrix, spacing)
    else:
        # Half of the samples, those that would turn by any angle, turn by a quarter.
        moved = (matrix != torch.eye(dims)).flatten(1).any(dim=1)
        images, labels = quarter_turn(images.clone(), labels.clone(), moved.long(), plane)
    # Drawn for all, so that what follows is drawn alike.
    flips = torch.rand(share.batch, dims, generator=generator)[share.rows] < 0.5
    if not setting.oriented:
        images, labels = mirror(images, labels, flips)
    images = gamma(images, generator, 0.3, share)
    images = brightness_contrast(images, generator, 0.3, share)
    return noise(images, generator, 0.3, share), labels


def no_augmentation(
    images: Tensor, labels: Tensor, generator: torch.Generator, setting: Setting
) -> tuple[Tensor, Tensor]:
    """Leave the batch as it is."""
    return images, labels


def by_table(name: str) -> Augmentation:
    """The augmentation of a row of ``TABLES``, whether or not the axes have a meaning.

    Rotations are rotations in the data's unit, where nnU-Net turns the grid of voxels.
    """

    def augment(images: Tensor, labels: Tensor, generator: torch.Generator, setting: Setting) -> tuple[Tensor, Tensor]:
        spacing, overrides = setting.spacing, setting.overrides
        patch, share = setting.patch or tuple(labels.shape[1:]), setting.share or Share.whole(len(images))
        table, draws = table_of(name, patch, spacing, overrides), Draws(share.batch, generator, share.rows)
        images, labels = warp(images, labels, draw_moves(table, draws, patch, spacing), patch, spacing)
        batch = Batch(images, labels, spacing, coarse_axis(patch, spacing))
        for change, row in table.items():
            if change in STEPS and row.probability:
                STEPS[change](batch, row, draws)
        return batch.images, batch.labels

    return augment


def margins(
    name: str,
    count: int,
    patch: Sequence[int],
    spacing: Sequence[float],
    generator: torch.Generator,
    overrides: Overrides | None = None,
) -> NDArray[np.int64]:
    """Voxels (N, d) that an augmentation looks beyond the patch, on either side of each axis, per sample of a batch.

    Known before anything is read, since draws are functions of their key: only samples that are turned, scaled or bent
    need more than their patch. At most ``farthest``.

    Args:
        name: in ``AUGMENTATIONS``.
        count: samples in the batch.
        patch, spacing: per axis.
        generator: the one that the augmentation will be given; it is not advanced.
        overrides: those that it will be given.
    """
    if name not in TABLES:
        return np.zeros((count, len(patch)), dtype=np.int64)
    twin = torch.Generator()
    twin.set_state(generator.get_state())
    moves = draw_moves(table_of(name, patch, spacing, overrides), Draws(count, twin), patch, spacing)
    return np.minimum(reach(moves, patch, spacing), farthest(name, patch))


def farthest(name: str, patch: Sequence[int]) -> NDArray[np.int64]:
    """The most (d) that ``margins`` gives along each axis, whatever is drawn."""
    return (np.asarray(patch) * (MAX_REACH if name in TABLES else 0.0)).astype(np.int64)


AUGMENTATIONS: dict[str, Augmentation] = {
    "default": default_augmentation,
    # nnU-Net's whole table in its order (Isensee et al. 2021).
    "nnunet": by_table("nnunet"),
    # Any direction, bends, blur, light, noise; stains and colours where there are three channels.
    "microscopy": by_table("microscopy"),
    "none": no_augmentation,
}
