"""Outlines of objects: polygons along the edges of pixels, which cover the pixels of their object and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.objects.scene import Scene

# Corners (n, 2) as (x, y), the first one not repeated. Pixel (row r, column c) is the square from (c, r) to
# (c + 1, r + 1): whole numbers are corners of pixels, as in ImageJ and QuPath.
Ring = NDArray[np.int64]


class Polygon(NamedTuple):
    """A region in one piece.

    Attributes:
        outer: the ring around it; its area is positive in (x, y), so it runs clockwise on a screen.
        holes: rings around what it leaves out, the other way round. They may touch one another and the outer ring at
            corners only.
    """

    outer: Ring
    holes: tuple[Ring, ...] = ()


class Outline(NamedTuple):
    """An object in a plane.

    Attributes:
        number: the object's.
        plane: which slice along z (from 0); None for pictures.
        polygons: its pieces; pixels that meet at a corner only are two pieces.
    """

    number: int
    plane: int | None
    polygons: tuple[Polygon, ...]


def outlines(scene: Scene) -> Iterator[Outline]:
    """Outlines of all objects, in the order of their numbers; of volumes, in each slice along z that shows them."""
    columns, rows = scene.axes.index("x"), scene.axes.index("y")
    for number, box, mask in scene.parts():
        corner = np.array([box[columns].start, box[rows].start])
        if scene.dims == 2:
            yield Outline(number, None, _moved(polygons(mask.transpose(rows, columns)), corner))
            continue
        depth = scene.axes.index("z")
        for place, plane in enumerate(mask.transpose(depth, rows, columns), start=box[depth].start):
            if plane.any():
                yield Outline(number, place, _moved(polygons(plane), corner))


def _moved(found: Sequence[Polygon], by: NDArray[np.int64]) -> tuple[Polygon, ...]:
    return tuple(Polygon(outer + by, tuple(hole + by for hole in holes)) for outer, holes in found)


def polygons(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Polygons that cover the pixels of a mask (rows, columns), in raster order of their first pixels.

    Only corners are kept, no points along straight edges. Rings do not cross or touch themselves, so that polygons are
    valid by the rules of GeoJSON and OGC.
    """
    pieces, _ = ndimage.label(mask)
    found: dict[int, list[Ring]] = {}
    for piece, ring in _rings(mask, pieces):
        found.setdefault(piece, []).append(ring)
    made = []
    for _, rings in sorted(found.items()):
        areas = [signed_area(ring) for ring in rings]
        # A piece that hangs together by the edges of pixels has one outer ring.
        outer = areas.index(max(areas))
        made.append(Polygon(rings[outer], tuple(ring for place, ring in enumerate(rings) if place != outer)))
    return made


def signed_area(ring: Ring) -> float:
    """Area of a ring (shoelace formula): positive around a piece, negative around a hole."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _rings(mask: NDArray[np.bool_], pieces: NDArray[np.signedinteger]) -> Iterator[tuple[int, Ring]]:
    """Rings of a mask, each with the number of its piece."""
    starts, ends, owners = _edges(mask)
    follows = _followers(starts, ends, owners, (mask.shape[0] + 1) * (mask.shape[1] + 1)).tolist()
    piece_of, width = pieces.ravel()[owners].tolist(), mask.shape[1] + 1
    corners, seen = starts.tolist(), [False] * len(starts)
    for first in range(len(seen)):
        if seen[first]:
            continue
        ring, edge = [], first
        while not seen[edge]:
            seen[edge] = True
            ring.append(corners[edge])
            edge = follows[edge]
        for loop in _simple(ring):
            rows, columns = np.divmod(np.array(loop), width)
            yield piece_of[first], _without_straight(np.stack([columns, rows], axis=1))


def _edges(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Directed edges of pixels along the border of a mask, each with its pixel on the right, seen on a screen.

    Returns:
        Index of the corner where each begins, of that where it ends, and of its pixel.
    """
    padded, columns = np.pad(mask, 1), mask.shape[1]
    width = columns + 1
    # Neighbour beyond the edge; where the edge begins and ends, from the pixel's upper left corner.
    sides = (
        (padded[:-2, 1:-1], 0, 1),
        (padded[1:-1, 2:], 1, width + 1),
        (padded[2:, 1:-1], width + 1, width),
        (padded[1:-1, :-2], width, 0),
    )
    starts, ends, owners = [], [], []
    for beyond, begin, end in sides:
        pixels = np.flatnonzero(mask & ~beyond)
        corner = pixels + pixels // columns
        starts.append(corner + begin)
        ends.append(corner + end)
        owners.append(pixels)
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(owners)


def _followers(
    starts: NDArray[np.int64], ends: NDArray[np.int64], owners: NDArray[np.int64], corners: int
) -> NDArray[np.int64]:
    """The edge that follows each edge: the one that begins where it ends; of two, that of the same pixel."""
    leaving = np.full((2, corners), -1)
    places = np.arange(len(starts))
    leaving[0, starts] = places
    # Where two edges begin, the last one written stands there; the others are second.
    second = leaving[0, starts] != places
    leaving[1, starts[second]] = places[second]
    follows, other = leaving[0, ends], leaving[1, ends]
    turn = (other >= 0) & (owners[follows] != owners)
    chosen: NDArray[np.int64] = np.where(turn, other, follows)
    return chosen


def _simple(ring: list[int]) -> list[list[int]]:
    """A ring, cut where it touches itself, as rings that do not."""
    if len(set(ring)) == len(ring):
        return [ring]
    loops: list[list[int]] = []
    path: list[int] = []
    place: dict[int, int] = {}
    for corner in ring:
        if corner in place:
            begin = place[corner]
            loops.append(path[begin:])
            for left in path[begin:]:
                del place[left]
            del path[begin:]
        place[corner] = len(path)
        path.append(corner)
    return [*loops, path]


def _without_straight(ring: Ring) -> Ring:
    """The corners of a ring at which it turns, from the first one in raster order on."""
    steps = np.roll(ring, -1, axis=0) - ring
    turns = (steps != np.roll(steps, 1, axis=0)).any(axis=1)
    corners = ring[turns]
    return np.roll(corners, -int(np.lexsort(corners.T)[0]), axis=0)
