"""Intensity lattices: floating-point images whose values are ``offset + step * k`` for integers k.

Scanners store integers; a program that rescales a scan leaves equal distances between its values. Two parts that were
cut from one rescaled scan share step and offset to many digits, two scans that were rescaled each for itself do not.
Integers prove nothing, and neither do steps that a convention would give to anybody: round numbers, powers of two,
one part in n of a round range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.ingest.origin.components import connected

# Voxels that are looked at, evenly spaced, and the most and fewest different values that a lattice may show in them.
SAMPLES, MOST, FEWEST = 1 << 16, 1 << 14, 24
# Greatest distance of a value from its lattice, in steps.
OFF = 0.02
# Relative gaps between steps that are tried, coarse to fine: the coarsest one counts that chance does not explain.
GAPS = (2e-5, 2e-6, 2e-7)
# Two lattices are in phase if their offsets differ by no more than this, in steps.
PHASE = 0.02
# Pairs expected by chance must be at most this many, or this share of those found.
CHANCE, CHANCE_SHARE = 0.02, 0.05
# A lattice that more than this share of at least so many cases have is a convention of the whole set.
CONVENTION, FEW = 0.5, 4
# Neighbours in the order of steps that one case is compared with.
REACH = 64


@dataclass(frozen=True, slots=True)
class IntensityLattice:
    """Values ``step * (k + phase)`` for integers k; ``phase`` in [0, 1)."""

    step: float
    phase: float


def find_lattice(image: NDArray[Any]) -> IntensityLattice | None:
    """The intensity lattice of an image of any shape, or None if it has none or one that is no evidence."""
    if image.dtype.kind != "f":
        return None
    flat = image.reshape(-1) if image.flags.c_contiguous else image.ravel(order="K")
    sample = flat[:: max(1, flat.size // SAMPLES)]
    values = np.unique(sample[np.isfinite(sample)])
    if not FEWEST <= len(values) <= MOST:
        return None
    # Two roundings of one number count once; the ends may be clipped, so they need not be on the lattice.
    bits = np.finfo(image.dtype if image.dtype.itemsize <= 4 else np.float32).eps
    values = values.astype(np.float64)
    distinct = np.diff(values, prepend=-np.inf) > 4 * bits * np.abs(values)
    found = _fit(values[distinct][1:-1])
    if found is None or _conventional(found[0], values[-1] - values[0]):
        return None
    step, offset = found
    return IntensityLattice(step, offset / step % 1.0)


def _fit(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """Step and offset of sorted values, by least squares over ever more of them; None if one is not on the lattice."""
    if len(values) < FEWEST - 2:
        return None
    gaps = np.diff(values)
    # Where values are dense the step is visible; counting starts there, in both directions.
    step = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    middle = int(np.argmin(gaps))
    offset = float(values[middle])
    size = 8
    while True:
        low, high = max(0, middle - size // 2), min(len(values), middle + size // 2)
        part = values[low:high]
        counts = np.round((part - offset) / step)
        if counts[-1] == counts[0]:
            return None
        design = np.column_stack([np.ones(len(part)), counts])
        (offset, step), *_ = np.linalg.lstsq(design, part, rcond=None)
        if step <= 0 or np.abs(part - design @ (offset, step)).max() > OFF * step:
            return None
        if len(part) == len(values):
            return float(step), float(offset)
        size *= 2


def _conventional(step: float, extent: float) -> bool:
    """Whether a step is one that images get without being related.

    Args:
        step: distance between values.
        extent: greatest value less the smallest.
    """
    parts = np.array([1.0, 2.0]) / step  # of [0, 1] and [-1, 1]: scans normalised by a range of integers
    whole = (parts < 65537) & (np.abs(parts - np.round(parts)) < 1e-6 * parts)
    power = np.log2(step)
    return bool(_round(step) or _round(extent) or whole.any() or abs(power - round(power)) < 1e-6)


def _round(number: float) -> bool:
    """Whether a number has at most three significant digits, or is the range of a stored integer type."""
    if not number > 0:
        return True
    if abs(number + 1 - 2.0 ** round(np.log2(number + 1))) < 1e-6 * number:
        return True
    digits = number / 10.0 ** (np.floor(np.log10(number)) - 2)
    return bool(abs(digits - round(digits)) < 1e-6 * digits)


def same_lattice(lattices: Sequence[IntensityLattice | None]) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of images that share a lattice, sorted.

    How close two steps must be depends on how many pairs chance would bring so close: that number is estimated from
    the pairs at 10 to 1000 times the distance, and from a spread of steps over a factor of e.
    """
    known = sorted((lattice.step, i) for i, lattice in enumerate(lattices) if lattice is not None)
    if len(known) < 2:
        return []
    order = np.array([i for _, i in known])
    steps = np.log([step for step, _ in known])
    phases = np.array([one.phase for i in order if (one := lattices[i]) is not None])
    reach = min(REACH, len(order) - 1)
    near = [_neighbours(steps, phases, lag) for lag in range(1, reach + 1)]
    gaps, rows, lags = (np.concatenate(part) for part in zip(*near, strict=True))
    in_phase = len(gaps) / sum(len(order) - lag for lag in range(1, reach + 1))
    for widest in GAPS:
        close = gaps <= widest
        further = np.count_nonzero((gaps > 10 * widest) & (gaps <= 1000 * widest)) / 990
        chance = max(further, len(order) ** 2 * widest * in_phase)
        if close.any() and chance <= max(CHANCE, CHANCE_SHARE * np.count_nonzero(close)):
            pairs = [(int(order[a]), int(order[a + lag])) for a, lag in zip(rows[close], lags[close], strict=True)]
            return _without_conventions(sorted((min(p), max(p)) for p in pairs), len(order))
    return []


def _neighbours(
    steps: NDArray[np.float64], phases: NDArray[np.float64], lag: int
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    """Distances of the steps that are ``lag`` places apart and in phase, their places, and the lag."""
    apart = np.abs(phases[lag:] - phases[:-lag])
    rows = np.flatnonzero(np.minimum(apart, 1 - apart) <= PHASE)
    return (steps[lag:] - steps[:-lag])[rows], rows, np.full(len(rows), lag)


def _without_conventions(pairs: list[tuple[int, int]], cases: int) -> list[tuple[int, int]]:
    """Pairs of the lattices that few enough cases share."""
    size = {i: len(group) for group in connected(pairs) for i in group}
    return [pair for pair in pairs if size[pair[0]] <= max(FEW - 1, CONVENTION * cases)]
