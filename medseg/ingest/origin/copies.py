"""Near-copies: images that show the same thing after resaving, rescaling, shifting, mirroring or recompression.

Candidates come from a spectral sketch: magnitudes of the Fourier coefficients of a thumbnail's details do not change
when the image is shifted, and only change places when it is mirrored. Details are what is left without slow changes of
brightness, at a local contrast of one. A candidate counts if, laid over one another at the best shift, the details
agree as a whole and in nearly every part of the thumbnail that shows any: what all images of a set have in common (an
outline, a mask) fills only some parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medseg.ingest.origin.thumbnails import CELLS, Field, Thumbnail

# Lowest and highest frequency of the spectral sketch, in periods per axis.
BAND: dict[int, tuple[float, float]] = {2: (2.0, 13.0), 3: (1.0, 9.0)}
# Candidates: least correlation of spectral sketches, most candidates per case.
ALIKE, CANDIDATES = 0.45, 8
# Near-copies: least correlation of details, least overlap.
AGREE, OVERLAP = 0.7, 0.5
# Unrelated pairs that show how alike the images of a set are anyway, how many of them are needed to say so, from which
# correlation of sketches on a pair is no longer taken for unrelated, and what must agree where too few are known.
UNRELATED, ENOUGH, RELATED, CAREFUL = 300, 10, 0.8, 0.975
# Share of the details' power that all images must have in common before it is taken off.
SHARED = 0.02
# Standard deviations between what the most similar of all unrelated pairs reach and a near-copy.
BEYOND = 1.5
# By how much (Fisher's z) a near-copy must agree better than the most similar unrelated images do, of so many.
STANDS_OUT, NEAREST = 0.3, 6
# Parts per axis; how many must show details (of at least this share of the usual contrast); how well a part must agree,
# and how large a share of the parts must.
SIDES: dict[int, int] = {2: 4, 3: 3}
PARTS, SHOWS, PART_AGREES, PARTS_AGREE = 8, 0.35, 0.5, 0.8
# Rows of the table of correlations that are held at once.
BLOCK = 512


@dataclass(frozen=True, slots=True)
class Copy:
    """Two images that show the same: indices, correlation of details, whether one is mirrored or turned."""

    one: int
    other: int
    correlation: float
    mirrored: bool


@dataclass(frozen=True, slots=True)
class View:
    """An axis order and flips; its opposite flips every axis besides and has the same spectrum."""

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    @property
    def plain(self) -> bool:
        """Whether it changes nothing."""
        return self.axes == tuple(range(len(self.axes))) and not any(self.flips)

    def of(self, image: Field) -> Field:
        """The image in this view."""
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        turned: Field = image.transpose(self.axes)[steps]
        return turned

    @property
    def opposite(self) -> View:
        """The same with every axis flipped."""
        return View(self.axes, tuple(not flip for flip in self.flips))


def views(dims: int) -> list[View]:
    """One of each two opposite views: all turns and mirrorings of pictures, mirrorings of volumes."""
    orders = itertools.permutations(range(dims)) if dims == 2 else [tuple(range(dims))]
    flips = [(False, *rest) for rest in itertools.product((False, True), repeat=dims - 1)]
    return [View(axes, flip) for axes in orders for flip in flips]


def near_copies(wholes: Sequence[Thumbnail | None], natives: Sequence[Thumbnail | None]) -> list[Copy]:
    """Pairs of images that are near-copies of one another, sorted.

    Args:
        wholes, natives: thumbnails of each image, see ``medseg.ingest.origin.sketch.Sketch``.
    """
    found: dict[tuple[int, int], Copy] = {}
    for dims in CELLS:
        for thumbnails, turned in ((wholes, True), (natives, False)):
            known = {i: t for i, t in enumerate(thumbnails) if t is not None and t.ndim == dims and t.any()}
            if len(known) < 2:
                continue
            order = list(known)
            stack = np.stack([known[i] for i in order])
            nothing = np.zeros(stack.shape[1:], dtype=np.float32)
            # What all images have in common (shading, a mask, dirt) is taken off, where enough of them show it; it
            # moves with a shifted copy, so a second search leaves it on.
            many = len(order) >= ENOUGH
            common = stack.mean(axis=0, dtype=np.float32)
            shared = many and (common**2).mean() > SHARED * np.square(stack, dtype=np.float32).mean()
            for taken_off in (common, nothing) if shared else (nothing,):
                careful = not many
                for copy in _copies(stack, taken_off, views(dims) if turned else views(dims)[:1], careful):
                    a, b = order[copy.one], order[copy.other]
                    found.setdefault((a, b), replace(copy, one=a, other=b))
    return [found[pair] for pair in sorted(found)]


def _copies(stack: NDArray[np.int8], common: Field, seen: list[View], careful: bool) -> Iterator[Copy]:
    """Near-copies among thumbnails (N,*S) less what they have in common; ``careful``: as ``_thresholds`` has it."""
    spectra = np.concatenate([_spectra(stack[k : k + BLOCK] - common) for k in range(0, len(stack), BLOCK)])
    alike, agree = _thresholds(stack, common, spectra, careful)
    for view in seen:
        for a, b in _candidates(spectra, spectra[:, _places(stack.ndim - 1, view)], alike):
            one, other = stack[a] - common, stack[b] - common
            agreements = [agreement(one, turned.of(other), agree) for turned in (view, view.opposite)]
            if max(agreements) > 0 and _stands_out(max(agreements), a, b, stack, common, spectra):
                yield Copy(a, b, max(agreements), not view.plain or agreements[1] > agreements[0])


def _thresholds(stack: NDArray[np.int8], common: Field, spectra: Field, careful: bool) -> tuple[float, float]:
    """From which correlation of sketches on a pair is a candidate, and of details on a near-copy.

    Images of one organ, all cut and turned alike, resemble one another without being related; how much is measured.
    Where too few pairs can be taken for unrelated, nothing is a near-copy, or, if ``careful``, hardly anything.
    """
    count = len(stack)
    steps = [step for step in range(1, count // 2 + 1) if np.gcd(step, count) == 1 or step == 1]
    pairs = [
        (i, (i + step) % count) for step in steps[:: max(1, len(steps) * count // UNRELATED)] for i in range(count)
    ]
    pairs = pairs[:: max(1, len(pairs) // UNRELATED)]
    sketches = np.array([float(spectra[a] @ spectra[b]) for a, b in pairs])
    unrelated = [(pair, alike) for pair, alike in zip(pairs, sketches, strict=True) if alike < RELATED]
    if len({frozenset(pair) for pair, _ in unrelated}) < ENOUGH:
        return ALIKE, CAREFUL if careful else 1.0
    agreements = [agreement(stack[a] - common, stack[b] - common, None) for (a, b), _ in unrelated]
    z = np.arctanh(np.clip(agreements, 0, 0.99))
    most = np.sqrt(2 * np.log(count * count / 2)) + BEYOND
    alike = np.median(sketches) + np.sqrt(2 * np.log(count)) * np.std([alike for _, alike in unrelated])
    return max(ALIKE, float(alike)), max(AGREE, float(np.tanh(np.median(z) + most * z.std())))


def _stands_out(found: float, a: int, b: int, stack: NDArray[np.int8], common: Field, spectra: Field) -> bool:
    """Whether two images agree better than either does with its nearest others; a set may hold several kinds."""
    needed = np.tanh(np.arctanh(min(found, 0.999)) - STANDS_OUT)
    for one in (a, b):
        alike = spectra @ spectra[one]
        alike[[a, b]] = -1
        nearest = [i for i in np.argsort(-alike, kind="stable")[:UNRELATED] if -1 < alike[i] < RELATED][:NEAREST]
        if any(agreement(stack[one] - common, stack[i] - common, None) > needed for i in nearest):
            return False
    return True


def _spectra(details: Field) -> Field:
    """The spectral sketch (N, D) of details (N,*S): logarithms of magnitudes less their mean at each distance."""
    dims = details.ndim - 1
    frequencies = np.array(_band(dims))
    values = np.fft.fftn(details * _window(dims), axes=tuple(range(1, dims + 1)))
    sizes = np.abs(values[(slice(None), *frequencies.T)])
    logs = np.log(sizes + 0.02 * np.sqrt((sizes**2).mean(axis=1, keepdims=True)) + 1e-12)
    rings = np.round(np.sqrt((frequencies**2).sum(axis=1))).astype(int)
    for ring in np.unique(rings):
        logs[:, rings == ring] -= logs[:, rings == ring].mean(axis=1, keepdims=True)
    return np.asarray(logs / np.maximum(np.linalg.norm(logs, axis=1, keepdims=True), 1e-12), dtype=np.float32)


@lru_cache
def _window(dims: int) -> Field:
    """A Hann window over a thumbnail."""
    one = np.hanning(CELLS[dims] + 2)[1:-1]
    out = one
    for _ in range(dims - 1):
        out = np.multiply.outer(out, one)
    return out.astype(np.float32)


@lru_cache
def _band(dims: int) -> tuple[tuple[int, ...], ...]:
    """The frequencies of the sketch; of a frequency and its negative (equal in magnitude) the one that leads with +."""
    low, high = BAND[dims]
    span = range(-int(high), int(high) + 1)
    inside = [f for f in itertools.product(span, repeat=dims) if low**2 <= sum(c * c for c in f) <= high**2]
    return tuple(f for f in inside if f == _leading(f))


def _leading(frequency: tuple[int, ...]) -> tuple[int, ...]:
    return max(frequency, tuple(-c for c in frequency))


@lru_cache
def _places(dims: int, view: View) -> NDArray[np.intp]:
    """Where the sketch of an image in this view finds its numbers in the sketch of the image."""
    place = {frequency: i for i, frequency in enumerate(_band(dims))}
    turned = []
    for frequency in _band(dims):
        source = [0] * dims
        for axis, flip, number in zip(view.axes, view.flips, frequency, strict=True):
            source[axis] = -number if flip else number
        turned.append(place[_leading(tuple(source))])
    return np.array(turned)


def _candidates(rows: Field, columns: Field, least: float) -> Iterator[tuple[int, int]]:
    """Pairs (a, b), a < b, of similar sketches: the best few of each a."""
    for start in range(0, len(rows), BLOCK):
        table = rows[start : start + BLOCK] @ columns[start:].T
        alike = table >= least
        alike[:, : len(table)] = np.triu(alike[:, : len(table)], 1)
        for row in np.flatnonzero(alike.any(axis=1)):
            places = np.flatnonzero(alike[row])
            best = places[np.argsort(-table[row, places], kind="stable")[:CANDIDATES]]
            yield from ((start + int(row), start + int(place)) for place in sorted(best))


def agreement(one: Field, other: Field, least: float | None) -> float:
    """Correlation of two details (*S) at their best shift; 0 below ``least`` or where too few parts agree.

    Args:
        one, other: details.
        least: None: only the correlation.
    """
    window = _window(one.ndim)
    product = np.fft.rfftn(one * window) * np.conj(np.fft.rfftn(other * window))
    peak = np.unravel_index(int(np.fft.irfftn(product, one.shape, axes=range(one.ndim)).argmax()), one.shape)
    best = 0.0
    for shift in itertools.product(*[{int(p), int(p) - n} for p, n in zip(peak, one.shape, strict=True)]):
        if np.prod([1 - abs(s) / n for s, n in zip(shift, one.shape, strict=True)]) >= OVERLAP:
            best = max(best, _overlaid(one, other, shift, least))
    return best


def _overlaid(one: Field, other: Field, shift: tuple[int, ...], least: float | None) -> float:
    """Correlation of ``one`` with ``other`` moved by ``shift`` cells, where both are; 0 as in ``agreement``."""
    left = one[tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, one.shape, strict=True))]
    right = other[tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, one.shape, strict=True))]
    across, within, without = (_parts(values) for values in (left * right, left * left, right * right))
    total = float(across.sum() / np.sqrt(max(float(within.sum() * without.sum()), 1e-12)))
    if least is None or total < least:
        return total if least is None else 0.0
    shown = (within >= SHOWS**2 * within.mean()) & (without >= SHOWS**2 * without.mean())
    shares = across[shown] / np.sqrt(within[shown] * without[shown])
    enough = shown.sum() >= PARTS and (shares >= PART_AGREES).mean() >= PARTS_AGREE
    return total if enough else 0.0


def _parts(values: Field) -> NDArray[np.float64]:
    """Sums over the parts of a thumbnail, as a flat array."""
    out = values.astype(np.float64)
    for axis, length in enumerate(values.shape):
        edges = np.linspace(0, length, SIDES[values.ndim] + 1).astype(int)[:-1]
        out = np.add.reduceat(out, edges, axis=axis)
    return out.ravel()
