"""Faces of voxels near a face: what their distance to its points is, in which order to look for them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Index = NDArray[np.int64]
# Neighbours are listed within this many times the smallest side of a voxel.
REACH = 5
WORD = 64
# One term is nowhere above another one if it is at most this share of a voxel's diagonal above it: rounding.
_SAME = 1e-12


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the faces near a face are to it.

    Attributes:
        terms: (K, 3) the distinct terms (``envelope.py``): a, b, and voxels across; NaN where a part is absent.
        high: (K,) largest value of each over the face.
        beats: (K, W) for each term, those that are nowhere below it, as words.
        places: (P, 3) offsets of voxels that have such faces, near ones first.
        words: (P, W, 8) for each place and each value of its bits (which of its faces there are), the terms of these
            faces as W words of 64 bits; bit i of word w is term 64 w + i.
        further: (P + 1,) no face at the places from the i-th on has a smaller value.
        known: (P + 1,) the faces at the first i places have the first ``known[i]`` terms.
    """

    terms: Values
    high: Values
    beats: NDArray[np.uint64]
    places: Index
    words: NDArray[np.uint64]
    further: Values
    known: Index


def reach_of(sides: Sequence[float], real: int) -> tuple[int, int, int]:
    """How many voxels the neighbours go along each axis; 0 along axes that only stand for missing ones."""
    radius = REACH * min(sides[:real])
    found = [math.ceil(radius / side) if j < real else 0 for j, side in enumerate(sides)]
    return found[0], found[1], found[2]


def term_of(k: int, direction: NDArray[np.int64], offset: Index) -> Values:
    """Terms (..., 3) of faces at ``offset`` (..., 3), of ``direction`` (...), seen from a face of direction ``k``."""
    along = [j for j in range(3) if j != k]
    out = np.empty(offset.shape)
    for place, j in enumerate(along):
        step = offset[..., j]
        clamped = np.where(step > 0, step, np.where(step < 0, step + 1.0, np.nan))
        out[..., place] = np.where(direction == j, step, clamped)
    step = offset[..., k]
    gap = np.where(step > 0, step, np.maximum(-step - 1, 0))
    out[..., 2] = np.where(direction == k, np.abs(step), gap)
    return out


def corner_values(terms: Values, k: int, sides: Sequence[float]) -> Values:
    """Parts (..., 5) of terms: along u at 0 and 1, along v at 0 and 1, and the constant one."""
    u, v = [j for j in range(3) if j != k]
    ends = [
        np.nan_to_num((end - terms[..., part]) ** 2 * sides[j] ** 2)
        for part, j in ((0, u), (1, v))
        for end in (0.0, 1.0)
    ]
    return np.stack([*ends, (terms[..., 2] * sides[k]) ** 2], axis=-1)


def largest_excess(one: Values, other: Values) -> Values:
    """Largest value over the face of a term minus another one; both as of ``corner_values``."""
    gap = one - other
    out: Values = gap[..., 0:2].max(axis=-1) + gap[..., 2:4].max(axis=-1) + gap[..., 4]
    return out


@functools.lru_cache(maxsize=64)
def neighbours(k: int, sides: tuple[float, float, float], real: int) -> Neighbours:
    """The neighbours of a face of direction ``k`` among voxels with ``sides``, the first ``real`` of which are real."""
    reach = reach_of(sides, real)
    ranges = [range(-n, n + 2) if n else range(1) for n in reach]
    listed = [(m, d) for d in itertools.product(*ranges) for m in range(real) if (m, d) != (k, (0, 0, 0))]
    terms = term_of(k, np.array([m for m, _ in listed]), np.array([d for _, d in listed]))
    parts = corner_values(terms, k, sides)
    low = parts[:, 0:2].min(axis=1) + parts[:, 2:4].min(axis=1) + parts[:, 4]
    beyond = min((reach[j] * sides[j]) ** 2 for j in range(real))
    kinds: dict[tuple[str, ...], int] = {}
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    lows: dict[tuple[int, ...], float] = {}
    first: list[int] = []
    for i in np.argsort(low, kind="stable"):
        if low[i] >= beyond:
            break
        m, offset = listed[i]
        kind = tuple(map(str, terms[i]))
        if kind not in kinds:
            kinds[kind] = len(first)
            first.append(int(i))
        found.setdefault(offset, []).append((m, kinds[kind]))
        lows.setdefault(offset, float(low[i]))
    chosen = parts[first]
    excess = largest_excess(chosen[:, None], chosen[None])
    beats = excess <= _SAME * sum(side**2 for side in sides[:real])
    np.fill_diagonal(beats, False)
    return Neighbours(
        terms[first],
        chosen[:, 0:2].max(axis=1) + chosen[:, 2:4].max(axis=1) + chosen[:, 4],
        words_of(beats),
        np.array(list(found)),
        _words(list(found.values()), len(first)),
        np.array([*lows.values(), beyond]),
        np.array([0, *itertools.accumulate((1 + max(t for _, t in faces) for faces in found.values()), max)]),
    )


def _words(faces: Sequence[Sequence[tuple[int, int]]], terms: int) -> NDArray[np.uint64]:
    """The terms (P, W, 8) that go with each value of the bits of each place, of its faces (direction, term)."""
    out = np.zeros((len(faces), -(-terms // WORD), 8), dtype=np.uint64)
    for place, its_faces in enumerate(faces):
        for direction, term in its_faces:
            for bits in range(8):
                if bits & (1 << direction):
                    out[place, term // WORD, bits] |= np.uint64(1 << (term % WORD))
    return out


def words_of(terms: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Sets of terms (N, K) as words (N, W)."""
    padded = np.pad(terms, ((0, 0), (0, -terms.shape[1] % WORD)))
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def terms_of(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """The inverse of ``words_of``: (N, 64 W)."""
    data = np.ascontiguousarray(words.astype("<u8", copy=False)).view(np.uint8)
    return np.unpackbits(data, axis=1, bitorder="little").astype(bool)
