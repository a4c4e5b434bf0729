"""Contours of single objects, coloured by whether they were found, missed or invented; merged and split ones marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medseg.image.labels import COLOURS
from medseg.image.objects import ObjectMap
from medseg.metrics.matching import Matching
from medseg.metrics.object_errors import merging_objects, split_objects
from medseg.objects.outlines import outlines
from medseg.objects.scene import Scene
from medseg.report.overlays import HALO, REFERENCE, WIDTH_SMALL, Paint
from medseg.report.planes import Planes

# IoU from which an object of the reference is found.
THRESHOLD = 0.5
# What a contour says -> its colour and what the legend calls it: green, orange and blue, which stay apart for
# everybody (Okabe & Ito 2008).
FOUND, MATCHED, MISSED, INVENTED = "found", "matched", "missed", "invented"
COLOUR_OF = {FOUND: REFERENCE, MATCHED: COLOURS[2], MISSED: COLOURS[1], INVENTED: COLOURS[0]}
LEGEND = {
    FOUND: "reference, found",
    MATCHED: "prediction, right (TP)",
    MISSED: "reference, missed (FN)",
    INVENTED: "prediction, wrong (FP)",
}
MERGES, SPLIT = "M", "S"
MARKS = {MERGES: "a predicted object that merges several", SPLIT: "an object of the reference that was split"}
Numbers = NDArray[Any]
Ring = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matches:
    """Which objects were found, by number.

    Attributes:
        found: (R + 1,) whether an object of the reference is matched.
        right: (P + 1,) whether a predicted object is.
        merging: predicted objects that hold several of the reference.
        split: objects of the reference that hold several predicted ones.
    """

    found: NDArray[np.bool_]
    right: NDArray[np.bool_]
    merging: frozenset[int]
    split: frozenset[int]

    def errors(self, reference: Numbers, prediction: Numbers) -> NDArray[np.bool_]:
        """Voxels (S) of objects that were missed or invented."""
        missed, invented = ~self.found, ~self.right
        missed[0] = invented[0] = False
        wrong: NDArray[np.bool_] = missed[reference] | invented[prediction]
        return wrong


def match(reference: ObjectMap, prediction: ObjectMap) -> Matches:
    """Match the objects of two maps one to one, each class for itself, as they are scored."""
    found, right = np.zeros(reference.count + 1, dtype=bool), np.zeros(prediction.count + 1, dtype=bool)
    merging: set[int] = set()
    split: set[int] = set()
    for channel in np.union1d(reference.classes[1:], prediction.classes[1:]):
        matching = Matching.of(_of_class(reference, channel), _of_class(prediction, channel))
        pairs = matching.at(THRESHOLD).pairs
        found[pairs[:, 0]] = right[pairs[:, 1]] = True
        merging |= set(matching.prediction_numbers[merging_objects(matching)].tolist())
        split |= set(matching.reference_numbers[split_objects(matching)].tolist())
    return Matches(found, right, frozenset(merging), frozenset(split))


def _of_class(objects: ObjectMap, channel: int) -> Numbers:
    """Numbers (S) of the objects of one class."""
    numbers = np.arange(objects.count + 1)
    return np.where(objects.classes == channel, numbers, 0)[objects.numbers]


def coloured_rings(reference: Numbers, prediction: Numbers, matches: Matches) -> dict[str, list[Ring]]:
    """Closed contours (n, 2) as (column, row) of a plane, by what they say; errors last, so that they lie on top."""
    found: dict[str, list[Ring]] = {FOUND: [], MATCHED: [], MISSED: [], INVENTED: []}
    for number, ring in _rings(reference):
        found[FOUND if matches.found[number] else MISSED].append(ring)
    for number, ring in _rings(prediction):
        found[MATCHED if matches.right[number] else INVENTED].append(ring)
    return found


def marks(reference: Numbers, prediction: Numbers, matches: Matches) -> list[tuple[str, float, float]]:
    """Mark, column and row, of each object of a plane that merges others or was split."""
    merging, split = _centres(prediction, matches.merging), _centres(reference, matches.split)
    return [(MERGES, *place) for place in merging] + [(SPLIT, *place) for place in split]


def object_contours(planes: Planes, which: int, matches: Matches, width: int) -> Paint:
    """Contours of single objects of the reference and of prediction ``which``, in a picture of this width."""
    size, mark_size = (1.0, 6.5) if width <= WIDTH_SMALL else (1.3, 9)

    def paint(axes: Axes, k: int) -> None:
        reference, prediction = planes.labels[0][k], planes.labels[which][k]
        for what, rings in coloured_rings(reference, prediction, matches).items():
            below = what == FOUND
            lines = LineCollection(rings, colors=COLOUR_OF[what], linewidths=size + 0.5 if below else size)
            if below:
                lines.set_path_effects([withStroke(linewidth=size + 1.3, foreground=HALO)])
            axes.add_collection(lines, autolim=False)
        halo = [withStroke(linewidth=1.8, foreground="#000000")]
        for mark, column, row in marks(reference, prediction, matches):
            text = axes.text(column, row, mark, color=REFERENCE, fontsize=mark_size, weight="bold")
            text.set(ha="center", va="center", clip_on=True, path_effects=halo)

    return paint


def _rings(numbers: Numbers) -> Iterator[tuple[int, Ring]]:
    """Number and closed contour of every piece and hole of a plane's objects; centres of pixels are whole numbers."""
    for outline in outlines(Scene(numbers, (1.0, 1.0))):
        for polygon in outline.polygons:
            for ring in (polygon.outer, *polygon.holes):
                yield outline.number, np.concatenate([ring, ring[:1]]) - 0.5


def _centres(numbers: Numbers, wanted: frozenset[int]) -> list[tuple[float, float]]:
    """Column and row of the middle of each of the wanted objects that a plane (rows, columns) shows."""
    if not wanted:
        return []
    boxes: Mapping[int, tuple[slice, ...]] = Scene(numbers, (1.0, 1.0)).boxes
    centres = []
    for number in sorted(wanted & boxes.keys()):
        rows, columns = np.nonzero(numbers[boxes[number]] == number)
        top, left = (side.start for side in boxes[number])
        centres.append((float(columns.mean()) + left, float(rows.mean()) + top))
    return centres
