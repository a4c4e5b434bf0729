"""How files are read where they leave something open: one record, from the configuration to the trained model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# What the planes of a file are, the slowest first, before rows and columns; a letter may have its length behind it.
AXES = re.compile(r"(?:[TZC][0-9]{0,6}){0,3}YX[CS]?")
# Micrometres per unit of a configured `spacing`.
UNITS = {"um": 1.0, "mm": 1000.0}
# Whose sizes count: those that files state, or none, or the configured ones for every file.
SIZES = ("files", "pixels", "spacing")
COLOURS = ("", "grey", "rgb")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a data set's configuration, and a model that was trained on it, says about its files.

    Attributes:
        axes: what the planes of a TIFF are, the slowest first (``CYX``, ``ZC2YX``); empty: what the file says.
        channels: which channels are taken, in this order: numbers from 0, or the file's own names; none: all.
        names: names of all channels in their order; a file that names its channels so is read in this order.
        colour: ``grey`` or ``rgb``, where grey pictures and pictures in colour are brought together; empty: as stored.
        spacing: size of a voxel per axis in ``unit``, for files that state none; none: voxels are counted.
        unit: ``um`` or ``mm``.
        sizes: ``files``: what a file states comes before ``spacing``; ``pixels``: no size counts; ``spacing``: that one
            counts, whatever files state. The last two are for formats without a world: TIFF, PNG.
        orientation: which form counts where a NIfTI header contradicts itself; empty: that is a fault.
        fill: what stands for NaN and Inf voxels; None: they are a fault.
    """

    axes: str = ""
    channels: tuple[int | str, ...] = ()
    names: tuple[str, ...] = ()
    colour: str = ""
    spacing: tuple[float, ...] | None = None
    unit: str = "um"
    sizes: str = "files"
    orientation: str = ""
    fill: float | None = None

    @property
    def spacing_um(self) -> tuple[float, ...] | None:
        """``spacing`` in micrometres, or None."""
        return None if self.spacing is None else tuple(value * UNITS[self.unit] for value in self.spacing)

    @property
    def of_labels(self) -> Reading:
        """The same for label maps: they have one channel, whatever their images have."""
        slices = re.sub(r"C[0-9]*|[CS]$", "", self.axes)
        return replace(self, axes=slices, channels=(), names=(), colour="", fill=None)

    def sized(self, spacing_um: Sequence[float] | None) -> Reading:
        """The same with a size that is known for one file, in micrometres per axis; None: unchanged."""
        return self if spacing_um is None else replace(self, spacing=tuple(spacing_um), unit="um")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: what differs from the defaults."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(AS_STORED, name)
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reading:
        """The inverse of ``to_json``.

        Raises:
            ValueError: if it is none: a model folder may come from anywhere.
        """
        unknown = sorted(set(value) - set(cls.__slots__))
        if unknown:
            raise ValueError(f"reading: unknown {unknown[0]!r}")
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
        found = cls(**fields)
        for name, right in found._checks().items():
            if not right:
                raise ValueError(f"reading.{name}: found {str(getattr(found, name))[:80]!r}")
        return found

    def _checks(self) -> dict[str, bool]:
        """Field -> whether its value is possible."""
        channels, names, spacing = self.channels, self.names, self.spacing
        return {
            "axes": isinstance(self.axes, str) and (not self.axes or are_axes(self.axes)),
            "channels": isinstance(channels, tuple) and all(_is_number(c) or isinstance(c, str) for c in channels),
            "names": isinstance(names, tuple) and all(isinstance(n, str) for n in names),
            "colour": self.colour in COLOURS,
            "spacing": spacing is None
            or (isinstance(spacing, tuple) and len(spacing) in (2, 3) and all(_is_size(s) for s in spacing)),
            "unit": self.unit in UNITS,
            "sizes": self.sizes in SIZES and (self.sizes != "spacing" or spacing is not None),
            "orientation": self.orientation in ("", "sform", "qform"),
            "fill": self.fill is None or (isinstance(self.fill, int | float) and math.isfinite(self.fill)),
        }


# Nothing is declared: files speak for themselves.
AS_STORED = Reading()


def are_axes(text: str) -> bool:
    """Whether a text declares axes: T, Z, C, each at most once, before YX; or C or S, interleaved, behind it."""
    letters = re.sub(r"[0-9]", "", text)
    return bool(AXES.fullmatch(text)) and len(set(letters.replace("S", "C"))) == len(letters)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_size(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
