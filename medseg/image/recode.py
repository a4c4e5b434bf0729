"""Values of a label file as those of the label table: a mapping, integers from end to end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Recoding:
    """What the values of one label file mean.

    Attributes:
        values: value in the file -> value in the label table, 0 for background; all others stay as they are.
        colours: whether values in the file are colours, as one number each (red in the highest byte).
        every: value of everything that is not 0, in a file of one class; 0: ``values`` count.
    """

    values: Mapping[int, int] = field(default_factory=dict)
    colours: bool = False
    every: int = 0

    @property
    def changes(self) -> bool:
        """Whether anything is not already what it means."""
        return self.colours or bool(self.every) or any(a != b for a, b in self.values.items())

    def apply(self, labels: NDArray[Any]) -> NDArray[Any]:
        """The map (*S) in values of the label table."""
        if self.every:
            shown = np.zeros(labels.shape, np.min_scalar_type(self.every))
            shown[labels != 0] = self.every
            return shown
        moved = {a: b for a, b in self.values.items() if a != b}
        if not moved:
            return labels
        room = np.min_scalar_type(max(moved.values()))
        # What stays and is no colour has its own type; colours all become small.
        out = labels.astype(np.promote_types(labels.dtype, room))
        for value, meant in moved.items():
            out[labels == value] = meant
        return out.astype(room) if self.colours and out.max(initial=0) <= np.iinfo(room).max else out

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what differs from the defaults."""
        values = {str(value): meant for value, meant in sorted(self.values.items())}
        given = {"values": values, "colours": self.colours, "every": self.every}
        return {name: value for name, value in given.items() if value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recoding:
        """The inverse of ``to_json``."""
        values = {int(v): int(meant) for v, meant in value.get("values", {}).items()}
        return cls(values, bool(value.get("colours", False)), int(value.get("every", 0)))


# Values are what they mean.
AS_STORED = Recoding()


def colours_of(planes: NDArray[Any]) -> NDArray[np.uint32]:
    """Colours of a picture (1 or 3 planes, *S, 8 bits) as one number each (*S), red in the highest byte."""
    red, green, blue = (planes[0], planes[0], planes[0]) if len(planes) == 1 else planes
    out: NDArray[np.uint32] = red.astype(np.uint32) << np.uint32(16)
    out |= green.astype(np.uint32) << np.uint32(8)
    out |= blue.astype(np.uint32)
    return out


def merge_classes(maps: list[NDArray[Any]]) -> tuple[NDArray[Any], int]:
    """One map (*S) of maps (*S) that show one class each, and in how many voxels several do; the first keeps these."""
    merged = maps[0].copy()
    twice = 0
    for one in maps[1:]:
        both = (one != 0) & (merged != 0)
        twice += int(both.sum())
        merged = np.where(merged != 0, merged, one)
    return merged, twice
