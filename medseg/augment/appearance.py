"""Brightness, contrast and gamma of rows: single channels (M, S) of samples, each with its own parameter (M,)."""

from __future__ import annotations

import torch
from torch import Tensor


def _columns(rows: Tensor, values: Tensor) -> Tensor:
    return values.to(rows.device).reshape(-1, *[1] * (rows.ndim - 1))


def brightness(rows: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor``."""
    return rows * _columns(rows, factor)


def contrast(rows: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance from the mean by ``factor``, clipped to the range that the row had."""
    axes = tuple(range(1, rows.ndim))
    scale = _columns(rows, factor)
    low, high = rows.amin(dim=axes, keepdim=True), rows.amax(dim=axes, keepdim=True)
    # Written so that a factor of 1 changes no bit.
    changed = (rows * scale).add_(rows.mean(dim=axes, keepdim=True) * (1 - scale))
    # Clamping by tensors goes number by number on a CPU: ten times as slow.
    return torch.minimum(torch.maximum(changed, low, out=changed), high, out=changed)


def gamma(rows: Tensor, power: Tensor, *, inverted: bool = False) -> Tensor:
    """Raise the row, brought to 0..1 by its range, to ``power``, then restore its mean and deviation.

    Args:
        rows: (M, S).
        power: (M,) exponents.
        inverted: whether the powers are taken from the bright end: of the negative.
    """
    sign = -1.0 if inverted else 1.0
    flat, exponent = rows.flatten(1), power.to(rows.device)[:, None]
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    mean = flat.mean(dim=1, keepdim=True)
    # Sums of squares about the mean in two passes: fast, and exact where the spread is small.
    spread = torch.linalg.vector_norm(flat - mean, dim=1, keepdim=True)
    span = torch.where(high > low, high - low, 1.0)
    # The logarithm of 0 is minus infinity, and its exponential 0 again. Five times as fast as a power, as near as 1e-6.
    curve = (flat - (high if inverted else low)).mul_(sign / span).log_().mul_(exponent).exp_()
    curve -= curve.mean(dim=1, keepdim=True)
    curve_spread = torch.linalg.vector_norm(curve, dim=1, keepdim=True)
    curve *= sign * spread / torch.where(curve_spread > 0, curve_spread, 1.0)
    curve += mean
    if bool((power == 1).any()):
        curve = torch.where(exponent == 1, flat, curve)
    return curve.reshape(rows.shape)
