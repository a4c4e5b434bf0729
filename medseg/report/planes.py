"""Planes of a case in display orientation: the image, and label maps beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import Geometry, canonical_axes

# Longest side of a drawn plane; larger ones are thinned, since the page could not show more.
MAX_SIDE = 1024
# Views of a volume are cropped to the labels, with this share of the whole extent around them.
MARGIN = 0.22
# The planes of a volume are arranged so that the picture gets no taller than this, by its width.
MAX_TALL = 1.35

Size = tuple[float, float]
Label = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Planes:
    """What is drawn of a case: planes in display orientation (rows down, columns right).

    Attributes:
        pictures: grey (R, C) or colour (R, C, 3) planes in 0..1.
        labels: planes of each label map, of classes or of object numbers; the reference first.
        pixels: (height, width) of a pixel of each plane, in ``unit``.
        unit: of the grid.
    """

    pictures: tuple[NDArray[np.float64], ...]
    labels: tuple[tuple[Label, ...], ...]
    pixels: tuple[tuple[float, float], ...]
    unit: str


def planes_2d(image: NDArray[Any], maps: Sequence[Label], geometry: Geometry) -> Planes:
    """The one plane of a picture (C, R, K) and of its label maps (R, K); arguments as for ``planes_3d``."""
    step = -(-max(image.shape[1:]) // MAX_SIDE)
    picture = picture_of(image[:, ::step, ::step])
    pixel = (step * geometry.spacing[0], step * geometry.spacing[1])
    return Planes((picture,), tuple((m[::step, ::step],) for m in maps), (pixel,), geometry.unit)


def planes_3d(
    image: NDArray[Any], maps: Sequence[Label], geometry: Geometry, error: NDArray[np.bool_] | None = None
) -> Planes:
    """Axial, coronal and sagittal planes where the first prediction errs most, patient upright.

    Arrays are turned to axes that run from right to left, front to back and top to bottom (so radiological:
    the patient's right is on the left of the page), whatever the stored orientation.

    Args:
        image: (C, S), of which the first channel is shown.
        maps: (S) label maps, the reference first; background is 0.
        geometry: of their grid.
        error: (S) where the first prediction errs; None: where it differs from the reference.
    """
    axes, flips = canonical_axes(geometry)
    turn = tuple(slice(None) if flip else slice(None, None, -1) for flip in flips)
    spacing = [geometry.spacing[a] for a in axes]
    volume = image[0].transpose(axes)[turn]
    turned = [m.transpose(axes)[turn] for m in maps]

    wrong = turned[0] != turned[1] if error is None else error.transpose(axes)[turn]
    focus = wrong if wrong.any() else turned[0] > 0
    centre = [int(np.argmax(focus.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    box = _crop(np.logical_or.reduce([m > 0 for m in turned]), centre)
    windowed = window(volume[box])
    pictures, labels, pixels = [], [[] for _ in turned], []  # type: ignore[var-annotated]
    for normal, (columns, rows) in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2))):
        place = centre[normal] - box[normal].start
        pictures.append(np.take(windowed, place, axis=normal).T)
        for index, label_map in enumerate(turned):
            labels[index].append(np.take(label_map[box], place, axis=normal).T)
        pixels.append((spacing[rows], spacing[columns]))
    return Planes(tuple(pictures), tuple(tuple(v) for v in labels), tuple(pixels), geometry.unit)


def _crop(foreground: NDArray[np.bool_], centre: Sequence[int]) -> tuple[slice, ...]:
    """The box around all foreground and the centre, with a margin of the whole extent."""
    box = []
    for axis, length in enumerate(foreground.shape):
        used = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        places = [*used[[0, -1]], centre[axis]] if used.size else [0, length - 1]
        margin = int(np.ceil(MARGIN * length))
        box.append(slice(max(0, int(min(places)) - margin), min(length, int(max(places)) + 1 + margin)))
    return tuple(box)


def window(voxels: NDArray[Any]) -> NDArray[np.float64]:
    """Intensities scaled to 0..1 between their 0.5 and 99.5 percentiles."""
    low, high = np.percentile(voxels, (0.5, 99.5))
    scaled: NDArray[np.float64] = (voxels.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.clip(scaled, 0, 1)


def picture_of(image: NDArray[Any]) -> NDArray[np.float64]:
    """Channels of a plane as a picture: 8-bit RGB as it is, three as RGB, else the first one in grey."""
    if len(image) == 3:
        scaled = image / np.float64(255) if image.dtype == np.uint8 else [window(c) for c in image]
        return np.stack(list(scaled), axis=-1)
    return window(image[0])


def arrange(sizes: Sequence[Size]) -> tuple[list[Size], Size]:
    """Left upper corners of planes of these (width, height), and the size of the whole.

    Axial, coronal and sagittal: beside, below or in a row, whichever shows them largest without getting too
    tall, then whichever leaves least unused.
    """
    if len(sizes) == 1:
        return [(0.0, 0.0)], sizes[0]
    (axial, depth), (_, height), (sagittal, _) = sizes
    gap = 0.015 * (axial + sagittal)
    right, low = axial + gap, depth + gap
    beside = [(0.0, 0.0), (right, 0.0), (right, height + gap)]
    below = [(0.0, 0.0), (0.0, low), (right, low)]
    row = [(0.0, 0.0), (right, 0.0), (2 * right, 0.0)]
    options = [(places, _extent(places, sizes)) for places in (beside, below, row)]
    return min(options, key=lambda o: (o[1][1] > MAX_TALL * o[1][0], o[1]))


def _extent(places: Sequence[Size], sizes: Sequence[Size]) -> Size:
    corners = [(x + width, y + height) for (x, y), (width, height) in zip(places, sizes, strict=True)]
    return max(x for x, _ in corners), max(y for _, y in corners)
