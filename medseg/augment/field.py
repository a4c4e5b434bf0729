"""Smooth multiplicative fields, as a receive coil leaves them in magnetic resonance images."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

DEGREE = 3


def terms(dims: int) -> list[tuple[int, ...]]:
    """Degrees per axis of the products of Legendre polynomials of total degree 1 to ``DEGREE``."""
    return [t for t in product(range(DEGREE + 1), repeat=dims) if 0 < sum(t) <= DEGREE]


def bias_field(rows: Tensor, coefficients: Tensor) -> Tensor:
    """Multiply each row by the exponential of a polynomial, about its smallest value.

    Raw intensities have their zero there; what normalisation subtracts must not change sign across the field.

    Args:
        rows: (M, S).
        coefficients: (M, terms), one per product of Legendre polynomials over -1..1 (Van Leemput et al. 1999 correct
            with such fields).
    """
    shape = rows.shape[1:]
    field = torch.zeros_like(rows)
    for term, coefficient in zip(terms(len(shape)), coefficients.to(rows.device).T, strict=True):
        part = coefficient.reshape(-1, *[1] * len(shape))
        for axis, (degree, n) in enumerate(zip(term, shape, strict=True)):
            along = [1] * rows.ndim
            along[axis + 1] = n
            part = part * _legendre(torch.linspace(-1, 1, n, device=rows.device), degree).reshape(along)
        field += part
    gain = field.exp_()
    low = rows.flatten(1).amin(dim=1).reshape(-1, *[1] * len(shape))
    # Written so that a field of 1 changes no bit.
    return rows * gain + low * (1 - gain)


def _legendre(x: Tensor, degree: int) -> Tensor:
    if degree == 0:
        return torch.ones_like(x)
    return (x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2)[degree - 1]
