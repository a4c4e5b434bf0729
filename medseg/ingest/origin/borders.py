"""Facing borders: pictures (or blocks) that were cut from one field continue one another across their borders.

The last row of one tile and the first row of the next are neighbours in the field, so they resemble one another as two
neighbouring rows inside a tile do. That is the measure: the gap across the seam is compared with the gaps on both sides
of it, so that smooth borders, which resemble many others, have to agree better than rough ones. What all pictures have
in common (shading, a mask) is no evidence: details must agree, and a border can have few neighbours. One bright object
on a dark ground is often met by another: the rest of the border must agree, too, or there must be many such seams. The
search is repeated with one strip reversed, where nothing but chance can be found.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from medseg.ingest.origin.thumbnails import Field, area_weights

# Samples of a strip along a picture's border; a side of a volume gets the square root of it along both axes.
SAMPLES = 256
# Shortest border that is compared, and its counterpart for sides of volumes.
SHORTEST = {1: 64, 2: 16}
# Correlation across the seam, and without a jump in brightness a little less.
FIRM, SOFT = 0.98, 0.85
# Below this correlation, details must agree by so many more standard deviations.
CLEAR, ROUGH = 0.95, 2.0
# Most that the seam may be worse than the neighbouring rows: unexplained variance, jump, as ratios.
WORSE, JUMP = 1.25, 1.25
# Standard deviations by which details (less than this share of the border wide) must agree, beyond what the best of
# all comparisons reaches by chance.
DETAIL, BEYOND = 1 / 6, 1.0
# The strongest part of a border that is left out, and by how many deviations details of the rest must agree at most.
STRONGEST, REST = 1 / 4, 4.0
# Candidates per border, neighbours a border can have, seams found per seam found with one strip reversed; seams that
# rest on the strongest part alone also need as many more.
CANDIDATES, NEIGHBOURS, CONTROL = 8, 3, 10
# Rows of the table of correlations that are held at once.
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Border:
    """One side of an image.

    Attributes:
        axis: the axis that ends here.
        far: whether it is the end of that axis, not its beginning.
        size: voxels along the border (one number, or two for a side of a volume).
        strips: (2, n) in half precision: the outermost and the second row, less ``level``, in units of ``unit``.
        level, unit: intensities that zero and one of the strips mean.
    """

    axis: int
    far: bool
    size: tuple[int, ...]
    strips: NDArray[np.float16]
    level: float
    unit: float

    def rows(self) -> NDArray[np.float64]:
        """The outermost and the second row (2, n) in the image's own intensities."""
        return self.strips.astype(np.float64) * self.unit + self.level


def take_borders(image: NDArray[Any]) -> tuple[Border, ...]:
    """The borders of an image (C,*S) that are long enough and not flat; channels are averaged."""
    shape = image.shape[1:]
    found = []
    for axis in range(len(shape)):
        size = tuple(n for a, n in enumerate(shape) if a != axis)
        if shape[axis] < 4 or len(size) not in SHORTEST or min(size) < SHORTEST[len(size)]:
            continue
        for far in (False, True):
            # By index: `take` would copy a volume whose first axis runs fastest, whole, for each of its rows.
            places = [(slice(None),) * (1 + axis) + (-1 - k if far else k,) for k in (0, 1)]
            rows = [image[place].mean(axis=0, dtype=np.float32) for place in places]
            strips = np.stack([_shorten(row).ravel() for row in rows])
            level, unit = float(strips.mean()), float(strips.std())
            if np.isfinite(unit) and unit > 1e-6 * abs(level):
                packed = np.clip((strips - level) / unit, -6e4, 6e4).astype(np.float16)
                found.append(Border(axis, far, size, packed, level, unit))
    return tuple(found)


def _shorten(row: Field) -> Field:
    """A border in at most ``SAMPLES`` samples."""
    most = round(SAMPLES ** (1 / row.ndim))
    for axis, length in enumerate(row.shape):
        if length > most:
            row = np.moveaxis(np.tensordot(area_weights(most, length), row, axes=(1, axis)), 0, axis)
    return row


@dataclass(frozen=True, slots=True)
class Seam:
    """Two images whose borders continue one another.

    Attributes:
        one, other: their indices.
        correlation: across the seam.
        whole: whether borders agree without their strongest part, too.
    """

    one: int
    other: int
    correlation: float
    whole: bool


def facing_borders(borders: Sequence[Sequence[Border]]) -> list[Seam]:
    """Pairs of images of which one continues the other across a border, sorted; at most one seam per pair.

    Args:
        borders: of each image.
    """
    sides: dict[tuple[int, tuple[int, ...]], tuple[list[_Side], list[_Side]]] = defaultdict(lambda: ([], []))
    for image, own in enumerate(borders):
        for border in own:
            sides[border.axis, border.size][not border.far].append(_Side(image, border))
    tests = sum(len(ends) * len(begins) for ends, begins in sides.values())
    least = float(np.sqrt(2 * np.log(max(tests, 2)))) + BEYOND
    seams: list[Seam] = []
    control: list[Seam] = []
    for _, (ends, begins) in sorted(sides.items()):
        if ends and begins:
            seams += _seams(ends, begins, least, False)
            control += _seams(ends, begins, least, True)
    found: list[Seam] = []
    for whole in (True, False):
        some = [seam for seam in seams if seam.whole == whole]
        chance = sum(seam.whole == whole for seam in control) + (not whole)
        found += some if len(some) >= CONTROL * chance else []
    best: dict[tuple[int, int], Seam] = {}
    for seam in sorted(found, key=lambda s: (-s.correlation, s.one, s.other)):
        best.setdefault((min(seam.one, seam.other), max(seam.one, seam.other)), seam)
    return [best[pair] for pair in sorted(best)]


@dataclass(frozen=True, slots=True)
class _Side:
    image: int
    border: Border


def _seams(ends: list[_Side], begins: list[_Side], least: float, reverse: bool) -> list[Seam]:
    """Seams between borders that end an image and borders that begin one; ``reverse``: the control."""
    step = -1 if reverse else 1
    left = _unit(np.stack([side.border.strips[0] for side in ends]).astype(np.float32))
    right = _unit(np.stack([side.border.strips[0, ::step] for side in begins]).astype(np.float32))
    found = []
    for start in range(0, len(ends), BLOCK):
        table = left[start : start + BLOCK] @ right.T
        for row, column in _candidates(table):
            a, b = ends[start + row], begins[column]
            if a.image != b.image and (seam := _seam(a, b, step, least)):
                found.append((start + row, column, seam))
    # A border that "continues" many others shows what they all have in common.
    per_end, per_begin = Counter(row for row, _, _ in found), Counter(column for _, column, _ in found)
    return [s for row, column, s in found if per_end[row] <= NEIGHBOURS and per_begin[column] <= NEIGHBOURS]


def _candidates(table: Field) -> list[tuple[int, int]]:
    """Places of correlations of at least ``SOFT``, the best few of each row."""
    places = []
    for row in np.flatnonzero((table >= SOFT).any(axis=1)):
        columns = np.flatnonzero(table[row] >= SOFT)
        best = columns[np.argsort(-table[row, columns], kind="stable")[:CANDIDATES]]
        places += [(int(row), int(column)) for column in best]
    return places


def _seam(a: _Side, b: _Side, step: int, least: float) -> Seam | None:
    """The seam between the end of one image and the beginning of another, if it looks like the rows beside it."""
    outer, inner = a.border.rows()
    first, second = (row[::step] for row in b.border.rows())
    across = _correlation(outer, first)
    within = min(_correlation(outer, inner), _correlation(first, second))
    gaps = (np.mean((outer - inner) ** 2) + np.mean((first - second) ** 2)) / 2
    jump = float(np.sqrt(np.mean((outer - first) ** 2) / max(gaps, 1e-30)))
    if across < SOFT or (across < FIRM and jump > JUMP) or 1 - across > WORSE * (1 - within + 1e-4):
        return None
    width = max(3, int(DETAIL * len(outer)))
    one, other = (s - uniform_filter1d(s, width, mode="nearest") for s in (outer, first))
    # Rough borders are neighbours at a lower correlation, but have more independent details to show it.
    if _deviations(one, other) < least + (ROUGH if across < CLEAR else 0.0):
        return None
    strong = max(3, int(STRONGEST * len(one)))
    middle = int(uniform_filter1d(one**2 + other**2, strong, mode="constant").argmax())
    rest = np.abs(np.arange(len(one)) - middle) > strong / 2
    return Seam(a.image, b.image, across, _deviations(one[rest], other[rest]) >= min(REST, least - BEYOND))


def _deviations(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Standard deviations by which details of two strips agree, given how many independent ones they show."""
    correlation = min(_correlation(one, other), 1 - 1e-6)
    return float(np.arctanh(correlation) * np.sqrt(max(independent_samples(one, other) - 3, 0)))


def independent_samples(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Samples that two autocorrelated series amount to when they are correlated (Bartlett 1935)."""
    length = len(one)
    shares = []
    for series in (one, other):
        power = np.abs(np.fft.rfft(series - series.mean(), 2 * length)) ** 2
        lags = np.fft.irfft(power)[:length]
        shares.append(lags / max(lags[0], 1e-30))
    return float(length / max(1.0, 1 + 2 * (shares[0] * shares[1])[1:].sum()))


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Pearson's correlation; 0 for a constant series."""
    one, other = one - one.mean(), other - other.mean()
    norm = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / norm) if norm > 0 else 0.0


def _unit(rows: Field) -> Field:
    """Rows with mean 0 and length 1."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    out: Field = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return out
