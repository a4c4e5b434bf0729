"""Colours of microscopy: stains after Ruifrok & Johnston (2001), hue and saturation."""

from __future__ import annotations

import torch
from torch import Tensor

# Optical densities in red, green, blue of haematoxylin, eosin and DAB (Ruifrok & Johnston 2001).
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
DARKEST = 1e-6


def to_stains(images: Tensor) -> Tensor:
    """Amounts of haematoxylin, eosin and DAB (N, 3, S) in colours (N, 3, S) from 0 to 1: natural optical densities."""
    unmixing = torch.linalg.inv(torch.tensor(STAINS, dtype=torch.float64)).to(images)
    return torch.einsum("nc...,cs->ns...", -images.clamp_min(DARKEST).log(), unmixing)


def from_stains(stains: Tensor) -> Tensor:
    """The inverse of ``to_stains``, clipped to 0..1."""
    return torch.einsum("ns...,sc->nc...", stains, -torch.tensor(STAINS).to(stains)).exp().clamp(0, 1)


def stain(images: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift each stain's amount (Tellez et al. 2018).

    Args:
        images: (N, 3, S), 0..1 or any other range (``unit_range``).
        gain, shift: (N, 3), per stain; the shift is an optical density.
    """
    low, span = unit_range(images)
    column = (*gain.shape, *[1] * (images.ndim - 2))
    stains = to_stains((images - low) / span)
    stains = stains * gain.to(images.device).reshape(column) + shift.to(images.device).reshape(column)
    return from_stains(stains) * span + low


def colour(images: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """Shift the hue and scale the saturation.

    Args:
        images: (N, 3, S), 0..1 or any other range (``unit_range``).
        hue: (N,) in turns of the colour circle.
        saturation: (N,) factors.
    """
    low, span = unit_range(images)
    column = (-1, *[1] * (images.ndim - 2))
    h, s, v = to_hsv((images - low) / span).unbind(1)
    h = (h + hue.to(images.device).reshape(column)).remainder(1.0)
    s = (s * saturation.to(images.device).reshape(column)).clamp(0, 1)
    return from_hsv(torch.stack([h, s, v], dim=1)) * span + low


def unit_range(images: Tensor) -> tuple[Tensor, Tensor]:
    """Offset and span (N, 1, ...) that bring samples into 0..1: those that lie in it already keep their values."""
    axes = tuple(range(1, images.ndim))
    low = images.amin(dim=axes, keepdim=True).clamp_max(0)
    return low, images.amax(dim=axes, keepdim=True).clamp_min(1) - low


def to_hsv(images: Tensor) -> Tensor:
    """Hue, saturation and value (N, 3, S), each 0..1, of colours (N, 3, S) from 0 to 1 (Smith 1978)."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(dim=1), images.amin(dim=1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    saturation = chroma / torch.where(value > 0, value, 1.0)
    return torch.stack([(hue / 6).remainder(1.0), saturation, value], dim=1)


def from_hsv(hsv: Tensor) -> Tensor:
    """The inverse of ``to_hsv``."""
    hue, saturation, value = hsv.unbind(1)
    parts = []
    for shift in (5.0, 3.0, 1.0):
        k = (shift + hue * 6).remainder(6.0)
        parts.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(parts, dim=1)
