"""The surface of voxel faces of two masks, and exact integrals of the distance between them: ``faces-v1``.

The surface of a mask is the union of the faces between its voxels and all others; outside the array is background. The
distance from a point of one surface to the other one is integrated over the area of each face (``envelope.py``), so
nothing depends on where voxel centres lie. The nearest faces are looked up among the neighbours on the grid, near ones
first, and then among the nearest ones anywhere, until no further one can be nearer.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.metrics.envelope import Terms, cell_means
from medseg.metrics.neighbours import (
    WORD,
    Neighbours,
    corner_values,
    largest_excess,
    neighbours,
    reach_of,
    term_of,
    terms_of,
    words_of,
)

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]
Index = NDArray[np.int64]
# Places that are looked up before it is asked which faces need more.
STAGES = (30, 100, 300)
# Faces that are asked for where neighbours do not suffice.
FAR = (24, 96)
# Places of a face at which the lowest term is asked for, as weights of ``corner_values``: near the middle; the corners.
PROBES = (
    np.array([[0.5, 0.5, 0.5, 0.5, 1]]),
    np.array([[1, 0, 1, 0, 1], [1, 0, 0, 1, 1], [0, 1, 1, 0, 1], [0, 1, 0, 1, 1]], dtype=np.float64),
)
# One term is below another one if it is by more than this: rounding.
ROUNDING = 1e-12
# A distance that equals the tolerance counts as within it, whatever the last bits of its square are.
TIE = 1e-12
# Faces that are handled at once; it bounds the memory.
CHUNK = 1 << 15


@dataclass(frozen=True, slots=True)
class FaceDistances:
    """Integrals over the faces of both masks.

    Attributes:
        area: of both surfaces (length in 2-D), in the unit of the spacing.
        integral: of the distance to the other surface.
        within: area whose distance is within the tolerance; 0 without one.
    """

    area: float
    integral: float
    within: float


class _Grid:
    """Voxels with three sides, of which the first ``real`` are real; the others stand for missing axes."""

    def __init__(self, spacing: Sequence[float]) -> None:
        self.real = len(spacing)
        one, two, three = [*spacing, *(1.0,) * (3 - self.real)]
        self.sides = (float(one), float(two), float(three))
        self.reach = reach_of(self.sides, self.real)

    def face_area(self, k: int) -> float:
        """Area of a face of direction k."""
        return float(np.prod([self.sides[j] for j in range(self.real) if j != k]))


class _Surface:
    """The faces of a mask: bit k of a voxel says that there is one between it and its predecessor along axis k."""

    def __init__(self, mask: Mask, grid: _Grid) -> None:
        self.grid = grid
        widths = [(n + 1, n + 2) if n else (0, 0) for n in grid.reach]
        padded = np.pad(mask.reshape(mask.shape + (1,) * (3 - mask.ndim)), widths)
        self.bits = np.zeros(padded.shape, dtype=np.uint8)
        for k in range(grid.real):
            line = (slice(None),) * k
            high, low = (*line, slice(1, None)), (*line, slice(None, -1))
            self.bits[high] |= (padded[high] ^ padded[low]).view(np.uint8) << k

        self.flat = self.bits.reshape(-1)
        self.places = np.flatnonzero(self.flat)
        self.codes = self.flat[self.places]

    @cached_property
    def faces(self) -> tuple[Index, Index]:
        """Direction (F,) and voxel (F, 3) of all faces."""
        found = [self.places[(self.codes & (1 << k)) > 0] for k in range(self.grid.real)]
        voxel = np.stack(np.unravel_index(np.concatenate(found), self.bits.shape), axis=1)
        return np.repeat(np.arange(len(found)), [len(f) for f in found]), voxel

    @cached_property
    def tree(self) -> cKDTree:
        """The centres of all faces."""
        return cKDTree(_centres(*self.faces, self.grid), balanced_tree=False, compact_nodes=False)


def face_distances(
    reference: Mask, prediction: Mask, spacing: Sequence[float], tolerance: float | None
) -> FaceDistances:
    """Integrals over the surfaces of two masks (S) that are not empty, in one to three dimensions."""
    grid = _Grid(spacing)
    surfaces = _Surface(reference, grid), _Surface(prediction, grid)
    # Faces that both surfaces have are at distance 0.
    own = [a.codes & ~b.flat[a.places] for a, b in (surfaces, surfaces[::-1])]
    area = within = 0.0
    cells: dict[int, list[tuple[Terms, Values]]] = {}
    for k in range(grid.real):
        faces = sum(int(np.count_nonzero(surface.codes & (1 << k))) for surface in surfaces)
        apart = [s.places[(codes & (1 << k)) > 0] for s, codes in zip(surfaces, own, strict=True)]
        area += faces * grid.face_area(k)
        within += (faces - sum(map(len, apart))) * grid.face_area(k)
        for terms, counts in _cells(apart, surfaces[::-1], k):
            part = _as_terms(terms, k, grid), counts * grid.face_area(k)
            cells.setdefault(terms.shape[1], []).append(part)
    integral, limit = 0.0, None if tolerance is None else tolerance * (1 + TIE)
    for parts in cells.values():
        distances, shares = cell_means(Terms.joined([terms for terms, _ in parts]), limit)
        weights = np.concatenate([w for _, w in parts])
        integral += float(distances @ weights)
        within += float(shares @ weights)
    return FaceDistances(area, integral, within if tolerance is not None else 0.0)


def _as_terms(terms: Values, k: int, grid: _Grid) -> Terms:
    u, v = (grid.sides[j] ** 2 for j in range(3) if j != k)
    n = len(terms)
    constant = (terms[:, :, 2] * grid.sides[k]) ** 2
    return Terms(terms[:, :, 0], terms[:, :, 1], constant, np.full(n, u), np.full(n, v))


def _centres(direction: Index, voxel: Index, grid: _Grid) -> Values:
    """Centres (N, 3) of faces."""
    sides = np.array(grid.sides)
    out: Values = (voxel + 0.5) * sides
    rows = np.arange(len(voxel))
    out[rows, direction] -= sides[direction] / 2
    return out


def _cells(places: Sequence[Index], others: Sequence[_Surface], k: int) -> Iterator[tuple[Values, Values]]:
    """Terms (N, M, 3) of faces of direction k, equal ones once, and how many faces are so (N,).

    Args:
        places: voxels of the faces of each of two surfaces.
        others: the surface to which each is measured.
        k: direction.
    """
    near = neighbours(k, others[0].grid.sides, others[0].grid.real)
    shape = others[0].bits.shape
    steps = near.places @ np.array([int(np.prod(shape[j:])) for j in (1, 2, 3)])
    least = int(steps.min())
    flat = np.concatenate([surface.flat for surface in others])
    both = np.concatenate([places[0], places[1] + others[0].flat.size]) + least
    for start in range(0, len(both), CHUNK):
        left = yield from _near(both[start : start + CHUNK], flat, steps - least, near)
        for i, surface in enumerate(others):
            mine = left[(left - least >= surface.flat.size) == (i == 1)] - least - i * surface.flat.size
            if mine.size:
                yield from _far(mine, surface, k)


def _near(
    places: Index, flat: NDArray[np.uint8], steps: Index, near: Neighbours
) -> Generator[tuple[Values, Values], None, Index]:
    """As ``_cells``, for the faces that have all they need among their neighbours; returns the places of the others.

    Args:
        places: (N,) places in ``flat``, such that those of neighbours are so many ``steps`` further.
        flat: bits of voxels.
        steps: (P,) not negative.
        near: the neighbours.
    """
    known = np.zeros((near.words.shape[1], len(places)), dtype=np.uint64)
    done = 0
    for stage in (*STAGES, len(steps)):
        stop = min(stage, len(steps))
        if stop == done or not places.size:
            continue
        for i in range(done, stop):
            bits = flat[steps[i] :].take(places)
            for word, table in zip(known, near.words[i], strict=True):
                if table[-1]:
                    word |= table.take(bits)
        done = stop
        enough = words_of(near.high[None] <= near.further[done])[0]
        complete = functools.reduce(np.bitwise_or, (word & some for word, some in zip(known, enough, strict=True))) != 0
        if complete.any():
            yield from _distinct(known[:, complete], near, int(near.known[done]))
        places, known = places[~complete], known[:, ~complete]
    return places


def _distinct(known: NDArray[np.uint64], near: Neighbours, terms: int) -> Iterator[tuple[Values, Values]]:
    """The distinct sets of terms among faces, without those that another one beats, and their numbers.

    Args:
        known: (W, N) words.
        near: the neighbours.
        terms: only the first so many are among them.
    """
    width = -(-terms // WORD)
    found, counts = _unique(known[:width].T, np.ones(known.shape[1]))
    beaten = np.zeros_like(found)
    for term in range(terms):
        present = (found[:, term // WORD] >> np.uint64(term % WORD)) & np.uint64(1)
        for word in range(width):
            if near.beats[term, word]:
                beaten[:, word] |= present * near.beats[term, word]
    found, counts = _unique(found & ~beaten, counts)
    sets = terms_of(found)
    sizes = sets.sum(axis=1)
    for size in np.unique(sizes):
        rows = sizes == size
        chosen = np.nonzero(sets[rows])[1].reshape(-1, size)
        yield near.terms[chosen], counts[rows]


def _unique(words: NDArray[np.uint64], counts: Values) -> tuple[NDArray[np.uint64], Values]:
    """The distinct rows of (N, W), and the sum of ``counts`` (N,) over equal ones."""
    words = np.ascontiguousarray(words)
    keys = words[:, 0] if words.shape[1] == 1 else words.view(np.dtype((np.void, 8 * words.shape[1])))[:, 0]
    distinct, which = np.unique(keys, return_inverse=True)
    return distinct.view(np.uint64).reshape(-1, words.shape[1]), np.bincount(which, counts).astype(np.float64)


def _far(places: Index, others: _Surface, k: int) -> Iterator[tuple[Values, Values]]:
    """Terms of faces that have not all they need among their neighbours: from the nearest faces by their centres.

    More and more faces are asked for until no other one can be nearer, at most ``FAR[-1]``.
    """
    voxel = np.stack(np.unravel_index(places, others.bits.shape), axis=1)
    centre = _centres(np.full(len(voxel), k), voxel, others.grid)
    direction, target = others.faces
    # From a face's centre to its corner, of the two faces together.
    halves = _half_diagonal(k, others.grid) + max(_half_diagonal(m, others.grid) for m in range(others.grid.real))
    for number in FAR:
        last = number == FAR[-1] or number >= len(target)
        left = np.zeros(len(voxel), dtype=bool)
        step = max(1, 8 * CHUNK // number)
        for start in range(0, len(voxel), step):
            part = slice(start, start + step)
            away, nearest = _query(others.tree, centre[part], min(number, len(target)))
            terms = term_of(k, direction[nearest], target[nearest] - voxel[part, None])
            parts = corner_values(terms, k, others.grid.sides)
            highest = largest_excess(parts, np.zeros(5)).min(axis=1)
            done = last | (away[:, -1] - halves >= np.sqrt(highest))
            yield from _pruned(terms[done], parts[done])
            left[part] = ~done
        voxel, centre = voxel[left], centre[left]


def _query(tree: cKDTree, points: Values, number: int) -> tuple[Values, Index]:
    """Distances and indices (N, number) of the nearest points of a tree; two axes also for one point."""
    away, nearest = tree.query(points, k=list(range(1, number + 1)))
    return np.asarray(away), np.asarray(nearest)


def _half_diagonal(k: int, grid: _Grid) -> float:
    """Distance from the centre of a face of direction k to its corners."""
    return math.hypot(*(grid.sides[j] / 2 for j in range(grid.real) if j != k))


def _pruned(terms: Values, parts: Values, probes: Sequence[Values] = PROBES) -> Iterator[tuple[Values, Values]]:
    """Terms (N, M, 3) without those that are nowhere below the lowest one at some place, grouped by their number."""
    if not probes or not len(terms):
        if len(terms):
            yield terms, np.ones(len(terms))
        return
    kept = np.ones(terms.shape[:2], dtype=bool)
    rows = np.arange(len(terms))
    for weights in probes[0]:
        lowest = np.where(kept, parts @ weights, np.inf).argmin(axis=1)
        best = np.take_along_axis(parts, lowest[:, None, None], axis=1)
        unbeaten = largest_excess(best, parts) > ROUNDING * (1 + parts[..., 4])
        unbeaten[rows, lowest] = True
        kept &= unbeaten
    sizes = kept.sum(axis=1)
    for size in np.unique(sizes):
        group = sizes == size
        chosen = kept[group]
        fewer = [values[group][chosen].reshape(-1, size, values.shape[2]) for values in (terms, parts)]
        yield from _pruned(fewer[0], fewer[1], probes[1:])
