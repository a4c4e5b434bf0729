"""Settings of the step from maps to objects: thresholds and sizes, and the grid they are tuned on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from medseg.bounds import Bound, OutOfBounds, between, number, shortened, table

# What 1 is in a map.
ONE = 1024
# Smallest objects that are kept where training objects are not smaller still: voxels in 2-D and 3-D.
SMALL = {2: 15.0, 3: 30.0}
FOREGROUNDS = (0.4, 0.5, 0.6)
SEEDS = (0.3, 0.4, 0.5, 0.6, 0.7)
SIZE_FACTORS = (0.5, 1.0)
# Heads whose seeds have a threshold.
SEEDED = ("boundary", "distance")

_VOXELS = number(0, 1e12)
BOUNDS: Mapping[str, Bound] = {
    "foreground": between(0, 1),
    "seed": between(-1, 1),
    "min_size": _VOXELS,
    "max_hole": _VOXELS,
}


@dataclass(frozen=True, slots=True)
class Decoding:
    """How maps become objects.

    Attributes:
        foreground: F from which a voxel belongs to an object.
        seed: F - B (boundary head) or D (distance head) above which a voxel belongs to a seed. Other heads ignore it.
        min_size: objects of fewer voxels are removed.
        max_hole: holes of fewer voxels in the foreground are filled.

    Raises:
        OutOfBounds: for a value outside ``BOUNDS``.
    """

    foreground: float = 0.5
    seed: float = 0.6
    min_size: float = SMALL[2]
    max_hole: float = 0.0

    def __post_init__(self) -> None:
        for name, bound in BOUNDS.items():
            bound.read(f"decoding.{name}", getattr(self, name))

    @classmethod
    def of_sizes(cls, sizes: Sequence[int], dims: int) -> Decoding:
        """The defaults for objects whose sizes in training are ``sizes`` voxels.

        ``min_size`` is half the 1st percentile of the sizes, at least 15 voxels (30 in 3-D), but never above that
        percentile; ``max_hole`` is a tenth of their median.
        """
        if not len(sizes):
            return cls(min_size=SMALL[dims])
        first = float(np.percentile(sizes, 1))
        least = max(first / 2, min(first, SMALL[dims]))
        return cls(min_size=round(least, 1), max_hole=round(float(np.median(sizes)) / 10, 1))

    def to_json(self) -> dict[str, float]:
        """A mapping of plain numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, where: str = "decoding") -> Decoding:
        """The settings of ``to_json``.

        Raises:
            OutOfBounds: for another type, a key that is missing or unknown, or a value outside ``BOUNDS``.
        """
        found = table(number(-1, 1e12), len(BOUNDS)).read(where, value)
        if set(found) != set(BOUNDS):
            raise OutOfBounds(f"{where}: found keys {shortened(sorted(found))}; expected {sorted(BOUNDS)}")
        return cls(**{name: bound.read(f"{where}.{name}", found[name]) for name, bound in BOUNDS.items()})


def threshold(value: float) -> int:
    """A threshold in units of the maps, which are whole numbers."""
    return round(value * ONE)


def grid(head: str, default: Decoding) -> tuple[Decoding, ...]:
    """Settings to choose from, those nearest the default first: of equally good ones, the first is to be taken.

    The default's thresholds are among the values; ``min_size`` is tried at half and at all of the default's.
    """
    foregrounds = sorted({*FOREGROUNDS, default.foreground})
    seeds = sorted({*SEEDS, default.seed}) if head in SEEDED else [default.seed]
    sizes = [default.min_size * f for f in SIZE_FACTORS]

    def distance(d: Decoding) -> tuple[float, Decoding | tuple[float, ...]]:
        away = abs(d.foreground - default.foreground) + abs(d.seed - default.seed)
        return round(away + 0.1 * (d.min_size != default.min_size), 6), (d.foreground, d.seed, d.min_size)

    settings = (
        replace(default, foreground=f, seed=s, min_size=m) for f, s, m in itertools.product(foregrounds, seeds, sizes)
    )
    return tuple(sorted(dict.fromkeys(settings), key=distance))
