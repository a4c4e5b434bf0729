"""Brightness, contrast and gamma of rows: single channels (M, S) of samples, each with its own parameter (M,).

Rows are contiguous, and changed in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The range of a constant row, which is divided by.
TINY = torch.finfo(torch.float32).tiny


def _columns(rows: Tensor, values: Tensor) -> Tensor:
    return values.to(rows.device).reshape(-1, *[1] * (rows.ndim - 1))


def brightness(rows: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor``."""
    return rows.mul_(_columns(rows, factor))


def contrast(rows: Tensor, factor: Tensor) -> Tensor:
    """Multiply the distance from the mean by ``factor``, clipped to the range that the row had."""
    axes = tuple(range(1, rows.ndim))
    scale = _columns(rows, factor)
    low, high = rows.amin(dim=axes, keepdim=True), rows.amax(dim=axes, keepdim=True)
    # Written so that a factor of 1 changes no bit.
    rest = rows.mean(dim=axes, keepdim=True) * (1 - scale)
    rows.mul_(scale).add_(rest)
    # Clamping by tensors goes number by number on a CPU: ten times as slow.
    return torch.minimum(torch.maximum(rows, low, out=rows), high, out=rows)


def gamma(rows: Tensor, power: Tensor, *, inverted: bool = False) -> Tensor:
    """Raise the row, brought to 0..1 by its range, to ``power``, then restore its mean and deviation.

    Args:
        rows: (M, S).
        power: (M,) exponents.
        inverted: whether the powers are taken from the bright end: of the negative.
    """
    sign = -1.0 if inverted else 1.0
    flat, exponent = rows.view(len(rows), -1), power.to(rows.device)[:, None]
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    mean = flat.mean(dim=1, keepdim=True)
    # Sums of squares about the mean in two passes: fast, and exact where the spread is small.
    curve = flat - mean
    spread = torch.linalg.vector_norm(curve, dim=1, keepdim=True)
    # The logarithm of 0 is minus infinity, and its exponential 0 again. Five times as fast as a power, as near as 1e-6.
    curve -= (high if inverted else low) - mean
    curve.mul_(sign / (high - low).clamp_min_(TINY)).log_().mul_(exponent).exp_()
    curve -= curve.mean(dim=1, keepdim=True)
    # A curve that reaches 0 and 1 has a norm of 0.7 or more; that of a constant row is 0, and stays it.
    curve *= sign * spread / torch.linalg.vector_norm(curve, dim=1, keepdim=True).clamp_min_(0.5)
    if 1 in power.tolist():
        return rows.copy_(torch.where(exponent == 1, flat, curve + mean).view_as(rows))
    torch.add(curve, mean, out=flat)
    return rows
