"""Which objects were found, missed, invented, merged or split, object by object.

A predicted object holds a reference object if it has more than half of its voxels, the test of the Cell Tracking
Challenge (Matula 2015). A predicted object that holds several reference objects merges them; a reference object that
holds several predicted ones, by the same test the other way round, was split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.matching import Indices, Matching

Flags = NDArray[np.bool_]
Status = Literal["tp", "fn", "fp", "merged", "split"]


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object of the reference and the predicted one that it is matched with, or an object without a match.

    Attributes:
        reference: number in the reference; 0: a predicted object without a match.
        prediction: number in the prediction; 0: a reference object without a match.
        iou: of the match; of an object without one, the largest with any object of the other side.
        status: ``tp``: matched; of a reference object without a match: ``merged``, ``split`` or else ``fn``; of a
            predicted one: ``merged`` if it merges objects, ``split`` if it is a piece of one, else ``fp``.
        merged: it was merged, or merges, whether or not it is matched.
        split: it was split, or is a piece of one that was.
    """

    reference: int
    prediction: int
    iou: float
    status: Status
    merged: bool
    split: bool


def object_rows(reference: NDArray[Any], prediction: NDArray[Any], threshold: float = 0.5) -> list[ObjectRow]:
    """Rows of all objects of two maps: those of the reference in raster order, then predicted ones without a match.

    Args:
        reference, prediction: object numbers (S), 0 is background.
        threshold: least IoU of a match.

    Raises:
        ValueError: as ``Matching.of``.
    """
    return rows_of(Matching.of(reference, prediction), threshold)


def rows_of(matching: Matching, threshold: float = 0.5) -> list[ObjectRow]:
    """The same from a matching."""
    edges = matching.matched(threshold)
    partner = np.full(matching.n_reference, -1)
    partner[matching.rows[edges]] = matching.columns[edges]
    iou = _largest(matching.iou, matching.rows, matching.n_reference)
    iou[matching.rows[edges]] = matching.iou[edges]
    merged, cut = merged_objects(matching), split_objects(matching)
    rows = [
        ObjectRow(
            int(number),
            int(matching.prediction_numbers[partner[k]]) if partner[k] >= 0 else 0,
            float(iou[k]),
            "tp" if partner[k] >= 0 else _fault(bool(merged[k]), bool(cut[k]), "fn"),
            bool(merged[k]),
            bool(cut[k]),
        )
        for k, number in enumerate(matching.reference_numbers)
    ]
    merging, pieces = merging_objects(matching), piece_objects(matching)
    iou = _largest(matching.iou, matching.columns, matching.n_prediction)
    unmatched = np.setdiff1d(np.arange(matching.n_prediction), matching.columns[edges])
    for k in unmatched.tolist():
        status = _fault(bool(merging[k]), bool(pieces[k]), "fp")
        number = int(matching.prediction_numbers[k])
        rows.append(ObjectRow(0, number, float(iou[k]), status, bool(merging[k]), bool(pieces[k])))
    return rows


def merged_objects(matching: Matching) -> Flags:
    """(R,) whether a reference object shares the predicted object that holds it with another one that it holds."""
    return _crowded(*_held(matching), matching.n_reference)


def merging_objects(matching: Matching) -> Flags:
    """(P,) whether a predicted object holds two reference objects or more."""
    _, holders = _held(matching)
    return np.bincount(holders, minlength=matching.n_prediction) > 1


def split_objects(matching: Matching) -> Flags:
    """(R,) whether a reference object holds two predicted objects or more."""
    _, holders = _pieces(matching)
    return np.bincount(holders, minlength=matching.n_reference) > 1


def piece_objects(matching: Matching) -> Flags:
    """(P,) whether a predicted object is one of several that a reference object holds."""
    return _crowded(*_pieces(matching), matching.n_prediction)


def _held(matching: Matching) -> tuple[Indices, Indices]:
    """Reference objects that a predicted object holds, and that object; no object is held twice."""
    edges = 2 * matching.intersections > matching.reference_sizes[matching.rows]
    return matching.rows[edges], matching.columns[edges]


def _pieces(matching: Matching) -> tuple[Indices, Indices]:
    """Predicted objects that a reference object holds, and that object."""
    edges = 2 * matching.intersections > matching.prediction_sizes[matching.columns]
    return matching.columns[edges], matching.rows[edges]


def _crowded(held: Indices, holders: Indices, count: int) -> Flags:
    """(count,) whether an object is held by one that holds others as well."""
    flags = np.zeros(count, dtype=bool)
    if len(held):
        flags[held] = np.bincount(holders)[holders] > 1
    return flags


def _largest(values: NDArray[np.float64], places: Indices, count: int) -> NDArray[np.float64]:
    """(count,) the largest of the values at each place; 0 without any."""
    largest = np.zeros(count)
    np.maximum.at(largest, places, values)
    return largest


def _fault(merged: bool, split: bool, other: Literal["fn", "fp"]) -> Status:
    return "merged" if merged else "split" if split else other
