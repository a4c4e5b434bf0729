"""Reference and prediction as contours on the image: which cases, which slices, and the drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medseg.compare.quantity import RANKED
from medseg.formats.read import read_labels, read_recorded
from medseg.image.geometry import Geometry, canonical_axes, require_same_grid
from medseg.image.labels import COLOURS, IGNORE
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import Case, Manifest
from medseg.report.figures import png
from medseg.report.sources import Experiment, Run

DPI = 100
WIDTH_2D, WIDTH_3D = 560, 640
# Longest side of a drawn plane; larger ones are thinned, since the page could not show more.
MAX_SIDE = 1024
# Views of a volume are cropped to the labels, with this share of the whole extent around them.
MARGIN = 0.22
# The planes of a volume are arranged so that the picture gets no taller than this, by its width.
MAX_TALL = 1.35
REFERENCE = "#FFFFFF"
# Units that a scale bar makes sense in.
UNITS = {"mm": "mm", "um": "µm"}


Size = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ChosenCase:
    """A case worth looking at: its standing (best, median, worst of the best model) and its id."""

    standing: str
    case: str


@dataclass(frozen=True, slots=True)
class Planes:
    """What is drawn of a case: planes in display orientation (rows down, columns right).

    Attributes:
        pictures: grey (R, C) or colour (R, C, 3) planes in 0..1.
        labels: class index planes per map; the reference first.
        pixels: (height, width) of a pixel of each plane, in ``unit``.
        unit: of the grid.
    """

    pictures: tuple[NDArray[np.float64], ...]
    labels: tuple[tuple[NDArray[np.uint8], ...], ...]
    pixels: tuple[tuple[float, float], ...]
    unit: str


def case_scores(scores: pd.DataFrame, dataset: str, model: str) -> pd.Series:
    """Mean of the ranked metric of each case over seeds, then over its defined classes; NaN cases are left out."""
    mine = scores[(scores["dataset"] == dataset) & (scores["model"] == model) & (scores["metric"] == RANKED)]
    by_class = mine.groupby(["case", "label"], sort=True)["value"].mean()
    return by_class.groupby(level="case", sort=True).mean().dropna()


def choose(scores: pd.Series) -> list[ChosenCase]:
    """The worst, median and best case by score (ties by id), fewer if there are fewer cases."""
    ranked = sorted(((float(v), str(k)) for k, v in scores.items()))
    places = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    chosen: dict[str, list[str]] = {}
    for standing, place in places.items():
        if ranked:
            chosen.setdefault(ranked[place][1], []).append(standing)
    return [ChosenCase(" and ".join(standings), case) for case, standings in chosen.items()]


def run_of_case(experiment: Experiment, dataset: str, model: str, case: str) -> Run | None:
    """The run whose prediction of a case is shown: the first seed that has one."""
    runs = [run for run in experiment.runs_of(dataset, model) if case in run.cases]
    return min(runs, key=lambda run: (run.seed, run.fold), default=None)


def draw_case(experiment: Experiment, root: Path, dataset: str, case_id: str) -> dict[str, bytes]:
    """Overlays of one case: model -> PNG, for the models that have predicted it, all on the same planes.

    Args:
        experiment: the experiment.
        root: folder of the data set.
        dataset, case_id: which.

    Raises:
        DataError: if an image, label or prediction has changed since it was recorded.
        GeometryError: if a prediction lies on another grid than the reference.
    """
    manifest = experiment.manifests[dataset]
    case = manifest.case(case_id)
    image, geometry = read_case_image(case, root), case.geometry
    maps = [manifest.labels.to_channels(read_case_labels(case, root))]
    found = [(m, run_of_case(experiment, dataset, m, case_id)) for m in experiment.models(dataset)]
    runs = {model: run for model, run in found if run is not None}
    for run in runs.values():
        maps.append(_prediction(run, case, manifest))
    planes = _planes_2d(image, maps, geometry) if geometry.dims == 2 else _planes_3d(image, maps, geometry)
    return {model: _draw(planes, place + 1, geometry.dims) for place, model in enumerate(runs)}


def _prediction(run: Run, case: Case, manifest: Manifest) -> NDArray[np.uint8]:
    entry = run.cases[case.id]
    path = run.folder / entry.file
    # A page must not show other data than was scored.
    labels, found = read_labels(path, read_recorded(path, entry.sha256, "medseg predict"), spacing=case.pixel_size)
    require_same_grid(found, case.geometry, f"{path}: prediction of '{case.id}'")
    return manifest.labels.to_channels(labels)


def _window(voxels: NDArray[Any]) -> NDArray[np.float64]:
    """Intensities scaled to 0..1 between their 0.5 and 99.5 percentiles."""
    low, high = np.percentile(voxels, (0.5, 99.5))
    scaled: NDArray[np.float64] = (voxels.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.clip(scaled, 0, 1)


def _picture(image: NDArray[Any]) -> NDArray[np.float64]:
    """Channels of a plane as a picture: 8-bit RGB as it is, three as RGB, else the first one in grey."""
    if len(image) == 3:
        scaled = image / np.float64(255) if image.dtype == np.uint8 else [_window(c) for c in image]
        return np.stack(list(scaled), axis=-1)
    return _window(image[0])


def _planes_2d(image: NDArray[Any], maps: Sequence[NDArray[np.uint8]], geometry: Geometry) -> Planes:
    step = -(-max(image.shape[1:]) // MAX_SIDE)
    picture = _picture(image[:, ::step, ::step])
    pixel = (step * geometry.spacing[0], step * geometry.spacing[1])
    return Planes((picture,), tuple((m[::step, ::step],) for m in maps), (pixel,), geometry.unit)


def _planes_3d(image: NDArray[Any], maps: Sequence[NDArray[np.uint8]], geometry: Geometry) -> Planes:
    """Axial, coronal and sagittal planes where the first prediction errs most, patient upright.

    Arrays are turned to axes that run from right to left, front to back and top to bottom (so radiological:
    the patient's right is on the left of the page), whatever the stored orientation.
    """
    axes, flips = canonical_axes(geometry)
    turn = tuple(slice(None) if flip else slice(None, None, -1) for flip in flips)
    spacing = [geometry.spacing[a] for a in axes]
    volume = image[0].transpose(axes)[turn]
    turned = [m.transpose(axes)[turn] for m in maps]

    error = (turned[0] != turned[1]) & (turned[0] != IGNORE)
    turned[0] = np.where(turned[0] == IGNORE, np.uint8(0), turned[0])
    focus = error if error.any() else turned[0] > 0
    centre = [int(np.argmax(focus.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3)]
    box = _crop(np.logical_or.reduce([m > 0 for m in turned]), centre)
    windowed = _window(volume[box])
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


def _draw(planes: Planes, which: int, dims: int) -> bytes:
    """The planes at one scale; reference in white below, prediction in class colours on top."""
    sizes = [(p.shape[1] * px[1], p.shape[0] * px[0]) for p, px in zip(planes.pictures, planes.pixels, strict=True)]
    places, whole = _arrange(sizes)
    width = WIDTH_2D if dims == 2 else WIDTH_3D
    height = max(1.0, round(width * whole[1] / whole[0]))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="black")
    for k, ((left, top), size) in enumerate(zip(places, sizes, strict=True)):
        box = (left / whole[0], 1 - (top + size[1]) / whole[1], size[0] / whole[0], size[1] / whole[1])
        axes = figure.add_axes(box)
        _draw_plane(axes, planes.pictures[k], planes.labels[0][k], planes.labels[which][k])
        if k == 0 and planes.unit in UNITS:
            _draw_scale(axes, planes.pictures[0].shape, planes.pixels[0][1], UNITS[planes.unit])
    return png(figure)


def _arrange(sizes: Sequence[Size]) -> tuple[list[Size], Size]:
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


def _draw_plane(
    axes: Axes, picture: NDArray[np.float64], reference: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> None:
    interpolation = "bilinear" if max(picture.shape[:2]) < WIDTH_2D // 2 else "auto"
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation=interpolation)
    halo = [withStroke(linewidth=2.6, foreground="#00000088")]
    for channel in np.setdiff1d(reference, [0, IGNORE]):
        _contour(axes, reference == channel, REFERENCE, 1.7, halo)
    for channel in range(1, int(prediction.max()) + 1):
        _contour(axes, prediction == channel, class_colour(channel), 1.2, None)
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


def run_scores(scores: pd.DataFrame, run: Run, case: str) -> Mapping[str, float]:
    """The ranked metric of each class of one case under one run; NaN where undefined."""
    mine = scores[
        (scores["dataset"] == run.dataset)
        & (scores["model"] == run.model)
        & (scores["fold"] == run.fold)
        & (scores["seed"] == run.seed)
        & (scores["case"] == case)
        & (scores["metric"] == RANKED)
    ]
    return {str(label): float(value) for label, value in zip(mine["label"], mine["value"], strict=True)}
