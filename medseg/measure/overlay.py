"""Objects drawn on their image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.measure.files import Measured
from medseg.objects.colouring import RGB, object_colours
from medseg.objects.scene import Scene

# Longer side in pixels: larger images are thinned, small ones are enlarged so that outlines hide little.
MAX_SIDE, GOOD_SIDE, MAX_ENLARGED = 4096, 1200, 6
# Percentiles of intensities that become black and white.
BLACK, WHITE = 0.5, 99.5
# Thickness of outlines in pixels, as long as this is no more than one of the image.
THICK = 3
# How much of its object's colour a pixel within has.
TINT = 0.15


def overlay_png(measured: Measured) -> bytes:
    """A PNG of the image with the outline of every object in it, in a colour that no neighbour has.

    One channel is grey, two are green and magenta, three red, green and blue; of more, the first is shown. Contrast is
    that of percentiles; 8-bit colour pictures stay as they are. Where there are several classes, objects have shades of
    their class' colour. Of volumes, the slice along z with the most foreground is drawn.
    """
    image, numbers = _plane(measured)
    side = max(numbers.shape)
    thinned = -(-side // MAX_SIDE)
    image, numbers = image[:, ::thinned, ::thinned], numbers[::thinned, ::thinned]
    enlarged = min(MAX_ENLARGED, max(1, GOOD_SIDE // side))
    colours = _colours(numbers, measured.scene)
    drawn = _picture(image).repeat(enlarged, axis=0).repeat(enlarged, axis=1)
    numbers = numbers.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
    _draw(drawn, numbers, colours, min(enlarged, THICK))
    return bytes(imagecodecs.png_encode(drawn.round().astype(np.uint8)))


def _plane(measured: Measured) -> tuple[NDArray[Any], NDArray[Any]]:
    """Channels (C, rows, columns) and object numbers (rows, columns) of what is drawn."""
    scene = measured.scene
    image = np.zeros((1, *scene.numbers.shape), np.uint8) if measured.image is None else measured.image
    order = [scene.axes.index(axis) for axis in "zyx"[-scene.dims :]]
    numbers = scene.numbers.transpose(order)
    image = image.transpose(0, *(axis + 1 for axis in order))
    if scene.dims == 2:
        return image, numbers
    place = int(np.argmax([np.count_nonzero(plane) for plane in numbers]))
    return image[:, place], numbers[place]


def _picture(image: NDArray[Any]) -> NDArray[np.float32]:
    """Channels (C, rows, columns) as a picture (rows, columns, 3) from 0 to 255."""
    if len(image) == 3 and image.dtype == np.uint8:
        return np.moveaxis(image, 0, -1).astype(np.float32)
    if len(image) in (2, 3):
        scaled = [_stretched(channel) for channel in image]
        shown = scaled if len(image) == 3 else [scaled[1], scaled[0], scaled[1]]
    else:
        shown = [_stretched(image[0])] * 3
    return np.stack(shown, axis=-1) * np.float32(255)


def _stretched(channel: NDArray[Any]) -> NDArray[np.float32]:
    """Intensities between their percentiles as 0..1."""
    finite = channel[np.isfinite(channel)]
    low, high = np.percentile(finite, (BLACK, WHITE)) if finite.size else (0.0, 0.0)
    if high <= low:
        # Few voxels that are not background, as in sparse fluorescence.
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(channel).astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
    stretched: NDArray[np.float32] = np.clip(scaled, 0, 1)
    return stretched


def _colours(numbers: NDArray[Any], scene: Scene) -> dict[int, RGB]:
    """A colour for each object of a plane (rows, columns)."""
    shown = [int(number) for number in np.unique(numbers) if number]
    several = len(scene.class_names) > 1
    return object_colours(numbers, {number: scene.class_of(number) for number in shown} if several else None)


def _draw(picture: NDArray[np.float32], numbers: NDArray[Any], colours: Mapping[int, RGB], thickness: int) -> None:
    """Tint objects (rows, columns) and draw their outlines, which lie within them, into a picture."""
    shown, inside = sorted(colours), numbers > 0
    if not shown:
        return
    table = np.array([colours[number] for number in shown], dtype=np.float32)
    of_pixel = table[np.searchsorted(shown, numbers[inside])]
    size = 2 * thickness + 1
    # Along the border of the image an object has no outline: it is cut there.
    edge = ndimage.maximum_filter(numbers, size, mode="nearest") != ndimage.minimum_filter(
        numbers, size, mode="nearest"
    )
    share = np.where(edge[inside], np.float32(1), np.float32(TINT))[:, None]
    picture[inside] = picture[inside] * (1 - share) + of_pixel * share
