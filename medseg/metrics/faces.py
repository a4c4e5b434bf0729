"""The surface of voxel faces of two masks, and exact integrals of the distance between them: ``faces-v1``.

The surface of a mask is the union of the faces between its voxels and all others; outside the array is background. The
distance from a point of one surface to the other one is integrated over the area of each face (``envelope.py``), so
nothing depends on where voxel centres lie. The nearest faces are looked up among the neighbours on the grid, near ones
first, and then among the nearest ones anywhere, until no further one can be nearer.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.envelope import Terms, cell_means
from medseg.metrics.far_faces import far_terms
from medseg.metrics.neighbours import WORD, Neighbours, neighbours, terms_of, words_of
from medseg.metrics.tolerance import widened
from medseg.metrics.voxel_faces import Grid, Surface

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]
Index = NDArray[np.int64]
# Places that are looked up before it is asked which faces need more.
STAGES = (30, 100, 300)
# Faces that are looked up at once, and terms that are held before they are integrated: both bound the memory.
CHUNK = 1 << 15
HELD = 1 << 20


@dataclass(frozen=True, slots=True)
class FaceDistances:
    """Integrals over the faces of both masks.

    Attributes:
        area: of both surfaces (length in 2-D), in the unit of the spacing.
        integral: of the distance to the other surface.
        within: area whose distance is within the tolerance, at most ``area``; 0 without one.
    """

    area: float
    integral: float
    within: float


def face_distances(
    reference: Mask, prediction: Mask, spacing: Sequence[float], tolerance: float | None
) -> FaceDistances:
    """Integrals over the surfaces of two masks (S) that are not empty, in one to three dimensions."""
    grid = Grid(spacing)
    surfaces = Surface(reference, grid), Surface(prediction, grid)
    # Faces that both surfaces have are at distance 0.
    own = [a.codes & ~b.flat[a.places] for a, b in (surfaces, surfaces[::-1])]
    area = within = 0.0
    sums = _Sums(None if tolerance is None else widened(tolerance))
    for k in range(grid.real):
        faces = sum(int(np.count_nonzero(surface.codes & (1 << k))) for surface in surfaces)
        apart = [s.places[(codes & (1 << k)) > 0] for s, codes in zip(surfaces, own, strict=True)]
        area += faces * grid.face_area(k)
        within += (faces - sum(map(len, apart))) * grid.face_area(k)
        for terms, counts in _cells(apart, surfaces[::-1], k):
            sums.add(_as_terms(terms, k, grid), counts * grid.face_area(k))
    sums.integrate()
    # Shares of 1 add up to the area but for rounding.
    return FaceDistances(area, sums.integral, min(within + sums.within, area) if tolerance is not None else 0.0)


class _Sums:
    """Integrals over cells, which are held until there are enough of them to integrate at once."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.integral = self.within = 0.0
        self._held: dict[int, list[tuple[Terms, Values]]] = {}
        self._terms = 0

    def add(self, terms: Terms, areas: Values) -> None:
        """Add cells, with the area (N,) that each stands for."""
        self._held.setdefault(terms.c.shape[1], []).append((terms, areas))
        self._terms += terms.c.size
        if self._terms >= HELD:
            self.integrate()

    def integrate(self) -> None:
        """Integrate what is held."""
        for parts in self._held.values():
            distances, shares = cell_means(Terms.joined([terms for terms, _ in parts]), self.limit)
            areas = np.concatenate([area for _, area in parts])
            self.integral += float(distances @ areas)
            self.within += float(shares @ areas)
        self._held, self._terms = {}, 0


def _as_terms(terms: Values, k: int, grid: Grid) -> Terms:
    u, v = (grid.sides[j] ** 2 for j in range(3) if j != k)
    n = len(terms)
    constant = (terms[:, :, 2] * grid.sides[k]) ** 2
    return Terms(terms[:, :, 0], terms[:, :, 1], constant, np.full(n, u), np.full(n, v))


def _cells(places: Sequence[Index], others: Sequence[Surface], k: int) -> Iterator[tuple[Values, Values]]:
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
                yield from far_terms(mine, surface, k)


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
