"""Distances between the boundaries of two masks: by boundary voxels (``erosion-face-v1``) and by faces (``faces-v1``).

All functions take a pair of masks that both show the class; what is returned where one does not is said by the table.
"""

from __future__ import annotations

import numpy as np

from medseg.metrics.pair import Pair
from medseg.metrics.tolerance import widened


def hd(pair: Pair) -> float:
    """Hausdorff distance: the largest distance from either boundary to the other (Huttenlocher 1993)."""
    return max(float(d.max()) for d in (pair.distances.reference, pair.distances.prediction))


def hd95(pair: Pair) -> float:
    """The larger of the two directed 95th percentiles, interpolated linearly (Huttenlocher 1993)."""
    return max(float(np.percentile(d, 95)) for d in (pair.distances.reference, pair.distances.prediction))


def assd(pair: Pair) -> float:
    """Mean over the boundary voxels of both masks of the distance to the other boundary (Heimann 2009)."""
    there, back = pair.distances.reference, pair.distances.prediction
    return float(there.sum() + back.sum()) / (there.size + back.size)


def masd(pair: Pair) -> float:
    """Mean of the two directed mean distances (Maier-Hein 2024)."""
    return float(pair.distances.reference.mean() + pair.distances.prediction.mean()) / 2


def nsd(pair: Pair) -> float:
    """Share of the boundary voxels of both masks that lie within the tolerance of the other boundary (Nikolov 2021).

    Raises:
        ValueError: if the pair has no tolerance.
    """
    within = widened(_given(pair.tolerance))
    there, back = pair.distances.reference, pair.distances.prediction
    return float(np.count_nonzero(there <= within) + np.count_nonzero(back <= within)) / (there.size + back.size)


def assd_faces(pair: Pair) -> float:
    """Mean distance to the other mask's surface over the area of both masks' voxel faces (Heimann 2009)."""
    return pair.face_distances.integral / pair.face_distances.area


def nsd_faces(pair: Pair) -> float:
    """Share of the area of both masks' voxel faces within the tolerance of the other surface (Nikolov 2021).

    Raises:
        ValueError: if the pair has no tolerance.
    """
    _given(pair.tolerance)
    return pair.face_distances.within / pair.face_distances.area


def _given(tolerance: float | None) -> float:
    if tolerance is None:
        raise ValueError("NSD without a tolerance; give one per class (datasets.NAME.metrics.tolerance)")
    return tolerance
