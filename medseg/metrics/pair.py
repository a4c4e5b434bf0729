"""Two masks of one class of one case; what metrics share is computed once, on demand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.image.labels import IGNORE
from medseg.late import resolve
from medseg.metrics.counts import OverlapCounts
from medseg.metrics.edges import Distances, box_of, edge_distances
from medseg.metrics.faces import FaceDistances, face_distances
from medseg.metrics.matching import Matching
from medseg.metrics.object_quantities import object_quantities
from medseg.metrics.row import Metric

# Object numbers (S) of reference and prediction.
Numbers = tuple[NDArray[Any], NDArray[Any]]


class Pair:
    """Reference and prediction of one class or region; every metric is a function of this.

    Attributes:
        reference, prediction: masks (S), cropped to the smallest box that holds both.
        spacing: (d,) distance of neighbouring voxels along each axis.
        tolerance: in the unit of the spacing, for metrics that need one.
        diagonal: of the box of the whole grid, in the unit of the spacing.
        numbers: object numbers (S) of reference and prediction in the same box; None: objects are not told apart.
    """

    def __init__(
        self,
        reference: NDArray[Any],
        prediction: NDArray[Any],
        spacing: Sequence[float],
        *,
        tolerance: float | None = None,
        diagonal: float | None = None,
        counts: OverlapCounts | None = None,
        numbers: Numbers | None = None,
    ) -> None:
        """Crop two masks (S) on one grid.

        Args:
            reference, prediction: true, or not 0, where the class is. Voxels that nobody annotated belong to neither.
            spacing: one positive number per axis.
            tolerance: see above; none: metrics that need one cannot be computed.
            diagonal: none: that of the masks' own array.
            counts: none: counted from the masks.
            numbers: object numbers (S) of the class in both maps, on the grid of the masks.

        Raises:
            ValueError: if the shapes differ, or the spacing is not one positive number per axis.
        """
        if reference.shape != prediction.shape:
            raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} differ in shape")
        if len(spacing) != reference.ndim or not all(math.isfinite(s) and s > 0 for s in spacing):
            raise ValueError(f"spacing {tuple(spacing)}; expected {reference.ndim} positive numbers")
        self.spacing = tuple(float(s) for s in spacing)
        self.tolerance = tolerance
        self.diagonal = box_diagonal(reference.shape, spacing) if diagonal is None else diagonal
        masks = reference.astype(bool, copy=False), prediction.astype(bool, copy=False)
        box = box_of(*masks)
        self.reference, self.prediction = masks[0][box], masks[1][box]
        self._numbers = None if numbers is None else (numbers[0][box], numbers[1][box])
        self._counts = counts

    @cached_property
    def counts(self) -> OverlapCounts:
        """True positive, false positive and false negative voxels."""
        if self._counts is not None:
            return self._counts
        tp = int(np.count_nonzero(self.reference & self.prediction))
        return OverlapCounts(
            tp, int(np.count_nonzero(self.prediction)) - tp, int(np.count_nonzero(self.reference)) - tp
        )

    @cached_property
    def distances(self) -> Distances:
        """Distances between boundary voxels (``erosion-face-v1``); both masks must show the class."""
        return edge_distances(self.reference, self.prediction, self.spacing)

    @cached_property
    def face_distances(self) -> FaceDistances:
        """Integrals of the distance over the voxel faces (``faces-v1``); both masks must show the class."""
        return face_distances(self.reference, self.prediction, self.spacing, self.tolerance)

    @property
    def numbers(self) -> Numbers:
        """Object numbers (S) of reference and prediction, in the box of the masks.

        Raises:
            ValueError: if the pair has none.
        """
        if self._numbers is None:
            raise ValueError("metrics of objects need object numbers; this pair has masks alone")
        return self._numbers

    @cached_property
    def objects(self) -> Matching:
        """Overlaps and matches of the objects."""
        return Matching.of(*self.numbers)

    @cached_property
    def object_quantities(self) -> dict[str, float]:
        """Counts and sums of the objects, by their names in ``QUANTITIES``."""
        return object_quantities(self.objects)


def pairs(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    members: Sequence[Sequence[int]],
    spacing: Sequence[float],
    tolerances: Sequence[float | None],
    counts: Sequence[OverlapCounts],
    numbers: Numbers | None = None,
) -> Iterator[Pair]:
    """One pair per class or region, one after the other; no mask of the whole grid is made.

    Args:
        reference: label channels (S); ``IGNORE`` where nobody annotated: those voxels belong to no mask.
        prediction: label channels (S) on the same grid.
        members: the channels that make up each class or region.
        spacing: (d,) distance of neighbouring voxels along each axis.
        tolerances, counts: of each class or region.
        numbers: object numbers (S) of reference and prediction, each object of one class; none: not told apart.
    """
    diagonal = box_diagonal(reference.shape, spacing)
    largest = max((k for inside in members for k in inside), default=0)
    boxes = [ndimage.find_objects(labels, max_label=largest) for labels in (reference, prediction)]
    for inside, tolerance, counted in zip(members, tolerances, counts, strict=True):
        box = _union([found[k - 1] for found in boxes for k in inside], reference.ndim)
        true, said = _mask(reference[box], inside), _mask(prediction[box], inside)
        left_out = reference[box] == IGNORE
        mine = None
        if numbers is not None:
            mine = np.where(true, numbers[0][box], 0), annotated(np.where(said, numbers[1][box], 0), left_out)
        said &= ~left_out
        yield Pair(true, said, spacing, tolerance=tolerance, diagonal=diagonal, counts=counted, numbers=mine)


def annotated(numbers: NDArray[Any], left_out: NDArray[np.bool_]) -> NDArray[Any]:
    """Predicted objects (S) where somebody annotated.

    An object with more than half of its voxels where nobody did is left out, since nobody can say whether it is right;
    others are cropped.

    Args:
        numbers: object numbers (S).
        left_out: voxels (S) that nobody annotated.
    """
    if not left_out.any():
        return numbers
    found, place = np.unique(numbers, return_inverse=True)
    place = place.reshape(numbers.shape)
    outside = np.bincount(place[left_out], minlength=len(found))
    gone = 2 * outside > np.bincount(place.ravel(), minlength=len(found))
    kept: NDArray[Any] = np.where(left_out | gone[place], 0, numbers)
    return kept


def _mask(labels: NDArray[Any], members: Sequence[int]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = labels == members[0]
    for k in members[1:]:
        mask |= labels == k
    return mask


def _union(boxes: Sequence[tuple[slice, ...] | None], dims: int) -> tuple[slice, ...]:
    """The smallest box that holds all those that are not None."""
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0, 0),) * dims
    return tuple(slice(min(b[k].start for b in found), max(b[k].stop for b in found)) for k in range(dims))


def box_diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Length of the diagonal of a grid's box, from outer voxel edge to outer voxel edge."""
    return math.hypot(*(n * s for n, s in zip(shape, spacing, strict=True)))


def value_of(metric: Metric, pair: Pair) -> float:
    """The value of a row of the table: NaN if the reference lacks the class, the worst if only the prediction does."""
    voxels = pair.counts.reference
    if not voxels:
        return math.nan
    # All predicted objects may lie where nobody annotated.
    if not pair.counts.predicted or ("objects" in metric.needs and not pair.objects.n_prediction):
        return metric.worst_of(pair.diagonal, voxels)
    return float(resolve(metric.function)(pair))
