"""Batched intensity changes: each takes images (N, C, S) and a generator and draws per sample.

Where only a share of a batch is at hand, all of it is drawn, since its samples draw from one generator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.augment.draws import Share


def _per_sample(images: Tensor, values: Tensor, share: Share) -> Tensor:
    return values[share.rows].to(images.device).reshape(-1, *[1] * (images.ndim - 1))


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def brightness_contrast(
    images: Tensor, generator: torch.Generator, probability: float, share: Share | None = None
) -> Tensor:
    """Scale about the sample mean by 0.75 to 1.25 and shift by up to 0.2 of the sample deviation."""
    share = share or Share.whole(len(images))
    count = share.batch
    active = torch.rand(count, generator=generator) < probability
    gain = torch.where(active, _uniform(count, 0.75, 1.25, generator), torch.ones(()))
    shift = torch.where(active, _uniform(count, -0.2, 0.2, generator), torch.zeros(()))
    axes = tuple(range(1, images.ndim))
    mean, std = images.mean(dim=axes, keepdim=True), images.std(dim=axes, keepdim=True)
    return (images - mean) * _per_sample(images, gain, share) + mean + std * _per_sample(images, shift, share)


def gamma(images: Tensor, generator: torch.Generator, probability: float, share: Share | None = None) -> Tensor:
    """Raise the range-normalised sample to a power of 0.7 to 1.5, range kept."""
    share = share or Share.whole(len(images))
    count = share.batch
    active = torch.rand(count, generator=generator) < probability
    power = torch.where(active, _uniform(count, 0.7, 1.5, generator), torch.ones(()))
    axes = tuple(range(1, images.ndim))
    low, high = images.amin(dim=axes, keepdim=True), images.amax(dim=axes, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((images - low) / span).pow(_per_sample(images, power, share)) * span + low


def noise(images: Tensor, generator: torch.Generator, probability: float, share: Share | None = None) -> Tensor:
    """Add Gaussian noise of up to 0.1 of the sample deviation."""
    share = share or Share.whole(len(images))
    count = share.batch
    active = torch.rand(count, generator=generator) < probability
    level = torch.where(active, _uniform(count, 0.0, 0.1, generator), torch.zeros(()))
    std = images.std(dim=tuple(range(1, images.ndim)), keepdim=True)
    # Drawn on the CPU, so that a run on any device sees the same noise.
    field = torch.randn((count, *images.shape[1:]), generator=generator)[share.rows].to(images.device)
    return images + field * std * _per_sample(images, level, share)
