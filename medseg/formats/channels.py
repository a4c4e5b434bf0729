"""Which channels of a file are taken: by name or number, in any order, or brought to grey or RGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.errors import FormatError
from medseg.formats.pieces import Pieces, pieces_of
from medseg.formats.source import Source, Voxels
from medseg.reading import Reading

# Weights of red, green and blue in grey (ITU-R BT.601, as most programs take them).
GREY = (0.299, 0.587, 0.114)
FIX_CHOICE = "correct `channels`: {NAME: NUMBER or the file's own name}, numbers begin with 0"


@dataclass(frozen=True, slots=True)
class ChosenVoxels:
    """Some channels of voxels (C,*S), in an order of their own; boxes are read as the file allows."""

    voxels: Voxels
    chosen: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(C,*S)."""
        return (len(self.chosen), *self.voxels.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.voxels.dtype

    @property
    def pieces(self) -> Pieces:
        """How all channels lie in the file."""
        return pieces_of(self.voxels)

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """The voxels of a box (C,*S)."""
        rows = [self.voxels[(slice(c, c + 1), *box[1:])] for c in self.chosen[box[0]]]
        return (
            np.concatenate(rows) if rows else np.empty((0, *self.voxels[(slice(0, 1), *box[1:])].shape[1:]), self.dtype)
        )


@dataclass(frozen=True, slots=True)
class GreyVoxels:
    """The brightness (1,*S) of voxels in colour (3,*S), in their own type: integers are rounded."""

    voxels: Voxels

    @property
    def shape(self) -> tuple[int, ...]:
        """(1,*S)."""
        return (1, *self.voxels.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return self.voxels.dtype

    @property
    def pieces(self) -> Pieces:
        """How all channels lie in the file."""
        return pieces_of(self.voxels)

    def __getitem__(self, box: tuple[slice, ...], /) -> NDArray[Any]:
        """The voxels of a box (1,*S)."""
        colours = self.voxels[(slice(None), *box[1:])].astype(np.float64)
        grey: NDArray[np.float64] = np.tensordot(GREY, colours, axes=1)[None]
        return (np.rint(grey) if self.dtype.kind in "iu" else grey).astype(self.dtype)[box[0]]


def choose_channels(source: Source, reading: Reading) -> Source:
    """The source with the channels that ``reading`` asks for.

    Raises:
        FormatError: with the code ``channels``, if the file has no such channel.
    """
    if reading.colour:
        return source.with_channels(_coloured(source, reading.colour))
    chosen = _numbers(source, reading)
    if not chosen or chosen == tuple(range(source.shape[0])):
        return source
    return source.with_channels(ChosenVoxels(source.shown, chosen), chosen)


def _numbers(source: Source, reading: Reading) -> tuple[int, ...]:
    """The channels that are taken, by number; none: all, as they are."""
    own = source.channel_names
    if reading.channels:
        return tuple(_number(source, wanted) for wanted in reading.channels)
    if reading.names and all(own.count(name) == 1 for name in reading.names):
        return tuple(own.index(name) for name in reading.names)
    return ()


def _number(source: Source, wanted: int | str) -> int:
    count, own = source.shape[0], source.channel_names
    if isinstance(wanted, int) and wanted < count:
        return wanted
    if isinstance(wanted, str) and own.count(wanted) == 1:
        return own.index(wanted)
    raise FormatError(source.path, f"no channel {wanted!r}: {described(count, own)}", FIX_CHOICE, "channels")


def described(count: int, names: Sequence[str]) -> str:
    """How many channels there are, and their names if the file has some."""
    named = f": {', '.join(f'{k} {name!r}' for k, name in enumerate(names))}" if names else ", and the file names none"
    return f"there {'is 1' if count == 1 else f'are {count}'}{named}"


def _coloured(source: Source, colour: str) -> Voxels:
    count = source.shape[0]
    if count not in (1, 3):
        cause = f"{count} channels, `channels: {colour}` takes pictures of 1 (grey) or 3 (red, green, blue)"
        raise FormatError(source.path, cause, "leave the case out, or choose channels by number", "channels")
    if colour == "grey":
        return source.shown if count == 1 else GreyVoxels(source.shown)
    return ChosenVoxels(source.shown, (0, 0, 0)) if count == 1 else source.shown
