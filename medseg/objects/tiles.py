"""Objects of maps of any size, tile by tile: the same objects with the same numbers as of the whole at once.

Objects in different *structures*, components of the foreground with its small holes filled, do not depend on one
another (``Splitter.reach`` says how far apart structures of a head lie). So tiles are looked at three times:

1. Holes: components of the background are joined across seams, which shows how large each is.
2. Structures: components of the foreground are joined across seams; each has a box and its first voxel.
3. Objects: each structure is decoded whole, in a window around all structures that begin in the same tile.

Then objects are numbered in raster order of their first voxels and written tile by tile. Windows that have been
decoded are kept for that while they are few, and decoded again where they are many. Memory: a tile, the largest window
(a tile and the structures that begin in it: a sheet of cells that covers the image without a gap is decoded as a
whole), the parts of structures that reach into tiles which are not written yet, and some numbers per structure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.objects.components import face_connected
from medseg.objects.decode import SPLITTERS, Maps, fill_small_holes, foreground, objects_in
from medseg.objects.decoding import Decoding
from medseg.objects.seams import Box, Joined, grid_of, join

# Decoded windows that are kept between numbering and writing, in bytes; the others are decoded twice.
KEPT = 256 * 2**20


def decode_tiled(
    head: str,
    read: Callable[[Box], Maps],
    shape: Sequence[int],
    spacing: Sequence[float],
    decoding: Decoding,
    write: Callable[[Box, NDArray[np.uint32]], None],
    tile: Sequence[int],
) -> int:
    """``decode`` without the whole in memory.

    Args:
        head: row of ``SPLITTERS``.
        read: a box (slices with start and stop, within ``shape``) -> maps (M, box) int16, the same each time.
        shape: (d,) voxels of the whole along each axis.
        spacing: (d,) distance of neighbouring voxels along each axis.
        decoding: thresholds and sizes.
        write: takes each tile's box and its numbers (box) once, tiles in raster order.
        tile: (d,) largest size of a tile.

    Returns:
        the number of objects.
    """
    scene = _Scene(head, read, tuple(shape), tuple(spacing), decoding, grid_of(shape, tile))
    structures = scene.structures()
    owned = np.argsort(structures.owner[1:], kind="stable") + 1
    cuts = np.searchsorted(structures.owner[owned], np.arange(len(scene.boxes) + 1))
    windows = [_Window(scene, structures, owned[a:b]) if b > a else None for a, b in itertools.pairwise(cuts)]
    first = [w.first() if w else np.zeros(0, dtype=np.int64) for w in windows]
    ranks = np.zeros(sum(map(len, first)), dtype=np.uint32)
    ranks[np.argsort(np.concatenate(first))] = np.arange(1, len(ranks) + 1, dtype=np.uint32)
    numbers = np.split(ranks, np.cumsum([len(f) for f in first])[:-1])
    for box, tile_numbers in _painted(scene.boxes, windows, numbers):
        write(box, tile_numbers)
    return len(ranks)


@dataclass(slots=True)
class _Scene:
    """What is decoded, and how much more may be kept of it (bytes)."""

    head: str
    read: Callable[[Box], Maps]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    decoding: Decoding
    boxes: list[Box]
    room: int = field(default_factory=lambda: KEPT)

    def structures(self) -> Joined:
        """The structures of the whole."""
        background = self._holes()

        def filled(index: int) -> NDArray[np.bool_]:
            box = self.boxes[index]
            mask = self._mask(box)
            if background is None:
                return self._near(box, mask)
            holes, joined = background
            labels, _ = face_connected(~mask)
            return self._near(box, mask) | holes[joined.of_tile(index, labels)]

        return join(self.boxes, self.shape, filled)

    def _holes(self) -> tuple[NDArray[np.bool_], Joined] | None:
        """Which components of the background are filled; None if none is."""
        if self.decoding.max_hole <= 1:
            return None
        joined = join(self.boxes, self.shape, lambda index: ~self._mask(self.boxes[index]))
        small = joined.sizes < self.decoding.max_hole
        holes = small & (joined.low > 0).all(axis=1) & (joined.high < self.shape).all(axis=1)
        holes[0] = False
        return holes, joined

    def _mask(self, box: Box) -> NDArray[np.bool_]:
        return foreground(self.read(box), self.decoding)

    def _near(self, box: Box, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What is within the head's reach of the foreground, in a box."""
        reach = SPLITTERS[self.head].reach
        if not reach:
            return mask
        wide = self.around(box, reach)
        return dilated(self._mask(wide), reach)[within(box, wide)]

    def around(self, box: Box, margin: int) -> Box:
        """A box with a margin, as far as the whole has voxels there."""
        return tuple(
            slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in zip(box, self.shape, strict=True)
        )


class _Window:
    """The structures that begin in one tile, decoded together.

    Attributes:
        box: a box that holds all of them and a margin of one voxel, which shows what is a hole in them.
    """

    def __init__(self, scene: _Scene, structures: Joined, owned: NDArray[np.int64]) -> None:
        low, high = structures.low[owned].min(axis=0), structures.high[owned].max(axis=0)
        self.scene = scene
        self.box = scene.around(tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), 1)
        self._seen_at = structures.first[owned]
        self._kept: NDArray[np.int32] | None = None

    def first(self) -> NDArray[np.int64]:
        """Flat index in the whole of the first voxel of each object, in the order of their labels 1, 2, ..."""
        labels = self._decoded()
        if labels.nbytes <= self.scene.room:
            self.scene.room -= labels.nbytes
            self._kept = labels
        found, first = np.unique(labels, return_index=True)
        places = np.unravel_index(first[found > 0], labels.shape)
        whole = [p + s.start for p, s in zip(places, self.box, strict=True)]
        flat: NDArray[np.int64] = np.ravel_multi_index(whole, self.scene.shape).astype(np.int64)
        return flat

    def numbered(self, numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """(box) ``numbers`` instead of labels 1, 2, ...; what was kept of the window is given up."""
        labels = self._decoded() if self._kept is None else self._kept
        self._kept = None
        return np.concatenate([np.zeros(1, dtype=np.uint32), numbers])[labels]

    def _decoded(self) -> NDArray[np.int32]:
        scene = self.scene
        maps = scene.read(self.box)
        raw = foreground(maps, scene.decoding)
        filled = fill_small_holes(raw, scene.decoding.max_hole)
        labels, count = face_connected(filled | dilated(raw, SPLITTERS[scene.head].reach))
        places = np.unravel_index(self._seen_at, scene.shape)
        own = np.zeros(count + 1, dtype=bool)
        own[labels[tuple(p - s.start for p, s in zip(places, self.box, strict=True))]] = True
        return objects_in(scene.head, maps, filled & own[labels], scene.spacing, scene.decoding)


def dilated(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """What is within a box of radius ``reach`` around voxels of the mask."""
    return ndimage.maximum_filter(mask, 2 * reach + 1, mode="constant") if reach else mask


def within(box: Box, wide: Box) -> Box:
    """The place of a box in a wider one."""
    return tuple(slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, wide, strict=True))


def _painted(
    boxes: Sequence[Box], windows: Sequence[_Window | None], numbers: Sequence[NDArray[np.uint32]]
) -> Iterator[tuple[Box, NDArray[np.uint32]]]:
    """Each tile's box with its numbers.

    A structure lies in no tile before the one that owns it, so a tile is complete when its own window has been painted;
    what windows paint of later tiles waits for these.
    """
    waiting: dict[int, list[tuple[Box, NDArray[np.uint32]]]] = {}
    for index, (box, window) in enumerate(zip(boxes, windows, strict=True)):
        if window:
            painted = window.numbered(numbers[index])
            for later, shared in _shared(boxes, index, window.box):
                piece = painted[within(shared, window.box)]
                if piece.any():
                    waiting.setdefault(later, []).append((shared, piece.copy()))
        out = np.zeros([s.stop - s.start for s in box], dtype=np.uint32)
        for shared, piece in waiting.pop(index, []):
            view = out[within(shared, box)]
            np.copyto(view, piece, where=piece > 0)
        yield box, out


def _shared(boxes: Sequence[Box], start: int, window: Box) -> Iterator[tuple[int, Box]]:
    """Tiles from ``start`` on that a window meets, each with what they share."""
    for index in range(start, len(boxes)):
        both = tuple(
            slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(boxes[index], window, strict=True)
        )
        if all(s.start < s.stop for s in both):
            yield index, both
        elif boxes[index][0].start >= window[0].stop:
            return
