"""Reference and prediction as contours of classes on the image, and what every overlay is drawn with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medseg.image.labels import COLOURS, IGNORE
from medseg.report.figures import png
from medseg.report.planes import Planes, arrange

DPI = 100
WIDTH_2D, WIDTH_3D = 560, 640
# Small pictures: sheets of cases, and those that are only tracked.
WIDTH_SMALL = 340
# Grey levels of a small picture, so that it stays light.
LEVELS = 48
REFERENCE = "#FFFFFF"
# Units that a scale bar makes sense in.
UNITS = {"mm": "mm", "um": "µm"}
HALO = "#00000088"
# Draws contours into axes, of a plane by its place.
Paint = Callable[[Axes, int], None]


def width_of(dims: int) -> int:
    """Width of an overlay in pixels."""
    return WIDTH_2D if dims == 2 else WIDTH_3D


def draw(planes: Planes, width: int, paint: Paint) -> bytes:
    """PNG of planes at one scale, with what ``paint`` draws on each.

    Args:
        planes: what is shown.
        width: of the picture, in pixels. Small pictures have fewer grey levels.
        paint: draws contours.
    """
    sizes = [(p.shape[1] * px[1], p.shape[0] * px[0]) for p, px in zip(planes.pictures, planes.pixels, strict=True)]
    places, whole = arrange(sizes)
    height = max(1.0, round(width * whole[1] / whole[0]))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="black")
    for k, ((left, top), size) in enumerate(zip(places, sizes, strict=True)):
        box = (left / whole[0], 1 - (top + size[1]) / whole[1], size[0] / whole[0], size[1] / whole[1])
        axes = figure.add_axes(box)
        _draw_picture(axes, planes.pictures[k], width)
        paint(axes, k)
        if k == 0 and planes.unit in UNITS:
            _draw_scale(axes, planes.pictures[0].shape, planes.pixels[0][1], UNITS[planes.unit])
    return png(figure)


def class_contours(planes: Planes, which: int) -> Paint:
    """Reference in white below, prediction ``which`` in class colours on top."""

    def paint(axes: Axes, k: int) -> None:
        reference, prediction = planes.labels[0][k], planes.labels[which][k]
        halo = [withStroke(linewidth=2.6, foreground=HALO)]
        for channel in np.setdiff1d(reference, [0, IGNORE]):
            _contour(axes, reference == channel, REFERENCE, 1.7, halo)
        for channel in range(1, int(prediction.max()) + 1):
            _contour(axes, prediction == channel, class_colour(channel), 1.2, None)

    return paint


def _draw_picture(axes: Axes, picture: NDArray[np.float64], width: int) -> None:
    interpolation = "bilinear" if max(picture.shape[:2]) < WIDTH_2D // 2 else "auto"
    if width <= WIDTH_SMALL:
        picture, interpolation = np.rint(picture * (LEVELS - 1)) / (LEVELS - 1), "nearest"
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation=interpolation)
    axes.set_axis_off()
    axes.set_xlim(-0.5, picture.shape[1] - 0.5)
    axes.set_ylim(picture.shape[0] - 0.5, -0.5)


def _draw_scale(axes: Axes, shape: Sequence[int], pixel: float, unit: str) -> None:
    """A bar of a round length, at most a quarter of the plane's width, in its lower left corner."""
    longest = 0.25 * shape[1] * pixel
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(m * power for m in (1, 2, 5) if m * power <= longest)
    left, bottom = 0.04 * shape[1], 0.95 * shape[0]
    halo = [withStroke(linewidth=2.4, foreground="#000000aa")]
    axes.plot([left, left + length / pixel], [bottom, bottom], color="white", linewidth=2, path_effects=halo)
    axes.annotate(
        f"{length:g} {unit}",
        (left, bottom),
        xytext=(0, 4),
        textcoords="offset points",
        color="white",
        fontsize=10.5,
        path_effects=halo,
    )


def class_colour(channel: int) -> str:
    """Contour colour of the prediction of class ``channel`` (1..K-1)."""
    return COLOURS[(channel - 1) % len(COLOURS)]


def _contour(axes: Axes, mask: NDArray[np.bool_], colour: str, width: float, halo: Any) -> None:
    if not mask.any():
        return
    # A rim of zeros closes contours at the border of the image.
    padded = np.pad(mask, 1).astype(np.float64)
    rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
    lines = axes.contour(columns, rows, padded, levels=[0.5], colors=[colour], linewidths=[width])
    if halo:
        lines.set_path_effects(halo)
