"""Exact integrals of the distance from a rectangle to a set of parallel or perpendicular rectangles on one grid.

A face of a voxel is the cell ``[0, 1] x [0, 1]`` in units of the voxel, with coordinates u and v. The squared distance
from its point (u, v) to another face of the grid is a *term*

    f(u, v) = x (u - a)^2 S + z (v - b)^2 T + c

where S and T are the squared sides of the cell, x and z are 0 or 1, and a and b are integers, so that f is monotone in
u and in v. The squared distance to the whole surface is the smallest of some terms. Along v that lower envelope is
known in closed form, and so is the integral of its root; along u it is smooth between points that are known in closed
form as well, and is integrated by Gauss's rule there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
# Nodes per smooth piece. Polynomials are integrated exactly; so are all cells of two boxes.
NODES = 8
# Numbers in the largest array that is made at once: a few blocks of cells one after the other bound the memory.
BLOCK = 1 << 19
_EPS = 1e-12


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of N cells, M of each; see the head of this module.

    Attributes:
        a, b: (N, M) where the parts along u and v are 0; NaN where there is no such part (x or z is 0).
        c: (N, M) the constant part.
        s, t: (N,) squared sides of the cells.
    """

    a: Values
    b: Values
    c: Values
    s: Values
    t: Values

    @classmethod
    def joined(cls, parts: Sequence[Terms]) -> Terms:
        """The terms of all cells, which have the same number of them."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def part(self, cells: slice | NDArray[np.intp]) -> Terms:
        """The terms of some of the cells."""
        return Terms(*(getattr(self, f.name)[cells] for f in fields(self)))

    def along_u(self, u: Values) -> Values:
        """The terms (N, M, ...) without their part along v at ``u`` (N, ...)."""
        more = (..., *[None] * (u.ndim - 1))
        squares = (u[:, None] - self.a[more]) ** 2 * self.s[:, None][more]
        return np.where(np.isnan(self.a)[more], 0.0, squares) + self.c[more]

    def along_v(self, v: float) -> Values:
        """The part along v (N, M)."""
        return np.where(np.isnan(self.b), 0.0, (v - self.b) ** 2 * self.t[:, None])


def cell_means(terms: Terms, tolerance: float | None) -> tuple[Values, Values]:
    """Mean distance (N,) over each cell, and share (N,) of the cell within the tolerance (0 without one)."""
    limit = None if tolerance is None else tolerance**2
    n, m = terms.c.shape
    # Every two terms may be equal at four points, and each at four the limit; all terms are taken at all of them, and
    # at the nodes between them.
    points = 2 * m * (m - 1) + 4 * m + 2
    step = max(1, BLOCK // (m * max(points, 2 * NODES)))
    means, shares = np.zeros(n), np.zeros(n)
    for start in range(0, n, step):
        part = slice(start, start + step)
        means[part], shares[part] = _block_means(terms.part(part), limit)
    return means, shares


def _block_means(terms: Terms, limit: float | None) -> tuple[Values, Values]:
    """As ``cell_means``, of a few cells; with the squared tolerance."""
    ends = _breaks(terms, limit)
    cell, piece = np.nonzero(np.diff(ends, axis=1) > _EPS)
    start, width = ends[cell, piece], ends[cell, piece + 1] - ends[cell, piece]
    nodes, weights = _rule()
    u = start[:, None] + width[:, None] * nodes
    pieces = terms.part(cell)
    distance, share = _along_v(pieces, pieces.along_u(u), limit)
    n = len(terms.s)
    means: Values = np.bincount(cell, (distance @ weights) * width, minlength=n).astype(np.float64)
    shares: Values = np.bincount(cell, (share @ weights) * width, minlength=n).astype(np.float64)
    return means, shares


def _rule() -> tuple[Values, Values]:
    """Nodes and weights on [0, 1], dense at both ends: roots and logarithms there do no harm."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    x, w = (x + 1) / 2, w / 2
    return x * x * (3 - 2 * x), w * 6 * x * (1 - x)


def _breaks(terms: Terms, limit: float | None) -> Values:
    """Points (N, E) of u, sorted from 0 to 1, between which the integral along v is smooth."""
    n, m = terms.c.shape
    found = [np.zeros((n, 1)), np.ones((n, 1))]
    # Coefficients of the terms as polynomials in u.
    has = ~np.isnan(terms.a)
    a = np.where(has, terms.a, 0.0)
    square = np.where(has, terms.s[:, None], 0.0)
    linear, constant = -2 * a * square, a * a * square + terms.c
    first, second = np.triu_indices(m, 1)
    for v in (0.0, 1.0):
        level = constant + terms.along_v(v)
        if m > 1:
            roots = _roots(
                square[:, first] - square[:, second],
                linear[:, first] - linear[:, second],
                level[:, first] - level[:, second],
            )
            found.append(_lowest(terms, roots, np.tile(first, 2), v))
        if limit is not None:
            roots = _roots(square, linear, level - limit)
            found.append(_lowest(terms, roots, np.tile(np.arange(m), 2), v))
    return np.sort(np.concatenate(found, axis=1), axis=1)


def _lowest(terms: Terms, roots: Values, index: NDArray[np.intp], v: float) -> Values:
    """The roots (N, E) inside the cell where term ``index`` (E,) is the lowest at ``v``; 0 in place of the others."""
    inside = (roots > _EPS) & (roots < 1 - _EPS)
    roots = np.where(inside, roots, 0.0)
    all_terms = terms.along_u(roots) + terms.along_v(v)[:, :, None]
    mine = all_terms[:, index, np.arange(len(index))]
    return np.where(inside & (mine <= all_terms.min(axis=1) + _EPS * (1 + mine)), roots, 0.0)


def _roots(square: Values, linear: Values, constant: Values) -> Values:
    """Real roots (N, 2 E) of polynomials (N, E) of the second degree or less; NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        q = -0.5 * (linear + np.copysign(np.sqrt(linear**2 - 4 * square * constant), linear))
        return np.concatenate([q / square, constant / q], axis=1)


def _along_v(terms: Terms, level: Values, limit: float | None) -> tuple[Values, Values]:
    """Integral over v of the root of the lowest term, and length within the limit, each (N, G), at G points of u.

    Args:
        terms: of N cells.
        level: (N, M, G) the terms without their part along v.
        limit: squared tolerance.
    """
    slanted = ~np.isnan(terms.b)[:, :, None]
    b = np.where(slanted[:, :, 0], terms.b, 0.0)[:, :, None]
    t = terms.t[:, None, None]
    flat = np.where(slanted, np.inf, level).min(axis=1)
    # Where each slanted term lies below all flat ones: on this side of its root.
    with np.errstate(invalid="ignore"):
        reach = np.sqrt(np.maximum(flat[:, None] - level, 0.0) / t)
    low, high = np.maximum(b - reach, 0.0), np.minimum(b + reach, 1.0)
    flat_low = np.where(slanted & (b <= 0), high, 0.0).max(axis=1)
    flat_high = np.where(slanted & (b >= 1), low, 1.0).min(axis=1)
    low, high = _between(low, high, level, b, slanted, t)
    root = np.sqrt(t)
    pieces = np.where(
        slanted & (high > low), _antiderivative(high - b, level, root) - _antiderivative(low - b, level, root), 0.0
    )
    with np.errstate(invalid="ignore"):
        rest = np.where(flat < np.inf, np.sqrt(flat) * np.maximum(flat_high - flat_low, 0.0), 0.0)
    distance = pieces.sum(axis=1) + rest
    if limit is None:
        return distance, np.zeros_like(distance)
    # Every slanted term rises or falls all over the cell: what it has within the limit begins at one of its ends.
    reach = np.where(level <= limit, np.sqrt(np.maximum(limit - level, 0.0)) / root, -np.inf)
    up = np.where(slanted & (b <= 0), b + reach, 0.0).max(axis=1).clip(0.0, 1.0)
    down = np.where(slanted & (b >= 1), b - reach, 1.0).min(axis=1).clip(0.0, 1.0)
    return distance, np.where(flat <= limit, 1.0, np.minimum(up + 1.0 - down, 1.0))


def _between(
    low: Values, high: Values, level: Values, b: Values, slanted: NDArray[np.bool_], t: Values
) -> tuple[Values, Values]:
    """The stretch of v, within ``low`` and ``high``, on which each slanted term lies below all other slanted ones."""
    for j in range(level.shape[1]):
        other, at = level[:, j : j + 1], b[:, j : j + 1]
        gap = 2 * t * (at - b)
        with np.errstate(divide="ignore", invalid="ignore"):
            cut = (other - level + t * (at**2 - b**2)) / gap
        both = slanted & slanted[:, j : j + 1]
        high = np.where(both & (gap > 0), np.minimum(high, cut), high)
        low = np.where(both & (gap < 0), np.maximum(low, cut), low)
        # Terms of one place are parallel: the lower one is below everywhere, the first one of two equals.
        earlier = (np.arange(level.shape[1]) > j)[None, :, None]
        above = both & (gap == 0) & ((other < level) | ((other == level) & earlier))
        high = np.where(above, low, high)
    return low, high


def _antiderivative(y: Values, level: Values, root: Values) -> Values:
    """The integral of sqrt(level + (root y)^2) over y."""
    slope = root * y
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = np.where(level > 0, level / root * np.arcsinh(slope / np.sqrt(level)), 0.0)
    return 0.5 * (y * np.sqrt(level + slope**2) + tail)
