"""Which predicted objects are which objects of the reference: overlaps of two maps of numbers, and one-to-one matches.

The table of overlaps is sparse: runs of voxels that have the same two numbers are counted, whatever the numbers are, so
neither memory nor time grows with their product. An assignment is computed only where objects have a choice: above an
IoU of 0.5 no object has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

# 0.5, 0.55, ..., 0.95: as fractions, so that an IoU of 11/20 reaches 0.55 (0.5 + 0.05 added up may lie above it).
THRESHOLDS = tuple(k / 20 for k in range(10, 20))
# Voxels that are read at once.
_VOXELS = 1 << 22
Indices = NDArray[np.int64]
Values = NDArray[np.float64]


class Matched(NamedTuple):
    """Matches at one threshold.

    Attributes:
        tp: matched pairs.
        fp: predicted objects without a match.
        fn: reference objects without a match.
        iou_sum: sum of the matched pairs' IoU.
        pairs: (tp, 2) numbers of the matched objects, reference first.
    """

    tp: int
    fp: int
    fn: int
    iou_sum: float
    pairs: Indices


@dataclass(frozen=True, slots=True)
class Matching:
    """Objects of a reference and of a prediction, R and P of them, and the E pairs that overlap.

    Objects are in raster order of their first voxels, so that no result depends on how a file numbers them.

    Attributes:
        reference_numbers, reference_sizes: (R,) number in the map, and voxels.
        prediction_numbers, prediction_sizes: (P,) the same.
        rows, columns: (E,) indices of the objects of each overlapping pair.
        intersections: (E,) voxels that both have.
        iou: (E,) intersection over union.
    """

    reference_numbers: Indices
    reference_sizes: Indices
    prediction_numbers: Indices
    prediction_sizes: Indices
    rows: Indices
    columns: Indices
    intersections: Indices
    iou: Values

    @classmethod
    def of(cls, reference: NDArray[Any], prediction: NDArray[Any]) -> Matching:
        """Overlaps of two maps (S) of object numbers on one grid; 0 is background, numbers may have gaps.

        Raises:
            ValueError: if the shapes differ, or a map does not hold integers of 0 and above.
        """
        if reference.shape != prediction.shape:
            raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} differ in shape")
        for name, numbers in (("reference", reference), ("prediction", prediction)):
            if not np.issubdtype(numbers.dtype, np.integer):
                raise ValueError(f"{name} of type {numbers.dtype}; expected integers")
            if numbers.size and numbers.dtype.kind == "i" and numbers.min() < 0:
                raise ValueError(f"{name} has the number {numbers.min()}; expected 0 and above")
        runs = _runs(reference, prediction)
        true, true_of_run, true_sizes = _objects(runs.reference, runs.lengths)
        said, said_of_run, said_sizes = _objects(runs.prediction, runs.lengths)
        both = (true_of_run >= 0) & (said_of_run >= 0)
        keys, place = np.unique(true_of_run[both] * max(len(said), 1) + said_of_run[both], return_inverse=True)
        shared = np.bincount(place, weights=runs.lengths[both], minlength=len(keys)).astype(np.int64)
        rows, columns = np.divmod(keys, max(len(said), 1))
        iou = shared / (true_sizes[rows] + said_sizes[columns] - shared)
        return cls(true, true_sizes, said, said_sizes, rows, columns, shared, iou)

    @property
    def n_reference(self) -> int:
        """Objects R of the reference."""
        return len(self.reference_numbers)

    @property
    def n_prediction(self) -> int:
        """Objects P of the prediction."""
        return len(self.prediction_numbers)

    def at(self, threshold: float, strict: bool = False) -> Matched:
        """The one-to-one matches with an IoU of at least ``threshold`` (above it, if ``strict``).

        Of all assignments the one with the most pairs, and of these the one with the largest sum of IoU.
        """
        edges = self.matched(threshold, strict)
        pairs = np.stack([self.reference_numbers[self.rows[edges]], self.prediction_numbers[self.columns[edges]]], 1)
        tp = len(edges)
        return Matched(tp, self.n_prediction - tp, self.n_reference - tp, math.fsum(self.iou[edges]), pairs)

    def matched(self, threshold: float, strict: bool = False) -> Indices:
        """The matches of ``at`` as indices of overlapping pairs, sorted."""
        kept = np.flatnonzero(self.iou > threshold if strict else self.iou >= threshold)
        return kept[_assigned(self.rows[kept], self.columns[kept], self.iou[kept], most_pairs=True)]

    def closest(self) -> Indices:
        """The one-to-one matches with the largest sum of IoU, whatever each IoU is; indices of overlapping pairs."""
        return _assigned(self.rows, self.columns, self.iou, most_pairs=False)


class _Runs(NamedTuple):
    """Runs of voxels, in raster order, with the same number in both maps; those of background alone left out."""

    reference: NDArray[Any]
    prediction: NDArray[Any]
    lengths: Indices


def _runs(reference: NDArray[Any], prediction: NDArray[Any]) -> _Runs:
    true, said = np.ravel(reference), np.ravel(prediction)
    found: list[tuple[NDArray[Any], NDArray[Any], Indices]] = []
    for start in range(0, max(true.size, 1), _VOXELS):
        one, other = true[start : start + _VOXELS], said[start : start + _VOXELS]
        changes = np.ones(one.size + 1, dtype=bool)
        if one.size:
            np.not_equal(one[1:], one[:-1], out=changes[1:-1])
            changes[1:-1] |= other[1:] != other[:-1]
        ends = np.flatnonzero(changes)
        begins, lengths = ends[:-1], np.diff(ends)
        one, other = one[begins], other[begins]
        inside = (one != 0) | (other != 0)
        found.append((one[inside], other[inside], lengths[inside]))
    return _Runs(*(np.concatenate([part[k] for part in found]) for k in range(3)))


def _objects(numbers: NDArray[Any], lengths: Indices) -> tuple[Indices, Indices, Indices]:
    """Objects of runs (N,): their numbers in raster order, the index of each run's object (-1: none), and voxels."""
    inside = np.flatnonzero(numbers)
    found, first, place = np.unique(numbers[inside], return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(found), dtype=np.int64)
    rank[order] = np.arange(len(found))
    of_run = np.full(len(numbers), -1, dtype=np.int64)
    of_run[inside] = rank[place]
    sizes = np.bincount(of_run[inside], weights=lengths[inside], minlength=len(found)).astype(np.int64)
    return found[order].astype(np.int64), of_run, sizes


def _assigned(rows: Indices, columns: Indices, iou: Values, most_pairs: bool) -> Indices:
    """Edges (E,) of a bipartite graph that match its nodes one to one with the largest sum of IoU; sorted indices.

    Args:
        rows, columns: (E,) nodes of each edge.
        iou: (E,) of each edge, above 0.
        most_pairs: the number of pairs comes first, the sum second.
    """
    if not len(rows):
        return np.zeros(0, dtype=np.int64)
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    if alone.all():
        return np.arange(len(rows))
    choice = np.flatnonzero(~alone)
    row, column = (np.unique(nodes[choice], return_inverse=True)[1] for nodes in (rows, columns))
    weights = iou[choice]
    if most_pairs:
        weights = 1 + weights / (2 * _pairs_of_component(row, column))
    best = _heaviest(row, column, weights)
    chosen: Indices = np.sort(np.concatenate([np.flatnonzero(alone), choice[best]]))
    return chosen


def _pairs_of_component(row: Indices, column: Indices) -> Indices:
    """(E,) nodes of each edge's connected component: no fewer than pairs can be matched there."""
    n_rows, n_columns = int(row.max()) + 1, int(column.max()) + 1
    size = n_rows + n_columns
    graph = sparse.coo_array((np.ones(len(row)), (row, column + n_rows)), shape=(size, size))
    _, component = csgraph.connected_components(graph, directed=False)
    nodes: Indices = np.bincount(component)[component[row]]
    return nodes


def _heaviest(row: Indices, column: Indices, weights: Values) -> Indices:
    """Edges that match nodes one to one with the largest sum of weights, all of them above 0."""
    n_rows, n_columns = int(row.max()) + 1, int(column.max()) + 1
    most = float(weights.max()) + 1
    # A node of the rows may stay without a match: it then has a column of its own, of weight 0. Costs are above 0.
    own = np.arange(n_rows)
    costs = np.concatenate([most - weights, np.full(n_rows, most)])
    places = np.concatenate([row, own]), np.concatenate([column, n_columns + own])
    graph = sparse.csr_array((costs, places), shape=(n_rows, n_columns + n_rows))
    matched_rows, matched_columns = csgraph.min_weight_full_bipartite_matching(graph)
    partner = np.empty(n_rows, dtype=np.int64)
    partner[matched_rows] = matched_columns
    found: Indices = np.flatnonzero(partner[row] == column)
    return found
