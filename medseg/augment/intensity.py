"""Batched intensity changes: each takes images (N, C, S) and a generator and draws per sample."""

from __future__ import annotations

import torch
from torch import Tensor


def _per_sample(images: Tensor, values: Tensor) -> Tensor:
    return values.to(images.device).reshape(-1, *[1] * (images.ndim - 1))


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def brightness_contrast(images: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    """Scale about the sample mean by 0.75 to 1.25 and shift by up to 0.2 of the sample deviation."""
    count = len(images)
    active = torch.rand(count, generator=generator) < probability
    gain = torch.where(active, _uniform(count, 0.75, 1.25, generator), torch.ones(()))
    shift = torch.where(active, _uniform(count, -0.2, 0.2, generator), torch.zeros(()))
    axes = tuple(range(1, images.ndim))
    mean, std = images.mean(dim=axes, keepdim=True), images.std(dim=axes, keepdim=True)
    return (images - mean) * _per_sample(images, gain) + mean + std * _per_sample(images, shift)


def gamma(images: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    """Raise the range-normalised sample to a power of 0.7 to 1.5, range kept."""
    count = len(images)
    active = torch.rand(count, generator=generator) < probability
    power = torch.where(active, _uniform(count, 0.7, 1.5, generator), torch.ones(()))
    axes = tuple(range(1, images.ndim))
    low, high = images.amin(dim=axes, keepdim=True), images.amax(dim=axes, keepdim=True)
    span = (high - low).clamp_min(1e-6)
    return ((images - low) / span).pow(_per_sample(images, power)) * span + low


def noise(images: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    """Add Gaussian noise of up to 0.1 of the sample deviation."""
    count = len(images)
    active = torch.rand(count, generator=generator) < probability
    level = torch.where(active, _uniform(count, 0.0, 0.1, generator), torch.zeros(()))
    std = images.std(dim=tuple(range(1, images.ndim)), keepdim=True)
    # Drawn on the CPU, so that a run on any device sees the same noise.
    field = torch.randn(images.shape, generator=generator).to(images.device)
    return images + field * std * _per_sample(images, level)
