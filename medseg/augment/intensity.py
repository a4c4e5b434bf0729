"""Batched intensity changes: each takes images (N, C, S) and a generator and draws per sample.

Where only a share of a batch is at hand, all of it is drawn, since its samples draw from one generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medseg.augment.draws import Share
from medseg.augment.parts import parts

# Images (n, C, S) and what was drawn for each, (n, 1, ...) or (n, C, S) -> changed images.
Change = Callable[..., Tensor]


def _changed(images: Tensor, active: Tensor, values: Sequence[Tensor], share: Share, change: Change) -> Tensor:
    """The images, those changed for which ``active`` was drawn; all tensors of draws are of the whole batch."""
    images = images.clone()
    values = [v[share.rows].reshape(-1, *v.shape[1:], *[1] * (images.ndim - v.ndim)) for v in values]
    for where, drawn in parts(active[share.rows].numpy(), images.device):
        images[where] = change(images[where], *[v[drawn].to(images.device) for v in values])
    return images


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def brightness_contrast(
    images: Tensor, generator: torch.Generator, probability: float, share: Share | None = None
) -> Tensor:
    """Scale about the sample mean by 0.75 to 1.25 and shift by up to 0.2 of the sample deviation."""
    share = share or Share.whole(len(images))
    count = share.batch
    active = torch.rand(count, generator=generator) < probability
    drawn = _uniform(count, 0.75, 1.25, generator), _uniform(count, -0.2, 0.2, generator)
    axes = tuple(range(1, images.ndim))

    def change(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        mean, std = x.mean(dim=axes, keepdim=True), x.std(dim=axes, keepdim=True)
        return (x - mean) * gain + mean + std * shift

    return _changed(images, active, drawn, share, change)


def gamma(images: Tensor, generator: torch.Generator, probability: float, share: Share | None = None) -> Tensor:
    """Raise the range-normalised sample to a power of 0.7 to 1.5, range kept."""
    share = share or Share.whole(len(images))
    count = share.batch
    active = torch.rand(count, generator=generator) < probability
    drawn = (_uniform(count, 0.7, 1.5, generator),)
    axes = tuple(range(1, images.ndim))

    def change(x: Tensor, power: Tensor) -> Tensor:
        low, high = x.amin(dim=axes, keepdim=True), x.amax(dim=axes, keepdim=True)
        span = (high - low).clamp_min(1e-6)
        return ((x - low) / span).pow(power) * span + low

    return _changed(images, active, drawn, share, change)


def noise(images: Tensor, generator: torch.Generator, probability: float, share: Share | None = None) -> Tensor:
    """Add Gaussian noise of up to 0.1 of the sample deviation."""
    share = share or Share.whole(len(images))
    count = share.batch
    active = torch.rand(count, generator=generator) < probability
    level = _uniform(count, 0.0, 0.1, generator)
    if not bool(active.any()):
        return images
    # Drawn on the CPU, so that a run on any device sees the same noise.
    field = torch.randn((count, *images.shape[1:]), generator=generator)
    axes = tuple(range(1, images.ndim))

    def change(x: Tensor, level: Tensor, values: Tensor) -> Tensor:
        return x + values * x.std(dim=axes, keepdim=True) * level

    return _changed(images, active, (level, field), share, change)
