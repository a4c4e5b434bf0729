"""What the integers of a label map mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import ConfigError, DataError

# Colour-blind-safe qualitative colours (Okabe & Ito 2008), without black.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Names of the classes of a data set.

    Attributes:
        names: class name -> value in the files, background (0) left out. A network's channel k stands for the k-th
            smallest value, channel 0 for background.
        instances: if true, files hold object numbers: every value above 0 belongs to the one class in ``names``.
    """

    names: tuple[tuple[str, int], ...]
    instances: bool = False

    @classmethod
    def create(cls, names: Mapping[str, int], *, instances: bool = False) -> LabelTable:
        """Build from a name -> value mapping; raise ``ConfigError`` for bad values."""
        kept = sorted(((str(n), int(v)) for n, v in names.items() if int(v) != 0), key=lambda item: item[1])
        values = [v for _, v in kept]
        if not kept or min(values) < 0 or len(set(values)) != len(values):
            raise ConfigError(f"labels {dict(names)}: expected distinct values above 0, one per class")
        if instances and len(kept) != 1:
            raise ConfigError(f"labels {dict(names)}: instance masks carry exactly one class, found {len(kept)}")
        return cls(tuple(kept), instances)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground class names in channel order 1..K-1."""
        return tuple(n for n, _ in self.names)

    @property
    def values(self) -> tuple[int, ...]:
        """Foreground values in channel order 1..K-1."""
        return tuple(v for _, v in self.names)

    @property
    def channels(self) -> int:
        """Network output channels K, background included."""
        return len(self.names) + 1

    def to_channels(self, labels: NDArray[Any]) -> NDArray[np.uint8]:
        """Map file values (S) to channel indices 0..K-1 (S, uint8), in integers from end to end.

        Raises:
            DataError: for a value that is no class (with object numbers every value is one).
        """
        if self.instances:
            return (labels > 0).astype(np.uint8)
        out = np.zeros(labels.shape, dtype=np.uint8)
        for channel, value in enumerate(self.values, start=1):
            out[labels == value] = channel
        strange = np.setdiff1d(labels[out == 0], [0])
        if strange.size:
            raise DataError(f"label values {strange[:5].tolist()} are no class; there are {dict(self.names)}")
        return out

    def to_values(self, channels: NDArray[Any]) -> NDArray[Any]:
        """Map channel indices (S) back to file values (S), in the smallest unsigned type that holds them."""
        table = np.array([0, *self.values], dtype=np.min_scalar_type(max(self.values)))
        values: NDArray[Any] = table[channels]
        return values

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"names": dict(self.names), "instances": self.instances}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabelTable:
        """The inverse of ``to_json``."""
        return cls.create(value["names"], instances=value["instances"])
