"""The rows of the recipes' tables as changes of a batch in place: drawn per sample, computed for those drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from medseg.augment import appearance, colour, field, resolution
from medseg.augment.draws import Draws, Numbers
from medseg.augment.mirror import quarter_turn, turning_plane
from medseg.augment.moves import ranged
from medseg.augment.parts import Where, chosen_rows, parts
from medseg.augment.tables import Change

RGB = 3


@dataclass(frozen=True, slots=True)
class Batch:
    """What the steps change.

    Attributes:
        images: (N, C, S) float, contiguous.
        labels: (N, S) integers.
        spacing: voxel size per axis.
        coarse: the coarse axis; None: none.
    """

    images: Tensor
    labels: Tensor
    spacing: tuple[float, ...]
    coarse: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per axis."""
        return tuple(self.labels.shape[1:])


Step = Callable[[Batch, Change, Draws], None]
# A row of a recipe and (M, columns) uniform draws -> values, of as many rows or samples.
Values = Callable[[Change, Numbers], Numbers]
# Rows (M, S) of single channels, or samples (M, C, S), and their values -> changed ones; maybe the same, in place.
Apply = Callable[[Tensor, Tensor], Tensor]


def _factor(row: Change, uniform: Numbers) -> Numbers:
    """Factors (M,) of two columns: as many below 1 as above, each side uniform (as nnU-Net draws them).

    Of a range on one side of 1, all are in it.
    """
    below, share = ((uniform[:, 0] < 0.5) | (row.high <= 1)) & (row.low < 1), uniform[:, 1]
    lower, upper = (row.low, min(row.high, 1.0)), (max(row.low, 1.0), row.high)
    return np.where(below, *(low + (high - low) * share for low, high in (lower, upper)))


def _by_channel(batch: Batch, row: Change, draws: Draws, columns: int, values: Values, change: Apply) -> None:
    channels = batch.images.shape[1]
    # One row of numbers per channel: whether it is changed, and how.
    drawn = draws.uniform(channels, 1 + columns)
    chosen = draws.chance(row.probability)[:, None] & (drawn[..., 0] < row.per_channel)
    drawn = drawn[:, :, 1:]
    if row.shared:
        drawn = np.repeat(drawn[:, :1], channels, axis=1)
    found, rows = values(row, drawn.reshape(-1, columns)), batch.images.flatten(0, 1)
    for where, those in chosen_rows(chosen, rows[0].numel(), rows.device):
        _put(rows, where, change, found[those])


def _put(values: Tensor, where: Where, change: Apply, drawn: Numbers) -> None:
    """Change a part of ``values``."""
    part = values[where]
    changed = change(part, torch.from_numpy(drawn))
    # A slice is the very memory: what was changed in place is there already.
    if changed is not part or not isinstance(where, slice):
        values[where] = changed


def _by_sample(batch: Batch, row: Change, draws: Draws, columns: int, change: Apply) -> None:
    """As ``_by_channel``, for what changes all channels of colour images together; others are left as they are."""
    chosen, found = draws.chance(row.probability), ranged(row, draws.uniform(columns))
    if batch.images.shape[1] == RGB:
        for where, those in parts(chosen, batch.images.device):
            _put(batch.images, where, change, found[those])


def blur(batch: Batch, row: Change, draws: Draws) -> None:
    """Gaussian blur; the range is of the deviation in voxels, drawn per axis."""
    _by_channel(batch, row, draws, len(batch.shape), ranged, resolution.blur)


def bias_field(batch: Batch, row: Change, draws: Draws) -> None:
    """Smooth multiplicative field; the range is of the coefficients of its logarithm."""
    _by_channel(batch, row, draws, len(field.terms(len(batch.shape))), ranged, field.bias_field)


def brightness(batch: Batch, row: Change, draws: Draws) -> None:
    """Multiplication; the range is of the factor."""
    _by_channel(batch, row, draws, 2, _factor, appearance.brightness)


def contrast(batch: Batch, row: Change, draws: Draws) -> None:
    """Stretching about the mean, range kept; the range is of the factor."""
    _by_channel(batch, row, draws, 2, _factor, appearance.contrast)


def gamma(batch: Batch, row: Change, draws: Draws) -> None:
    """Powers, mean and deviation kept; the range is of the exponent."""
    _by_channel(batch, row, draws, 2, _factor, appearance.gamma)


def gamma_inverted(batch: Batch, row: Change, draws: Draws) -> None:
    """As ``gamma``, of the negative."""
    _by_channel(batch, row, draws, 2, _factor, partial(appearance.gamma, inverted=True))


def low_resolution(batch: Batch, row: Change, draws: Draws) -> None:
    """Shrinking and enlarging, the coarse axis spared; the range is of the small grid's share of the large one."""
    change: Apply = lambda rows, share: resolution.low_resolution(rows, share[:, 0], batch.coarse)  # noqa: E731
    _by_channel(batch, row, draws, 1, ranged, change)


def noise(batch: Batch, row: Change, draws: Draws) -> None:
    """Gaussian noise; the range is of its deviation, in units of the normalised intensities."""
    noisy, level = draws.chance(row.probability), ranged(row, draws.uniform())
    for n, values in draws.normal(level, tuple(batch.images.shape[1:]), noisy):
        batch.images[n] += values.to(batch.images.device)


def stain(batch: Batch, row: Change, draws: Draws) -> None:
    """Amounts of stains (colour images only); the range is of the shift, and of the gain about 1."""
    change: Apply = lambda images, v: colour.stain(images, 1 + v[:, :RGB], v[:, RGB:])  # noqa: E731
    _by_sample(batch, row, draws, 2 * RGB, change)


def hue_saturation(batch: Batch, row: Change, draws: Draws) -> None:
    """Hue and saturation (colour images only); the range is of the shift in turns, and of the factor about 1."""
    _by_sample(batch, row, draws, 2, lambda images, v: colour.colour(images, v[:, 0], 1 + v[:, 1]))


def quarter_turns(batch: Batch, row: Change, draws: Draws) -> None:
    """Turns by 90, 180 or 270 degrees in the plane across the coarsest axis; by 180 only if it is not square."""
    turned, turns = draws.chance(row.probability), 1 + (3 * draws.uniform()).astype(np.int64)
    plane, square = turning_plane(batch.shape, batch.spacing)
    if not square:
        turned &= turns == 2
    quarter_turn(batch.images, batch.labels, torch.from_numpy(turns * turned), plane)


# Rows that look samples up elsewhere are drawn and applied together, before these: medseg.augment.moves.
STEPS: Mapping[str, Step] = {
    "bias_field": bias_field,
    "noise": noise,
    "blur": blur,
    "brightness": brightness,
    "contrast": contrast,
    "low_resolution": low_resolution,
    "gamma_inverted": gamma_inverted,
    "gamma": gamma,
    "stain": stain,
    "colour": hue_saturation,
    "quarter_turn": quarter_turns,
}
