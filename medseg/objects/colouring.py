"""Colours for objects, so that neighbours never share one."""

from __future__ import annotations

import colorsys
import heapq
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from medseg.image.labels import COLOURS

# Objects are neighbours if voxels of theirs are this close along every axis.
NEAR = 4
# Angle between hues of further colours, as a share of the circle: the golden one keeps them apart, however many.
GOLDEN = 0.618034
# Shades of a class' colour that are used before further ones.
SHADES = 3
RGB = tuple[int, int, int]


def neighbours(numbers: NDArray[np.integer], near: int = NEAR) -> dict[int, set[int]]:
    """Object number -> its neighbours, of all objects of a map (S).

    Args:
        numbers: (S) integers, 0 is background.
        near: objects are neighbours if two of their voxels are at most this far apart along every axis.
    """
    found: dict[int, set[int]] = {int(number): set() for number in np.unique(numbers) if number}
    for step in itertools.product(range(-near, near + 1), repeat=numbers.ndim):
        if step <= (0,) * numbers.ndim:
            continue
        here = numbers[
            tuple(slice(max(0, -s), max(0, n - max(0, s))) for s, n in zip(step, numbers.shape, strict=True))
        ]
        there = numbers[
            tuple(slice(max(0, s), max(0, n + min(0, s))) for s, n in zip(step, numbers.shape, strict=True))
        ]
        meets = (here != there) & (here != 0) & (there != 0)
        for one, other in np.unique(np.stack([here[meets], there[meets]], axis=1), axis=0).tolist():
            found[one].add(other)
            found[other].add(one)
    return found


def colouring(near: Mapping[int, set[int]], colours: int = len(COLOURS)) -> dict[int, int]:
    """Object number -> place of its colour, different for neighbours.

    Those with the most neighbours among the rest are coloured first (smallest-last order, Matula & Beck 1983), each in
    the colour that is used least so far and by none of its neighbours. More than ``colours`` are used only where an
    object has that many neighbours.
    """
    made: dict[int, int] = {}
    used = [0] * colours
    for number in reversed(list(_smallest_last(near))):
        taken = {made[other] for other in near[number] if other in made}
        free = [place for place in range(len(used)) if place not in taken]
        if not free:
            free = [len(used)]
            used.append(0)
        made[number] = min(free, key=lambda place: (used[place], place))
        used[made[number]] += 1
    return made


def _smallest_last(near: Mapping[int, set[int]]) -> Iterator[int]:
    """Numbers, each time one with the fewest neighbours among those that are left, the smallest of them."""
    left = {number: len(others) for number, others in near.items()}
    heap = [(count, number) for number, count in left.items()]
    heapq.heapify(heap)
    while heap:
        count, number = heapq.heappop(heap)
        if left.get(number) != count:
            continue  # Gone, or in the heap again with fewer neighbours.
        del left[number]
        for other in near[number]:
            if other in left:
                left[other] -= 1
                heapq.heappush(heap, (left[other], other))
        yield number


def palette(count: int) -> list[RGB]:
    """The first ``count`` colours: those of labels, then further hues."""
    known = [rgb_of(colour) for colour in COLOURS]
    hues = [place * GOLDEN % 1 for place in range(max(0, count - len(known)))]
    further = [colorsys.hsv_to_rgb(hue, 0.55, 1.0) for hue in hues]
    return (known + [(round(r * 255), round(g * 255), round(b * 255)) for r, g, b in further])[:count]


def rgb_of(colour: str) -> RGB:
    """``#RRGGBB`` as three numbers."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def object_colours(numbers: NDArray[np.integer], classes: Mapping[int, int] | None = None) -> dict[int, RGB]:
    """A colour for each object of a map (S), different for neighbours.

    Args:
        numbers: (S) integers, 0 is background.
        classes: number of each object -> its class 1..K: objects have shades of their class' colour. None: one class.
    """
    near = neighbours(numbers)
    if classes is None:
        places = colouring(near)
        colours = palette(max(places.values(), default=0) + 1)
        return {number: colours[place] for number, place in places.items()}
    alike = {one: {other for other in others if classes[other] == classes[one]} for one, others in near.items()}
    base = palette(max(classes.values(), default=0))
    return {number: shade(base[classes[number] - 1], place) for number, place in colouring(alike, SHADES).items()}


def shade(colour: RGB, place: int) -> RGB:
    """One of the shades of a colour: itself, then in turn lighter and darker ones."""
    if place == 0:
        return colour
    towards, share = (255, 0)[(place + 1) % 2], 1 - 0.65 ** ((place + 1) // 2)
    red, green, blue = (round(c + (towards - c) * share) for c in colour)
    return red, green, blue
