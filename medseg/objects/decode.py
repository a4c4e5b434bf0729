"""From maps to objects: how each head splits its foreground, the steps that all share, and the class of each object.

Maps are int16 in units of 1/1024, so that jitter of floating-point numbers between devices decides no tie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.objects import of_numbers
from medseg.late import resolve
from medseg.objects.components import face_connected
from medseg.objects.decoding import Decoding, threshold

Maps = NDArray[np.int16]
# (maps (M, S), mask (S, bool), spacing, decoding) -> (S) int32: objects of the mask, 0 for none, numbers in any order.
Split = Callable[[Maps, NDArray[np.bool_], Sequence[float], Decoding], NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class Splitter:
    """How the foreground of a head's maps is split into objects.

    Attributes:
        split: ``module:function`` of type ``Split``. What it does in one structure (below) must not depend on another.
        reach: structures are the face-connected components of the foreground after dilation by a box of this radius.
    """

    split: str
    reach: int = 0


# By the head's name. Map 0 is the foreground F for all of them.
SPLITTERS: Mapping[str, Splitter] = {
    "boundary": Splitter("medseg.objects.boundary:split"),
    "flows": Splitter("medseg.objects.flows:split", reach=1),
    "distance": Splitter("medseg.objects.distance:split"),
    "classes": Splitter("medseg.objects.components:split"),
}


def decode(head: str, maps: Maps, spacing: Sequence[float], decoding: Decoding) -> NDArray[np.uint32]:
    """The objects of maps.

    Args:
        head: row of ``SPLITTERS``.
        maps: (M, S) int16 in units of 1/1024, two or three spatial axes; map 0 is F. Further maps are ignored.
        spacing: (d,) distance of neighbouring voxels along each axis.
        decoding: thresholds and sizes.

    Returns:
        (S) uint32: 0 background, 1..N in raster order of the objects' first voxels.
    """
    mask = fill_small_holes(foreground(maps, decoding), decoding.max_hole)
    return of_numbers(objects_in(head, maps, mask, spacing, decoding)).numbers


def classify(numbers: NDArray[np.uint32], class_maps: Maps) -> NDArray[np.uint8]:
    """The class of each object: that of the largest summed probability over its voxels, the lower of equal ones.

    Args:
        numbers: (S) object numbers 0..N.
        class_maps: (K, S) probabilities of classes 1..K.

    Returns:
        (N + 1,) uint8 classes 1..K; 0 for number 0.
    """
    flat = numbers.ravel()
    places = np.flatnonzero(flat)
    count = int(flat.max()) if flat.size else 0
    sums = np.stack([np.bincount(flat[places], m.ravel()[places], minlength=count + 1) for m in class_maps])
    classes: NDArray[np.uint8] = (sums.argmax(axis=0) + 1).astype(np.uint8)
    classes[0] = 0
    return classes


def foreground(maps: Maps, decoding: Decoding) -> NDArray[np.bool_]:
    """Where F reaches its threshold: (S)."""
    reached: NDArray[np.bool_] = maps[0] >= threshold(decoding.foreground)
    return reached


def objects_in(
    head: str, maps: Maps, mask: NDArray[np.bool_], spacing: Sequence[float], decoding: Decoding
) -> NDArray[np.int32]:
    """The objects of the foreground ``mask`` (S) that are not too small: (S) int32, numbered without gaps from 1."""
    if not mask.any():
        return np.zeros(mask.shape, dtype=np.int32)
    split: Split = resolve(SPLITTERS[head].split)
    found = split(maps, mask, spacing, decoding)
    kept = np.bincount(found.ravel()) >= max(decoding.min_size, 1)
    kept[0] = False
    return np.where(kept, kept.cumsum(), 0).astype(np.int32)[found]


def fill_small_holes(mask: NDArray[np.bool_], max_hole: float) -> NDArray[np.bool_]:
    """The mask (S) with its holes of fewer than ``max_hole`` voxels; what touches the array's edge is no hole."""
    if max_hole <= 1 or not mask.any():
        return mask
    labels, count = face_connected(~mask)
    holes = small_holes(labels, count, max_hole)
    return mask | holes[labels]


def small_holes(labels: NDArray[np.int32], count: int, max_hole: float) -> NDArray[np.bool_]:
    """Which of the components (S, 0 is none) are small and touch no edge: (count + 1,)."""
    holes = np.bincount(labels.ravel(), minlength=count + 1) < max_hole
    holes[0] = False
    holes[edge_values(labels)] = False
    return holes


def edge_values(labels: NDArray[Any]) -> NDArray[Any]:
    """The values at the edge of an array."""
    faces = [np.take(labels, i, axis=a).ravel() for a in range(labels.ndim) for i in (0, -1)]
    return np.unique(np.concatenate(faces))
